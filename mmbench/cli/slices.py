"""`mmbench report --slice`: tables by slice for the terminal or as CSV."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mmbench.choices import Format, MaskRule, SplitName
from mmbench.cli.state import State
from mmbench.errors import UsageError

if TYPE_CHECKING:
    from mmbench.evaluation.metrics import Metric
    from mmbench.reporting.slices import Gain, Slice, Sliced, SliceTable
    from mmbench.runs.store import RunRecord

_FIELDS = (
    "dataset", "family", "within", "metric", "row", "slice", "n", "value", "low", "high", "share_of_hits", "compared",
    "gain", "gain_low", "gain_high", "more_than_elsewhere", "p_holm", "interaction_p",
)  # fmt: skip


def print_slices(
    state: State,
    records: "Sequence[RunRecord]",
    family: str,
    *,
    metrics: "Sequence[Metric]",
    split: SplitName,
    mask_seen: MaskRule | None,
    compare: str | None,
    within: str,
    fmt: Format | None,
    output: Path | None,
) -> None:
    """Print each metric in each slice of a family; as CSV with `--format csv` or `--output FILE.csv`."""
    from mmbench.cli.tables import print_looks
    from mmbench.reporting.slices import slice_tables

    as_csv = fmt == "csv" or (fmt is None and output is not None and output.suffix == ".csv")
    if not as_csv and (output is not None or fmt not in (None, "terminal")):
        raise UsageError("--slice: the table is printed, or written with --format csv; leave --format out")
    tables = [
        table
        for metric in metrics
        for table in slice_tables(
            records, family, metric=metric, data_dir=state.data_dir, split=split, mask_seen=mask_seen,
            compare=compare, within=within,
        )
    ]  # fmt: skip
    if as_csv:
        _write_csv(state, tables, output)
        if split == "test":
            print_looks(state, records, is_aside=True)
        return
    for table in tables:
        _print(state, table)
    if split == "test":
        shown = {table.dataset for table in tables}
        print_looks(state, [record for record in records if record.dataset in shown])


def _write_csv(state: State, tables: "Sequence[SliceTable]", output: Path | None) -> None:
    from mmbench.atomic import write_text
    from mmbench.reporting.plain import csv_text

    text = csv_text(
        list(_FIELDS), [line for table in tables for row in table.rows for line in _fields(table, row)]
    )
    if output is None:
        typer.echo(text, nl=False)
        return
    write_text(output, text)
    state.err.print(f"wrote {output}", markup=False)


def _fields(table: "SliceTable", row: "Sliced") -> list[list[object]]:
    lines: list[list[object]] = []
    for k, piece in enumerate(row.slices):
        gain = row.gains[k] if row.gains else None
        ends = piece.interval or (None, None)
        line: list[object] = [
            table.dataset, table.family, table.within, str(table.metric), row.name, piece.name, piece.n, piece.value,
            *ends, piece.of_hits,
        ]  # fmt: skip
        if gain is None:
            line += [""] * 7
        else:
            line += [
                table.compared,
                gain.gain,
                *(gain.interval or (None, None)),
                gain.elsewhere,
                gain.p,
                row.interaction,
            ]
        lines.append(["" if value is None else value for value in line])
    return lines


def _print(state: State, table: "SliceTable") -> None:
    from mmbench.cli.tables import print_table

    targets = "test" if table.split == "test" else "validation"
    state.out.print(
        f"{table.metric} on {table.dataset} by {table.family}{f' within {table.within}' if table.within else ''}, "
        f"{targets} targets, mask rule {table.rule}",
        markup=False,
    )
    for row in table.rows:
        state.out.print(row.name, markup=False)
        lines = [_line(piece) for piece in row.slices if piece.n]
        print_table(state, ["  slice", "n", "value", "95 % interval", "of hits"], lines)
    for row in table.rows:
        if row.gains:
            _print_gains(state, table, row)
    state.out.print(
        "Users are the unit; runs of a row are averaged for each user first. –: fewer than 30 users, or fewer than 10 "
        "hits of all rows. of hits: share of the row's hits that lie in the slice. Slices overlap between families.",
        markup=False,
    )  # fmt: skip


def _line(piece: "Slice") -> list[str]:
    values = _value(piece.value, piece.interval)
    return [f"  {piece.name}", f"{piece.n:,}", *values, f"{piece.of_hits:.0%}"]


def _print_gains(state: State, table: "SliceTable", row: "Sliced") -> None:
    from mmbench.cli.tables import print_table
    from mmbench.reporting.rounding import DASH, number, p_value

    lines = [
        [f"  {gain.name}", *_value(gain.gain, gain.interval, sign=True), _percent(gain, piece),
         DASH if gain.elsewhere is None else number(gain.elsewhere, sign=True),
         DASH if gain.p is None else p_value(gain.p), DASH if gain.smallest is None else number(gain.smallest)]
        for gain, piece in zip(row.gains, row.slices, strict=True) if gain.n
    ]  # fmt: skip
    state.out.print(f"\n{table.compared} minus {row.name}", markup=False)
    head = ["  slice", "gain", "95 % interval", "%", "vs elsewhere", "p (Holm)", "HR can show"]
    print_table(state, head, lines)
    p = row.interaction
    text = "no test, fewer than two slices vary" if p is None else f"p {p_value(p)} (Alexander-Govern)"
    state.out.print(f"Does the gain differ between slices? {text}.\n", markup=False)


def _percent(gain: "Gain", piece: "Slice") -> str:
    """Return the gain in percent of the other row's value in the slice."""
    from mmbench.reporting.rounding import DASH

    return f"{100 * gain.gain / piece.value:+.0f}" if gain.gain is not None and piece.value else DASH


def _value(value: float | None, interval: tuple[float, float] | None, *, sign: bool = False) -> list[str]:
    from mmbench.reporting.rounding import DASH, number

    ends = DASH if interval is None else f"[{', '.join(map(number, interval))}]"
    return [DASH if value is None else number(value, sign=sign), ends]
