"""Runs all checks on a table."""

from mmbench.audit import bands, counted, counts, improved, repeats
from mmbench.audit.finding import WEIGHTS, Audit, Finding
from mmbench.audit.sources import Library, TableClaims, library, of_table


def audit(name: str, source: Library | None = None) -> Audit:
    """Return everything that the checks find in the table PAPER/TABLE; by default of the papers that mmbench knows."""
    known = source or library()
    paper, table = known.find(name)
    claims = known.claims[paper]
    table_claims = claims.tables.get(table, TableClaims())
    rows = of_table(known.rows, paper, table)
    columns = counts.hit_columns(rows, known.users(paper), table_claims.runs)
    findings: list[Finding] = [finding for row in rows for finding in bands.check_row(row)]
    findings += improved.check_improved(rows, table, table_claims, claims)
    findings += improved.check_ranges(rows, table_claims)
    findings += improved.check_underlined(rows, table_claims)
    findings += counted.check_statistics(table_claims)
    findings += repeats.check_repeats([row for row in known.rows if row.paper == paper], table, claims)
    findings += counts.check_columns(columns)
    return Audit(
        paper=paper,
        table=table,
        title=claims.title,
        source=table_claims.source or table,
        n_numbers=sum(len(row.scores) for row in rows) + _count(table_claims),
        findings=tuple(sorted(findings, key=lambda finding: WEIGHTS.index(finding.weight))),
        columns=tuple(columns),
        notes=_notes(claims.one_target, bool(rows), bool(columns)),
    )


def _count(claims: TableClaims) -> int:
    """Count the printed numbers among a table's claims: statistics and improvements, but not marks and ranges."""
    statistics = sum(
        value is not None for printed in claims.statistics.values() for value in printed.model_dump().values()
    )
    percent = claims.improved.percent if claims.improved else {}
    return statistics + sum(map(len, percent.values()))


def _notes(one_target: str, scores: bool, hits: bool) -> tuple[str, ...]:
    notes = ["A number printed as x with p digits was anything in x ± 0.5 10^-p before rounding."]
    if scores:
        where = f" - {one_target}" if one_target else ", which is taken for granted"
        notes.append(
            f"Scores: one target per user{where}. The inequalities hold for each user, hence for means over users, and "
            "for means over runs too, as long as all numbers of a row come from the same runs."
        )
    if hits:
        notes.append(
            "Hits: HR x users of a run with broken ties; (cut) = only if digits were cut off instead of rounded; "
            "~ = several whole numbers fit."
        )
    return tuple(notes)
