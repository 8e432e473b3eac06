"""Metrics of a held-out target per user, and of the lists of all users: no averaging of runs, no rounding, no scores.

The target is beaten by `greater` candidates and tied with `equal` others, so its 1-based rank r is among
greater+1 .. greater+equal+1. A metric of ranks is a gain q(r) that is zero beyond its cutoff K:

    name       q(r), r <= K        remark
    HR         1                   share of users whose target is among the first K
    Recall     1                   a single target: equal to HR
    Precision  1 / K               HR / K
    F1         2 / (K + 1)         harmonic mean of Precision and Recall
    NDCG       1 / log2(r + 1)     the ideal DCG of a target is 1
    MRR        1 / r
    MAP        1 / r               normaliser min(K, 1 target) = 1: equal to MRR
    AUC        (C - r) / (C - 1)   C candidates, no cutoff; a tie counts half when ties = "expected"

MRR, NDCG and MAP also exist without a cutoff (K = C). Tie rules:

    expected     mean of q over the equally likely ranks: (Q(min(g+e+1, K)) - Q(min(g, K))) / (e + 1),
                 with the prefix sums Q(r) = q(1) + ... + q(r); unbiased and deterministic
    optimistic   q(g + 1); constant scores would be perfect
    pessimistic  q(g + e + 1); a lower bound

HR, NDCG and MRR with a cutoff also exist with weights of the targets against popularity, HR-debiased@10 (see
mmbench.evaluation.target_weights). A metric of lists reads the first K items of every user's list, ties by smaller id.
Those of mmbench.evaluation.list_metrics have a value per user. These have a value for the catalogue and none per
user, so no test over users applies to them:

    Coverage   #{i: i stands in some list} / N          N items; grows with the number of users
    Gini       sum_i (2i - N - 1) n_(i) / (N sum n)     n_i lists with item i, n_(1) <= ... <= n_(N); 0 = even
    Entropy    -sum_i p_i ln p_i / ln N                 p_i = n_i / sum n; 1 = even
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np

from mmbench.choices import TIE_RULES, MaskRule, Ties, whole_number
from mmbench.errors import DataError, UsageError, suggest
from mmbench.evaluation import list_metrics, target_weights
from mmbench.evaluation.data_facts import DataFacts
from mmbench.evaluation.evidence import Ranking


class RankCounts(Protocol):
    """What a metric reads: `greater` and `equal` int [n] per user, the number of candidates, the exact cutoffs."""

    @property
    def greater(self) -> np.ndarray: ...
    @property
    def equal(self) -> np.ndarray: ...
    @property
    def n_candidates(self) -> int: ...
    @property
    def limit(self) -> int | None: ...


# r float64 [K] = 1..K, cutoff K, candidates C -> q(r) [K]
_GAINS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "HR": lambda r, k, c: np.ones_like(r),
    "Recall": lambda r, k, c: np.ones_like(r),
    "Precision": lambda r, k, c: np.full_like(r, 1 / k),
    "F1": lambda r, k, c: np.full_like(r, 2 / (k + 1)),
    "NDCG": lambda r, k, c: 1 / np.log2(r + 1),
    "MRR": lambda r, k, c: 1 / r,
    "MAP": lambda r, k, c: 1 / r,
    "AUC": lambda r, k, c: (c - r) / max(c - 1, 1),
}
_FORMULAS = {
    "HR": "1 if r <= {k}",
    "Recall": "1 if r <= {k} (a single target: equal to HR)",
    "Precision": "1/{k} if r <= {k}",
    "F1": "2/({k}+1) if r <= {k}",
    "NDCG": "1/log2(r+1){cut}",
    "MRR": "1/r{cut}",
    "MAP": "1/r{cut} (a single target: equal to MRR)",
    "AUC": "(C-r)/(C-1), C candidates",
    "Coverage": "share of all items that appear in some user's list of the first {k}",
    "Gini": "inequality of the numbers of lists of the first {k} that items appear in, 0 = all equal",
    "Entropy": "entropy of which item stands in the lists of the first {k}, divided by that of all equal",
}


def _gini(n: np.ndarray) -> float:
    """Return the Gini index of how often each item is listed, int [N]."""
    weights = 2 * np.arange(1, len(n) + 1) - len(n) - 1
    return float((weights * np.sort(n)).sum() / (len(n) * max(n.sum(), 1)))


def _entropy(n: np.ndarray) -> float:
    """Return the entropy of which item is listed, as a share of that of a uniform draw."""
    p = n[n > 0] / max(n.sum(), 1)
    return float(-(p * np.log(p)).sum() / np.log(len(n))) if len(n) > 1 else 1.0


# how many lists each item stands in, int [N] -> value of the catalogue
_OF_LISTS: dict[str, Callable[[np.ndarray], float]] = {
    "Coverage": lambda n: np.count_nonzero(n) / len(n),
    "Gini": _gini,
    "Entropy": _entropy,
}
_WEIGHTED = ("HR", "NDCG", "MRR")
NAMES = (
    *_GAINS, *_OF_LISTS, *list_metrics.PER_USER,
    *(f"{name}-{weight}" for name in _WEIGHTED for weight in target_weights.WEIGHTS),
)  # fmt: skip
_WITHOUT_CUTOFF = {"NDCG", "MRR", "MAP", "AUC"}
_ALIASES = {"HIT": "HR", "HITS": "HR", "HITRATE": "HR"}


@dataclass(frozen=True, order=True)
class Metric:
    """A metric as a value: `Metric("NDCG", 10)` is written NDCG@10; `k` None = no cutoff."""

    name: str
    k: int | None = None

    def __str__(self) -> str:
        return self.name if self.k is None else f"{self.name}@{self.k}"

    @property
    def needs(self) -> Literal["ranks", "lists"]:
        """Return what of a ranking the metric reads."""
        return "lists" if self.name in _OF_LISTS or self.name in list_metrics.PER_USER else "ranks"

    @property
    def per(self) -> Literal["user", "catalogue"]:
        """Return whether there is a value per user, whose mean is shown, or a value for the catalogue."""
        return "catalogue" if self.name in _OF_LISTS else "user"

    @property
    def weight(self) -> str:
        """Return by what the targets are weighted, a name of mmbench.evaluation.target_weights; "" for equally."""
        base, _, weight = self.name.partition("-")
        return weight if base in _WEIGHTED else ""

    @property
    def reads_data(self) -> bool:
        """Return whether the metric reads the data set besides the ranking."""
        return bool(self.weight) or self.name in list_metrics.PER_USER

    def check_per_user(self, what: str) -> None:
        """Raise UsageError, about `what`, when the metric has no value per user."""
        if self.per == "catalogue":
            raise UsageError(f"{what}: {self} has a value for the catalogue and none per user; take NDCG@10")

    def check_of_ranks(self, what: str) -> None:
        """Raise UsageError, about `what`, when the metric is no mean over users of a value of the rank."""
        self.check_per_user(what)
        if self.reads_data:
            source = (
                "the lists and the data set" if self.needs == "lists" else "the popularity of all targets"
            )
            raise UsageError(f"{what}: {self} is made from {source}, not from ranks alone; take NDCG@10")

    def value(
        self, ranking: Ranking, rule: MaskRule, ties: Ties = "expected", facts: DataFacts | None = None
    ) -> float:
        """Return the value of a ranking under a mask rule, float64, unrounded; per user: the mean."""
        if self.per == "user":
            return self.mean(self.per_user(ranking, rule, ties, facts))
        self.check(ranking.n_items)
        assert self.k is not None
        listed = np.bincount(ranking.top(rule, self.k).ravel(), minlength=ranking.n_items + 1)[1:]
        return float(_OF_LISTS[self.name](listed))

    def per_user(
        self, ranking: Ranking, rule: MaskRule, ties: Ties = "expected", facts: DataFacts | None = None
    ) -> np.ndarray:
        """Return the value of each user, float64 [n]; NaN for a user whose list has too few items for it.

        facts  of the ranking's split; UsageError without them for a metric that reads them
        """
        self.check_per_user(str(self))
        if not self.reads_data:
            return self.values(ranking.ranks(rule), ties)
        if facts is None:
            raise UsageError(
                f"{self} reads the data set too; mmbench report --metric {self} prints it, and runs.to_frame has it"
            )
        if self.needs == "ranks":
            return self._weighted(ranking, rule, ties, facts)
        self.check(ranking.n_items)
        assert self.k is not None
        items = ranking.top(rule, self.k)
        return list_metrics.PER_USER[self.name](
            list_metrics.Listed(ranking.user, ranking.target, items, facts)
        )

    def _weighted(self, ranking: Ranking, rule: MaskRule, ties: Ties, facts: DataFacts) -> np.ndarray:
        """Return each user's value times the weight of its target, whose mean over users is 1."""
        if not ranking.has_targets:
            raise UsageError(f"{self}: the ranking's targets were left out of what was passed on")
        plain = Metric(self.name.partition("-")[0], self.k).values(ranking.ranks(rule), ties)
        return plain * target_weights.relative_weights(self.weight, ranking.target, facts.events)

    def mean(self, values: np.ndarray) -> float:
        """Return the mean over users of values that `per_user` returned; UsageError where no user has a value."""
        mean = float(values.mean())
        if not np.isnan(mean):
            return mean
        is_value = ~np.isnan(values)
        if not is_value.any():
            raise UsageError(f"{self}: no user's list has two items with such features")
        return float(values[is_value].mean())

    def formula(self, k: str = "") -> str:
        """Return the value in words, r the 1-based rank of the target; `k` is written for the cutoff."""
        k = k or str(self.k)
        name, words = self.name.removesuffix(f"-{self.weight}"), target_weights.FORMULAS.get(self.weight)
        formulas = _FORMULAS | list_metrics.FORMULAS
        text = formulas[name].format(k=k, cut="" if self.k is None else f" if r <= {k}")
        return f"{text}, {words}" if words else text

    def check(self, n_candidates: int) -> None:
        """Raise UsageError when the cutoff is outside 1..n_candidates."""
        if not self.fits(n_candidates):
            raise UsageError(f"{self}: K must be in 1..{n_candidates}, the number of items ranked")

    def fits(self, n_candidates: int) -> bool:
        """Return whether the cutoff is within 1..n_candidates."""
        return self.k is None or 1 <= self.k <= n_candidates

    def within(self, n_candidates: int) -> "Metric":
        """Return the metric with a cutoff that such a catalogue has: all of its items where they are fewer."""
        return self if self.fits(n_candidates) else replace(self, k=n_candidates)

    def is_exact(self, limit: int | None) -> bool:
        """Return whether counts that are exact up to a cutoff give this metric; None = up to any."""
        return limit is None or (self.k is not None and self.k <= limit)

    def values(self, ranks: RankCounts, ties: Ties = "expected") -> np.ndarray:
        """Return the per-user values, float64 [n], each in [0, 1]; UsageError when ranks alone do not give them."""
        self.check_of_ranks(str(self))
        self.check(ranks.n_candidates)
        if not self.is_exact(ranks.limit):
            raise UsageError(
                f"{self}: the lists of another program are too short, they give metrics up to @{ranks.limit}"
            )
        greater, equal = _counts(ranks)
        gains, prefix = _tables(self.name, self.k, ranks.n_candidates)
        if ties == "optimistic":
            return gains[np.minimum(greater, len(gains) - 1)]
        if ties == "pessimistic":
            return gains[np.minimum(greater + equal, len(gains) - 1)]
        if ties != "expected":
            raise UsageError(suggest(str(ties), TIE_RULES, what="tie rule"))
        k = len(prefix) - 1
        if not equal.any():
            return gains[np.minimum(greater, k)]
        mean = (prefix[np.minimum(greater + equal + 1, k)] - prefix[np.minimum(greater, k)]) / (equal + 1)
        # Without a tie the gain itself, so that HR@1 == NDCG@1 == MRR@1 to the last bit.
        return np.where(equal == 0, gains[np.minimum(greater, k)], mean)

    def random_mean(self, n_candidates: int) -> float:
        """Return the expectation for random scores: r is uniform over 1..C, so Q(K) / C."""
        self.check_of_ranks(str(self))
        self.check(n_candidates)
        return float(_tables(self.name, self.k, n_candidates)[1][-1] / n_candidates)

    def random_std(self, n_candidates: int) -> float:
        """Return the deviation of a user's value for random scores; divide by sqrt(users) for the mean's."""
        self.check_of_ranks(str(self))
        self.check(n_candidates)
        gains, _ = _tables(self.name, self.k, n_candidates)
        return float(np.sqrt(max((gains**2).sum() / n_candidates - self.random_mean(n_candidates) ** 2, 0.0)))


