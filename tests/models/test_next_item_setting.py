"""mmbench.models.next_item in the engine and in the models: what is drawn, stacks of seeds, the setting itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmbench.errors import UsageError
from mmbench.models import registry
from mmbench.models.needs import SHARED, Negatives, SharedNegatives
from mmbench.models.next_item import Sampling
from mmbench.settings.config import TrainConfig
from mmbench.training.batches import batches_of_epoch
from mmbench.training.stack import Stack, padding_kept_out
from mmbench.training.trainer import Trainer
from tests.models.test_next_item import next_item
from tests.models.toy import in_float64, toy_catalog, toy_model, toy_view, training_batch

# -- what the engine draws ---------------------------------------------------------------------------------------


def test_what_is_asked_of_the_engine() -> None:
    assert next_item("ce", n_negatives=9).extras == ()
    assert next_item("sce", n_negatives=9).extras == ()
    assert next_item("bce").extras == (Negatives(),)
    assert next_item("ss", negatives="in-batch", share="step").extras == ()
    (own,), (step,) = (
        next_item("ss", exclude="target").extras,
        next_item("ss", share="step", n_negatives=7).extras,
    )
    assert isinstance(own, Negatives)
    assert own.excludes_target
    assert isinstance(step, SharedNegatives)
    assert step.k == 7


def test_a_step_has_one_set_of_shared_negatives_which_rests_on_the_seed_alone(tmp_path: Path) -> None:
    def first_steps(name: str, seed: int) -> list[Tensor]:
        model = toy_model(
            name, toy_catalog(), loss="bce", share="step", n_negatives=11, exclude="none", **SMALL
        )
        trainer = Trainer(
            model,
            toy_view(),
            lambda _: 0.0,
            TrainConfig(max_len=8, batch_size=12),
            seed=seed,
            folder=tmp_path,
        )
        trainer.begin()
        return [batch.drawn[SHARED] for batch in batches_of_epoch([trainer], [trainer.plan_epoch()])]

    steps = first_steps("sasrec", 1)
    assert [len(items) for items in steps] == [11] * len(steps)
    assert len({tuple(items.tolist()) for items in steps}) == len(steps) > 3
    assert all(map(torch.equal, steps, first_steps("gsasrec", 1)))
    assert not torch.equal(steps[0], first_steps("sasrec", 2)[0])


SMALL = {"hidden_dim": 12, "inner_dim": 16, "n_heads": 2, "dropout": 0.0}
STACKED = [
    {"loss": "ss", "share": "step", "exclude": "history", "n_negatives": 9, "negatives": "mixed"},
    {"loss": "gbce", "negatives": "in-batch", "share": "step"},
    {"loss": "ss", "exclude": "history", "n_negatives": 9},
    {"loss": "ss", "exclude": "target", "n_negatives": 9, "negatives": "popularity"},
]


@pytest.mark.parametrize("settings", STACKED, ids=str)
def test_seeds_in_a_stack_have_the_losses_that_they_have_alone(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    trainers = []
    for seed in (1, 2):
        with in_float64():
            model = toy_model("gsasrec", toy_catalog(), seed=seed, **(SMALL | settings))
        config = TrainConfig(max_len=8, batch_size=12, precision="float64")
        trainers.append(
            Trainer(model, toy_view(), lambda _: 0.0, config, seed=seed, folder=tmp_path / str(seed))
        )
        trainers[-1].begin()
    stack = Stack(trainers)
    with padding_kept_out(trainers[0].model):
        batch = next(batches_of_epoch(trainers, [trainer.plan_epoch() for trainer in trainers]))
        _, values = stack.step(batch)
    for k, trainer in enumerate(trainers):
        alone = trainer.model.loss(next(batches_of_epoch([trainer], [trainer.plan_epoch()])))
        torch.testing.assert_close(values[0][k], next(iter(alone.values())).detach(), rtol=1e-9, atol=0)


def test_sce_can_be_stacked_and_sums_in_a_fixed_order(tmp_path: Path) -> None:
    model = toy_model("gsasrec", toy_catalog(), **(SMALL | {"loss": "sce", "n_negatives": 5}))
    config = TrainConfig(max_len=8, batch_size=12)
    trainers = [
        Trainer(model, toy_view(), lambda _: 0.0, config, seed=s, folder=tmp_path / str(s)) for s in (1, 2)
    ]
    for trainer in trainers:
        trainer.begin()
    with padding_kept_out(model):
        _, values = Stack(trainers).step(next(batches_of_epoch(trainers, [t.plan_epoch() for t in trainers])))
    assert torch.isfinite(values).all()


# -- the setting -------------------------------------------------------------------------------------------------


WITH_SETTING = [
    name for name in registry.all_names()
    if ":" not in name and issubclass(registry.find(name).config_class(), Sampling)
]  # fmt: skip


@pytest.mark.parametrize("name", WITH_SETTING)
def test_negatives_of_a_step_for_each_target_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match='negatives = "in-batch" are shared by a step; set share = "step"'):
        registry.find(name).config(negatives="in-batch", share="target")


@pytest.mark.parametrize("name", WITH_SETTING)
def test_a_model_with_the_setting_learns_by_each_loss(name: str) -> None:
    """The term has the loss's name and a gradient, and K of the negatives reaches the engine."""
    own = {"hidden_dim": 12, "inner_dim": 16, "emb_dim": 12, "n_heads": 2}
    names = registry.find(name).config_class().__dataclass_fields__
    small = {key: size for key, size in own.items() if key in names}
    for kind in ("ce", "bce", "bpr", "gbce", "ss", "sce"):
        model = toy_model(name, toy_catalog(), **small, loss=kind, n_negatives=5)
        model.start_stage(model.stages[-1].name)
        batch = training_batch(model, toy_view())
        if kind not in ("ce", "sce"):
            assert batch.negatives.shape == (len(batch.target), 5)
        term = model.loss(batch)[kind]
        term.backward()
        assert torch.isfinite(term)
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_the_probabilities_follow_a_change_of_catalogue() -> None:
    """A model that pre-trains on other data takes their items, and later its own again."""
    catalog = toy_catalog()
    model = toy_model("unisrec", catalog, loss="ss", negatives="popularity", hidden_dim=12, inner_dim=16)
    before = model.next_item.log_q
    model.use_catalog(toy_catalog(n_items=40, seed=1))
    assert model.next_item.log_q.shape == (40,)
    model.use_catalog(catalog)
    assert torch.equal(model.next_item.log_q, before)
