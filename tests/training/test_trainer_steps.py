"""Steps of the training loop: learning rates, the optimiser, and what a step holds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from mmbench.data.samples import plan_rows
from mmbench.data.views import TrainView
from mmbench.errors import RunError, UsageError
from mmbench.models.base import Stage
from mmbench.models.needs import Needs, Negatives, whole_history
from mmbench.settings.config import TrainConfig
from mmbench.training.files import LOG
from mmbench.training.optim import learning_rate, make_optimizer
from mmbench.training.trainer import Trainer
from tests.scorers import Bilinear, state_of, train_view
from tests.toy_training import (
    CONFIG,
    N_ITEMS,
    N_USERS,
    VIEW,
    by_weights,
    make,
)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [1, 1, 1]), ("exponential", [1, 0.5, 0.25]), ("exponential-early", [0.5, 0.25, 0.125])],
)
def test_learning_rates(schedule: Any, expected: list[float]) -> None:
    config = TrainConfig(lr=0.2, lr_schedule=schedule, lr_gamma=0.5, warmup_steps=0)
    assert [learning_rate(config, epoch, 7) for epoch in (1, 2, 3)] == pytest.approx(
        [0.2 * factor for factor in expected]
    )


def test_warm_up_is_linear_over_steps_and_ends(tmp_path: Path) -> None:
    config = replace(CONFIG, warmup_steps=4, lr=0.4, max_epochs=2)
    assert [learning_rate(config, 1, step) for step in (1, 2, 4, 5)] == pytest.approx([0.1, 0.2, 0.4, 0.4])
    rates = []
    trainer = make(tmp_path, config=config)
    inner = trainer.step

    def spy(*args: Any) -> Any:
        rates.append({group["lr"] for group in trainer.learner.optimizer.param_groups})
        return inner(*args)

    trainer.step = spy  # type: ignore[method-assign]
    trainer.fit()
    flat = [rate for group in rates for rate in group]
    assert flat[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert set(flat[4:]) == {0.4}


def test_the_second_stage_warms_up_again_with_its_own_rate(tmp_path: Path) -> None:
    stages = (
        Stage(name="a", epochs=1, settings={"lr": 0.1}),
        Stage(name="b", epochs=1, settings={"lr": 0.3}),
    )
    trainer = make(tmp_path, stages=stages, config=replace(CONFIG, warmup_steps=2))
    rates: list[tuple[int, float]] = []
    inner = trainer.step

    def spy(*args: Any) -> Any:
        rates.append((trainer.progress.stage, trainer.learner.optimizer.param_groups[0]["lr"]))
        return inner(*args)

    trainer.step = spy  # type: ignore[method-assign]
    trainer.fit()
    for number, rate in ((0, 0.1), (1, 0.3)):
        assert [r for s, r in rates if s == number][:3] == pytest.approx([rate / 2, rate, rate])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_weight_decay_leaves_out_vectors_on_request(optimizer: Any) -> None:
    model = Bilinear(n_items=N_ITEMS, n_users=N_USERS)
    for decay_1d in (True, False):
        config = TrainConfig(optimizer=optimizer, lr=0.01, weight_decay=0.1, decay_1d=decay_1d, beta2=0.98)
        made = make_optimizer(model, config)
        decay = {p: group["weight_decay"] for group in made.param_groups for p in group["params"]}
        assert decay[model.left.weight] == 0.1
        assert decay[model.bias] == (0.1 if decay_1d else 0.0)
        assert len(decay) == 3
        assert made.param_groups[0].get("betas", (0.9, 0.98)) == (0.9, 0.98)


def test_frozen_parameters_are_not_optimised() -> None:
    model = Bilinear(n_items=N_ITEMS, n_users=N_USERS)
    model.left.weight.requires_grad_(False)
    made = make_optimizer(model, TrainConfig())
    assert all(p is not model.left.weight for group in made.param_groups for p in group["params"])


def test_the_gradient_is_clipped_to_its_global_norm(tmp_path: Path) -> None:
    """With plain SGD and no decay a step moves all weights together by lr times the clipped norm."""
    for clip, moved in ((0.0, None), (1e-3, 1e-3)):
        config = TrainConfig(optimizer="sgd", lr=1.0, grad_clip=clip, batch_size=10**6, max_epochs=1)
        trainer = make(tmp_path / str(clip), config=config)
        before = state_of(trainer.model)
        trainer.fit()
        after = state_of(trainer.model)
        norm = sum(float((after[k] - before[k]).square().sum()) for k in before) ** 0.5
        assert norm == pytest.approx(moved, rel=1e-2) if moved else norm > 1e-2


@pytest.mark.parametrize("unit", ["rows", "targets"])
def test_batches_count_rows_or_targets(unit: Any, tmp_path: Path) -> None:
    config = replace(CONFIG, batch_unit=unit, batch_size=7, max_epochs=1)
    trainer = make(tmp_path, config=config)
    trainer.fit()
    batches = trainer.model.batches  # type: ignore[union-attr]
    rows = plan_rows(VIEW.offsets, "all", config.max_len)
    assert sum(len(batch.target) for batch in batches) == rows.n_targets.sum()  # type: ignore[arg-type,misc]
    if unit == "rows":
        assert len(batches) == -(-len(rows) // 7)  # type: ignore[arg-type]
    else:
        assert [len(batch.target) for batch in batches][:-1] == [7] * (len(batches) - 1)  # type: ignore[arg-type,union-attr]


def test_sequences_without_fixed_targets_count_as_one(tmp_path: Path) -> None:
    class Masking(Bilinear):
        def loss(self, batch: Any) -> dict[str, Tensor]:
            self.batches.append(batch)
            return {"norm": self.left(batch.item_seq).square().sum()}

    model = Masking(n_items=N_ITEMS, n_users=N_USERS, needs=Needs(samples=("sequence",), layout="padded"))
    trainer = make(tmp_path, model=model, config=replace(CONFIG, batch_size=10, max_epochs=1))
    trainer.fit()
    assert [len(batch.item_seq) for batch in model.batches] == [10, 10, 10]


def test_samples_that_a_model_cannot_be_trained_on_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Bilinear cannot be trained on samples = 'sequence'.*all, prefix"):
        make(tmp_path, config=replace(CONFIG, samples="sequence")).fit()
    late = (Stage(epochs=1), Stage(name="b", samples="last-window"))
    with pytest.raises(UsageError, match="'last-window'"):
        make(tmp_path, stages=late).fit()
    assert not (tmp_path / LOG).exists(), "the second stage's fault must show before the first is trained"


def test_histories_too_short_to_train_on(tmp_path: Path) -> None:
    model = Bilinear(n_items=N_ITEMS, n_users=2)
    view = train_view([[3], [4]])
    with pytest.raises(RunError, match="too short"):
        Trainer(model, view, by_weights, CONFIG, seed=1, folder=tmp_path).fit()


def only_last(view: TrainView) -> tuple[np.ndarray, np.ndarray]:
    """Return the last training item of each user, for a rule that excludes nothing else."""
    last = view.offsets[1:] - 1
    return view.users[last], view.items[last]


@pytest.mark.parametrize("rule", [whole_history, only_last])
def test_negatives_avoid_the_items_that_the_rule_names(rule: Any, tmp_path: Path) -> None:
    needs = Needs(extras=(Negatives(k=40, exclude=rule),), samples=("all", "prefix", "pairs"))
    trainer = make(tmp_path, needs=needs, config=replace(CONFIG, max_epochs=2))
    trainer.fit()
    drawn: dict[int, set[int]] = {}
    for batch in trainer.model.batches:  # type: ignore[union-attr]
        assert batch.negatives.shape == (len(batch.target), 40)
        for user, row in zip(batch.user.tolist(), batch.negatives.tolist(), strict=True):
            drawn.setdefault(user, set()).update(row)
    n_of_history = 0
    for user, actual in drawn.items():
        history = VIEW.items[VIEW.offsets[user] : VIEW.offsets[user + 1]].tolist()
        excluded = set(history) if rule is whole_history else {history[-1]}
        assert actual <= set(range(1, N_ITEMS + 1)) - excluded
        n_of_history += len(actual & set(history))
    assert len(drawn) == N_USERS
    assert (n_of_history > 0) == (rule is only_last)