def _counts(ranks: RankCounts) -> tuple[np.ndarray, np.ndarray]:
    """Return `greater` and `equal` as int64; DataError for impossible counts: a damaged file, not a low score."""
    greater, equal = np.asarray(ranks.greater), np.asarray(ranks.equal)
    if greater.shape != equal.shape or greater.ndim != 1:
        raise DataError(f"ranks are damaged: shapes {greater.shape}, {equal.shape}; evaluate the run again")
    if len(greater) == 0:
        raise DataError("ranks hold no user; evaluate the run again")
    if not (np.issubdtype(greater.dtype, np.integer) and np.issubdtype(equal.dtype, np.integer)):
        raise DataError(f"ranks are damaged: counts of type {greater.dtype}, {equal.dtype}; evaluate again")
    greater, equal = greater.astype(np.int64, copy=False), equal.astype(np.int64, copy=False)
    if greater.min() < 0 or equal.min() < 0 or (greater + equal).max() >= ranks.n_candidates:
        raise DataError(
            f"ranks are damaged: a rank is outside 1..{ranks.n_candidates}; evaluate the run again"
        )
    return greater, equal


@lru_cache(maxsize=256)
def _tables(name: str, k: int | None, n_candidates: int) -> tuple[np.ndarray, np.ndarray]:
    """Return gains [K + 1]: gains[g] = q(g + 1), the last 0 (beyond K); prefix [K + 1]: prefix[r] = Q(r)."""
    cutoff = n_candidates if k is None else k
    gains = _GAINS[name](np.arange(1, cutoff + 1, dtype=np.float64), cutoff, n_candidates)
    tables = np.append(gains, 0.0), np.concatenate([[0.0], np.cumsum(gains)])
    for table in tables:
        table.flags.writeable = False  # shared between callers by the cache
    return tables


