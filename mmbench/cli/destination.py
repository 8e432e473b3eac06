"""Where `report` puts tables that it prints, or writes as CSV: slices, bands and overlaps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from mmbench.choices import Format
from mmbench.errors import UsageError

if TYPE_CHECKING:
    from mmbench.cli.state import State

T = TypeVar("T")


@dataclass(frozen=True)
class Destination:
    """The terminal, or CSV on stdout or in a file."""

    as_csv: bool
    output: Path | None

    @classmethod
    def of(cls, option: str, fmt: Format | None, output: Path | None) -> "Destination":
        """Return what `--format` and `--output` ask for beside `option`; UsageError for formats that there are not."""
        as_csv = fmt == "csv" or (fmt is None and output is not None and output.suffix == ".csv")
        if not as_csv and (output is not None or fmt not in (None, "terminal")):
            raise UsageError(
                f"{option}: the table is printed, or written with --format csv; leave --format out"
            )
        return cls(as_csv, output)

    def put(
        self,
        state: "State",
        tables: Sequence[T],
        fields: Sequence[str],
        lines_of: Callable[[T], Sequence[Sequence[object]]],
        show: "Callable[[State, T], None]",
    ) -> None:
        """Show each table, or write the lines of all under the names of `fields`."""
        if self.as_csv:
            self._write(state, fields, [line for table in tables for line in lines_of(table)])
        else:
            for table in tables:
                show(state, table)

    def _write(self, state: "State", fields: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
        from mmbench.atomic import write_text
        from mmbench.reporting.plain import csv_text

        text = csv_text(list(fields), lines)
        if self.output is None:
            typer.echo(text, nl=False)
            return
        write_text(self.output, text)
        state.err.print(f"wrote {self.output}", markup=False)
