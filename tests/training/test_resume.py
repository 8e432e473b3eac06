"""What a killed training ends with, wherever it is killed: the weights, log and progress of one in peace."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmbench.errors import RunError
from mmbench.models.base import Recommender, Stage
from mmbench.models.needs import Needs, Negatives
from mmbench.training import checkpoint
from mmbench.training.files import BEST, CANDIDATE, LOG, RESUME
from tests.scorers import state_of
from tests.toy_training import (
    CONFIG,
    STAGES,
    DiskKilled,
    KillAt,
    KilledError,
    log_of,
    make,
    new_bias,
    same,
    scripted,
    without_times,
)


def assert_same_end(folder: Path, settings: dict[str, Any], kills: list[tuple[str, int]]) -> None:
    """Train once in peace and once with kills; everything that is kept must be the same to the last bit."""
    whole = make(folder / "whole", **settings)
    expected = whole.fit()
    for method, call in kills:
        trainer = make(folder / "killed", **settings)
        KillAt(trainer, method, call)
        with pytest.raises(KilledError):
            trainer.fit()
    last = make(folder / "killed", **settings)
    actual = last.fit()
    assert without_times(actual) == without_times(expected)
    assert len(actual.epoch_seconds) == len(expected.epoch_seconds)
    assert log_of(folder / "killed") == log_of(folder / "whole")
    assert same(state_of(last.model), state_of(whole.model))
    for name in (BEST, RESUME):
        a, b = (checkpoint.load_tensors(folder / run / name)[0] for run in ("whole", "killed"))
        assert same(a, b), name


CASES: dict[str, dict[str, Any]] = {
    "adam": {},
    "adamw, schedule": {
        "config": replace(CONFIG, optimizer="adamw", lr_schedule="exponential", lr_gamma=0.8)
    },
    "sgd, clip": {"config": replace(CONFIG, optimizer="sgd", grad_clip=0.1, decay_1d=False)},
    "negatives": {"needs": Needs(extras=(Negatives(k=2),))},
    "eval every 2": {"config": replace(CONFIG, eval_every=2, max_epochs=5)},
    "two stages": {"stages": STAGES, "on_stage": new_bias, "config": replace(CONFIG, max_epochs=4)},
}


@pytest.mark.parametrize("case", CASES)
def test_a_killed_training_ends_like_an_undisturbed_training(case: str, tmp_path: Path) -> None:
    settings = CASES[case]
    whole = make(tmp_path / "count", **settings)
    counter = KillAt(whole, "step", 10**9)
    whole.fit()
    n_steps = 10**9 - counter.left
    assert n_steps > 10
    rng = random.Random(case)
    kills = [("step", rng.randint(1, n_steps // 4)) for _ in range(3)] + [("files.log", 1), ("_validate", 1)]
    assert_same_end(tmp_path, settings, kills)


WRITES = [(method, call) for method in ("_save", "files.log", "_validate") for call in (1, 2, 3)]


@pytest.mark.parametrize(("method", "call"), [*WRITES, ("start_stage", 1), ("start_stage", 2)])
def test_a_kill_at_any_write_of_two_stages_changes_nothing(method: str, call: int, tmp_path: Path) -> None:
    assert_same_end(tmp_path, CASES["two stages"], [(method, call)])


def test_a_kill_between_best_and_resume_changes_nothing(tmp_path: Path) -> None:
    """The weights of the last epoch are then written, and resume.safetensors does not know of them."""
    settings = {"validate": lambda model: float(model.bias.detach().abs().sum())}  # every epoch is a new best
    assert_same_end(tmp_path, settings, [("files.log", 3), ("_save", 2)])


def test_the_weights_of_an_abandoned_epoch_are_no_result(tmp_path: Path) -> None:
    """The third epoch is the best until a kill; done again, with other noise, it is none."""
    first = make(tmp_path, validate=scripted([0.1, 0.2, 0.9]))
    KillAt(first, "_save", 3)
    with pytest.raises(KilledError):
        first.fit()
    assert (tmp_path / CANDIDATE).is_file()
    last = make(tmp_path, validate=scripted([0.1] * 4))
    assert last.fit().best_epoch == 2
    two = make(tmp_path / "two", config=replace(CONFIG, max_epochs=2), validate=scripted([0.1, 0.2]))
    two.fit()
    assert same(state_of(last.model), state_of(two.model))
    assert checkpoint.load_tensors(tmp_path / BEST)[1] == {"stage": 0, "epoch": 2}


def noisy(seen: dict[tuple[int, int], Any], noise: random.Random, holder: list[Any]) -> Any:
    """A validation with another value at each call; keeps the weights of each place, of its last validation."""

    def validate(model: Recommender[Any]) -> float:
        seen[holder[0].stage_epoch] = state_of(model)
        return noise.random()

    return validate


@pytest.mark.parametrize("seed", [1, 2])
def test_best_weights_are_those_of_the_best_epoch_wherever_a_kill_falls(seed: int, tmp_path: Path) -> None:
    """Two stages that each load their best, killed at every flush and rename, with noise that no kill repeats."""
    stages, call, killed = (Stage(name="a"), Stage(name="b")), 0, True
    while killed:
        call += 1
        seen: dict[tuple[int, int], Any] = {}
        noise, holder, folder = random.Random(seed * 1000 + call), list[Any](), tmp_path / str(call)
        settings = {"stages": stages, "config": replace(CONFIG, max_epochs=3, batch_size=500)}
        with pytest.MonkeyPatch.context() as patch:
            DiskKilled(patch, call)
            holder[:] = [make(folder, validate=noisy(seen, noise, holder), **settings)]
            try:
                holder[0].fit()
                killed = False
            except KilledError:
                pass
        entered: list[Any] = []  # weights at the start of each stage
        stage = checkpoint.load_tensors(folder / RESUME)[1]["stage"] if (folder / RESUME).is_file() else 0
        last = make(folder, validate=noisy(seen, noise, holder), **settings)
        last.model.on_stage = lambda model, name, kept=entered: kept.append(state_of(model))  # type: ignore[assignment]
        holder[:] = [last]
        actual = last.fit()
        assert same(state_of(last.model), seen[1, actual.best_epoch]), call
        facts = checkpoint.load_tensors(folder / BEST)[1]
        assert facts == {"stage": 1, "epoch": actual.best_epoch}, call
        assert not (folder / CANDIDATE).exists()
        if stage == 0:  # the first stage ended, with its own best weights, after the kill
            first_best = max(actual.curve[:3], key=lambda point: point["NDCG@20"])["epoch"]
            assert same(entered[1], seen[0, int(first_best)]), call
    assert call > 20


def test_best_weights_of_another_epoch_are_refused(tmp_path: Path) -> None:
    trainer = make(tmp_path, validate=scripted([0.3, 0.2, 0.1, 0.1, 0.1, 0.1]))
    KillAt(trainer, "files.load_best", 1)
    with pytest.raises(KilledError):
        trainer.fit()
    checkpoint.save_tensors(tmp_path / BEST, checkpoint.model_tensors(trainer.model), {"epoch": 6})
    with pytest.raises(RunError, match=r"best.safetensors holds epoch 6, but epoch 1 is the best; remove it"):
        make(tmp_path).fit()


def test_a_log_line_cut_short_is_dropped(tmp_path: Path) -> None:
    trainer = make(tmp_path / "killed")
    KillAt(trainer, "step", 25)
    with pytest.raises(KilledError):
        trainer.fit()
    with (tmp_path / "killed" / LOG).open("a") as file:
        file.write('{"stage": 0, "epoch": 3, "los')
    make(tmp_path / "killed").fit()
    make(tmp_path / "whole").fit()
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")


def test_a_finished_training_trains_no_more(tmp_path: Path) -> None:
    first = make(tmp_path)
    first.fit()
    again = make(tmp_path)
    KillAt(again, "step", 1)
    again.fit()
    assert same(state_of(first.model), state_of(again.model))
    assert len(log_of(tmp_path)) == CONFIG.max_epochs


def test_damaged_or_foreign_resume_files_are_one_line(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    trainer.fit()
    good = (tmp_path / RESUME).read_bytes()
    for damaged in (good[: len(good) // 2], b"", b"x" * 100):
        (tmp_path / RESUME).write_bytes(damaged)
        with pytest.raises(RunError, match="not a checkpoint"):
            make(tmp_path).fit()
    (tmp_path / RESUME).write_bytes(good)
    tensors, facts = checkpoint.load_tensors(tmp_path / RESUME)
    checkpoint.save_tensors(tmp_path / RESUME, tensors, {**facts, "from_the_future": 1})
    with pytest.raises(RunError, match="another version"):
        make(tmp_path).fit()
