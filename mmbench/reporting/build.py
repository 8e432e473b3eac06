"""RunRecords -> Table: one row per model and configuration, one column per data set and metric.

Everything stays unrounded here; the renderers round. Rows that are not comparable are refused, rows that
failed are kept with their reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mmbench.errors import UsageError, suggest
from mmbench.evaluation.metrics import Metric, Ties
from mmbench.reporting import caption
from mmbench.reporting.compare import Place, compare_all
from mmbench.reporting.gather import Grid, check_grid, check_runs
from mmbench.reporting.labels import Group, RowKey, group_runs, is_floor, row_keys, row_names
from mmbench.reporting.table import (
    ALPHA,
    Cell,
    Column,
    Comparison,
    Correction,
    DatasetInfo,
    Row,
    Table,
    TestName,
)
from mmbench.runs.store import RunRecord, SplitName

_Terms = tuple[SplitName, Ties, TestName, Correction]
DEFAULT_METRICS = tuple(
    Metric(*one) for one in (("NDCG", 5), ("NDCG", 10), ("MRR", 5), ("MRR", 10), ("HR", 10))
)


def build_table(
    records: Sequence[RunRecord],
    *,
    metrics: Sequence[Metric] = DEFAULT_METRICS,
    split: SplitName = "test",
    ties: Ties = "expected",
    compare: str | None = None,
    test: TestName = "t",
    correction: Correction = "holm",
    datasets: Sequence[str] = (),
    models: Sequence[str] = (),
) -> Table:
    """The paper-style table of these records.

    `compare` names the row (label or model) that is tested against all others; without it the best row of
    each column is. `datasets` and `models` give an order (default: by name; strongest first). Raises
    ProtocolMismatchError when rows of one data set are not comparable, UsageError when there is no record.
    """
    if not records:
        raise UsageError("there are no results to report; run for example: mmbench run sasrec pop --seeds 3")
    metrics = list(dict.fromkeys(metrics))
    grid, labels = _gather(records, metrics, split, ties, datasets)
    columns = [Column(dataset, metric) for dataset in grid.datasets for metric in metrics]
    rows, keys = _rows(grid, labels, row_names(records), columns, metrics, models)
    chosen = _find_compared(rows, compare) if compare else None
    return _table(grid, keys, rows, columns, metrics, chosen, (split, ties, test, correction))


@dataclass(frozen=True, kw_only=True)
class GivenRow:
    """A row that somebody else chose and named: our runs of it by data set, or why there are none."""

    model: str
    name: str
    groups: Mapping[str, Group]
    missing: Mapping[str, str] = field(default_factory=dict)  # for a footnote; "" = said elsewhere


def build_given(
    given: Sequence[GivenRow],
    *,
    datasets: Sequence[str],
    metrics: Sequence[Metric],
    compare: int | None = None,
    test: TestName = "t",
    correction: Correction = "none",
) -> Table:
    """The table with exactly these rows and columns in this order, measured or not; tests as in `build_table`.

    `compare` is the position of the row that is tested; without it nothing is. Raises ProtocolMismatchError
    as `build_table` does.
    """
    check_runs(
        [run for row in given for group in row.groups.values() for run in group.records], datasets, metrics
    )
    keys = [RowKey(row.model, (str(at),)) for at, row in enumerate(given)]
    grid = Grid(list(datasets), keys, {}, {}, [])
    for key, row in zip(keys, given, strict=True):
        grid.reasons.update({(dataset, key): text for dataset, text in row.missing.items()})
        for group in row.groups.values():
            grid.add(key, group, metrics, "test", "expected")
    check_grid(grid)
    columns = [Column(dataset, metric) for dataset in datasets for metric in metrics]
    rows = [_row(grid, key, row.name, "", columns, metrics) for key, row in zip(keys, given, strict=True)]
    rows = _mark_places(rows, len(columns))
    terms: _Terms = ("test", "expected", test, correction)
    return _table(grid, keys, rows, columns, metrics, compare, terms, is_tested=compare is not None)


def _table(
    grid: Grid,
    keys: Sequence[RowKey],
    rows: Sequence[Row],
    columns: Sequence[Column],
    metrics: Sequence[Metric],
    chosen: int | None,
    terms: _Terms,
    *,
    is_tested: bool = True,
) -> Table:
    """Rows with their tests, caption and warnings."""
    split, ties, test, correction = terms
    places = _places(grid, keys, rows, columns, metrics, chosen) if is_tested else []
    comparisons = compare_all(places, test=test, correction=correction)
    rows = _mark_stars(rows, comparisons)
    table = Table(
        split=split,
        ties=ties,
        datasets=tuple(_info(grid, dataset) for dataset in grid.datasets),
        columns=tuple(columns),
        rows=tuple(rows),
        footnotes=tuple(grid.footnotes),
        test=test,
        correction=correction,
        compare="" if chosen is None else rows[chosen].label,
        comparisons=tuple(comparisons),
        family=sum(one.p is not None for one in comparisons),
    )
    return _say(table, grid, keys, metrics)


def _gather(
    records: Sequence[RunRecord],
    metrics: Sequence[Metric],
    split: SplitName,
    ties: Ties,
    datasets: Sequence[str],
) -> tuple[Grid, dict[RowKey, str]]:
    """Group and measure all runs, after checking that those of one data set are comparable."""
    present = {one.dataset for one in records}
    ordered = [one for one in dict.fromkeys(datasets) if one in present]
    ordered += sorted(present - set(ordered))
    check_runs(records, ordered, metrics)
    groups = group_runs(records)
    keys, labels = row_keys(groups)
    grid = Grid(ordered, list(dict.fromkeys(keys)), {}, {}, [])
    for group, key in zip(groups, keys, strict=True):
        grid.add(key, group, metrics, split, ties)
    check_grid(grid)
    return grid, labels


def _rows(
    grid: Grid,
    labels: Mapping[RowKey, str],
    names: Mapping[str, str],
    columns: Sequence[Column],
    metrics: Sequence[Metric],
    models: Sequence[str],
) -> tuple[list[Row], list[RowKey]]:
    """Rows in their order, with best and second marked, and the key of each."""
    rows = [_row(grid, key, names[key.model], labels[key], columns, metrics) for key in grid.keys]
    order = _order(rows, models)
    return _mark_places([rows[at] for at in order], len(columns)), [grid.keys[at] for at in order]


def _row(
    grid: Grid, key: RowKey, name: str, config: str, columns: Sequence[Column], metrics: Sequence[Metric]
) -> Row:
    finished = [run for run in grid.runs(key) if run.status == "finished"]
    return Row(
        model=key.model,
        name=name,
        config=config,
        floor=is_floor(key.model),
        leaky=key in grid.leaky,
        deterministic=bool(finished) and all(run.deterministic for run in finished),
        cells=tuple(_cell(grid, key, column.dataset, metrics.index(column.metric)) for column in columns),
    )


def _cell(grid: Grid, key: RowKey, dataset: str, at: int) -> Cell:
    group, found = grid.groups.get((dataset, key)), grid.measured.get((dataset, key))
    if group is None:
        reason = grid.reasons.get((dataset, key), f"not run on {dataset}")
        return Cell(footnotes=(grid.footnote(reason),) if reason else ())
    notes: tuple[int, ...] = ()
    if group.failed:
        reasons = "; ".join(
            dict.fromkeys((one.reason or "no reason recorded").strip().rstrip(".") for one in group.failed)
        )
        seeds = ", ".join(str(one.seed) for one in group.failed)
        share = f"{len(group.failed)} of {len(group.records)} runs failed" if group.finished else "failed"
        notes = (grid.footnote(f"{share} (seed {seeds}): {reasons}"),)
    if found is None:
        return Cell(footnotes=notes)
    values = found.values[:, at]
    return Cell(
        seeds=found.seeds,
        values=tuple(float(one) for one in values),
        mean=float(values.mean()),
        std=float(values.std(ddof=1)) if len(values) > 1 else None,
        footnotes=notes,
    )


def _order(rows: Sequence[Row], models: Sequence[str]) -> list[int]:
    """Floors last; inside each part the order asked for, else strongest first by the first column."""

    def key(at: int) -> tuple[bool, int, float, str]:
        row = rows[at]
        asked = models.index(row.model) if row.model in models else len(models)
        mean = row.cells[0].mean
        return row.floor, asked, np.inf if mean is None else -mean, row.label

    return sorted(range(len(rows)), key=key)


def _mark_places(rows: Sequence[Row], n_columns: int) -> list[Row]:
    """Best and second of each column on unrounded means; leaky rows have none unless all are leaky."""
    ranked = [row for row in rows if not row.leaky] or list(rows)
    marked = list(rows)
    for column in range(n_columns):
        means = [row.cells[column].mean for row in ranked]
        levels: list[float] = []
        for mean in sorted((one for one in means if one is not None), reverse=True):
            if not levels or not _same(mean, levels[-1]):
                levels.append(mean)
        if sum(one is not None for one in means) < 2:
            continue
        for at, row in enumerate(marked):
            own = row.cells[column].mean
            if own is None or not any((row.model, row.config) == (one.model, one.config) for one in ranked):
                continue
            place = next((i + 1 for i, level in enumerate(levels[:2]) if _same(own, level)), 0)
            marked[at] = _with_cell(row, column, replace(row.cells[column], place=place))
    return marked


def _same(a: float, b: float) -> bool:
    """Equal up to the rounding noise of a float64 mean over users."""
    return abs(a - b) <= 1e-12


def _with_cell(row: Row, column: int, cell: Cell) -> Row:
    return replace(row, cells=(*row.cells[:column], cell, *row.cells[column + 1 :]))


def _find_compared(rows: Sequence[Row], name: str) -> int:
    """The row that `--compare` names by its label, display name or model."""
    wanted = name.strip().lower()
    for texts in ([row.label for row in rows], [row.model for row in rows], [row.name for row in rows]):
        found = [at for at, text in enumerate(texts) if text.lower() == wanted]
        if len(found) == 1:
            return found[0]
        if found:
            labels = "; ".join(rows[at].label for at in found)
            raise UsageError(f"--compare {name} is {len(found)} rows; name one by its label: {labels}")
    known = {row.model for row in rows} | {row.label for row in rows}
    raise UsageError(f"--compare: {suggest(name, known, what='row')}")


def _places(
    grid: Grid,
    keys: Sequence[RowKey],
    rows: Sequence[Row],
    columns: Sequence[Column],
    metrics: Sequence[Metric],
    chosen: int | None,
) -> list[Place]:
    """Per column the rows that are compared: a leaky row neither wins nor counts as a rival."""
    found = []
    all_leaky = all(row.leaky for row in rows)
    for at, column in enumerate(columns):
        fair = {
            index: grid.measured[column.dataset, key]
            for index, key in enumerate(keys)
            if (column.dataset, key) in grid.measured
            and (all_leaky or index == chosen or not rows[index].leaky)
        }
        best = [index for index in fair if rows[index].cells[at].place == 1]
        compared = chosen if chosen is not None else (best[0] if best else None)
        if compared is None or compared not in fair:
            continue
        found.append(
            Place(
                column=at, metric=column.metric, at=metrics.index(column.metric), rows=fair, compared=compared
            )
        )
    return found


def _mark_stars(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> list[Row]:
    marked = list(rows)
    for one in comparisons:
        p = one.p if one.adjusted is None else one.adjusted
        if (
            one.strongest
            and p is not None
            and p < ALPHA
            and one.outcome.direction == "better"
            and not _contradicted(one)
        ):
            cell = replace(marked[one.compared].cells[one.column], star=True)
            marked[one.compared] = _with_cell(marked[one.compared], one.column, cell)
    return marked


def _contradicted(one: Comparison) -> bool:
    """Whether a rank test's own direction is not that of the mean."""
    return one.effect_name == "r_rb" and (one.effect or 0) < 0


