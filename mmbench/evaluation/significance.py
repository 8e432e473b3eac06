"""Statistics for comparing two methods: arrays in, numbers out. No files, no rounding, no tables.

Every test is two-sided on the differences d_k = a_k - b_k and states the direction of their mean in words,
so that a small p can never be read as support for the worse method. Where no p exists (a single run, identical
differences) the answer is a `NoVerdict` that says so.

The unit is the caller's: training runs (n seeds) or users (n users). Never pool seeds x users into a single n.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Direction = Literal["better", "worse", "equal"]
ZeroMethod = Literal["wilcox", "pratt", "zsplit"]
EXACT_LIMIT = 16  # up to 2^16 sign patterns are enumerated
DRAWS = 10_000  # random sign patterns beyond that
_CHUNK_CELLS = 4_000_000  # float64 signs held at once, 32 MB
_NOISE = 1e-13  # of the numbers that were subtracted: a smaller difference is rounding


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A two-sided test of a against b that has a p."""

    test: str  # which test, with its choices: "Wilcoxon (zeros dropped)"
    n: int  # pairs; for unpaired tests the smaller sample
    difference: float  # mean of a minus mean of b
    direction: Direction  # of a against b: "better" = a is higher
    p: float
    statistic: float
    df: float | None = None
    interval: tuple[float, float] | None = None  # 95 % confidence interval of the difference
    won: int | None = None  # pairs in which a is higher
    lost: int | None = None

    @property
    def words(self) -> str:
        return self.direction


@dataclass(frozen=True, kw_only=True)
class NoVerdict:
    """A missing p: `words` for a table cell, `reason` as a sentence."""

    test: str
    n: int
    difference: float
    direction: Direction
    words: str
    reason: str


Outcome = Verdict | NoVerdict


def mean_std(values: Sequence[float] | np.ndarray) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation (n - 1), None instead of the deviation of a single value."""
    array = _vector(values, "values")
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None


def direction_of(difference: float) -> Direction:
    return "better" if difference > 0 else "worse" if difference < 0 else "equal"


def paired_t(a: np.ndarray, b: np.ndarray) -> Outcome:
    """Test with t = mean(d) sqrt(n) / s_d and n - 1 degrees of freedom, valid for roughly normal d or large n."""
    return _t_of_differences(differences(a, b), test="paired t", scale=_scale(a, b))


def one_sample_t(values: np.ndarray, constant: float) -> Outcome:
    """Test runs of a seeded method against a deterministic method, whose value has no seed variance."""
    values = _vector(values, "values")
    return _t_of_differences(values - constant, test="one-sample t", scale=_scale(values))


def _t_of_differences(d: np.ndarray, *, test: str, scale: float) -> Outcome:
    degenerate = _degenerate(d, test, scale)
    if degenerate:
        return degenerate
    n, mean, error = len(d), float(d.mean()), float(d.std(ddof=1)) / math.sqrt(len(d))
    half = _t_quantile(0.975, n - 1) * error
    return Verdict(
        test=test,
        n=n,
        difference=mean,
        direction=direction_of(mean),
        p=_t_two_sided(mean / error, n - 1),
        statistic=mean / error,
        df=n - 1,
        interval=(mean - half, mean + half),
    )


def welch_t(a: np.ndarray, b: np.ndarray) -> Outcome:
    """Test two samples without common seeds by Welch's t, with Welch-Satterthwaite degrees of freedom."""
    a, b = _vector(a, "a"), _vector(b, "b")
    difference, n = float(a.mean() - b.mean()), min(len(a), len(b))
    if n < 2:
        return _no_verdict("Welch t", n, difference, "one run", "a deviation needs at least 2 runs of both")
    part_a, part_b = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    error = math.sqrt(part_a + part_b)
    if _has_no_spread(a, _scale(a)) and _has_no_spread(b, _scale(b)):
        return _no_verdict("Welch t", n, difference, "no spread", "all runs of each method are equal")
    df = float((part_a + part_b) ** 2 / (part_a**2 / (len(a) - 1) + part_b**2 / (len(b) - 1)))
    half = _t_quantile(0.975, df) * error
    return Verdict(
        test="Welch t",
        n=n,
        difference=difference,
        direction=direction_of(difference),
        p=_t_two_sided(difference / error, df),
        statistic=difference / error,
        df=df,
        interval=(difference - half, difference + half),
    )


def wilcoxon(a: np.ndarray, b: np.ndarray, *, zero_method: ZeroMethod = "wilcox") -> Outcome:
    """Run Wilcoxon's signed rank test of d.

    It tests the location of symmetric differences, NOT the mean: with skewed d it can point the other way
    (`direction` is the mean's). Zeros: "wilcox" drops them, "pratt" ranks, then drops them, "zsplit" splits.
    """
    from scipy import stats

    d = differences(a, b)
    handling = {"wilcox": "zeros dropped", "pratt": "zeros ranked, then dropped", "zsplit": "zeros split"}
    test = f"Wilcoxon ({handling[zero_method]})"
    degenerate = _degenerate(d, test, _scale(a, b))
    if degenerate:
        return degenerate
    result = stats.wilcoxon(d, zero_method=zero_method)
    mean = float(d.mean())
    return Verdict(
        test=test,
        n=len(d),
        difference=mean,
        direction=direction_of(mean),
        p=float(result.pvalue),
        statistic=float(result.statistic),
        won=int((d > 0).sum()),
        lost=int((d < 0).sum()),
    )


