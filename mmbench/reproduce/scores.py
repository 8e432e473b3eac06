"""What was measured beside what was printed: rows and columns of the paper, unrounded."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mmbench.evaluation.metrics import parse_metric
from mmbench.evaluation.significance import t_interval
from mmbench.reporting.build import PresetRow, build_preset
from mmbench.reporting.labels import Group
from mmbench.reporting.request import TableRequest
from mmbench.reporting.table import Cell, Table
from mmbench.reproduce.plan import NOT_PREPARED, NOT_YET, Plan, PlannedRow, Target
from mmbench.runs.store import RunRecord

HALF_DIGIT = 0.5e-4  # printed numbers have four digits: .0325 stands for all that round to it


@dataclass(frozen=True)
class Beside:
    """A cell's printed value and where it lies; None = not printed, not measured, or fewer than two runs."""

    printed: float | None = None
    difference: float | None = None  # measured minus printed
    interval: tuple[float, float] | None = None  # 95 % t interval of the measured mean
    inside: bool | None = None


@dataclass(frozen=True)
class Reproduced:
    """A paper's table measured again; `beside` has the table's rows and columns."""

    plan: Plan
    table: Table
    beside: tuple[tuple[Beside, ...], ...]

    @property
    def heads(self) -> list[str]:
        """Return the data set of each column as shown: the paper's name, ours, and what is special."""
        marks = {dataset.name: " (synthetic)" for dataset in self.table.datasets if dataset.synthetic}
        marks |= dict.fromkeys(self.plan.not_prepared, ", not prepared")
        shown = self.plan.experiment.shown
        return [shown(column.dataset) + marks.get(column.dataset, "") for column in self.table.columns]

    @property
    def is_measured(self) -> bool:
        return any(cell.mean is not None for row in self.table.rows for cell in row.cells)

    def under_columns(self, line: tuple[str, ...]) -> list[str]:
        """Return texts printed under the paper's columns, put under ours; "" where the paper has no such column."""
        content = self.plan.content
        known = [(dataset, metric) for dataset in content.datasets for metric in content.metrics]
        by_column = dict(zip(known, line, strict=True))
        bases = {target.name: target.printed_as for target in self.plan.targets}
        return [
            by_column.get((bases[column.dataset], str(column.metric)), "") for column in self.table.columns
        ]


def reproduced(plan: Plan, records: Mapping[Path, RunRecord]) -> Reproduced:
    """Return the table of a plan whose cells have these records (by folder)."""
    content = plan.content
    preset = [_measured(row, records) for row in plan.rows]
    models = [row.row.model for row in plan.rows]
    table = build_preset(
        preset,
        TableRequest(
            datasets=tuple(target.name for target in plan.targets),
            metrics=tuple(parse_metric(name) for name in content.metrics),
            correction="none",
        ),
        compared=models.index(content.compare) if content.compare else None,
    )
    beside = tuple(
        tuple(
            _beside(cell, printed_value(plan, planned, target, str(column.metric)))
            for cell, column, target in zip(row.cells, table.columns, _per_column(plan), strict=True)
        )
        for row, planned in zip(table.rows, plan.rows, strict=True)
    )
    result = Reproduced(plan, table, beside)
    measured = table.caption if result.is_measured else ()
    if not content.compare:
        measured = tuple(line for line in measured if line[0] != "Test")
    return replace(result, table=replace(table, caption=(*_caption(result), *measured)))


def _measured(planned: PlannedRow, records: Mapping[Path, RunRecord]) -> PresetRow:
    groups = {}
    for dataset, cells in planned.cells.items():
        runs = tuple(sorted((records[cell.path] for cell in cells), key=lambda run: run.seed))
        groups[dataset] = Group(dataset, planned.row.model, cells[0].config_id, runs)
    reasons = {
        dataset: "" if text in (NOT_YET, NOT_PREPARED) else text for dataset, text in planned.missing.items()
    }
    return PresetRow(model=planned.row.model, name=planned.row.label, groups=groups, missing=reasons)


def _per_column(plan: Plan) -> list[Target]:
    return [target for target in plan.targets for _ in plan.content.metrics]


def printed_value(plan: Plan, planned: PlannedRow, target: Target, metric: str) -> float | None:
    """Return what the paper prints for a row; a point of a sweep is not printed as a number."""
    if planned.row.panel:
        return None
    return plan.experiment.printed.get((target.printed_as, planned.row.method, metric))


def _beside(cell: Cell, printed: float | None) -> Beside:
    if printed is None or cell.mean is None:
        return Beside(printed)
    interval = t_interval(np.array(cell.values))
    inside = None
    if interval is not None:
        inside = interval[0] - HALF_DIGIT <= printed <= interval[1] + HALF_DIGIT
    return Beside(printed, cell.mean - printed, interval, inside)


def _caption(result: Reproduced) -> list[tuple[str, str]]:
    """Say what the printed lines are, and which rows and data sets are missing."""
    plan = result.plan
    experiment, content = plan.experiment, plan.content
    lines = [("Paper", f"{content.source}: {content.title}. {experiment.paper.reference}.")]
    if any(cell.printed is not None for row in result.beside for cell in row):
        lines.append(
            (
                "Printed",
                "the paper's value, measured mean minus it, and whether it lies in the measured interval "
                "(in, out; n/a below 2 runs). Interval: 95 % t interval of the mean over runs with different "
                "seeds, with half a unit of the printed fourth digit at both ends. It is about our mean: a single "
                "printed run may lie outside although nothing differs.",
            )
        )
    if plan.is_tuned:
        lines.append(("Budget", "the printed rows' budget of tuning is not stated."))
    if content.shared and any(row.is_live for row in plan.rows):
        settings = ", ".join(f"{key} = {value}" for key, value in content.shared.settings.items())
        lines.append(("Settings", f"baselines that have them: {settings} ({content.shared.source})."))
    if plan.not_yet:
        lines.append(("Not yet", f"no such model or variant is implemented: {', '.join(plan.not_yet)}."))
    lines += [
        ("Missing", f"{experiment.shown(name)} is not prepared; run: mmbench prepare {name}.")
        for name in plan.not_prepared
    ]
    lines += [
        ("Order", f"{target.name} stands beside the numbers printed for {target.printed_as}.")
        for target in plan.targets
        if target.name != target.printed_as and target.printed_as in content.datasets
    ]
    if content.compare and result.table.comparisons:
        lines.append(
            ("Improved", "over the best of the other rows that are measured, without correction of p.")
        )
    return [*lines, *(("Remark", f"{note}.") for note in content.notes)]
