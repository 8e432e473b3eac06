"""Several seeds trained as one end as they end alone, whatever happens to their fellows."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import vmap

from mmbench.errors import RunError, UsageError
from mmbench.models.base import Recommender
from mmbench.nn import losses
from mmbench.nn.layers import dropout
from mmbench.settings.config import TrainConfig
from mmbench.training.devices import stack_size
from mmbench.training.files import BEST, PREVIOUS, RESUME
from mmbench.training.progress import EpochReport
from mmbench.training.stack import Stack, fit_together, why_not
from mmbench.training.trainer import Trainer
from tests.models.toy import catalog_of, toy_model, toy_view
from tests.scorers import state_of
from tests.toy_training import DiskKilled, KillAt, KilledError, by_weights, log_of, same

VIEW = toy_view(longest=11)
CATALOG = catalog_of(VIEW, n_items=30)
SMALL = {"hidden_dim": 8, "inner_dim": 8, "n_heads": 2}
# The bias of the keys has no gradient but rounding, which Adam with its usual epsilon would blow up.
CONFIG = TrainConfig(
    max_len=8,
    batch_size=16,
    max_epochs=5,
    patience=50,
    lr=0.01,
    weight_decay=0.01,
    adam_eps=1e-4,
    precision="float64",
)
SEEDS = (3, 5, 8)
Validate = Callable[[Recommender[Any]], float]


def constant(model: Recommender[Any]) -> float:
    return 0.0


def stops_after(epochs: int) -> Validate:
    """Better for so many epochs, then never again."""
    left = iter([*range(1, epochs + 1), *[0] * 100])
    return lambda model: float(next(left))


def make(
    folder: Path,
    seed: int,
    *,
    config: TrainConfig = CONFIG,
    validate: Validate = constant,
    name: str = "sasrec",
    rate: float = 0.0,
    **own: Any,
) -> Trainer:
    model = toy_model(name, CATALOG, seed=seed, **SMALL, dropout=rate, attn_dropout=rate, **own).double()
    place = folder / f"seed_{seed}"
    place.mkdir(parents=True, exist_ok=True)
    return Trainer(model, VIEW, validate, config, seed=seed, folder=place)


def fit(trainers: Sequence[Trainer], size: int = 10, watcher: Any = None) -> dict[int, Exception | None]:
    return {
        trainers[number].seed: fault for number, fault in fit_together(trainers, size=size, watcher=watcher)
    }


def assert_close(found: Trainer, expected: Trainer) -> None:
    for name, parameter in expected.model.named_parameters():
        assert torch.allclose(found.model.get_parameter(name), parameter, rtol=1e-8, atol=1e-10), name
    a, b = found.progress, expected.progress
    assert (a.epoch, a.step, a.best_epoch, a.stopped) == (b.epoch, b.step, b.best_epoch, b.stopped)
    lines, other = log_of(found.folder), log_of(expected.folder)
    assert [line["epoch"] for line in lines] == [line["epoch"] for line in other]
    for line, wanted in zip(lines, other, strict=True):
        assert line["loss"] == pytest.approx(wanted["loss"], rel=1e-9)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[Trainer]:
    """Return the seeds, each trained by itself; nobody trains them any further."""
    folder = tmp_path_factory.mktemp("alone")
    trainers = [make(folder, seed) for seed in SEEDS]
    for trainer in trainers:
        trainer.fit()
    return trainers


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Trainer]:
    """Return a stack that was trained with dropout in peace; nobody trains it any further."""
    folder = tmp_path_factory.mktemp("undisturbed")
    trainers = [make(folder, seed, rate=0.3) for seed in SEEDS]
    fit(trainers)
    return trainers


CASES: dict[str, TrainConfig] = {
    "adam": CONFIG,
    "adamw, schedule, warm-up": replace(
        CONFIG, optimizer="adamw", decay_1d=False, lr_schedule="exponential", lr_gamma=0.8, warmup_steps=9
    ),
    "sgd, clip": replace(CONFIG, optimizer="sgd", lr=0.5, grad_clip=0.2),
    "prefix": replace(CONFIG, samples="prefix"),
    "rows": replace(CONFIG, samples="prefix", batch_unit="rows"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_seed_in_a_stack_is_the_seed_alone(case: str, tmp_path: Path) -> None:
    """Float64, without dropout: weights, losses of every epoch, step counts."""
    alone = [make(tmp_path / "alone", seed, config=CASES[case]) for seed in SEEDS]
    for scores in alone:
        scores.fit()
    stacked = [make(tmp_path / "stack", seed, config=CASES[case]) for seed in SEEDS]
    assert fit(stacked) == dict.fromkeys(SEEDS)
    for found, expected in zip(stacked, alone, strict=True):
        assert_close(found, expected)
    assert not same(state_of(stacked[0].model), state_of(stacked[1].model))
    assert [run.progress.stack for run in stacked] == [list(SEEDS)] * 3
    assert alone[0].progress.stack == []


def test_negatives_are_those_of_the_seed_alone(tmp_path: Path) -> None:
    alone, stacked = (
        [make(tmp_path / kind, seed, loss="bce") for seed in SEEDS] for kind in ("alone", "stack")
    )
    for scores in alone:
        scores.fit()
    fit(stacked)
    for found, expected in zip(stacked, alone, strict=True):
        assert_close(found, expected)


def test_each_seed_stops_on_its_own(tmp_path: Path) -> None:
    config, last = replace(CONFIG, patience=2, max_epochs=9), {3: 4, 5: 1, 8: 2}
    trainers, alone = (
        [make(tmp_path / kind, seed, config=config, validate=stops_after(n)) for seed, n in last.items()]
        for kind in ("stack", "alone")
    )
    order = list(fit(trainers))
    assert order == [5, 8, 3], "each run is given out when it stops"
    for found, expected in zip(trainers, alone, strict=True):
        expected.fit()
        assert found.progress.epoch == last[found.seed] + 2
        assert found.progress.stopped == "patience"
        assert_close(found, expected)


@pytest.mark.parametrize("size", [1, 2])
def test_a_smaller_stack_takes_the_seeds_in_turn(size: int, alone: list[Trainer], tmp_path: Path) -> None:
    stacked = [make(tmp_path, seed) for seed in SEEDS]
    ended = fit_together(stacked, size=size)
    assert next(ended) == (0, None)
    assert stacked[-1].stage_epoch == (0, 0), "the first are trained to their ends before the next begin"
    assert [number for number, _ in ended] == [1, 2]
    for found, expected in zip(stacked, alone, strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("files.save", 1),
        ("files.save", 3),
        ("files.log", 2),
        ("validate", 3),
        ("plan_epoch", 2),
        ("files.settle", 2),
    ],
)
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_killed_stack_ends_like_an_undisturbed_stack(
    method: str, call: int, victim: int, undisturbed: list[Trainer], tmp_path: Path
) -> None:
    """With dropout: after a kill between two runs' checkpoints all train that epoch again, with the same noise."""
    killed = [make(tmp_path / "killed", seed, rate=0.3) for seed in SEEDS]
    KillAt(killed[victim], method, call)
    with pytest.raises(KilledError):
        fit(killed)
    again = [make(tmp_path / "killed", seed, rate=0.3) for seed in SEEDS]
    assert fit(again) == dict.fromkeys(SEEDS)
    for resumed, expected in zip(again, undisturbed, strict=True):
        assert same(state_of(resumed.model), state_of(expected.model))
        assert log_of(resumed.folder) == log_of(expected.folder)
        assert not (resumed.folder / PREVIOUS).exists()


