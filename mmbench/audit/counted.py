"""Statistics of data sets that do not follow from their counts. Counts are exact; the quotients are rounded."""

from collections.abc import Iterator
from fractions import Fraction

from mmbench.audit.finding import Finding
from mmbench.audit.number import Printed, Reading, decimal_text
from mmbench.audit.sources import Statistics, TableClaims

CUT = "it follows if digits were cut off instead of rounded"


def check_statistics(claims: TableClaims) -> Iterator[Finding]:
    """Yield the printed statistics that contradict the printed counts."""
    for dataset, statistics in claims.statistics.items():
        users, items, events = (
            int(count.value) for count in (statistics.users, statistics.items, statistics.interactions)
        )
        sparsity = 100 * (1 - Fraction(events, users * items))
        for name, printed, exact, formula in (
            (
                "interactions per user",
                statistics.per_user,
                Fraction(events, users),
                f"{events:,} / {users:,}",
            ),
            (
                "interactions per item",
                statistics.per_item,
                Fraction(events, items),
                f"{events:,} / {items:,}",
            ),
            ("sparsity %", statistics.sparsity, sparsity, f"100 (1 - {events:,} / ({users:,} x {items:,}))"),
        ):
            if printed is not None and not _matches(printed, exact):
                yield _quotient(dataset, name, printed, exact, formula)
        yield from _minimum(dataset, statistics, claims)


def _matches(printed: Printed, exact: Fraction, reading: Reading = "rounded") -> bool:
    low, high = printed.span(reading)
    return low <= exact <= high


def _quotient(dataset: str, name: str, printed: Printed, exact: Fraction, formula: str) -> Finding:
    cut = _matches(printed, exact, "cut")
    return Finding(
        check="statistic",
        weight="remark" if cut else "contradiction",
        dataset=dataset,
        numbers=(f"{name} {printed.text}",),
        rule=f"{name} follows from the counts of users, items and interactions",
        arithmetic=f"{formula} = {decimal_text(exact, printed.digits + 1)}, printed {printed.text}",
        hints=(CUT,) if cut else (),
    )


def _minimum(dataset: str, statistics: Statistics, claims: TableClaims) -> Iterator[Finding]:
    """Yield a finding if there are too few events for the shortest history that the paper says it kept."""
    for what, owners, fewest in (
        ("user", statistics.users, claims.fewest_per_user),
        ("item", statistics.items, claims.fewest_per_item),
    ):
        if statistics.interactions.value >= fewest * owners.value:
            continue
        yield Finding(
            check="statistic",
            weight="contradiction",
            dataset=dataset,
            numbers=(f"interactions {statistics.interactions.text}", f"{what}s {owners.text}"),
            rule=f"every {what} has at least {fewest} interactions",
            arithmetic=f"{fewest} x {owners.text} = {fewest * int(owners.value):,} > {statistics.interactions.text}",
        )
