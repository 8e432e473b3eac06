"""The training loop: when it stops, what it keeps, what it refuses, what its batches hold."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmbench.errors import RunError
from mmbench.models.base import Recommender, Stage
from mmbench.models.needs import Needs, Negatives
from mmbench.settings.config import TrainConfig
from mmbench.training import checkpoint, progress
from mmbench.training.files import BEST, LOG
from mmbench.training.progress import EpochReport, Progress
from mmbench.training.trainer import Trainer
from tests.models.toy import catalog_of, toy_model, toy_view
from tests.scorers import Bilinear, state_of
from tests.toy_training import (
    CONFIG,
    N_ITEMS,
    N_USERS,
    STAGES,
    VIEW,
    KillAt,
    KilledError,
    by_weights,
    log_of,
    make,
    new_bias,
    same,
    scripted,
)


def run_scripted(folder: Path, values: list[float], **config: Any) -> tuple[Progress, Trainer]:
    trainer = make(folder, config=replace(CONFIG, **config), validate=scripted(values))
    return trainer.fit(), trainer


def test_early_stopping_counts_exactly_patience(tmp_path: Path) -> None:
    actual, _ = run_scripted(tmp_path, [0.1, 0.3, 0.2, 0.2, 0.2, 0.9], max_epochs=50, patience=3)
    assert (actual.epoch, actual.best_epoch, actual.best, actual.stopped) == (5, 2, 0.3, "patience")
    assert [line["bad"] for line in log_of(tmp_path)] == [0, 0, 1, 2, 3]


def test_a_gain_starts_the_count_anew_and_equal_is_no_gain(tmp_path: Path) -> None:
    actual, _ = run_scripted(tmp_path, [0.3, 0.3, 0.30000001, 0.30000001, 0.3], max_epochs=50, patience=2)
    assert (actual.epoch, actual.best_epoch, actual.best) == (5, 3, 0.30000001)


def test_recbole_s_rule_compares_four_digits_takes_equals_and_waits_once_more(tmp_path: Path) -> None:
    """Counted by hand after RecBole's `early_stopping`: the run ends when the count exceeds the patience."""
    values = [0.30001, 0.30004, 0.2, 0.29996, 0.2, 0.2, 0.2, 0.9]
    actual, _ = run_scripted(tmp_path, values, max_epochs=50, patience=2, patience_rule="recbole")
    assert [line["bad"] for line in log_of(tmp_path)] == [0, 0, 1, 0, 1, 2, 3]
    assert (actual.epoch, actual.best_epoch, actual.best, actual.stopped) == (7, 4, 0.29996, "patience")


def test_zero_on_validation_is_a_first_best(tmp_path: Path) -> None:
    actual, _ = run_scripted(tmp_path, [0.0, 0.0, 0.0], max_epochs=50, patience=2)
    assert (actual.epoch, actual.best_epoch, actual.best) == (3, 1, 0.0)


def test_max_epochs_stops_and_the_last_epoch_is_validated(tmp_path: Path) -> None:
    actual, _ = run_scripted(tmp_path, [0.1, 0.2, 0.3], max_epochs=5, eval_every=2)
    assert [int(point["epoch"]) for point in actual.curve] == [2, 4, 5]
    assert (actual.stopped, actual.best_epoch) == ("max_epochs", 5)