def test_a_stack_killed_at_any_file_operation_ends_like_an_undisturbed_stack(tmp_path: Path) -> None:
    """Every flush and every rename, two seeds, with dropout, one of them stopping early."""
    config = replace(CONFIG, max_epochs=4, patience=1, batch_size=128)

    def trainers(folder: Path) -> list[Trainer]:
        rules = {
            3: by_weights,
            5: lambda model: float(sum(p.detach().abs().sum() for p in model.parameters())),
        }
        return [make(folder, seed, config=config, rate=0.3, validate=rule) for seed, rule in rules.items()]

    whole = trainers(tmp_path / "whole")
    fit(whole)
    assert {trainer.progress.epoch for trainer in whole} == {2, 4}
    call, is_killed = 0, True
    while is_killed:
        call += 1
        folder = tmp_path / str(call)
        with pytest.MonkeyPatch.context() as patch:
            DiskKilled(patch, call)
            try:
                fit(trainers(folder))
                is_killed = False
            except KilledError:
                pass
        again = trainers(folder)
        fit(again)
        for resumed, expected in zip(again, whole, strict=True):
            assert same(state_of(resumed.model), state_of(expected.model)), call
            assert log_of(resumed.folder) == log_of(expected.folder), call
            assert not (resumed.folder / PREVIOUS).exists()
    assert call > 20