def mean_value(ranks: RankCounts, name: str) -> float:
    """Return the mean over users of a metric, float64, unrounded."""
    return float(parse_metric(name).values(ranks).mean())


DEFAULT_METRICS = (
    Metric("NDCG", 5), Metric("NDCG", 10), Metric("MRR", 5), Metric("MRR", 10), Metric("HR", 10),
)  # fmt: skip


MAIN_METRIC = Metric("NDCG", 10)  # of all items where a catalogue has fewer than ten


def asked_metric(metric: str | Metric | None, n_candidates: Iterable[int]) -> Metric:
    """Return the metric that is asked for; for None MAIN_METRIC with a cutoff that all of these catalogues have.

    n_candidates  0, the size that a record does not know, does not count
    """
    if metric is not None:
        return as_metrics(metric)[0]
    return main_metric(min(filter(None, n_candidates), default=None))


def main_metric(n_candidates: int | None) -> Metric:
    """Return MAIN_METRIC with a cutoff that such a catalogue has; itself where the size is not known."""
    return MAIN_METRIC if n_candidates is None else MAIN_METRIC.within(n_candidates)


def within_all(metrics: Iterable[Metric], n_candidates: int) -> list[Metric]:
    """Return metrics that nobody asked for with cutoffs that a catalogue has, without HR at its size, which is 1."""
    return [
        metric.within(n_candidates) for metric in metrics if metric.fits(n_candidates) or metric.name != "HR"
    ]


