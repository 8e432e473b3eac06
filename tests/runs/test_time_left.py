"""The time that is left: of a training from its epochs, of all missing runs from what ran so far."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmbench.data.store import Prepared
from mmbench.models import registry
from mmbench.models.base import Stage
from mmbench.runs.execute import open_run
from mmbench.runs.narrator import RunLines
from mmbench.runs.overrides import Overrides
from mmbench.runs.plan import Cell
from mmbench.runs.schedule import plan
from mmbench.runs.store import RunRecord
from mmbench.runs.time_left import EpochTimes, TimeLeft
from mmbench.training.progress import EpochReport, Outlook


class Clock:
    """A clock that a test sets."""

    time = 100.0

    def __call__(self) -> float:
        return self.time


def report(epoch: int, *, n_epochs: int = 100, seconds: float = 1.0, **changes: Any) -> EpochReport:
    outlook = Outlook(n_epochs=n_epochs, n_done=epoch, n_left=n_epochs - epoch)
    values: dict[str, Any] = {"outlook": outlook, "best_epoch": epoch, "best": 0.1, "loss": {}, "valid": {}}
    return EpochReport(epoch=epoch, seconds=seconds, **{**values, **changes})


@pytest.fixture
def cells(toy: Prepared, tmp_path: Path) -> list[Cell]:
    """Two seeds of two models, in the order sasrec 1, gru4rec 1, sasrec 2, gru4rec 2."""
    return plan(
        results_dir=tmp_path, datasets=[toy], models=["sasrec", "gru4rec"], seeds=[1, 2],
        overrides=Overrides.of({"patience": 4}),
    )  # fmt: skip


def ended(cell: Cell, *, n_epochs: int, seconds: float, status: Any = "finished") -> RunRecord:
    return RunRecord(
        path=cell.path, dataset=cell.dataset, model=cell.model, display=cell.model, config_id=cell.config_id,
        seed=cell.seed, status=status, n_epochs=n_epochs,
        seconds={"train": seconds - 10, "valid": 6.0, "rank_test": 4.0, "epoch": 1.0},
    )  # fmt: skip


def test_the_first_epoch_counts_neither_the_start_nor_the_first_step() -> None:
    """Loading and the first step take 60 s, the other nine steps 1 s each, validation 2 s: an epoch takes 12 s."""
    clock = Clock()
    times = EpochTimes(clock)
    clock.time += 60
    for step in range(1, 11):
        times.step(step, 10)
        clock.time += 1 if step < 10 else 2
    times.epoch(report(1, seconds=69.0))
    assert times.pace == pytest.approx(12.0)
    clock.time += 11.5
    times.epoch(report(2, seconds=9.0))
    assert times.seconds == pytest.approx([12.0, 11.5])


def test_epochs_that_a_log_tells_at_once_take_the_seconds_that_they_report() -> None:
    times = EpochTimes(Clock())
    for epoch in (1, 2, 3):
        times.epoch(report(epoch, seconds=3.0))
    assert times.pace == 3.0


def test_a_bound_stays_a_bound_until_a_seed_ends(cells: list[Cell]) -> None:
    left = TimeLeft()
    left.plan(cells, 1)
    assert left.text() == ""
    left.epoch([cells[0]], 2.0, report(10))  # 90 epochs of this seed, 100 of the other
    assert left.text() == "at most 6:20 left for 2 of 4 runs; others not timed yet"
    left.ends(cells[0], ended(cells[0], n_epochs=30, seconds=70.0))
    assert left.text() == "about 1:10 left for 1 of 3 runs; others not timed yet"
    left.ends(cells[1], ended(cells[1], n_epochs=0, seconds=0.0, status="failed"))
    assert left.text() == "about 1:10 left for 1 of 2 runs; others not timed yet"
    # The first seed had 30 epochs, so 20 of this seed are left: 40 s.
    left.epoch([cells[2]], 2.0, report(10))
    assert left.text() == "about 0:40 left for 1 of 2 runs; others not timed yet"
    left.epoch(
        [cells[2]], 2.0, report(29, best_epoch=28)
    )  # patience ends 4 epochs after the best at the earliest
    assert left.text() == "about 0:06 left for 1 of 2 runs; others not timed yet"
    left.epoch([cells[2]], 2.0, report(99, best_epoch=99))
    assert left.text() == "about 0:02 left for 1 of 2 runs; others not timed yet"
    left.ends(cells[2], ended(cells[2], n_epochs=99, seconds=200.0))
    assert left.text() == "", "of a single run its own line tells"


def test_runs_side_by_side_share_the_time(cells: list[Cell]) -> None:
    left = TimeLeft()
    left.plan(cells, 2)
    for cell in cells[:2]:
        left.epoch([cell], 1.0, report(50))
    assert left.text() == "about 2:30 left for 4 runs"  # (2 * 50 + 2 * 100) / 2


def test_a_stack_shares_the_seconds_of_its_epochs(cells: list[Cell]) -> None:
    left = TimeLeft()
    left.plan(cells[::2], 1)
    left.epoch(cells[::2], 8.0, report(90, n_runs=2))  # 10 epochs of 8 s for both
    assert left.text() == "at most 1:20 left for 2 runs"


def test_runs_that_were_finished_before_tell_the_length(cells: list[Cell]) -> None:
    """Their seconds may be those of another machine; the pace of this one counts as soon as it is known."""
    left = TimeLeft()
    left.plan(cells[1:], 1)
    left.stored(cells[0], ended(cells[0], n_epochs=40, seconds=1000.0))
    assert left.text() == "about 16:40 left for 1 of 3 runs; others not timed yet"
    left.epoch([cells[2]], 2.0, report(10))
    assert left.text() == "about 1:00 left for 1 of 3 runs; others not timed yet"


def test_lines_without_a_terminal_say_it_too(cells: list[Cell]) -> None:
    lines: list[str] = []
    run = RunLines(lines.append)
    run.missing(cells[::2], 1)
    training = run.begins(cells[:1], 1, 2)
    training.epoch(report(90))
    assert lines[-1].endswith("1.0 s  at most 0:10 left  at most 1:50 left for 2 runs")


@pytest.fixture
def two_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """SASRec with two epochs of pre-training."""
    model = registry.find("sasrec").load()
    monkeypatch.setattr(model, "stages", (Stage(name="pretrain", epochs=2), Stage()))


@pytest.mark.usefixtures("two_stages")
def test_epochs_of_all_stages_are_left(toy: Prepared, tmp_path: Path) -> None:
    settings = {"hidden_dim": 8, "inner_dim": 8, "max_epochs": 3, "batch_size": 512}
    cell = plan(
        results_dir=tmp_path, datasets=[toy], models=["sasrec"], seeds=[1], overrides=Overrides.of(settings)
    )[0]
    outlooks: list[Outlook] = []
    lines: list[str] = []
    watcher = RunLines(lines.append).begins([cell], 1, 1)
    torch.set_num_threads(1)
    trainer = open_run(cell, "cpu", watcher).trainer
    assert trainer is not None
    trainer.on_log = lambda line, step: outlooks.append(trainer.outlook)
    trainer.fit()
    assert [(outlook.stage, outlook.n_epochs, outlook.n_left) for outlook in outlooks] == [
        (1, 2, 4), (1, 2, 3), (2, 3, 2), (2, 3, 1), (2, 3, 0),
    ]  # fmt: skip
    assert [outlook.n_total for outlook in outlooks] == [5] * 5
    words = [line.partition(": ")[2].split("  ")[0] for line in lines if "epoch" in line]
    of_stages = [f"stage 1/2 epoch {k}/2" for k in (1, 2)] + [f"stage 2/2 epoch {k}/3" for k in (1, 2, 3)]
    assert words == of_stages
    assert ["about" in line for line in lines if "left" in line] == [True] * 2 + [False] * 3


def test_a_stopped_training_has_no_epochs_left(toy: Prepared, tmp_path: Path) -> None:
    cell = plan(
        results_dir=tmp_path, datasets=[toy], models=["sasrec"], seeds=[1],
        overrides=Overrides.of({"hidden_dim": 8, "max_epochs": 5, "batch_size": 512}),
    )[0]  # fmt: skip
    trainer = open_run(cell, "cpu").trainer
    assert trainer is not None
    trainer.progress = replace(trainer.progress, epoch=2, stopped="patience")
    assert (trainer.outlook.n_done, trainer.outlook.n_left) == (2, 0)