def test_a_stack_goes_on_alone_and_a_single_run_in_a_stack(alone: list[Trainer], tmp_path: Path) -> None:
    """Their files are the same, so `--stack` may change between a kill and the next start."""
    short = replace(CONFIG, max_epochs=2)
    fit([make(tmp_path / "first", seed, config=short) for seed in SEEDS])
    for seed in SEEDS:
        make(tmp_path / "second", seed, config=short).fit()
    for folder in ("first", "second"):
        for seed in SEEDS:
            assert (tmp_path / folder / f"seed_{seed}" / RESUME).is_file()
    singles = [make(tmp_path / "first", seed) for seed in SEEDS]
    for trainer in singles:
        assert len(log_of(trainer.folder)) == 2
        trainer.fit()
    together = [make(tmp_path / "second", seed) for seed in SEEDS]
    fit(together)
    for resumed in (singles, together):
        for actual, expected in zip(resumed, alone, strict=True):
            assert_close(actual, expected)


def test_with_dropout_the_same_stack_gives_the_same_bits(undisturbed: list[Trainer], tmp_path: Path) -> None:
    stacked = [make(tmp_path / "stack", seed, rate=0.3) for seed in SEEDS]
    torch.manual_seed(1)  # what the process drew before must not matter
    fit(stacked)
    for actual, expected in zip(stacked, undisturbed, strict=True):
        assert same(state_of(actual.model), state_of(expected.model))
    single = make(tmp_path / "single", SEEDS[0], rate=0.3)
    single.fit()
    assert not same(state_of(single.model), state_of(stacked[0].model)), "the noise is the stack's"


def test_dropout_draws_for_each_model() -> None:
    found = vmap(lambda x: dropout(x, 0.5, True), randomness="different")(torch.ones(3, 4000))
    assert ((found == 0).double().mean(1) - 0.5).abs().max() < 0.05
    assert abs(((found[0] == 0) == (found[1] == 0)).double().mean().item() - 0.5) < 0.05


def test_a_run_that_fails_leaves_the_others_as_they_are(alone: list[Trainer], tmp_path: Path) -> None:
    stacked = [make(tmp_path, seed) for seed in SEEDS]
    with torch.no_grad():
        stacked[1].model.get_parameter("item_emb.weight")[5, 0] = float("nan")
    faults = fit(stacked)
    assert isinstance(faults[5], RunError)
    assert "epoch 1, batch 1: loss term 'ce' is nan; lower lr (now 0.01)" in str(faults[5])
    assert [faults[3], faults[8]] == [None, None]
    for k in (0, 2):
        assert_close(stacked[k], alone[k])
    assert not (stacked[1].folder / BEST).exists()


