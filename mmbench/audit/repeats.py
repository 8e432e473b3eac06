"""Numbers that a paper prints twice: a row in two tables, or the same numbers under two names."""

from collections.abc import Iterator, Sequence
from itertools import combinations

from mmbench.audit.finding import Finding
from mmbench.audit.sources import PaperClaims, Row


def check_repeats(rows: Sequence[Row], table: str, claims: PaperClaims) -> Iterator[Finding]:
    """Yield findings about pairs of rows of a paper on the same data set, either of them in `table`.

    Rows with the same name (or two names of the same model) must have equal numbers; different methods seldom
    share all of them.
    """
    same = {frozenset(pair.methods): pair.why for pair in claims.same}
    for a, b in combinations(rows, 2):
        if a.dataset != b.dataset or table not in (a.table, b.table):
            continue
        shared = [metric for metric in a.scores if metric in b.scores]
        differing = [metric for metric in shared if a.scores[metric].value != b.scores[metric].value]
        why = (
            "it is the same row, printed twice"
            if a.method == b.method
            else same.get(frozenset({a.method, b.method}))
        )
        if why is not None and differing:
            yield _differ(a, b, why, table)
        if why is None and len(shared) > 1 and not differing:
            yield _twins(a, b, table)


def _sides(a: Row, b: Row, table: str) -> tuple[Row, Row]:
    """Return both rows, that of `table` first."""
    return (a, b) if a.table == table else (b, a)


def _numbers(row: Row, other: Row) -> str:
    return ", ".join(f"{metric} {score}" for metric, score in row.scores.items() if metric in other.scores)


def _name(row: Row) -> str:
    return f"{row.method} ({row.table})"


def _differ(a: Row, b: Row, why: str, table: str) -> Finding:
    a, b = _sides(a, b, table)
    return Finding(
        check="repeat",
        weight="contradiction",
        dataset=a.dataset,
        method=a.method,
        numbers=tuple(f"{metric} {score}" for metric, score in a.scores.items() if metric in b.scores),
        rule=f"{_name(a)} and {_name(b)} are the same model as described: {why}",
        arithmetic=f"{_numbers(a, b)} in {a.table}; {_numbers(b, a)} in {b.table}",
    )


def _twins(a: Row, b: Row, table: str) -> Finding:
    a, b = _sides(a, b, table)
    return Finding(
        check="twins",
        weight="remark",
        dataset=a.dataset,
        method=a.method,
        numbers=tuple(f"{metric} {score}" for metric, score in a.scores.items() if metric in b.scores),
        rule=f"{_name(a)} and {_name(b)} are different methods with the same numbers",
        arithmetic=f"both {_numbers(a, b)}; on few users it may be chance, else one row is a copy",
    )
