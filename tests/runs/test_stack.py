"""Several seeds as cells: which of them have results when one fails or the run stops half way, what records say."""

import re
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mmbench.data.store import Prepared
from mmbench.evaluation import ranking
from mmbench.nn import losses
from mmbench.runs import execute
from mmbench.runs.execute import run_stack
from mmbench.runs.overrides import Overrides
from mmbench.runs.plan import Cell
from mmbench.runs.schedule import plan
from mmbench.runs.store import RunRecord
from mmbench.training.files import LOG
from mmbench.training.learner import Learner
from mmbench.training.progress import EpochReport
from mmbench.training.trainer import Trainer
from tests.training.test_stack import SEEDS, alone, assert_close, fit, make

__all__ = ["alone"]  # a fixture: the seeds, each trained by itself

SMALL = {"hidden_dim": 8, "inner_dim": 8, "batch_size": 64, "max_epochs": 3}


def cells_of(toy: Prepared, folder: Path, model: str, seeds: Sequence[int] = (1, 2, 3)) -> list[Cell]:
    chosen = {key: value for key, value in SMALL.items() if model == "sasrec" or key != "inner_dim"}
    return plan(
        results_dir=folder,
        datasets=[toy],
        models=[model],
        seeds=seeds,
        overrides=Overrides(everywhere=chosen),
    )


class Heard:
    """A watcher of a stack that keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def step(self, epoch: int, step: int, n_steps: int, terms: dict[str, float]) -> None: ...
    def epoch(self, report: EpochReport) -> None: ...
    def note(self, text: str) -> None:
        self.notes.append(text)


def run(cells: Sequence[Cell], watcher: Heard | None = None) -> dict[int, RunRecord]:
    """Records by seed, in the order of their ends."""
    return {record.seed: record for record in run_stack(cells, device="cpu", watcher=watcher)}


@pytest.mark.parametrize("model", ["sasrec", "gru4rec"])
def test_memory_that_a_ranking_lacks_once_fails_one_seed(
    model: str, toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, calls = ranking._chunks, [0]

    def chunks(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return inner(*given)

    monkeypatch.setattr(ranking, "_chunks", chunks)
    records = run(cells_of(toy, tmp_path, model))
    assert sorted(record.status for record in records.values()) == ["failed", "finished", "finished"]
    (failed,) = (record for record in records.values() if record.status == "failed")
    assert ", validation: CUDA out of memory; the ranking needs more: " in failed.reason
    assert not (failed.path / "traceback.txt").exists()


def test_an_unforeseen_error_of_a_seed_trained_alone_fails_that_seed(
    toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = Trainer.step

    def step(self: Trainer, *given: Any) -> Any:
        if self.seed == 2:
            raise RuntimeError("cuDNN error")
        return inner(self, *given)

    monkeypatch.setattr(Trainer, "step", step)
    records = run(cells_of(toy, tmp_path, "gru4rec"))
    assert {seed: record.status for seed, record in records.items()} == {
        1: "finished",
        2: "failed",
        3: "finished",
    }
    assert re.fullmatch(r"trainer\.py:\d+ in train_epoch\(\): RuntimeError: cuDNN error", records[2].reason)
    assert "in step" in (records[2].path / "traceback.txt").read_text(encoding="utf-8")


def test_seeds_that_cannot_be_stacked_end_one_after_another(
    toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half way half of them are finished, and no more than one model is held."""
    inner, models = execute.build_model, list[Any]()

    def build(*given: Any) -> Any:
        assert [model for model in models if model() is not None] == []
        made = inner(*given)
        models.append(weakref.ref(made[0]))
        return made

    monkeypatch.setattr(execute, "build_model", build)
    cells, heard = cells_of(toy, tmp_path, "gru4rec"), Heard()
    ended = run_stack(cells, device="cpu", watcher=heard)
    assert next(ended).seed == 1
    assert [(cell.path / LOG).is_file() for cell in cells] == [True, False, False]
    assert [record.seed for record in ended] == [2, 3]
    assert heard.notes == ["trained seed after seed: its loss is not computed for several models at once"]


