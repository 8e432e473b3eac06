"""What several groups of commands print, and how they open prepared data."""

from typing import TYPE_CHECKING

from mmbench.cli.state import State

if TYPE_CHECKING:
    from mmbench.data.store import Prepared


def open_named(state: State, name: str) -> "Prepared":
    """A prepared data set by any of its names; one whose table is gone from the catalogue still opens."""
    from mmbench.data.catalog import resolve_name
    from mmbench.data.store import is_prepared, open_prepared

    if not is_prepared(name, state.data_dir):
        _, name, _ = resolve_name(name, state.data_dir)
    return open_prepared(name, state.data_dir)


def print_statistics(state: State, prepared: "Prepared") -> None:
    from mmbench.cli.statistics import statistic_rows

    synthetic = " (synthetic)" if prepared.synthetic else ""
    state.out.print(f"{prepared.name}: {prepared.manifest['title']}{synthetic}", markup=False)
    source = prepared.manifest["printed"].get("source", "")
    header = ["statistic", "computed", f"printed ({source})" if source else "printed", "remark"]
    print_table(state, header, statistic_rows(prepared.manifest))


def print_table(state: State, header: list[str], rows: list[list[str]]) -> None:
    """A rich table on a terminal, aligned plain text elsewhere."""
    if state.out.is_terminal:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in header:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        state.out.print(table, soft_wrap=False)
        return
    from tabulate import tabulate

    state.out.print(tabulate(rows, headers=header, tablefmt="plain", disable_numparse=True), markup=False)
