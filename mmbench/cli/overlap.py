"""`mmbench report --overlap K`: the share of items that the lists of two rows have in common."""

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from mmbench.choices import Format, MaskRule
from mmbench.cli.destination import Destination
from mmbench.cli.state import State

if TYPE_CHECKING:
    from mmbench.reporting.overlap import OverlapTable
    from mmbench.runs.store import RunRecord

_FIELDS = ("dataset", "k", "mask_seen", "row", "other_row", "share", "chance")
_NUMBER_WIDTH = 5  # of a row's number and the gaps beside it, in characters
_SHARE_WIDTH = 6  # of a column and its gap


def print_overlap(
    state: State,
    records: "Sequence[RunRecord]",
    *,
    k: int,
    mask_seen: MaskRule | None,
    fmt: Format | None,
    output: Path | None,
) -> None:
    """Print a triangle of shares for each data set, and how to read it.

    `--format csv` and `--output FILE.csv` write a line for each pair of rows.
    """
    from mmbench.cli.tables import print_looks
    from mmbench.reporting.overlap import overlap_tables

    destination = Destination.of("--overlap", fmt, output)
    tables = overlap_tables(records, k=k, mask_seen=mask_seen)
    destination.put(state, tables, _FIELDS, _csv_lines, _print)
    shown = {table.dataset for table in tables}  # rows stand in the order of their test numbers
    print_looks(state, [record for record in records if record.dataset in shown], is_aside=destination.as_csv)


def _csv_lines(table: "OverlapTable") -> list[tuple[object, ...]]:
    return [
        (
            table.dataset,
            table.k,
            table.rule,
            first,
            second,
            "" if isnan(share) else float(share),
            table.chance,
        )
        for i, first in enumerate(table.rows)
        for second, share in zip(table.rows[: i + 1], table.shares[i], strict=False)
    ]


def _print(state: State, table: "OverlapTable") -> None:
    from mmbench.cli.tables import print_table

    k, n_rows = table.k, len(table.rows)
    masked = "nothing masked" if table.rule == "none" else f"{table.rule} items masked"
    state.out.print(
        f"Items in common of two lists of {k}, {table.dataset}, mean over users, {masked}", markup=False
    )
    size = _columns_that_fit(table.rows, state.out.width) if state.out.is_terminal else n_rows
    for begin in range(0, n_rows, size):
        end = min(begin + size, n_rows)
        lines = [_line(table, row, begin, end) for row in range(begin, n_rows)]
        print_table(state, ["", "row", *map(str, range(begin + 1, end + 1))], lines)
    state.out.print(
        f"Diagonal: two seeds of the row. Elsewhere: runs of equal seed. Lists at random: {_share(table.chance)}.",
        markup=False,
    )
    for reason in table.left_out:
        state.out.print(f"Left out  {reason}", markup=False)


def _columns_that_fit(names: Sequence[str], width: int) -> int:
    """Return how many columns fit on a terminal beside the names, of which long ones take a third of it."""
    name_width = min(max(map(len, names)), width // 3)
    return max(1, (width - name_width - _NUMBER_WIDTH) // _SHARE_WIDTH)


def _line(table: "OverlapTable", row: int, begin: int, end: int) -> list[str]:
    """Return the number and the name of a row, and its shares of the columns begin..end up to the diagonal."""
    shares = [_share(table.shares[row, column]) if column <= row else "" for column in range(begin, end)]
    return [str(row + 1), table.rows[row], *shares]


def _share(share: float) -> str:
    """Return `.39`, `1.00`, or a dash for what is not known."""
    from mmbench.reporting.rounding import DASH

    return DASH if isnan(share) else f"{share:.2f}".removeprefix("0")
