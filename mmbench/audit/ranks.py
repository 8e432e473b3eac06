"""Whether any ranks give these metrics, by linear programming over the shares of users at each rank.

With a target per user, let p(r) be the share of users whose target has rank r = 1..R (R is the largest cutoff; the
others are beyond it). Every metric with a cutoff is linear: m = sum over r of q(r) p(r), with q from
`mmbench.evaluation.metrics`. Printed numbers say low <= m <= high. Ranks that give them exist if and only if there is a
p >= 0 with sum p <= 1. Means over runs, and expectations over ties, are means of such p and keep every constraint.

Infeasibility is proved, not taken from the solver: its dual gives weights w, and for any users

    sum of w m <= max(0, max over r of sum of w q(r)),

which is computed again. It is a conflict only if the smallest sum that the printed numbers allow is above that bound.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mmbench.audit.number import Printed, Reading
from mmbench.evaluation.metrics import Metric

TOLERANCE = 1e-9  # allows for float64 rounding of a bound; half a unit of a printed number is 5e-5


@dataclass(frozen=True)
class _Ranks:
    """A user at each rank 1..n."""

    greater: np.ndarray
    equal: np.ndarray
    n_candidates: int
    limit: int | None = None


@lru_cache(maxsize=256)
def gains(metric: Metric, n_ranks: int) -> np.ndarray:
    """Return q(1) .. q(n_ranks), float64."""
    n = max(n_ranks, metric.k or 0)
    values = metric.values(_Ranks(np.arange(n), np.zeros(n, dtype=np.int64), n))[:n_ranks].copy()
    values.flags.writeable = False
    return values


@dataclass(frozen=True)
class Box:
    """Metrics with a cutoff and the intervals of their unprinted values; `q` [m, R], the others [m]."""

    metrics: tuple[Metric, ...]
    q: np.ndarray
    low: np.ndarray
    high: np.ndarray
    unit: np.ndarray

    @classmethod
    def of(cls, scores: Mapping[Metric, Printed], reading: Reading = "rounded") -> "Box":
        n_ranks = max(metric.k or 0 for metric in scores)
        spans = [score.span(reading) for score in scores.values()]
        return cls(
            tuple(scores),
            np.stack([gains(metric, n_ranks) for metric in scores]),
            np.array([float(low) for low, _ in spans]),
            np.array([float(high) for _, high in spans]),
            np.array([float(score.unit) for score in scores.values()]),
        )

    def only(self, chosen: Sequence[int]) -> "Box":
        indices = list(chosen)
        return Box(
            tuple(self.metrics[index] for index in indices),
            self.q[indices],
            self.low[indices],
            self.high[indices],
            self.unit[indices],
        )


@dataclass(frozen=True)
class Certificate:
    """sum of weights x metrics <= bound for any users, but at least `least` > bound by the printed numbers.

    `per_rank` [R] is what a user at each rank adds to the sum.
    """

    metrics: tuple[Metric, ...]
    weights: tuple[float, ...]
    per_rank: tuple[float, ...]
    bound: float
    least: float


def conflict(box: Box) -> Certificate | None:
    """Return why no ranks give the numbers of the box; None if some do (or the opposite could not be proved)."""
    weights = _dual(box)
    if weights is None:
        return None
    weights = weights / np.abs(weights).max()
    for digits in (2, 3, 4, 6, 9):  # prefers the shortest weights that prove it
        certificate = _certify(box, np.round(weights, digits))
        if certificate is not None:
            return certificate
    return None


def _certify(box: Box, weights: np.ndarray) -> Certificate | None:
    per_rank = weights @ box.q
    bound = max(0.0, float(per_rank.max()))
    least = float(np.where(weights > 0, weights * box.low, weights * box.high).sum())
    if least <= bound + TOLERANCE:
        return None
    numbers = tuple(weights.tolist()), tuple(per_rank.tolist())
    return Certificate(box.metrics, *numbers, bound=bound, least=least)


def _dual(box: Box) -> np.ndarray | None:
    """Return the weights of the metrics in the proof that the box is empty; None if it is not.

    The program finds the smallest t >= 0 so that all intervals, widened by t units on both sides, are met.
    """
    from scipy.optimize import linprog

    n_metrics, n_ranks = box.q.shape
    scale = 1 / box.unit.min()  # counts shares in units, too, so that all numbers have a similar size
    q = box.q / (scale * box.unit[:, None])
    slack = np.ones((n_metrics, 1))
    a = np.vstack([np.hstack([-q, -slack]), np.hstack([q, -slack]), np.append(np.ones(n_ranks), 0.0)])
    b = np.concatenate([-box.low / box.unit, box.high / box.unit, [scale]])
    solved = linprog(np.append(np.zeros(n_ranks), 1.0), A_ub=a, b_ub=b, bounds=(0, None), method="highs")
    if solved.status != 0 or solved.fun < 1e-6:
        return None
    below, above = np.split(-solved.ineqlin.marginals[:-1], 2)
    weights = (below - above) / box.unit
    return weights if np.abs(weights).max() > 0 else None


def reach(metric: Metric, box: Box) -> tuple[float, float] | None:
    """Return the smallest and largest value of `metric` for ranks that give the numbers of the box; None if none do."""
    from scipy.optimize import linprog

    n_ranks = max(box.q.shape[1], metric.k or 0)
    q = np.stack([gains(other, n_ranks) for other in box.metrics])
    target = gains(metric, n_ranks)
    scale = 1 / box.unit.min()
    a = np.vstack([-q, q, np.ones(n_ranks)])
    b = np.concatenate([-box.low * scale, box.high * scale, [scale]])
    ends = [linprog(sign * target, A_ub=a, b_ub=b, bounds=(0, None), method="highs") for sign in (1.0, -1.0)]
    if any(end.status != 0 for end in ends):
        return None
    return float(ends[0].fun / scale), float(-ends[1].fun / scale)
