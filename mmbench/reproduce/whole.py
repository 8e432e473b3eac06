"""A whole paper before it is run: what of its experiments is there, what is missing, and how long the rest takes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmbench.errors import UsageError, suggest
from mmbench.models import registry
from mmbench.reproduce.plan import Plan, State, seconds_of, states
from mmbench.reproduce.spec import Experiment, experiments
from mmbench.runs.plan import Cell


@dataclass(frozen=True)
class Outlook:
    """What is known of some cells before they run.

    seconds  of the missing cells, where earlier runs of the same model and data set exist
    rough    seconds of the missing cells, where only other models' runs on the data set exist
    unknown  the number of missing cells without any such run
    """

    n_cells: int
    n_finished: int
    seconds: float
    rough: float
    unknown: int

    @property
    def n_missing(self) -> int:
        return self.n_cells - self.n_finished


def experiments_of(paper: str) -> list[Experiment]:
    """Return the experiments of a paper in its order; UsageError for an unknown paper, with the nearest."""
    known = {name.partition("/")[0] for name in experiments()}
    if paper not in known:
        raise UsageError(f"--all: {suggest(paper, known, what='paper')}")
    return [experiment for name, experiment in experiments().items() if name.partition("/")[0] == paper]


def cells_once(plans: Sequence[Plan]) -> list[Cell]:
    """Return the cells of some plans, each once: tables and figures of a paper share many."""
    return list({cell.path: cell for plan in plans for cell in plan.cells}.values())


def outlook(cells: Sequence[Cell]) -> Outlook:
    """Return how many of the cells are finished, and how long the others take.

    A cell without an earlier run of its model on its data set takes as long as the median of other trained models'
    runs there, which is rough.
    """
    known = states(cells)
    missing = [state for state in known if not state.is_finished]
    seconds = [state.seconds for state in missing if state.seconds is not None]
    guesses = [_rough_seconds(state) for state in missing if state.seconds is None]
    rough = [guess for guess in guesses if guess is not None]
    return Outlook(len(known), len(known) - len(missing), sum(seconds), sum(rough), len(guesses) - len(rough))


def _rough_seconds(state: State) -> float | None:
    """Return the median time of other models' runs on the cell's data set, trained or untrained as the cell's model."""
    is_trained = registry.find(state.cell.model).load().trainable
    folder = state.cell.path.parents[2]
    spent = [
        seconds
        for file in sorted(folder.glob("*/*/seed_*/run.json"))
        if (seconds := seconds_of(file.parent, is_trained=is_trained)) is not None
    ]
    return float(np.median(spent)) if spent else None
