"""`mmbench report --band ties`: mean and range of each row over the orders of equal times."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmbench.choices import Format, MaskRule, SplitName
from mmbench.cli.destination import Destination
from mmbench.cli.state import State

if TYPE_CHECKING:
    from mmbench.evaluation.metrics import Metric
    from mmbench.reporting.bands import Band, BandTable
    from mmbench.runs.store import RunRecord

BandName = Literal["ties"]
_FIELDS = ("dataset", "metric", "row", "order", "value")


def print_bands(
    state: State,
    records: "Sequence[RunRecord]",
    *,
    metrics: "Sequence[Metric]",
    split: SplitName,
    mask_seen: MaskRule | None,
    fmt: Format | None,
    output: Path | None,
) -> None:
    """Print the bands of each metric, and which row is best under which order.

    `--format csv` and `--output FILE.csv` write the value of each row under each order.
    """
    from mmbench.cli.tables import print_looks
    from mmbench.reporting.bands import tie_bands
    from mmbench.reporting.targets import tie_lines

    destination = Destination.of("--band", fmt, output)
    tables = [
        table
        for metric in metrics
        for table in tie_bands(
            records, metric=metric, split=split, mask_seen=mask_seen, data_dir=state.data_dir
        )
    ]
    destination.put(state, tables, _FIELDS, _csv_lines, _print)
    if split == "test":
        for label, text in () if destination.as_csv else tie_lines(records, data_dir=state.data_dir):
            state.out.print(f"{label}  {text}", markup=False)
        print_looks(state, records, is_aside=destination.as_csv)


def _csv_lines(table: "BandTable") -> list[tuple[object, ...]]:
    return [
        (table.dataset, str(table.metric), band.row, order, value)
        for band in table.bands
        for order, value in band.values.items()
    ]


def _print(state: State, table: "BandTable") -> None:
    from mmbench.cli.tables import print_table

    state.out.print(
        f"{table.metric} on {table.dataset} under {len(table.orders)} orders of equal times", markup=False
    )
    print_table(state, ["row", "orders", "mean", "range", "of mean"], [_line(band) for band in table.bands])
    best = "; ".join(f"{order}: {table.best(order)}" for order in table.orders)
    state.out.print(f"Best row by order: {best}.", markup=False)


def _line(band: "Band") -> list[str]:
    from mmbench.reporting.rounding import DASH, number

    n = len(band.values)
    if n == 1:
        return [band.row, "1", number(band.mean), DASH, DASH]
    share = f"{(band.high - band.low) / band.mean:.0%}" if band.mean else DASH
    return [band.row, str(n), number(band.mean), f"{number(band.low)} to {number(band.high)}", share]