def sign_flip(a: np.ndarray, b: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> Outcome:
    """Run the paired randomisation test of the mean: under H0 the sign of every d_k is a coin toss.

    Exact up to n = 16 (all 2^n patterns, smallest p 2 / 2^n), else p = (1 + hits) / (1 + draws) from a
    seeded generator.
    """
    d = differences(a, b)
    return randomisation(d[:, None], scale=_scale(a, b), draws=draws, seed=seed)[0]


def randomisation(d: np.ndarray, *, scale: float = 1.0, draws: int = DRAWS, seed: int = 0) -> list[Outcome]:
    """Run `sign_flip` for several columns of differences [n, H] at once, with the same random signs.

    `scale` is the size of the numbers that were subtracted, to tell rounding noise from a difference.
    """
    d = np.asarray(d, dtype=np.float64)
    if d.ndim != 2 or not np.isfinite(d).all():
        raise ValueError(f"differences must be finite and [n, H], not of shape {d.shape}")
    d = _without_noise(d, scale)
    n = len(d)
    exact = n <= EXACT_LIMIT
    test = "exact sign flip (all 2^n)" if exact else f"sign flip ({draws:,} draws)"
    outcomes: list[Outcome | None] = [_degenerate(column, test, scale) for column in d.T]
    columns = [h for h, outcome in enumerate(outcomes) if outcome is None]
    if columns:
        hits = _flips_as_large(d[:, columns], draws=0 if exact else draws, seed=seed)
        for h, p in zip(columns, hits / 2.0**n if exact else (1 + hits) / (1 + draws), strict=True):
            outcomes[h] = _sign_verdict(d[:, h], test, float(p))
    return [outcome for outcome in outcomes if outcome is not None]


def _sign_verdict(d: np.ndarray, test: str, p: float) -> Verdict:
    mean = float(d.mean())
    return Verdict(
        test=test,
        n=len(d),
        difference=mean,
        direction=direction_of(mean),
        p=p,
        statistic=mean,
        won=int((d > 0).sum()),
        lost=int((d < 0).sum()),
    )


def _flips_as_large(d: np.ndarray, *, draws: int, seed: int) -> np.ndarray:
    """Sign patterns whose sum is as large as the observed, per column of d [n, H]; draws 0 = all 2^n."""
    n, observed, total = len(d), np.abs(d.sum(0)), d.sum(0)
    # A pattern that should tie with the observed sum must count although addition order differs.
    threshold = observed - 1e-12 * np.abs(d).sum(0)
    hits = np.zeros(d.shape[1])
    rng = np.random.default_rng(seed)
    rows = draws or 2**n
    step = max(1, _CHUNK_CELLS // n)
    for start in range(0, rows, step):
        size = min(step, rows - start)
        if draws:
            packed = np.frombuffer(rng.bytes(size * ((n + 7) // 8)), dtype=np.uint8).reshape(size, -1)
            bits = np.unpackbits(packed, axis=1, count=n).astype(np.float64)
        else:
            bits = ((np.arange(start, start + size)[:, None] >> np.arange(n)) & 1).astype(np.float64)
        # signs are 2 bits - 1, so the flipped sum is 2 bits.d - sum d
        hits += (np.abs(2 * (bits @ d) - total) >= threshold).sum(0)
    return hits


def mcnemar(a: np.ndarray, b: np.ndarray) -> Outcome:
    """Run the exact McNemar test of two hit vectors (0 or 1 per user): binomial on users hit by a single method."""
    from scipy.special import bdtr

    d = differences(a, b)
    if not is_binary(a) or not is_binary(b):
        raise ValueError("McNemar's test needs hits of 0 or 1; take the randomisation test for averages")
    won, lost = int((d > 0).sum()), int((d < 0).sum())
    mean = float(d.mean())
    if won + lost == 0:
        return _no_verdict("McNemar, exact", len(d), mean, "identical", "both methods hit the same users")
    return Verdict(
        test="McNemar, exact",
        n=len(d),
        difference=mean,
        direction=direction_of(mean),
        p=min(1.0, 2 * float(bdtr(min(won, lost), won + lost, 0.5))),
        statistic=float(won),
        won=won,
        lost=lost,
    )


def is_binary(values: np.ndarray) -> bool:
    """Return whether every value is 0 or 1."""
    array = np.asarray(values)
    return bool(np.isin(array, (0.0, 1.0)).all())


def t_interval(values: np.ndarray, *, level: float = 0.95) -> tuple[float, float] | None:
    """Return the confidence interval of a mean, None below 2 values. (A bootstrap under-covers at n = 10.)"""
    array = _vector(values, "values")
    if len(array) < 2:
        return None
    half = _t_quantile(0.5 + level / 2, len(array) - 1) * array.std(ddof=1) / math.sqrt(len(array))
    return float(array.mean() - half), float(array.mean() + half)


def ratio_interval(a: np.ndarray, b: np.ndarray, *, level: float = 0.95) -> tuple[float, float] | None:
    """Return Fieller's interval of mean(a) / mean(b), paired: all ratios r that a t test of a - r b keeps.

    None when it is unbounded (b is not clearly different from 0) or n < 2.
    """
    a, b = _vector(a, "a"), _vector(b, "b")
    differences(a, b)
    n = len(a)
    if n < 2:
        return None
    cov = np.cov(a, b) / n
    q = _t_quantile(0.5 + level / 2, n - 1) ** 2
    # (A - r B)^2 = q (v_a - 2 r c + r^2 v_b), solved for r
    x2 = b.mean() ** 2 - q * cov[1, 1]
    x1 = a.mean() * b.mean() - q * cov[0, 1]
    x0 = a.mean() ** 2 - q * cov[0, 0]
    root = x1**2 - x2 * x0
    if x2 <= 0 or root < 0:
        return None
    return float((x1 - math.sqrt(root)) / x2), float((x1 + math.sqrt(root)) / x2)


def effect_dz(d: np.ndarray) -> float | None:
    """Return mean(d) / s_d, the standardised difference, times Hedges' factor J = 1 - 3 / (4 (n - 1) - 1).

    None when there are fewer than 3 differences (J is 0 at n = 2) or they do not vary. Never quote it without
    its unit: across seeds it is huge, across users tiny.
    """
    d = _vector(d, "differences")
    if len(d) < 3 or _has_no_spread(d, _scale(d)):
        return None
    return float(d.mean() / d.std(ddof=1) * (1 - 3 / (4 * (len(d) - 1) - 1)))


def rank_biserial(d: np.ndarray) -> float | None:
    """Return the matched-pairs rank-biserial correlation (W+ - W-) / (W+ + W-), without zeros; None if all are."""
    d = _vector(d, "differences")
    d = d[d != 0]
    if len(d) == 0:
        return None
    _, inverse, counts = np.unique(np.abs(d), return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[inverse]  # equal sizes share their mean rank
    return float((ranks[d > 0].sum() - ranks[d < 0].sum()) / ranks.sum())


def smallest_sign_p(n: int) -> float:
    """Return the smallest two-sided p that sign flips or Wilcoxon can give with n pairs: 2 / 2^n (at most 1)."""
    return min(1.0, 2.0 ** (1 - n))


def _t_two_sided(statistic: float, df: float) -> float:
    # scipy.special instead of scipy.stats: the same numbers without a second of importing
    from scipy.special import stdtr

    return float(2 * stdtr(df, -abs(statistic)))


def _t_quantile(level: float, df: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, level))


def _vector(values: Sequence[float] | np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0 or not np.isfinite(array).all():
        raise ValueError(f"{name} must be a finite, non-empty vector, not of shape {array.shape}")
    return array


def differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a - b, 0 where they differ by rounding only: means of the same values in another order are equal."""
    a, b = _vector(a, "a"), _vector(b, "b")
    if len(a) != len(b):
        raise ValueError(f"paired tests need pairs: {len(a)} values against {len(b)}")
    return _without_noise(a - b, _scale(a, b))


def _without_noise(d: np.ndarray, scale: float) -> np.ndarray:
    return np.where(np.abs(d) <= _NOISE * scale, 0.0, d)


def _has_no_spread(d: np.ndarray, scale: float) -> bool:
    """Return whether d is constant up to the rounding noise of float64 numbers as large as `scale`."""
    return float(np.ptp(d)) <= _NOISE * scale


def _scale(*arrays: np.ndarray) -> float:
    return max(float(np.abs(array).max()) for array in arrays)


def _no_verdict(test: str, n: int, difference: float, words: str, reason: str) -> NoVerdict:
    return NoVerdict(
        test=test, n=n, difference=difference, direction=direction_of(difference), words=words, reason=reason
    )


def _degenerate(d: np.ndarray, test: str, scale: float) -> NoVerdict | None:
    """Return why these differences have no p, or None when they have one.

    A constant difference has no p either: runs that never vary are copies, not evidence.
    """
    mean = float(d.mean())
    if len(d) < 2:
        return _no_verdict(test, len(d), mean, "one run", "a test needs at least 2 differences")
    if float(np.abs(d).max()) <= _NOISE * scale:
        return _no_verdict(test, len(d), 0.0, "identical", "all differences are zero")
    if _has_no_spread(d, scale):
        return _no_verdict(test, len(d), mean, "no spread", "all differences are equal")
    return None