def _info(grid: Grid, dataset: str) -> DatasetInfo:
    runs = [run for (name, _), group in grid.groups.items() if name == dataset for run in group.records]
    if not runs:
        return DatasetInfo(name=dataset, synthetic=False, n_users=0, n_items=0, protocol={}, data_hash="")
    shown = next((run for run in runs if run.status == "finished"), runs[0])
    found = next((one for (name, _), one in grid.measured.items() if name == dataset), None)
    return DatasetInfo(
        name=dataset,
        synthetic=any(run.synthetic for run in runs),
        protocol=shown.protocol,
        n_users=0 if found is None else len(found.users),
        data_hash=shown.data_hash,
        n_items=shown.n_items if found is None else found.n_candidates,
    )


def _say(table: Table, grid: Grid, keys: Sequence[RowKey], metrics: Sequence[Metric]) -> Table:
    """The table with its caption and warnings."""
    row_of = dict(zip(keys, table.rows, strict=True))
    groups = [
        (grid.groups[dataset, key], row_of[key])
        for dataset in grid.datasets
        for key in keys
        if (dataset, key) in grid.groups
    ]
    measured = [
        (dataset, row_of[key], grid.measured[dataset, key])
        for dataset in grid.datasets
        for key in keys
        if (dataset, key) in grid.measured
    ]
    masks = [str(one.protocol.get("mask_seen", "none")) for one in table.datasets]
    lines = [
        caption.runs_line(table.split, table.rows),
        caption.metrics_line(metrics, table.ties, masks),
        *caption.data_lines([one for one in table.datasets if one.n_users]),
        *caption.feature_lines(groups),
        *caption.mark_lines(table.rows),
        *caption.test_lines(
            table.comparisons,
            test=table.test,
            correction=table.correction,
            compare=table.compare,
            n_columns=len({one.column for one in table.comparisons}),
        ),
        *caption.note_lines(groups),
    ]
    said = caption.warnings(groups, measured, table.comparisons, test=table.test, correction=table.correction)
    return replace(table, caption=tuple(lines), warnings=tuple(said))
