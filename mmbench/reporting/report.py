"""A table as Python shows it: itself in a notebook, its text when printed, a frame for further work."""

from typing import TYPE_CHECKING

from mmbench.reporting.formats import to_text
from mmbench.reporting.html import fragment
from mmbench.reporting.plain import CSV_FIELDS, long_rows
from mmbench.reporting.table import Table

if TYPE_CHECKING:
    import pandas as pd


class Report:
    """What `mmbench report` prints, as an object; `table` has everything in it unrounded."""

    def __init__(self, table: Table) -> None:
        self.table = table

    @property
    def left_out(self) -> tuple[str, ...]:
        """Return a line about each run that could not be read or was passed twice."""
        return self.table.left_out

    def __str__(self) -> str:
        warnings = "".join(f"warning: left out of the table: {text}\n" for text in self.left_out)
        return to_text(self.table, "terminal") + warnings

    def __repr__(self) -> str:
        return str(self).rstrip("\n")

    def _repr_html_(self) -> str:
        return fragment(self.table)

    def to_frame(self) -> "pd.DataFrame":
        """Return a row per row and column of the table, unrounded; the columns are those of the CSV."""
        import pandas as pd

        return pd.DataFrame(long_rows(self.table), columns=list(CSV_FIELDS))

    def to_markdown(self) -> str:
        return to_text(self.table, "markdown")

    def to_latex(self) -> str:
        """Return a `table*` environment, see mmbench.reporting.latex."""
        return to_text(self.table, "latex")

    def to_html(self) -> str:
        """Return a whole page that loads nothing."""
        return to_text(self.table, "html")

    def to_csv(self) -> str:
        return to_text(self.table, "csv")

    def to_json(self) -> str:
        """Return everything: per-seed values, every comparison, caption, warnings."""
        return to_text(self.table, "json")
