"""Hit rates as counts: over U users, the HR of one run is k/U for a whole number k.

A mean over n runs is k/(n U). Where U is small beside the digits printed, most decimals are no k/U at all; a column
of them that are shows single runs. It is a test, and the terms are printed: how often a decimal drawn at random, or a
mean over n runs (its k/(n U) taken at random), would be k/U too.

Ties that count by their expectation make HR no whole number of users; the papers' codes break ties.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mmbench.audit.finding import Agreement, Count, Finding, HitColumn
from mmbench.audit.number import READINGS, Printed, Reading, Span, say
from mmbench.audit.sources import Row

HIT_RATES = ("HR", "Recall")
ALPHA = (
    0.001  # below it, a column of single runs is believed; two readings are tried, so twice the tail counts
)
FEWEST_USERS = 0.9  # of the users, when another number of users is sought that fits


def whole_number_in(span: Span, denominator: int) -> int | None:
    """The k with k/denominator in the closed interval that is nearest to its middle, or None."""
    low, high = math.ceil(span[0] * denominator), math.floor(span[1] * denominator)
    if low > high or high < 0:
        return None
    return min(max(round((span[0] + span[1]) / 2 * denominator), low, 0), high)


def count_hits(method: str, rate: Printed, users: int) -> Count:
    """The hits behind a printed rate: as a rounded number if there are any, else as one whose digits were cut."""
    for reading in READINGS:
        hits = whole_number_in(rate.span(reading), users)
        if hits is not None and hits <= users:
            return Count(method, rate, users, hits, reading)
    return Count(method, rate, users, None, None)


def fits(decimals: np.ndarray, digits: int, users: int, readings: Sequence[Reading]) -> np.ndarray:
    """Whether decimals / 10^digits is some k/users, bool [n]; all in whole numbers."""
    scale = 2 * 10**digits
    twice = 2 * decimals.astype(np.int64)
    low = (twice - 1 if "rounded" in readings else twice) * users
    high = (twice + 2 if "cut" in readings else twice + 1) * users
    return np.minimum(high // scale, users) >= np.maximum(-(-low // scale), 0)


def chance(users: int, digits: int, readings: Sequence[Reading]) -> float:
    """Share of the decimals 0 .. 1 with so many digits that are some k/users."""
    if digits > 6:  # too many to count; each k reaches 1 or 1.5 units
        return min(1.0, (users + 1) / 10**digits * (1.5 if len(readings) > 1 else 1.0))
    return float(fits(np.arange(10**digits + 1), digits, users, readings).mean())


def mean_chance(users: int, digits: int, readings: Sequence[Reading], runs: int) -> float:
    """Share of the means k/(runs users), rounded, that are some k/users; k = 0 .. runs users."""
    means = np.arange(runs * users + 1, dtype=np.int64)
    rounded = (2 * means * 10**digits + runs * users) // (2 * runs * users)
    return float(fits(rounded, digits, users, readings).mean())


def tail(fitting: int, total: int, p: float) -> float:
    """Chance of `fitting` or more of `total` when each has chance p."""
    return min(
        1.0, sum(math.comb(total, k) * p**k * (1 - p) ** (total - k) for k in range(fitting, total + 1))
    )


def hit_columns(rows: Sequence[Row], users: Mapping[str, int], runs: int) -> list[HitColumn]:
    """Every column of hit rates with known users; `runs` = the runs that the caption speaks of."""
    found = []
    keys = dict.fromkeys(
        (row.dataset, metric) for row in rows for metric in row.scores if metric.name in HIT_RATES
    )
    for dataset, metric in keys:
        if dataset not in users:
            continue
        own = [row for row in rows if row.dataset == dataset and metric in row.scores]
        counts = tuple(count_hits(row.method, row.scores[metric], users[dataset]) for row in own)
        strict, wide = (_agreement(counts, runs, readings) for readings in (("rounded",), READINGS))
        single = 2 * min(max(one.tail, one.mean_tail) for one in (strict, wide)) < ALPHA
        found.append(
            HitColumn(
                dataset=dataset, metric=str(metric), users=users[dataset], runs=runs, counts=counts,
                strict=strict, wide=wide, single=single,
            )
        )  # fmt: skip
    return found


def _agreement(counts: Sequence[Count], runs: int, readings: Sequence[Reading]) -> Agreement:
    users, digits = counts[0].users, min(one.rate.digits for one in counts)
    different = {one.rate.value: one.reading in readings for one in counts}  # equal values are one witness
    fitting, total = sum(different.values()), len(different)
    p, q = chance(users, digits, readings), mean_chance(users, digits, readings, max(runs, 2))
    return Agreement(
        readings=tuple(readings),
        fitting=fitting,
        total=total,
        chance=p,
        tail=tail(fitting, total, p),
        mean_chance=q,
        mean_tail=tail(fitting, total, q),
    )


def check_columns(columns: Sequence[HitColumn]) -> list[Finding]:
    """Columns that show single runs although the caption speaks of several, and what does not fit into them."""
    found = []
    for column in columns:
        if column.single and column.runs > 1:
            found.append(_single_runs(column))
        if column.single:
            found += [_misfit(column, one) for one in column.counts if one.hits is None]
    return found


def agreement_text(column: HitColumn, one: Agreement) -> str:
    if column.says_nothing:
        return f"every such decimal is k/{column.users:,}: with so many users the check says nothing"
    how = "rounded or cut off" if len(one.readings) > 1 else "rounded"
    digits = min(count.rate.digits for count in column.counts)
    grid = f"k/{max(column.runs, 2) * column.users:,}"
    return (
        f"{one.fitting} of {one.total} different values are k/{column.users:,} {how}; of all {digits}-digit decimals "
        f"{100 * one.chance:.1f} % are (so many by chance: p = {one.tail:.1g}), of means over {max(column.runs, 2)} "
        f"runs ({grid}) {100 * one.mean_chance:.1f} % (p = {one.mean_tail:.1g})"
    )


def _single_runs(column: HitColumn) -> Finding:
    best = min((column.strict, column.wide), key=lambda one: max(one.tail, one.mean_tail))
    return Finding(
        check="runs",
        weight="remark",
        dataset=column.dataset,
        numbers=(f"{column.metric} of {len(column.counts)} methods",),
        rule=f"the caption speaks of {column.runs} runs, but the column shows single runs, not means over "
        f"{column.runs}: one run has {column.metric} k/{column.users:,}",
        arithmetic=agreement_text(column, best),
    )


def _misfit(column: HitColumn, one: Count) -> Finding:
    below = math.floor(one.rate.value * one.users)
    digits = one.rate.digits + 1
    around = ", ".join(
        f"{k}/{one.users:,} = {say(k / one.users, digits)}" for k in (below, below + 1) if k <= one.users
    )
    hints = [*_other_users(one), *_mean_of_runs(one, column.runs)]
    return Finding(
        check="count",
        weight="remark",
        dataset=column.dataset,
        method=one.method,
        numbers=(f"{column.metric} {one.rate}",),
        rule=f"no whole number of {column.users:,} users gives it, in a column of single runs",
        arithmetic=f"{one.rate} x {one.users:,} = {say(one.rate.value * one.users, 2)}; {around}",
        hints=tuple(hints),
    )


def _other_users(one: Count) -> list[str]:
    """The largest smaller number of users that fits."""
    for users in range(one.users - 1, math.ceil(FEWEST_USERS * one.users) - 1, -1):
        hits = whole_number_in(one.rate.span(), users)
        if hits is not None:
            return [f"{hits:,} of {users:,} users would give it"]
    return []


def _mean_of_runs(one: Count, runs: int) -> list[str]:
    """The smallest number of runs whose mean fits."""
    for reading in READINGS:
        for n in range(2, runs + 1):
            hits = whole_number_in(one.rate.span(reading), n * one.users)
            if hits is not None:
                how = " with digits cut off" if reading == "cut" else ""
                return [f"{hits:,} hits in {n} runs, {hits:,}/{n * one.users:,}, would give it{how}"]
    return [f"no mean over 2 to {runs} runs gives it either"] if runs > 1 else []