def test_a_seed_that_cannot_be_opened_changes_nothing_for_the_others(
    toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = execute.build_model

    def build(cell: Cell, *given: Any) -> Any:
        if cell.seed == 1:
            raise RuntimeError("no memory")
        return inner(cell, *given)

    monkeypatch.setattr(execute, "build_model", build)
    heard = Heard()
    records = run(cells_of(toy, tmp_path, "gru4rec"), heard)
    assert [records[seed].status for seed in (1, 2, 3)] == ["failed", "finished", "finished"]
    assert len(heard.notes) == 1
    assert list(run_stack([])) == []


def fails_once(trainer: Trainer, method: str, call: int, error: Exception) -> None:
    """At the given call of a trainer's method."""
    inner, left = getattr(trainer, method), [call]

    def work(*given: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise error
        return inner(*given, **named)

    setattr(trainer, method, work)


@pytest.mark.parametrize("size", [1, 10])
@pytest.mark.parametrize(
    ("method", "call"),
    [("begin", 1), ("validate", 1), ("validate", 2), ("_save", 2), ("plan_epoch", 1), ("plan_epoch", 2)],
)
def test_an_unforeseen_error_of_one_seed_stops_that_seed_only(
    method: str, call: int, size: int, alone: list[Trainer], tmp_path: Path
) -> None:
    stacked = [make(tmp_path, seed) for seed in SEEDS]
    error = OSError(5, "Input/output error") if method == "_save" else RuntimeError("")
    fails_once(stacked[1], method, call, error)
    faults = fit(stacked, size=size, watcher=RealView())
    # What failed in the pass of all went well alone.
    expected = None if size > 1 and method == "plan_epoch" else error
    assert faults == {3: None, 5: expected, 8: None}
    for k in (0, 2):
        assert_close(stacked[k], alone[k])


class RealView:
    """A watcher that reads of each run what the command line's reads."""

    def step(self, *given: Any) -> None: ...
    def note(self, text: str) -> None: ...
    def epoch(self, report: EpochReport) -> None:
        assert report.seconds >= 0
        assert report.valid


def test_memory_that_ran_out_is_told_in_the_record_of_its_seed(
    toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, seeds, rows = Learner.gradients, list[int](), dict[int, set[int]]()
    begin = Trainer.begin

    def begin_one(self: Trainer) -> None:
        seeds.append(self.seed)
        begin(self)

    def gradients(self: Learner, batch: Any) -> Any:
        seed = seeds[-1]  # they are trained one after another
        rows.setdefault(seed, set()).add(losses.rows_of_logits())
        if seed == 1 and losses.rows_of_logits() > 300:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return inner(self, batch)

    monkeypatch.setattr(Trainer, "begin", begin_one)
    monkeypatch.setattr(Learner, "gradients", gradients)
    records = run(cells_of(toy, tmp_path, "gru4rec", [1, 2]), heard := Heard())
    assert rows == {1: {512, 256}, 2: {512}}
    less = "out of GPU memory; continued with 256 rows of logits at once"
    assert records[1].environment["notes"] == [*heard.notes, less]
    assert records[2].environment["notes"] == heard.notes
    assert len(heard.notes) == 1
    single = execute.run_cell(cells_of(toy, tmp_path / "single", "gru4rec", [1])[0], device="cpu")
    assert single.environment["notes"] == [less]
    calm = execute.run_cell(cells_of(toy, tmp_path / "single", "gru4rec", [2])[0], device="cpu")
    assert "notes" not in calm.environment


@pytest.mark.parametrize(("model", "n_stages"), [("sasrec-ensemble:separate", 3), ("sasrec", 1)])
def test_a_record_counts_the_epochs_of_all_stages(
    model: str, n_stages: int, toy: Prepared, tmp_path: Path
) -> None:
    record = run(cells_of(toy, tmp_path, model, [1]))[1]
    assert (record.status, record.n_epochs) == ("finished", 3 * n_stages)
    assert (record.path / LOG).read_text(encoding="utf-8").count("\n") == record.n_epochs
    stages = [point.get("stage") for point in record.curve]
    assert stages == ([None] * 3 if n_stages == 1 else [0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert [point["epoch"] for point in record.curve] == [1, 2, 3] * n_stages
