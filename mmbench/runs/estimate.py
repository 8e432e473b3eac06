"""What a run would cost: a few steps of each model are timed, and nothing is stored."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmbench.data.views import TargetView
from mmbench.models import registry
from mmbench.runs.execute import Opened, open_run, selection_targets, selection_value
from mmbench.runs.plan import Cell
from mmbench.runs.schedule import finished
from mmbench.runtime import pick_device
from mmbench.training.batches import batches_of_epoch
from mmbench.training.devices import peak_memory
from mmbench.training.trainer import Trainer

MOST_STEPS, MOST_SECONDS = 12, 5.0  # of training, and again of validation, for each model on each data set
FEWEST_USERS = 256  # that are ranked
MUCH = 0.2  # of a time, spent waiting for other programs
BYTES = 4  # of a parameter
STATES = 4  # weights, two moments of Adam and the best weights lie on disk while a run is computed


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the missing runs of a model on a data set cost.

    n_runs    runs that are not finished; each costs the same
    epoch     seconds of an epoch with its share of the validation; 0 for a model without training
    epochs    the maximum number of epochs
    memory    peak bytes so far, "host" and "device"
    waited    share of the timed seconds in which other programs had the processor; 0 where a GPU computes
    """

    dataset: str
    model: str
    n_runs: int
    n_finished: int
    epoch: float
    epochs: int
    n_parameters: int
    memory: dict[str, int]
    waited: float = 0.0

    @property
    def alone(self) -> float | None:
        """Return the seconds of an epoch without other programs; None if they hardly took part."""
        return self.epoch * (1 - self.waited) if self.waited > MUCH else None

    @property
    def seconds(self) -> float:
        """Return the time of all missing runs if none stops early."""
        return self.n_runs * self.epoch * self.epochs

    @property
    def disk(self) -> int:
        """Return the bytes of the weights that the missing runs keep."""
        return self.n_runs * self.n_parameters * BYTES

    @property
    def disk_at_work(self) -> int:
        """Return the bytes of a run's states while it is computed."""
        return self.n_parameters * BYTES * STATES


def estimate(
    cells: Sequence[Cell], *, device: str = "auto", say: Callable[[str], object] = lambda text: None
) -> Iterator[Cost]:
    """Yield the cost of each model on each data set; call `say` with what is being timed."""
    chosen, groups = pick_device(device), dict[tuple[str, str], list[Cell]]()
    for cell in cells:
        groups.setdefault((cell.dataset, cell.model), []).append(cell)
    for (dataset, model), seeds in groups.items():
        missing = [cell for cell in seeds if finished(cell) is None]
        if missing and registry.find(model).load().trainable:
            say(f"timing {model} on {dataset}")
            yield _timed(missing[0], len(missing), len(seeds) - len(missing), chosen)
            continue
        yield Cost(
            dataset=dataset, model=model, n_runs=len(missing), n_finished=len(seeds) - len(missing), epoch=0.0,
            epochs=0, n_parameters=0, memory={},
        )  # fmt: skip


def _timed(cell: Cell, n_runs: int, n_finished: int, device: str) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(replace(cell, path=Path(folder) / "seed_1"), device)
        assert run.trainer is not None
        start, worked = time.perf_counter(), time.thread_time()
        epoch = _epoch_seconds(run, run.trainer)
        waited = 1 - (time.thread_time() - worked) / (time.perf_counter() - start)
        return Cost(
            dataset=cell.dataset, model=cell.model, n_runs=n_runs, n_finished=n_finished, epoch=epoch,
            epochs=sum(stage.last_epoch for stage in run.trainer.stages),
            n_parameters=sum(parameter.numel() for parameter in run.model.parameters()),
            memory=peak_memory(device), waited=max(waited, 0.0) if device == "cpu" else 0.0,
        )  # fmt: skip


def _epoch_seconds(run: Opened, trainer: Trainer) -> float:
    """Return the seconds of an epoch of the first stage: median step times steps, and the share of a validation."""
    trainer.begin()
    plan = trainer.plan_epoch()
    seconds: list[float] = []
    began = time.perf_counter()
    for batch in batches_of_epoch([trainer], [plan]):
        start = time.perf_counter()
        terms = trainer.step(batch)
        terms.values.sum().item()  # waits for the device
        seconds.append(time.perf_counter() - start)
        if len(seconds) >= MOST_STEPS or time.perf_counter() - began > MOST_SECONDS:
            break
    usual = statistics.median(seconds[1:] or seconds)  # the first step warms up

    def rank(some: TargetView) -> object:
        return selection_value(run.model, view=some, config=run.config, device=run.device)

    return usual * len(plan.steps) + seconds_of_all(rank, selection_targets(run)) / run.config.eval_every


def seconds_of_all(rank: Callable[[TargetView], object], targets: TargetView) -> float:
    """Return the seconds that `rank` takes for all targets, or, where that is long, an estimate from some of them."""
    n_users = FEWEST_USERS
    while True:
        some = targets.spread(n_users)
        seconds = _seconds(rank, some)
        if len(some) == len(targets):
            return seconds
        n_in_time = int(len(some) * MOST_SECONDS / max(seconds, 1e-9))
        if n_in_time < 2 * n_users:
            # A model maps its whole catalogue before the first user, which must not be scaled with the users.
            begun = min(_seconds(rank, targets.spread(1)), seconds)
            return begun + (seconds - begun) * (len(targets) - 1) / (len(some) - 1)
        n_users = n_in_time


def _seconds(rank: Callable[[TargetView], object], some: TargetView) -> float:
    start = time.perf_counter()
    rank(some)
    return time.perf_counter() - start
