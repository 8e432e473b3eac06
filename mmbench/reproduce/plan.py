"""From an experiment to the cells that it needs: the same cells, in the same folders, as `mmbench run` makes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mmbench.data.store import Prepared, is_prepared, list_prepared, open_prepared
from mmbench.errors import DataError, MmbenchError, UsageError, suggest
from mmbench.models import registry
from mmbench.reproduce.spec import Experiment, Row, Scores
from mmbench.runs.overrides import Overrides, check_overrides
from mmbench.runs.plan import Cell, resolve_settings
from mmbench.runs.schedule import finished, plan
from mmbench.runs.store import RunRecord, read_record
from mmbench.tuning.tuned import row_layer

NOT_YET = "not yet"  # the model or variant is not in the registry
NOT_PREPARED = "not prepared"
NOT_RUN = "no finished run is stored"


@dataclass(frozen=True)
class Target:
    """A data set of the experiment; `prepared` is None when it is not there."""

    name: str
    prepared: Prepared | None

    @property
    def printed_as(self) -> str:
        """Another tie order or protocol of a data set stands beside the same printed numbers."""
        return self.name.split("@")[0]


@dataclass(frozen=True)
class PlannedRow:
    """A paper's row: its cells by data set, or why there are none."""

    row: Row
    cells: dict[str, list[Cell]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def is_live(self) -> bool:
        return is_live(self.row.model)


@dataclass(frozen=True)
class Plan:
    experiment: Experiment
    content: Scores
    seeds: tuple[int, ...]
    targets: tuple[Target, ...]
    rows: tuple[PlannedRow, ...]
    is_tuned: bool = False

    @property
    def cells(self) -> list[Cell]:
        """Return every cell once, seed by seed on each data set, so that early tables already hold every row."""
        order = {target.name: number for number, target in enumerate(self.targets)}
        every = {cell.path: cell for row in self.rows for cells in row.cells.values() for cell in cells}
        return sorted(every.values(), key=lambda cell: (order[cell.dataset], self.seeds.index(cell.seed)))

    @property
    def not_yet(self) -> list[str]:
        return [planned.row.label for planned in self.rows if not planned.is_live]

    @property
    def not_prepared(self) -> list[str]:
        return [target.name for target in self.targets if target.prepared is None]

    @property
    def refused(self) -> dict[str, list[str]]:
        """Reason -> "row on data set" of those that cannot run on prepared data."""
        by_reason: dict[str, list[str]] = {}
        for planned in self.rows:
            for dataset, reason in planned.missing.items():
                if reason not in (NOT_YET, NOT_PREPARED):
                    by_reason.setdefault(reason, []).append(f"{planned.row.label} on {dataset}")
        return by_reason


def is_live(model: str) -> bool:
    """Return whether the model and its variant are registered."""
    base, _, variant = model.partition(":")
    entry = registry.entries().get(base)
    return entry is not None and (not variant or variant in entry.recipe.variants)


def choose_targets(
    experiment: Experiment,
    asked: Sequence[str],
    data_dir: Path,
    *,
    on_error: Callable[[DataError], object] | None = None,
) -> list[Target]:
    """Return the experiment's data sets, or those named: any of them in any tie order, or any that is prepared.

    A data set that cannot be opened raises DataError if it was asked for by name. Else `on_error` is called with the
    error, and it counts as not prepared; without `on_error` it raises too.
    """
    known = experiment.content.datasets
    if not asked:
        by_name = {prepared.name: prepared for prepared in list_prepared(data_dir, on_error=on_error)}
        return [Target(name, by_name.get(name)) for name in known]
    for name in asked:
        if name.split("@")[0] not in known and not is_prepared(name, data_dir):
            names = {prepared.name for prepared in list_prepared(data_dir, on_error=lambda _: None)}
            raise UsageError(
                f"--dataset: {suggest(name, {*known, *names}, what=f'data set of {experiment.name}')}"
            )
    return [
        Target(name, open_prepared(name, data_dir) if is_prepared(name, data_dir) else None)
        for name in dict.fromkeys(asked)
    ]


def make_plan(
    experiment: Experiment,
    *,
    results_dir: Path,
    targets: Sequence[Target],
    seeds: Sequence[int],
    overrides: Overrides,
    tuned: bool = False,
) -> Plan:
    """Return all cells. A wrong --set fails here; a row that cannot run on a data set keeps the reason.

    tuned  with the best settings that a search found for each row; a row without a search cannot run
    """
    content = experiment.content
    assert isinstance(content, Scores)
    live = [model for model in content.models if is_live(model)]
    if live:
        check_overrides(overrides, live)
    rows = []
    for row in content.all_rows:
        planned = PlannedRow(row)
        rows.append(planned)
        for target in targets:
            if not planned.is_live:
                planned.missing[target.name] = NOT_YET
            elif target.prepared is None:
                planned.missing[target.name] = NOT_PREPARED
            else:
                _plan_row(planned, content, target.prepared, results_dir, seeds, overrides, tuned)
    return Plan(experiment, content, tuple(seeds), tuple(targets), tuple(rows), tuned)


def _plan_row(
    planned: PlannedRow,
    content: Scores,
    prepared: Prepared,
    results_dir: Path,
    seeds: Sequence[int],
    overrides: Overrides,
    tuned: bool,
) -> None:
    entry = registry.find(planned.row.model)
    row_settings = row_overrides(planned.row, content, overrides)
    resolve_settings(entry, prepared, row_settings.layers(planned.row.model, entry.known_settings()))
    try:
        layer = row_layer(results_dir, prepared, planned.row.model, row_settings) if tuned else None
        if layer is not None:
            row_settings = replace(row_settings, tuned={(prepared.name, planned.row.model): layer})
        planned.cells[prepared.name] = plan(
            results_dir=results_dir,
            datasets=[prepared],
            models=[planned.row.model],
            seeds=seeds,
            overrides=row_settings,
        )
    except (
        MmbenchError
    ) as error:  # the settings are right: it is the data (no features, damaged), or no search fits
        planned.missing[prepared.name] = str(error)


def stored_only(plan: Plan) -> tuple[Plan, dict[Path, RunRecord]]:
    """Return the plan with the finished cells alone, and their records."""
    records = {cell.path: record for cell in plan.cells if (record := finished(cell))}
    rows = []
    for row in plan.rows:
        stored = {name: [cell for cell in cells if cell.path in records] for name, cells in row.cells.items()}
        absent = {name: NOT_RUN for name, cells in stored.items() if not cells}
        present = {name: cells for name, cells in stored.items() if cells}
        rows.append(replace(row, cells=present, missing=row.missing | absent))
    return replace(plan, rows=tuple(rows)), records


def row_overrides(row: Row, content: Scores, overrides: Overrides) -> Overrides:
    """Return what is set for a row: the paper's settings for all baselines and the row's, the user's, the sweep's."""
    known = registry.find(row.model).known_settings()
    shared = content.shared.settings if content.shared and not _is_own(row, content) else {}
    return Overrides(
        everywhere=overrides.of_user(row.model, known),
        declared={**{key: value for key, value in shared.items() if key in known}, **row.settings},
        swept=row.fixed,
    )


def _is_own(row: Row, content: Scores) -> bool:
    return row.model.partition(":")[0] == content.compare.partition(":")[0]


@dataclass(frozen=True)
class State:
    """What is known of a cell before it runs; `seconds` None = no earlier run to judge from."""

    cell: Cell
    is_finished: bool
    seconds: float | None = None
    n_earlier: int = 0


def states(cells: Sequence[Cell]) -> list[State]:
    """Return each cell with a time estimated from finished runs of its configuration, else of its model."""
    return [State(cell, True) if finished(cell) else _estimated(cell) for cell in cells]


def _estimated(cell: Cell) -> State:
    same = sorted(cell.path.parent.glob("seed_*/run.json"))
    like = sorted(cell.path.parent.parent.glob("*/seed_*/run.json"))
    for files in (same, like):
        spent = [seconds for file in files if (seconds := seconds_of(file.parent)) is not None]
        if spent:
            return State(cell, False, float(np.median(spent)), len(spent))
    return State(cell, False)


def seconds_of(path: Path, *, is_trained: bool | None = None) -> float | None:
    """Return the seconds that a finished cell took; None for a failed or damaged cell.

    is_trained  only of a cell whose model was trained (True) or was not (False)
    """
    try:
        record = read_record(path)
    except DataError:
        return None
    if record.status != "finished" or is_trained not in (None, record.n_epochs > 0):
        return None
    return sum(value for key, value in record.seconds.items() if key != "epoch")
