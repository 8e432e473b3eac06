"""`mmbench report --slice`: tables by slice for the terminal or as CSV."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from mmbench.choices import Format, MaskRule, SplitName
from mmbench.cli.destination import Destination
from mmbench.cli.state import State
from mmbench.errors import UsageError

if TYPE_CHECKING:
    from mmbench.evaluation.metrics import Metric
    from mmbench.reporting.slices import Gain, Slice, Sliced, SliceTable
    from mmbench.reporting.slices_together import Explained
    from mmbench.runs.store import RunRecord

_FIELDS = (
    "dataset", "family", "within", "metric", "row", "slice", "n", "value", "low", "high", "share_of_hits", "compared",
    "gain", "gain_low", "gain_high", "more_than_elsewhere", "p_holm", "interaction_p",
)  # fmt: skip


def print_slices(
    state: State,
    records: "Sequence[RunRecord]",
    families: "Sequence[str]",
    *,
    metrics: "Sequence[Metric]",
    split: SplitName,
    mask_seen: MaskRule | None,
    compare: str | None,
    within: str,
    together: bool,
    fmt: Format | None,
    output: Path | None,
) -> None:
    """Print each metric in each slice of each family, or what gains depend on when the families are taken together.

    `--format csv` and `--output FILE.csv` write it.
    """
    from mmbench.cli.slices_together import FIELDS, csv_lines, show
    from mmbench.cli.tables import print_looks
    from mmbench.reporting.slices import slice_tables

    destination = Destination.of("--slice", fmt, output)
    options = _Options(data_dir=state.data_dir, split=split, mask_seen=mask_seen, within=within)
    if together:
        explained = _explained(records, families, metrics, compare, options)
        destination.put(state, explained, FIELDS, csv_lines, show)
        datasets = {each.dataset for each in explained}
    else:
        tables = [
            table
            for metric in metrics
            for family in families
            for table in slice_tables(records, family, metric=metric, compare=compare, **options)
        ]
        destination.put(state, tables, _FIELDS, _csv_lines, _print)
        datasets = {table.dataset for table in tables}
    if split == "test":
        shown = [record for record in records if record.dataset in datasets]
        print_looks(state, shown, is_aside=destination.as_csv)


class _Options(TypedDict):
    """Options that tables of slices and explanations of gains share."""

    data_dir: Path
    split: SplitName
    mask_seen: MaskRule | None
    within: str


def _explained(
    records: "Sequence[RunRecord]",
    families: Sequence[str],
    metrics: "Sequence[Metric]",
    compare: str | None,
    options: _Options,
) -> "list[Explained]":
    from mmbench.reporting.slices_together import explain_gains

    if compare is None:
        raise UsageError("--together: name the row whose gains are explained: --compare MODEL")
    return [
        explained
        for metric in metrics
        for explained in explain_gains(records, families, metric=metric, compare=compare, **options)
    ]


def _csv_lines(table: "SliceTable") -> list[list[object]]:
    return [line for row in table.rows for line in _fields(table, row)]


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
    from mmbench.cli.tables import with_interval

    values = with_interval(piece.value, piece.interval)
    return [f"  {piece.name}", f"{piece.n:,}", *values, f"{piece.of_hits:.0%}"]


def _print_gains(state: State, table: "SliceTable", row: "Sliced") -> None:
    from mmbench.cli.tables import print_table, with_interval
    from mmbench.reporting.rounding import DASH, number, p_value

    lines = [
        [f"  {gain.name}", *with_interval(gain.gain, gain.interval, sign=True), _percent(gain, piece),
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
