"""Hit rates as counts: over U users, the HR of a run is k/U for a whole number k.

A mean over n runs is k/(n U). If U is small for the number of printed digits, most decimals are not k/U; a column in
which all are shows single runs. This is a test, and its terms are printed: how often a random decimal, or a mean over n
runs (with a random k in k/(n U)), would be k/U, too.

If ties count by their expectation, HR is not a whole number of users; but the papers' codes break ties.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mmbench.audit.finding import Agreement, Count, Finding, HitColumn
from mmbench.audit.number import READINGS, Printed, Reading, Span, decimal_text
from mmbench.audit.sources import Row

HIT_RATES = ("HR", "Recall")
# Below it, a column is taken to show single runs; two readings are tried, so twice the tail counts.
ALPHA = 0.001
FEWEST_USERS = 0.9  # share of the users down to which another fitting number of users is searched


def whole_number_in(span: Span, denominator: int) -> int | None:
    """Return the k with k/denominator in the closed interval that is nearest to its middle, or None."""
    low, high = math.ceil(span[0] * denominator), math.floor(span[1] * denominator)
    if low > high or high < 0:
        return None
    return min(max(round((span[0] + span[1]) / 2 * denominator), low, 0), high)


def count_hits(method: str, rate: Printed, users: int) -> Count:
    """Return the hits behind a printed rate, read as a rounded number if possible, else as cut off."""
    for reading in READINGS:
        hits = whole_number_in(rate.span(reading), users)
        if hits is not None and hits <= users:
            return Count(method, rate, users, hits, reading)
    return Count(method, rate, users, None, None)


def fits(decimals: np.ndarray, digits: int, users: int, readings: Sequence[Reading]) -> np.ndarray:
    """Return whether decimals / 10^digits is some k/users, bool [n], in integer arithmetic."""
    scale = 2 * 10**digits
    twice = 2 * decimals.astype(np.int64)
    low = (twice - 1 if "rounded" in readings else twice) * users
    high = (twice + 2 if "cut" in readings else twice + 1) * users
    return np.minimum(high // scale, users) >= np.maximum(-(-low // scale), 0)


def chance(users: int, digits: int, readings: Sequence[Reading]) -> float:
    """Return the share of the decimals 0 .. 1 with this many digits that are some k/users."""
    if digits > 6:  # too many to count: each k reaches 1 or 1.5 units
        return min(1.0, (users + 1) / 10**digits * (1.5 if len(readings) > 1 else 1.0))
    return float(fits(np.arange(10**digits + 1), digits, users, readings).mean())


def mean_chance(users: int, digits: int, readings: Sequence[Reading], runs: int) -> float:
    """Return the share of the means k/(runs users), rounded, that are some k/users; k = 0 .. runs users."""
    means = np.arange(runs * users + 1, dtype=np.int64)
    rounded = (2 * means * 10**digits + runs * users) // (2 * runs * users)
    return float(fits(rounded, digits, users, readings).mean())


def tail(fitting: int, total: int, p: float) -> float:
    """Return the chance of `fitting` or more of `total` when each has chance p."""
    return min(
        1.0, sum(math.comb(total, k) * p**k * (1 - p) ** (total - k) for k in range(fitting, total + 1))
    )


def hit_columns(rows: Sequence[Row], users: Mapping[str, int], runs: int) -> list[HitColumn]:
    """Return all columns of hit rates with known numbers of users; `runs` is the number that the caption states."""
    columns = []
    keys = dict.fromkeys(
        (row.dataset, metric) for row in rows for metric in row.scores if metric.name in HIT_RATES
    )
    for dataset, metric in keys:
        if dataset not in users:
            continue
        members = [row for row in rows if row.dataset == dataset and metric in row.scores]
        counts = tuple(count_hits(row.method, row.scores[metric], users[dataset]) for row in members)
        strict, wide = (_agreement(counts, runs, readings) for readings in (("rounded",), READINGS))
        single = 2 * min(max(agreement.tail, agreement.mean_tail) for agreement in (strict, wide)) < ALPHA
        columns.append(
            HitColumn(
                dataset=dataset, metric=str(metric), users=users[dataset], runs=runs, counts=counts,
                strict=strict, wide=wide, single=single,
            )
        )  # fmt: skip
    return columns


def _agreement(counts: Sequence[Count], runs: int, readings: Sequence[Reading]) -> Agreement:
    users, digits = counts[0].users, min(count.rate.digits for count in counts)
    # Equal values are a single witness.
    different = {count.rate.value: count.reading in readings for count in counts}
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
    """Return columns that show single runs although the caption states several, and values that do not fit them."""
    findings = []
    for column in columns:
        if column.single and column.runs > 1:
            findings.append(_single_runs(column))
        if column.single:
            findings += [_misfit(column, count) for count in column.counts if count.hits is None]
    return findings


def agreement_text(column: HitColumn, agreement: Agreement) -> str:
    if column.says_nothing:
        return f"every such decimal is k/{column.users:,}: with so many users the check says nothing"
    how = "rounded or cut off" if len(agreement.readings) > 1 else "rounded"
    digits = min(count.rate.digits for count in column.counts)
    grid = f"k/{max(column.runs, 2) * column.users:,}"
    return (
        f"{agreement.fitting} of {agreement.total} different values are k/{column.users:,} {how}; of all "
        f"{digits}-digit decimals {100 * agreement.chance:.1f} % are (as many by chance: p = {agreement.tail:.1g}), of "
        f"means over {max(column.runs, 2)} runs ({grid}) {100 * agreement.mean_chance:.1f} % "
        f"(p = {agreement.mean_tail:.1g})"
    )


def _single_runs(column: HitColumn) -> Finding:
    best = min((column.strict, column.wide), key=lambda agreement: max(agreement.tail, agreement.mean_tail))
    return Finding(
        check="runs",
        weight="remark",
        dataset=column.dataset,
        numbers=(f"{column.metric} of {len(column.counts)} methods",),
        rule=f"the caption speaks of {column.runs} runs, but the column shows single runs, not means over "
        f"{column.runs}: a single run has {column.metric} k/{column.users:,}",
        arithmetic=agreement_text(column, best),
    )


def _misfit(column: HitColumn, count: Count) -> Finding:
    below = math.floor(count.rate.value * count.users)
    digits = count.rate.digits + 1
    around = ", ".join(
        f"{k}/{count.users:,} = {decimal_text(k / count.users, digits)}"
        for k in (below, below + 1)
        if k <= count.users
    )
    hints = [*_other_users(count), *_mean_of_runs(count, column.runs)]
    return Finding(
        check="count",
        weight="remark",
        dataset=column.dataset,
        method=count.method,
        numbers=(f"{column.metric} {count.rate}",),
        rule=f"no whole number of {column.users:,} users gives it, in a column of single runs",
        arithmetic=f"{count.rate} x {count.users:,} = {decimal_text(count.rate.value * count.users, 2)}; {around}",
        hints=tuple(hints),
    )


def _other_users(count: Count) -> list[str]:
    """Return the largest smaller number of users that fits."""
    for users in range(count.users - 1, math.ceil(FEWEST_USERS * count.users) - 1, -1):
        hits = whole_number_in(count.rate.span(), users)
        if hits is not None:
            return [f"{hits:,} of {users:,} users would give it"]
    return []


def _mean_of_runs(count: Count, runs: int) -> list[str]:
    """Return the smallest number of runs whose mean fits."""
    for reading in READINGS:
        for n in range(2, runs + 1):
            hits = whole_number_in(count.rate.span(reading), n * count.users)
            if hits is not None:
                how = " with digits cut off" if reading == "cut" else ""
                return [f"{hits:,} hits in {n} runs, {hits:,}/{n * count.users:,}, would give it{how}"]
    return [f"no mean over 2 to {runs} runs gives it either"] if runs > 1 else []
