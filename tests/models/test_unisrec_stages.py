"""UniSRec's stages: what pre-training reads and trains, what fine-tuning leaves as it is, other data sets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmbench.errors import UsageError
from mmbench.models.base import Catalog
from mmbench.settings.config import TrainConfig
from mmbench.training.sources import Pretraining, Source
from mmbench.training.trainer import Trainer
from tests.fixed import fill
from tests.models.toy import catalog_of, gradients, toy_catalog, toy_model, toy_view, training_batch, view_of
from tests.scorers import state_of

SMALL = {"hidden_dim": 16, "inner_dim": 16, "n_experts": 3, "dropout": 0.1, "attn_dropout": 0.1}
CONFIG = TrainConfig(max_len=8, batch_size=32, max_epochs=2, lr=0.01)


def make(catalog: Catalog | None = None, **settings: Any) -> Any:
    return toy_model("unisrec", catalog or toy_catalog(), **(SMALL | settings))


def trained(name: str, grads: dict[str, Any]) -> bool:
    return any(key.startswith(name) for key in grads)


def test_without_pretraining_there_is_one_stage_that_trains_everything() -> None:
    model = make()
    (stage,) = model.stages
    assert (stage.epochs, stage.data) == (None, "target")
    model.start_stage(stage.name)
    _, grads = gradients(model, training_batch(model, toy_view()))
    assert set(grads) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(("names", "data"), [(("target",), "target"), (("first", "second"), "source")])
def test_stages_of_a_pretraining(names: tuple[str, ...], data: str) -> None:
    first, last = make(pretrain_on=names, pretrain_epochs=7, pretrain_batch_size=99).stages
    assert (first.epochs, first.samples, first.data, first.settings) == (
        7,
        "prefix",
        data,
        {"batch_size": 99},
    )
    assert (last.epochs, last.samples, last.data, last.settings) == (None, None, "target", {})


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("use_ids", [True, False])
def test_what_each_stage_trains(freeze: bool, use_ids: bool) -> None:
    model = make(pretrain_on=("target",), freeze=freeze, use_ids=use_ids)
    first, last = model.stages
    batch = training_batch(model, toy_view(), samples="prefix")
    model.start_stage(first.name)
    _, grads = gradients(model, batch)
    assert not trained("item_emb", grads)
    assert all(trained(name, grads) for name in ("encoder", "position_emb", "adaptors", "norm"))
    model.start_stage(last.name)
    _, grads = gradients(model, batch)
    assert trained("item_emb", grads) is use_ids
    assert trained("encoder", grads) is not freeze
    assert trained("position_emb", grads) is not freeze
    assert trained("adaptors", grads)
    assert trained("norm", grads)
    torch.manual_seed(1)
    a = model.train().loss(batch)["ce"]
    torch.manual_seed(2)
    assert a != model.loss(batch)["ce"], "dropout stays on"


def test_pretraining_reads_no_ids() -> None:
    model = make(pretrain_on=("target",)).eval()
    model.start_stage("pretrain")
    batch = training_batch(model, toy_view(), samples="prefix")
    terms = []
    for _ in range(2):
        torch.manual_seed(0)
        terms.append(model.loss(batch))
        torch.nn.init.normal_(model.item_emb.weight)
    assert terms[0] == terms[1]


def test_the_first_item_may_be_dropped_or_the_last() -> None:
    """With every item dropped but one, the augmented history is that one item."""
    view = view_of([[1, 2, 3, 4, 5, 9]])
    for rule, stays in (("first-kept", 1), ("last-kept", 5)):
        model = make(pretrain_on=("target",), drop_rate=1.0, item_drop=rule).double().eval()
        fill(model)
        model.start_stage("pretrain")
        batch = training_batch(model, view, samples="prefix")
        seen: list[Any] = []
        model.contrast = lambda anchor, positive, same, seen=seen: seen.append(positive) or anchor.sum() * 0
        model.loss(batch)
        longest = int(batch.position.flatten()[batch.slot].argmax())
        single = training_batch(model, view_of([[stays, 1]]), samples="prefix")
        x = model.content(single.item_seq)
        expected = model.encode(x, single.position, single.attention_mask(causal=True), single.slot)
        torch.testing.assert_close(seen[1][longest], expected[0])


def test_equal_targets_are_no_negatives_of_each_other() -> None:
    """With one target for all, each row's own is all that is left: both contrasts are 0."""
    view = view_of([[1, 2], [3, 2], [4, 2]])
    for name, is_zero in (("unisrec", True), ("unisrec:as-released", False)):
        model: Any = toy_model(name, toy_catalog(), **SMALL, temperature=1.0, ss_weight=1.0)
        model.start_stage("pretrain")
        terms = model.loss(training_batch(model, view, samples="prefix"))
        for value in terms.values():
            assert (abs(value.item()) < 1e-6) is is_zero