def default_metrics(n_candidates: int) -> tuple["Metric", ...]:
    """Return the default metrics with a cutoff that such a catalogue has; where none fits, with its size as cutoff."""
    fitting = tuple(metric for metric in DEFAULT_METRICS if metric.fits(n_candidates))
    return fitting or tuple(dict.fromkeys(metric.within(n_candidates) for metric in DEFAULT_METRICS))


def parse_metric(text: str) -> Metric:
    """Return the metric of a text such as `ndcg@10`; UsageError for an unknown name or an impossible cutoff."""
    word, sign, cutoff = text.strip().partition("@")
    upper = word.upper()
    canonical = {name.upper(): name for name in NAMES} | _ALIASES
    if upper not in canonical:
        near = suggest(word, NAMES, what="metric") if word not in ("", "@") else "a metric has no name"
        raise UsageError(f"{near} (write for example NDCG@10)")
    name = canonical[upper]
    if not sign:
        if name not in _WITHOUT_CUTOFF:
            raise UsageError(f"metric {name} needs a cutoff, for example {name}@10")
        return Metric(name)
    if name == "AUC":
        raise UsageError(f"metric {text!r}: AUC has no cutoff; write AUC")
    k = whole_number(cutoff)
    if not k:
        raise UsageError(f"metric {text!r}: the cutoff must be a whole number >= 1, for example {name}@10")
    return Metric(name, k)


def as_metrics(metrics: str | Metric | Iterable[str | Metric]) -> tuple[Metric, ...]:
    """Return a metric or several, as texts or as metrics; UsageError as `parse_metric`."""
    several = [metrics] if isinstance(metrics, str | Metric) else metrics
    return tuple(parse_metric(metric) if isinstance(metric, str) else metric for metric in several)
