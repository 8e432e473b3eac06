"""One table through all checks."""

from mmbench.audit import bands, counted, counts, improved, repeats
from mmbench.audit.finding import WEIGHTS, Audit, Finding
from mmbench.audit.sources import Library, TableClaims, library, of_table


def audit(name: str, source: Library | None = None) -> Audit:
    """Everything that was found in the table PAPER/TABLE; pure but for reading what ships with mmbench."""
    known = source or library()
    paper, table = known.find(name)
    claims = known.claims[paper]
    own = claims.tables.get(table, TableClaims())
    rows = of_table(known.rows, paper, table)
    columns = counts.hit_columns(rows, known.users(paper), own.runs)
    found: list[Finding] = [one for row in rows for one in bands.check_row(row)]
    found += improved.check_improved(rows, table, own, claims)
    found += improved.check_ranges(rows, own)
    found += improved.check_underlined(rows, own)
    found += counted.check_statistics(own)
    found += repeats.check_repeats([row for row in known.rows if row.paper == paper], table, claims)
    found += counts.check_columns(columns)
    return Audit(
        paper=paper,
        table=table,
        title=claims.title,
        source=own.source or table,
        n_numbers=sum(len(row.scores) for row in rows) + _count(own),
        findings=tuple(sorted(found, key=lambda one: WEIGHTS.index(one.weight))),
        columns=tuple(columns),
        notes=_notes(claims.one_target, bool(rows), bool(columns)),
    )


def _count(claims: TableClaims) -> int:
    """Printed numbers of a table's claims: statistics and improvements; marks and ranges are none of the table's."""
    statistics = sum(
        value is not None for one in claims.statistics.values() for value in one.model_dump().values()
    )
    percent = claims.improved.percent if claims.improved else {}
    return statistics + sum(len(one) for one in percent.values())


def _notes(one_target: str, scores: bool, hits: bool) -> tuple[str, ...]:
    notes = ["A number printed as x with p digits was anything in x ± 0.5 10^-p before rounding."]
    if scores:
        notes.append(
            f"Scores: one target per user - {one_target}. The inequalities hold for each user, hence for means over "
            "users, and for means over runs too, as long as all numbers of a row come from the same runs."
        )
    if hits:
        notes.append(
            "Hits: HR x users for one run with broken ties; (cut) = only if digits were cut off instead of rounded; "
            "~ = several whole numbers fit."
        )
    return tuple(notes)
