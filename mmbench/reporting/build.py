"""RunRecords -> Table: a row per model and configuration, a column per data set and metric.

Nothing is rounded here; the renderers round. Rows that are not comparable are refused, rows that failed are kept
with their reason, and runs that cannot be read are left out and named.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mmbench.errors import UsageError, suggest
from mmbench.reporting import caption
from mmbench.reporting.compare import ColumnRows, compare_all
from mmbench.reporting.effort import Efforts, effort_lines, effort_warnings, efforts_of, unequal_datasets
from mmbench.reporting.effort_rows import EffortRows, effort_rows
from mmbench.reporting.gather import OTHER_RULE, Grid, Measured, check_runs
from mmbench.reporting.labels import (
    UNLABELLED,
    Group,
    Label,
    RowKey,
    group_runs,
    is_floor,
    row_keys,
    row_names,
)
from mmbench.reporting.missing_controls import missing_control_lines
from mmbench.reporting.places import mark_places, winners, with_cell
from mmbench.reporting.power_lines import power_lines
from mmbench.reporting.request import TableRequest
from mmbench.reporting.table import ALPHA, Cell, Column, Comparison, DatasetInfo, Row, Table
from mmbench.runs.store import RunRecord

DEFAULT_REQUEST = TableRequest()


def build_table(records: Sequence[RunRecord], request: TableRequest = DEFAULT_REQUEST) -> Table:
    """Return the table of these records, as in a paper.

    Raises ProtocolMismatchError when rows of a data set are not comparable, UsageError when there are no records,
    DataError when no run can be read.
    """
    if not records:
        raise UsageError("there are no results to report; run, for example: mmbench run sasrec pop --seeds 3")
    present = {record.dataset for record in records}
    datasets = [name for name in dict.fromkeys(request.datasets) if name in present]
    datasets += sorted(present - set(datasets))
    check_runs(records, datasets, request)
    groups, repeated = group_runs(records)
    if request.rows == "all":
        keys, labels = row_keys(groups)
        chosen = EffortRows(list(zip(keys, groups, strict=True)), labels)
    else:
        chosen = effort_rows(groups, request.rows)
    labels, left_out = chosen.labels, [*repeated, *chosen.left_out]
    grid = Grid(request, datasets, list(dict.fromkeys(key for key, _ in chosen.entries)))
    grid.reasons.update(chosen.missing)
    for key, group in chosen.entries:
        grid.add(key, group)
    grid.check()
    names = row_names(records)
    builder = _Builder(grid, {key: (names[key.model], labels[key]) for key in grid.keys}, left_out)
    builder.sort()
    return builder.table(builder.find(request.compare) if request.compare else None)


@dataclass(frozen=True, kw_only=True)
class PresetRow:
    """A row that the caller chose and named, with its runs by data set, or the reason why there are none."""

    model: str
    name: str
    groups: Mapping[str, Group]
    missing: Mapping[str, str] = field(default_factory=dict)  # is shown in a footnote, unless ""


def build_preset(rows: Sequence[PresetRow], request: TableRequest, *, compared: int | None = None) -> Table:
    """Return the table with exactly these rows and the request's columns, in this order, measured or not.

    compared  index of the row that is tested; without it, nothing is tested

    Raises ProtocolMismatchError and DataError as `build_table` does.
    """
    runs = [run for row in rows for group in row.groups.values() for run in group.records]
    check_runs(runs, request.datasets, request)
    keys = [RowKey(row.model, (str(index),)) for index, row in enumerate(rows)]
    grid = Grid(request, list(request.datasets), keys)
    for key, row in zip(keys, rows, strict=True):
        grid.reasons.update({(dataset, key): text for dataset, text in row.missing.items()})
        for group in row.groups.values():
            grid.add(key, group)
    grid.check()
    names = {key: (row.name, UNLABELLED) for key, row in zip(keys, rows, strict=True)}
    return _Builder(grid, names, []).table(compared, is_tested=compared is not None)


class _Builder:
    """A table in the making: the grid, and its rows in order.

    names     (display name, label of the configuration) of each row
    left_out  lines about runs that are not in the table, such as those given twice
    """

    def __init__(
        self, grid: Grid, names: Mapping[RowKey, tuple[str, Label]], left_out: Sequence[str]
    ) -> None:
        self.grid, self.request, self.left_out = grid, grid.request, left_out
        self.columns = [
            Column(dataset, metric) for dataset in grid.datasets for metric in self.request.metrics
        ]
        self.keys = list(grid.keys)
        self.efforts: Efforts = {}
        self.rows = mark_places([self._row(key, *names[key]) for key in self.keys], len(self.columns))

    def sort(self) -> None:
        """Put floors last. The others follow --sort; without it the order of --model, then falling means.

        With both the recipe's and tuned rows, those of a model stay together.
        """
        by_name, column = self.request.sort == "name", self._sorted_column()
        together = self.request.rows == "both"
        firsts = [row.cells[column].mean for row in self.rows]
        means = [-np.inf if mean is None else mean for mean in firsts]
        best: dict[str, float] = {}
        for row, mean in zip(self.rows, means, strict=True):
            best[row.model] = max(mean, best.get(row.model, -np.inf))

        def order(index: int) -> tuple[bool, int, float, str, str]:
            row = self.rows[index]
            models = () if self.request.sort else self.request.models
            rank = models.index(row.model) if row.model in models else len(models)
            mean = best[row.model] if together else means[index]
            value = row.label.casefold() if by_name else ""
            return (
                row.floor,
                rank,
                0.0 if by_name else -mean,
                row.model if together else "",
                value or row.label,
            )

        order_of_rows = sorted(range(len(self.rows)), key=order)
        self.rows = [self.rows[index] for index in order_of_rows]
        self.keys = [self.keys[index] for index in order_of_rows]

    def _sorted_column(self) -> int:
        """Return the column that orders the rows: that of the metric on the first data set."""
        wanted, metrics = self.request.sort, [str(metric) for metric in self.request.metrics]
        if wanted in ("", "name"):
            return 0
        names = {metric.casefold(): index for index, metric in enumerate(metrics)}
        if wanted.casefold() not in names:
            raise UsageError(f"--sort: {suggest(wanted, ['name', *metrics], what='column')}")
        return names[wanted.casefold()]

    def find(self, name: str) -> int:
        """Return the index of the row that `--compare` names by its label, display name or model."""
        wanted = name.strip().lower()
        for texts in (
            [row.label for row in self.rows],
            [row.model for row in self.rows],
            [row.name for row in self.rows],
        ):
            indices = [index for index, text in enumerate(texts) if text.lower() == wanted]
            if len(indices) == 1:
                return indices[0]
            if indices:
                labels = "; ".join(self.rows[index].label for index in indices)
                raise UsageError(
                    f"--compare {name} matches {len(indices)} rows; name a single row by its label: {labels}"
                )
        known = {row.model for row in self.rows} | {row.label for row in self.rows}
        raise UsageError(f"--compare: {suggest(name, known, what='row')}")

    def table(self, compared: int | None, *, is_tested: bool = True) -> Table:
        """Return the rows with their tests, caption and warnings."""
        request = self.request
        columns = self._rows_by_column(compared) if is_tested else []
        comparisons = compare_all(columns, test=request.test, correction=request.correction)
        self.efforts = efforts_of(self._groups)
        self._mark_stars(comparisons)
        table = Table(
            split=request.split,
            ties=request.ties,
            datasets=tuple(self._info(dataset) for dataset in self.grid.datasets),
            columns=tuple(self.columns),
            rows=tuple(self.rows),
            footnotes=tuple(self.grid.footnotes),
            test=request.test,
            correction=request.correction,
            compare="" if compared is None else self.rows[compared].label,
            comparisons=tuple(comparisons),
            family=sum(comparison.p is not None for comparison in comparisons),
            top=request.top,
            left_out=(
                *self.left_out,
                *(fault.reason for faults in self.grid.faults.values() for fault in faults),
            ),
        )
        return replace(
            table, caption=tuple(self._caption(table)), warnings=tuple(self._warnings(comparisons))
        )

    # -- rows and cells -----------------------------------------------------------------------------------

    def _row(self, key: RowKey, name: str, settings: Label) -> Row:
        finished = [run for run in self.grid.runs(key) if run.status == "finished"]
        return Row(
            model=key.model,
            name=name,
            settings=settings,
            floor=is_floor(key.model),
            leaky=key in self.grid.leaky,
            deterministic=bool(finished) and all(run.deterministic for run in finished),
            cells=tuple(self._cell(key, column) for column in self.columns),
        )

    def _cell(self, key: RowKey, column: Column) -> Cell:
        group = self.grid.groups.get((column.dataset, key))
        if group is None:
            reason = self.grid.reasons.get((column.dataset, key), f"not run on {column.dataset}")
            return Cell(footnotes=(self.grid.footnote(reason),) if reason else ())
        notes = tuple(self.grid.footnote(text) for text in self._missing_notes(key, group))
        measured = self.grid.measured.get((column.dataset, key))
        if measured is None:
            return Cell(footnotes=notes)
        values = measured.values[:, self.request.metrics.index(column.metric)]
        return Cell(
            seeds=measured.seeds,
            values=tuple(float(value) for value in values),
            mean=float(values.mean()),
            std=float(values.std(ddof=1)) if len(values) > 1 else None,
            footnotes=notes,
        )

    def _missing_notes(self, key: RowKey, group: Group) -> list[str]:
        """Return the footnotes about the group's runs that are missing from its numbers."""
        notes = []
        if group.failed:
            reasons = "; ".join(
                dict.fromkeys(
                    (run.reason or "no reason recorded").strip().rstrip(".") for run in group.failed
                )
            )
            share = f"{len(group.failed)} of {len(group.records)} runs failed" if group.finished else "failed"
            notes.append(f"{share} (seed {_seeds(group.failed)}): {reasons}")
        faults = self.grid.faults.get((group.dataset, key))
        if faults:
            runs = [fault.record for fault in faults]
            notes.append(
                f"{len(faults)} of {len(group.records)} runs left out (seed {_seeds(runs)}): {faults[0].reason}"
            )
        return notes

    # -- comparisons --------------------------------------------------------------------------------------

    def _rows_by_column(self, compared: int | None) -> list[ColumnRows]:
        """Return the rows to compare in each column; a leaky row neither wins nor counts as a rival."""
        columns = []
        all_leaky = all(row.leaky for row in self.rows)
        for number, column in enumerate(self.columns):
            fair = {
                index: self.grid.measured[column.dataset, key]
                for index, key in enumerate(self.keys)
                if (column.dataset, key) in self.grid.measured
                and (all_leaky or index == compared or not self.rows[index].leaky)
            }
            best = [index for index in fair if self.rows[index].cells[number].place == 1]
            chosen = compared if compared is not None else (best[0] if best else None)
            if chosen is None or chosen not in fair:
                continue
            metric_index = self.request.metrics.index(column.metric)
            columns.append(
                ColumnRows(
                    index=number, metric=column.metric, metric_index=metric_index, rows=fair, compared=chosen
                )
            )
        return columns

    def _mark_stars(self, comparisons: Sequence[Comparison]) -> None:
        unequal = [] if self.request.unequal_budgets else unequal_datasets(self.efforts)
        for comparison in comparisons:
            if is_star(comparison) and self.columns[comparison.column].dataset not in unequal:
                row = self.rows[comparison.compared]
                cell = replace(row.cells[comparison.column], star=True)
                self.rows[comparison.compared] = with_cell(row, comparison.column, cell)

    # -- caption and warnings -----------------------------------------------------------------------------

    def _info(self, dataset: str) -> DatasetInfo:
        groups = [group for (name, _), group in self.grid.groups.items() if name == dataset]
        runs = [run for group in groups for run in group.records]
        if not runs:
            return DatasetInfo(name=dataset, synthetic=False, n_users=0, n_items=0, protocol={}, data_hash="")
        shown = next((run for run in runs if run.status == "finished"), runs[0])
        measured = next((row for (name, _), row in self.grid.measured.items() if name == dataset), None)
        return DatasetInfo(
            name=dataset,
            synthetic=any(run.synthetic for run in runs),
            protocol=shown.protocol,
            n_users=0 if measured is None else measured.n_users,
            data_hash=shown.data_hash,
            n_items=shown.n_items if measured is None else measured.n_candidates,
            mask_seen=self.grid.rules(dataset)[0] if self.grid.rules(dataset) else "none",
        )

    @property
    def _groups(self) -> list[tuple[Group, Row]]:
        return [(self.grid.groups[cell], row) for cell, row in self._grid_cells() if cell in self.grid.groups]

    @property
    def _measured(self) -> list[tuple[str, Row, Measured]]:
        return [
            (cell[0], row, self.grid.measured[cell])
            for cell, row in self._grid_cells()
            if cell in self.grid.measured
        ]

    def _grid_cells(self) -> Iterator[tuple[tuple[str, RowKey], Row]]:
        """Yield the cells (data set, key of the row) of the table with their rows, data set by data set."""
        rows = dict(zip(self.keys, self.rows, strict=True))
        yield from ((cell, rows[cell[1]]) for cell in self.grid.in_order(self.keys))

    def _caption(self, table: Table) -> list[tuple[str, str]]:
        groups, request = self._groups, self.request
        return [
            caption.runs_line(table.split, table.rows),
            *caption.metrics_lines(request.metrics, table.ties, [info.mask_seen for info in table.datasets]),
            *caption.selection_lines(groups, request.mask_seen),
            *caption.other_rule_lines(self._other_winners()),
            *caption.data_lines([info for info in table.datasets if info.n_users]),
            *caption.feature_lines(groups),
            *caption.pretraining_lines(groups),
            *effort_lines(self.efforts, table.shown_rows),
            *missing_control_lines(groups),
            *caption.machine_lines(groups),
            *caption.mark_lines(table.rows),
            *caption.hidden_lines(table),
            *caption.tie_lines(self._measured),
            *caption.test_lines(
                table.comparisons,
                test=table.test,
                correction=table.correction,
                compare=table.compare,
                n_columns=len({comparison.column for comparison in table.comparisons}),
            ),
            *power_lines(table, self._measured),
            *caption.note_lines(groups),
        ]

    def _other_winners(self) -> list[caption.OtherWinner]:
        """Return the columns whose best row changes under the other mask rule."""
        changed = []
        for number, column in enumerate(self.columns):
            metric_index = self.request.metrics.index(column.metric)
            others: list[float | None] = []
            for key in self.keys:
                measured = self.grid.measured.get((column.dataset, key))
                mean = np.nan if measured is None else float(measured.under_other[metric_index])
                others.append(None if np.isnan(mean) else mean)
            shown = [row.cells[number].mean for row in self.rows]
            present, other = winners(self.rows, shown), winners(self.rows, others)
            if present and other and present != other:
                rule = OTHER_RULE[self.grid.rules(column.dataset)[0]]
                labels = tuple(
                    ", ".join(self.rows[index].label for index in sorted(best)) for best in (present, other)
                )
                changed.append(caption.OtherWinner(column, rule, *labels))
        return changed

    def _warnings(self, comparisons: Sequence[Comparison]) -> list[str]:
        lines = caption.warnings(
            self._groups,
            self._measured,
            comparisons,
            test=self.request.test,
            correction=self.request.correction,
        )
        return lines + effort_warnings(self.efforts, with_stars=self.request.unequal_budgets)


def is_star(comparison: Comparison) -> bool:
    """Return whether a row beats the strongest other row, by the corrected p if there is a correction.

    A test whose direction contradicts the means gives no star: a rank test, or pairs that are not all of the runs.
    """
    p = comparison.p if comparison.adjusted is None else comparison.adjusted
    contradicted = comparison.effect_name == "r_rb" and (comparison.effect or 0) < 0
    return (
        comparison.strongest
        and p is not None
        and p < ALPHA
        and min(comparison.outcome.difference, comparison.difference) > 0
        and not contradicted
    )


def _seeds(runs: Sequence[RunRecord]) -> str:
    return ", ".join(str(run.seed) for run in runs)
