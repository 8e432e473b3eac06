"""What of a table is printed: tests, deviations, notes, and the short form that papers print. Its numbers stay."""

from dataclasses import dataclass, replace
from typing import get_args

from mmbench.choices import Style
from mmbench.errors import UsageError, suggest
from mmbench.reporting.effort import listed_settings
from mmbench.reporting.table import ALPHA, Row, Table

_ABOUT_TESTS = ("Test", "Reading", "No p")
_TESTS = {
    "t": "paired t-test",
    "wilcoxon": "Wilcoxon test",
    "sign-flip": "sign-flip test",
    "users": "test over users",
}
_CORRECTED = {"holm": ", Holm-corrected", "bh": ", Benjamini-Hochberg-corrected", "none": ""}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a table is printed.

    style       "paper": means, deviations, stars and the gain, with a sentence below
    notes       whether warnings and caption are printed; None = yes, but not on a terminal, where few lines fit
    tests       whether the comparisons below the rows are printed, and stars
    deviations  whether standard deviations are printed
    transposed  a line per metric and a column per model
    """

    style: Style = "full"
    notes: bool | None = None
    tests: bool = True
    deviations: bool = True
    transposed: bool = False

    def __post_init__(self) -> None:
        if self.style not in get_args(Style):
            raise UsageError(f"--style: {suggest(self.style, get_args(Style), what='style')}")


FULL = Layout()
BRIEF = Layout(notes=False, tests=False, deviations=False)


def laid_out(table: Table, layout: Layout) -> Table:
    """Return the table with what the layout keeps."""
    if layout.style == "paper":
        table = replace(table, lines="improved", warnings=(), caption=(("Numbers", _sentence(table)),))
    if not layout.tests:
        caption = tuple(entry for entry in table.caption if entry[0] not in _ABOUT_TESTS)
        table = _without_stars(replace(table, lines="none", caption=caption))
    if not layout.deviations:
        table = _each_cell(table, std=None)
    if layout.notes is False and layout.style != "paper":
        table = replace(table, warnings=(), caption=())
    return table


def _without_stars(table: Table) -> Table:
    return _each_cell(table, star=False)


def _each_cell(table: Table, **changed: object) -> Table:
    rows: list[Row] = []
    for row in table.rows:
        cells = tuple(replace(cell, **changed) for cell in row.cells)  # type: ignore[arg-type]
        rows.append(replace(row, cells=cells))
    return replace(table, rows=tuple(rows))


def _sentence(table: Table) -> str:
    """Return what a reader of a paper needs: what the numbers are and what a star means."""
    runs = sorted({cell.n for row in table.rows if not row.deterministic for cell in row.cells if cell.n})
    split = "Test" if table.split == "test" else "Validation"
    spread = f", mean ± standard deviation over {runs[-1]} seeds" if runs and runs[-1] > 1 else ""
    text = f"{split} targets, full ranking{spread}."
    if any(cell.star for row in table.rows for cell in row.cells):
        text += (
            f" * better than the strongest other row, p < {f'{ALPHA:g}'.removeprefix('0')} "
            f"({_TESTS[table.test]}{_CORRECTED[table.correction]})."
        )
    if settings := listed_settings(table.shown_rows):
        text += f" {settings}."
    if any(row.leaky for row in table.rows):
        text += " † selected on the test item, not marked best or second."
    return text
