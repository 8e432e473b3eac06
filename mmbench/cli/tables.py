"""What several groups of commands print, and how they open prepared data."""

from typing import TYPE_CHECKING

from mmbench.cli.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmbench.data.store import Prepared
    from mmbench.runs.store import RunRecord

_WHOLE_WORD = 40  # letters; a longer word, such as a path, may be broken
_PADDING = 2  # blanks that a column takes, the last one too


def open_named(state: State, name: str) -> "Prepared":
    """Open a prepared data set by any of its names, even if its table is gone from the catalogue."""
    from mmbench.data.catalog import resolve_name
    from mmbench.data.store import is_prepared, open_prepared

    if not is_prepared(name, state.data_dir):
        _, name, _ = resolve_name(name, state.data_dir)
    return open_prepared(name, state.data_dir)


def open_current(state: State, name: str) -> "Prepared":
    """Open a prepared data set for work that builds on it; DataError when its definition or raw files changed since."""
    from mmbench.data.definition import check_current

    prepared = open_named(state, name)
    check_current(prepared)
    return prepared


def open_to_look(state: State, name: str) -> "Prepared":
    """Open a prepared data set to show it, and note when its definition or raw files changed since."""
    prepared = open_named(state, name)
    note_outdated(state, prepared)
    return prepared


def note_outdated(state: State, prepared: "Prepared") -> bool:
    """Print a note when a data set's definition or raw files changed since it was prepared; return whether they did."""
    from mmbench.data.definition import why_outdated
    from mmbench.errors import MmbenchError

    try:
        why = why_outdated(prepared)
    except MmbenchError as error:  # the catalogue cannot be read, but the data can be shown
        why = str(error)
    if why is not None:
        state.note(why)
    return why is not None


def print_statistics(state: State, prepared: "Prepared") -> None:
    """Print the statistics of a data set beside the printed counts."""
    from mmbench.cli.statistics import statistic_rows

    title = "" if prepared.manifest.title == prepared.name else f": {prepared.manifest.title}"
    synthetic = " (synthetic)" if prepared.synthetic else ""
    state.out.print(f"{prepared.name}{title}{synthetic}", markup=False)
    rows, printed = statistic_rows(prepared.manifest), prepared.manifest.printed
    if printed is None:  # of a user's own data nobody printed a count
        print_table(state, ["statistic", "computed", "remark"], [[*row[:2], row[3]] for row in rows])
    else:
        print_table(state, ["statistic", "computed", f"printed ({printed.source})", "remark"], rows)


def print_looks(
    state: State, records: "Sequence[RunRecord]", *, is_noted_before: bool = False, is_aside: bool = False
) -> None:
    """Note that test numbers of these runs are shown, and print how often those of their data sets were.

    is_aside  on stderr, where stdout is data for other programs
    """
    from mmbench.reporting.targets import look_lines

    for label, text in look_lines(records, data_dir=state.data_dir, is_noted_before=is_noted_before):
        if is_aside:
            state.note(text)
        else:
            state.out.print(f"{label}  {text}", markup=False)


def print_table(state: State, header: list[str], rows: list[list[str]]) -> None:
    """A rich table on a terminal, aligned plain text elsewhere."""
    if state.out.is_terminal:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for name, width in zip(header, _column_widths([header, *rows], state.out.width), strict=True):
            table.add_column(name, overflow="fold", width=width)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        state.out.print(table, soft_wrap=False)
        return
    from tabulate import tabulate

    state.out.print(tabulate(rows, headers=header, tablefmt="plain", disable_numparse=True), markup=False)


def _column_widths(rows: "Sequence[Sequence[str]]", terminal: int) -> list[int]:
    """Return the widths at which all columns fit: wide columns wrap first, words are broken last."""
    from rich.cells import cell_len

    columns = list(zip(*rows, strict=True))
    whole = [max(1, *map(cell_len, column)) for column in columns]
    words = [
        min(max(1, *(cell_len(word) for cell in column for word in cell.split())), _WHOLE_WORD)
        for column in columns
    ]
    room = terminal - _PADDING * len(columns)
    return _narrowed(whole, _narrowed(words, [1] * len(columns), room), room)


def _narrowed(widths: list[int], least: list[int], room: int) -> list[int]:
    """Cut the largest widths to one limit, but none below its least, until all fit into the room."""
    limit = max(widths)
    while (
        limit > 1
        and sum(max(low, min(width, limit)) for width, low in zip(widths, least, strict=True)) > room
    ):
        limit -= 1
    return [max(low, min(width, limit)) for width, low in zip(widths, least, strict=True)]


def with_interval(
    value: float | None, interval: tuple[float, float] | None, *, sign: bool = False
) -> list[str]:
    """Return a value and its interval as two columns of a table."""
    from mmbench.reporting.rounding import DASH, number

    ends = DASH if interval is None else f"[{', '.join(map(number, interval))}]"
    return [DASH if value is None else number(value, sign=sign), ends]