def test_the_best_weights_are_loaded_at_the_end(tmp_path: Path) -> None:
    snapshots: list[dict[str, Tensor]] = []
    values = iter([0.1, 0.5, 0.2, 0.4])

    def validate(model: Recommender[Any]) -> float:
        snapshots.append(state_of(model))
        return next(values)

    trainer = make(tmp_path, config=replace(CONFIG, max_epochs=4), validate=validate)
    assert trainer.fit().best_epoch == 2
    assert same(state_of(trainer.model), snapshots[1])
    assert not same(snapshots[1], snapshots[3])


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_names_epoch_batch_and_term(
    bad: float, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the loss is looked at every few steps only, and the batch is named all the same."""
    if device == "gpu":
        monkeypatch.setattr(progress, "CHECK_EVERY_ON", {"cpu": 5})

    class Diverging(Bilinear):
        def loss(self, batch: Any) -> dict[str, Tensor]:
            terms = super().loss(batch)
            is_bad = self.epochs[-1] == 2 and len([b for b in self.batches if b is not None]) == first + 3
            return {**terms, "extra": terms["ce"] * (bad if is_bad else 0.5)}

    counting = make(tmp_path / "count", config=replace(CONFIG, max_epochs=1))
    counting.fit()
    first = len(counting.model.batches)  # type: ignore[arg-type]
    trainer = make(tmp_path / "bad", model=Diverging(n_items=N_ITEMS, n_users=N_USERS))
    with pytest.raises(RunError, match=r"epoch 2, batch 3: loss term 'extra' is (nan|-?inf); lower lr"):
        trainer.fit()
    assert [line["epoch"] for line in log_of(tmp_path / "bad")] == [1]


def test_a_score_that_is_not_finite_names_the_epoch(tmp_path: Path) -> None:
    def validate(model: Recommender[Any]) -> float:
        raise RunError("user number 3 has no finite score")

    with pytest.raises(RunError, match=r"epoch 1, validation: user number 3"):
        make(tmp_path, validate=validate).fit()


def test_two_stages_train_in_their_own_way(tmp_path: Path) -> None:
    values = [0.1, 0.3, 0.2, 0.2]
    trainer = make(
        tmp_path, stages=STAGES, on_stage=new_bias, validate=scripted(values),
        config=replace(CONFIG, max_epochs=50, patience=2, warmup_steps=0),
    )  # fmt: skip
    model: Any = trainer.model
    before = state_of(model)
    KillAt(trainer, "start_stage", 2)
    with pytest.raises(KilledError):
        trainer.fit()
    pretrained = state_of(model)
    assert not torch.equal(pretrained["left.weight"], before["left.weight"])
    assert model.epochs == [1, 2]
    n_targets = sum(len(batch.target) for batch in model.batches)
    assert n_targets == 2 * int((np.diff(VIEW.offsets) - 1).sum())
    assert all((batch.segment.amax(1) >= 1).all() for batch in model.batches)

    later = make(
        tmp_path, stages=STAGES, on_stage=new_bias, validate=scripted(values),
        config=replace(CONFIG, max_epochs=50, patience=2, warmup_steps=0),
    )  # fmt: skip
    actual = later.fit()
    after: Any = later.model
    assert after.started[-1] == "finetune"
    assert after.epochs == [1, 2, 3, 4]
    assert (actual.epoch, actual.best_epoch, actual.stopped) == (4, 2, "patience")
    assert torch.equal(state_of(after)["left.weight"], pretrained["left.weight"]), "the frozen table moved"
    assert [(line["stage"], line["epoch"]) for line in log_of(tmp_path)] == [
        (0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (1, 4),
    ]  # fmt: skip
    assert all("valid" not in line for line in log_of(tmp_path)[:2])


def test_every_stage_with_early_stopping_looks_for_its_own_best(tmp_path: Path) -> None:
    """The second stage is worse than the first on validation, and is trained nevertheless, from the first's best."""
    entry: list[dict[str, Tensor]] = []
    snapshots: list[dict[str, Tensor]] = []
    values = iter([0.8, 0.9, 0.1, 0.1, 0.2, 0.3, 0.1, 0.1])

    def validate(model: Recommender[Any]) -> float:
        snapshots.append(state_of(model))
        return next(values)

    trainer = make(
        tmp_path, stages=(Stage(name="a"), Stage(name="b", settings={"lr": 0.1})), validate=validate,
        on_stage=lambda model, name: entry.append(state_of(model)),
        config=replace(CONFIG, patience=2, max_epochs=20),
    )  # fmt: skip
    actual = trainer.fit()
    assert (actual.stage, actual.epoch, actual.best_epoch, actual.best) == (2, 4, 2, 0.3)
    assert same(entry[1], snapshots[1]), "the second stage starts from the first's best weights"
    assert same(state_of(trainer.model), snapshots[5])
    assert [(point["stage"], point["epoch"]) for point in actual.curve] == [
        *((0, k) for k in (1, 2, 3, 4)), *((1, k) for k in (1, 2, 3, 4)),
    ]  # fmt: skip


def test_a_run_of_fixed_epochs_keeps_its_last_weights(tmp_path: Path) -> None:
    def validate(model: Recommender[Any]) -> float:
        raise AssertionError("a stage of fixed epochs is not validated")

    trainer = make(tmp_path, stages=(Stage(epochs=3),), validate=validate)
    actual = trainer.fit()
    assert (actual.epoch, actual.best_epoch, actual.stopped) == (3, 3, "fixed epochs")
    other = make(tmp_path / "other", stages=(Stage(epochs=3),), validate=validate)
    checkpoint.load_weights(other.model, tmp_path / BEST)
    assert same(state_of(trainer.model), state_of(other.model))


@pytest.mark.parametrize("n_stages", [1, 2])
def test_a_stage_of_no_epochs_trains_none(n_stages: int, tmp_path: Path) -> None:
    stages = (Stage(name="a", epochs=0), Stage(name="b", epochs=2))[:n_stages]
    trainer = make(tmp_path, stages=stages)
    before = state_of(trainer.model)
    actual = trainer.fit()
    assert (actual.epoch, actual.stopped) == (2 * (n_stages - 1), "fixed epochs")
    assert same(state_of(trainer.model), before) == (n_stages == 1)
    assert (tmp_path / LOG).is_file() == (n_stages == 2)


def test_epochs_differ_and_seeds_differ(tmp_path: Path) -> None:
    """Order, noise and negatives are drawn anew each epoch, and all depend on the seed."""
    seen = {}
    for seed in (1, 2):
        model = Bilinear(n_items=N_ITEMS, n_users=N_USERS, needs=Needs(extras=(Negatives(),)))
        folder = tmp_path / str(seed)
        folder.mkdir()
        trainer = Trainer(
            model, VIEW, by_weights, replace(CONFIG, max_epochs=2, batch_size=10**6), seed=seed, folder=folder
        )
        trainer.fit()
        for epoch, batch in enumerate(model.batches):
            seen[seed, epoch] = batch.user.tolist(), batch.negatives.tolist()
    assert len({str(users) for users, _ in seen.values()}) == 4
    assert len({str(negatives) for _, negatives in seen.values()}) == 4


@pytest.mark.parametrize("network", ["bert-style", "official"])
def test_all_positions_and_prefixes_have_the_same_loss_and_gradient(network: str, tmp_path: Path) -> None:
    """SASRec in float64 without dropout, over the batches that the trainer builds from one epoch."""
    view = toy_view(longest=7)
    results = {}
    for samples in ("all", "prefix"):
        model = toy_model(
            "sasrec", catalog_of(view, n_items=30), network=network, hidden_dim=8, inner_dim=8, n_heads=2,
            dropout=0.0, attn_dropout=0.0,
        ).double()  # fmt: skip
        folder = tmp_path / samples
        folder.mkdir()
        config = TrainConfig(max_len=8, samples=samples, batch_size=10**6, max_epochs=1, lr=1e-300)  # type: ignore[arg-type]
        trainer = Trainer(model, view, by_weights, config, seed=1, folder=folder)
        trainer.fit()
        results[samples] = log_of(folder)[0]["loss"], [p.grad.clone() for p in model.parameters()]  # type: ignore[union-attr]
    assert results["all"][0]["ce"] == pytest.approx(results["prefix"][0]["ce"], rel=1e-12)
    for a, b in zip(results["all"][1], results["prefix"][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_the_watcher_hears_every_step_and_epoch(tmp_path: Path) -> None:
    class Watch:
        def __init__(self) -> None:
            self.steps: list[tuple[int, int, int]] = []
            self.reports: list[EpochReport] = []

        def step(self, epoch: int, step: int, n_steps: int, terms: dict[str, float]) -> None:
            assert terms.keys() == {"ce"}
            self.steps.append((epoch, step, n_steps))

        def epoch(self, report: EpochReport) -> None:
            self.reports.append(report)

        def note(self, text: str) -> None:
            raise AssertionError(text)

    watch = Watch()
    make(tmp_path, config=replace(CONFIG, max_epochs=2), watcher=watch).fit()
    n_steps = watch.steps[0][2]
    assert watch.steps == [(e, s, n_steps) for e in (1, 2) for s in range(1, n_steps + 1)]
    stored = [json.loads(line) for line in (tmp_path / LOG).read_text(encoding="utf-8").splitlines()]
    for report, line in zip(watch.reports, stored, strict=True):
        told = {"epoch": report.epoch, "seconds": report.seconds, "loss": report.loss, "valid": report.valid}
        assert told == {key: line[key] for key in told}
        assert (report.best, report.best_epoch, report.n_runs) == (line["best"], line["best_epoch"], 1)
    assert all(0 < line["loss"]["ce"] < 10 for line in stored)
