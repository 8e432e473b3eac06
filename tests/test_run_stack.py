"""Several seeds as cells: which of them have results when one fails or the run stops half way, what records say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mmbench import evaluate
from mmbench.cell import Cell
from mmbench.data.store import Prepared
from mmbench.experiment import run_stack
from mmbench.results import RunRecord
from mmbench.run import Overrides, plan
from mmbench.train import Trainer

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
    def epoch(self, runs: list[Any]) -> None: ...
    def note(self, text: str) -> None:
        self.notes.append(text)


def run(cells: Sequence[Cell], watcher: Heard | None = None) -> dict[int, RunRecord]:
    """Records by seed, in the order of their ends."""
    return {record.seed: record for record in run_stack(cells, device="cpu", watcher=watcher)}


@pytest.mark.parametrize("model", ["sasrec", "gru4rec"])
def test_memory_that_a_ranking_lacks_once_fails_one_seed(
    model: str, toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, calls = evaluate._rank, [0]

    def ranks(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return inner(*given)

    monkeypatch.setattr(evaluate, "_rank", ranks)
    records = run(cells_of(toy, tmp_path, model))
    assert sorted(one.status for one in records.values()) == ["failed", "finished", "finished"]
    (failed,) = (one for one in records.values() if one.status == "failed")
    assert ", validation: CUDA out of memory; the ranking needs more: " in failed.reason
    assert not (failed.path / "traceback.txt").exists()


def test_an_unforeseen_error_of_a_seed_trained_alone_fails_that_seed(
    toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = Trainer._step

    def step(self: Trainer, *given: Any) -> Any:
        if self.seed == 2:
            raise RuntimeError("cuDNN error")
        return inner(self, *given)

    monkeypatch.setattr(Trainer, "_step", step)
    records = run(cells_of(toy, tmp_path, "gru4rec"))
    assert {seed: one.status for seed, one in records.items()} == {1: "finished", 2: "failed", 3: "finished"}
    assert records[2].reason == "RuntimeError: cuDNN error"
    assert "in step" in (records[2].path / "traceback.txt").read_text()