class Notes:
    """A watcher that keeps what it hears."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.epochs: list[tuple[int, int]] = []
        self.steps: list[tuple[int, int, int]] = []

    def step(self, epoch: int, step: int, n_steps: int, terms: dict[str, float]) -> None:
        assert set(terms) == {"ce"}
        self.steps.append((epoch, step, n_steps))

    def epoch(self, report: EpochReport) -> None:
        self.epochs.append((report.epoch, report.n_runs))

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_the_watcher_hears_steps_and_epochs(tmp_path: Path) -> None:
    notes = Notes()
    fit([make(tmp_path, seed, config=replace(CONFIG, max_epochs=2)) for seed in SEEDS], watcher=notes)
    n_steps = notes.steps[0][2]
    assert n_steps > 3
    assert notes.steps == [(epoch, step, n_steps) for epoch in (1, 2) for step in range(1, n_steps + 1)]
    assert notes.epochs == [(1, 3), (2, 3)]
    assert notes.notes == []


def test_out_of_memory_makes_smaller_stacks_and_says_so(
    alone: list[Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = Stack.step

    def step(self: Stack, *given: Any) -> Any:
        if len(self.trainers) > 1 and (losses.rows_of_logits() > 64 or len(self.trainers) > 2):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return inner(self, *given)

    monkeypatch.setattr(Stack, "step", step)
    stacked, notes = [make(tmp_path / "stack", seed) for seed in SEEDS], Notes()
    assert fit(stacked, watcher=notes) == dict.fromkeys(SEEDS)
    assert notes.notes == [
        *(f"out of GPU memory; continued with {n} rows of logits at once" for n in (256, 128, 64)),
        "out of GPU memory; continued with 2 seeds at once",
    ]
    assert [run.progress.notes for run in stacked] == [notes.notes] * 3
    assert losses.rows_of_logits() == losses.ROWS_OF_LOGITS
    for found, expected in zip(stacked, alone, strict=True):
        assert_close(found, expected)


def test_a_model_that_torch_cannot_stack_is_trained_seed_after_seed(
    alone: list[Trainer], tmp_path: Path
) -> None:
    """A user's own model need not know of stacks."""

    def looks_at_values(trainer: Trainer) -> Trainer:
        inner = trainer.model.loss

        def loss(batch: Any) -> Any:
            terms = inner(batch)
            return terms if terms["ce"].detach() > 0 else {}

        trainer.model.loss = loss  # type: ignore[method-assign]
        return trainer

    stacked, notes = [looks_at_values(make(tmp_path / "stack", seed)) for seed in SEEDS], Notes()
    assert fit(stacked, watcher=notes) == dict.fromkeys(SEEDS)
    assert len(notes.notes) == 1
    assert notes.notes[0].startswith("trained seed after seed, the stack failed: ")
    assert [run.progress.notes for run in stacked] == [notes.notes] * 3
    assert [run.progress.stack for run in stacked] == [[], [], []], "the record must not claim a stack"
    for found, expected in zip(stacked, alone, strict=True):
        assert_close(found, expected)


def test_which_runs_cannot_be_stacked(tmp_path: Path) -> None:
    assert why_not(make(tmp_path, 1)) == ""
    by_rows = replace(CONFIG, batch_unit="rows")
    assert "different numbers of targets" in why_not(make(tmp_path, 1, config=by_rows))
    assert why_not(make(tmp_path, 1, config=replace(by_rows, samples="prefix"))) == ""
    recurrent = Trainer(toy_model("gru4rec", CATALOG), VIEW, constant, CONFIG, seed=1, folder=tmp_path)
    assert "several models at once" in why_not(recurrent)


def test_sizes_of_stacks() -> None:
    assert (stack_size("auto", "cpu"), stack_size("off", "cuda"), stack_size("4", "cpu")) == (1, 1, 4)
    assert stack_size("auto", "cuda:1") > 1
    for wrong in ("0", "-1", "on", "1.5", ""):
        with pytest.raises(UsageError, match="must be auto, off or a number of seeds"):
            stack_size(wrong, "cpu")