# -- other data sets --------------------------------------------------------------------------------------------------

KINDS, DIM = 4, 12


def data_set(name: str, *, n_items: int, seed: int) -> Source:
    """Items of four kinds, which only texts tell; in every data set kind k is followed by kind k + 1."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n_items) % KINDS
    histories = []
    for _ in range(120):
        begin = int(rng.integers(KINDS))
        histories.append([int(rng.choice(np.flatnonzero(kind == (begin + k) % KINDS))) + 1 for k in range(5)])
    text = torch.from_numpy(rng.normal(size=(n_items + 1, DIM))).float()
    text[1:, :KINDS] = 3.0 * torch.nn.functional.one_hot(torch.from_numpy(kind), KINDS)
    text[0] = 0
    view = view_of(histories)
    catalog = replace(catalog_of(view, n_items=n_items, features=False), text_feat=text)
    return Source(name, view, catalog)


SOURCES = (data_set("first", n_items=41, seed=1), data_set("second", n_items=33, seed=2))
TARGET = data_set("target", n_items=50, seed=3)


def share_of_next_kind(model: Any, target: Source = TARGET) -> float:
    """Return the share of the ten best items that have the kind that comes next."""
    batch = training_batch(model, target.view, samples="prefix")
    with torch.no_grad():
        best = model.eval().score(batch).topk(8).indices
    model.train()
    return (best % KINDS == ((batch.target - 1) % KINDS)[:, None]).double().mean().item()


def trainer_of(
    folder: Path, *, sources: Any = SOURCES, seed: int = 1, config: TrainConfig = CONFIG, **settings: Any
) -> Trainer:
    folder.mkdir(exist_ok=True)
    model = make(TARGET.catalog, pretrain_on=("first", "second"), pretrain_batch_size=64, **settings)
    pretraining = None if sources is None else Pretraining(sources, TARGET.catalog)
    return Trainer(
        model, TARGET.view, share_of_next_kind, config, seed=seed, folder=folder, pretraining=pretraining
    )  # fmt: skip


def test_what_other_data_sets_teach_holds_on_the_target(tmp_path: Path) -> None:
    """Fine-tuning has a rate so small that it moves nothing: what the model knows comes from the other data sets."""
    still = replace(CONFIG, lr=1e-9, max_epochs=1)
    known = []
    for epochs in (1, 12):
        trainer = trainer_of(tmp_path / str(epochs), config=still, pretrain_epochs=epochs, use_ids=False)
        trainer.stages[0] = replace(trainer.stages[0], config=replace(trainer.stages[0].config, lr=0.003))
        trainer.fit()
        known.append(share_of_next_kind(trainer.model))
        assert trainer.model.n_items == 50
        assert len(trainer.model.features("text")) == 51
    assert known[1] > 0.8
    assert known[1] > known[0]
    assert share_of_next_kind(make(TARGET.catalog, use_ids=False)) < 0.5


def test_ids_belong_to_the_target_and_start_with_it(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, pretrain_epochs=1)
    model: Any = trainer.model
    before = {name: tensor.clone() for name, tensor in state_of(model).items()}
    trainer.begin()
    assert model.n_items == 74
    trainer.fit()
    after = state_of(model)
    assert after["item_emb.weight"].shape == (51, 16)
    assert not torch.equal(after["item_emb.weight"], before["item_emb.weight"])
    assert not torch.equal(after["encoder.blocks.0.up.weight"], before["encoder.blocks.0.up.weight"])


def test_data_sets_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is pre-trained on other data sets, and none are given"):
        trainer_of(tmp_path, sources=None)
    narrow = replace(SOURCES[0], catalog=replace(SOURCES[0].catalog, text_feat=torch.zeros(42, 5)))
    with pytest.raises(
        UsageError, match=r"^UniSRec reads text features 12 wide, and a data set .* has 5; extract"
    ):
        trainer_of(tmp_path, sources=(narrow,)).begin()
    without = replace(SOURCES[0], catalog=replace(SOURCES[0].catalog, text_feat=None))
    with pytest.raises(
        UsageError, match=r"^UniSRec reads text features 12 wide, and a data set .* has none; extract"
    ):
        trainer_of(tmp_path, sources=(without,)).begin()
