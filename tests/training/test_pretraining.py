"""Stages on source data: a model is trained on two other data sets with their own features, then on the target.

The toy model has no item ids: an item is a linear map of its features, so what it learns on one data set holds on
another.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.data.views import TrainView
from mmbench.errors import UsageError
from mmbench.models.base import Catalog, Recommender, Stage
from mmbench.models.needs import Needs, Negatives
from mmbench.settings.config import TrainConfig
from mmbench.training import checkpoint
from mmbench.training.files import BEST, RESUME
from mmbench.training.sources import Pretraining, Source, join_sources
from mmbench.training.stack import fit_together
from mmbench.training.trainer import Trainer
from tests.scorers import state_of
from tests.toy_training import KilledError, same, without_times

DIM, MAX_LEN = 6, 8
CONFIG = TrainConfig(max_len=MAX_LEN, batch_size=64, max_epochs=3, lr=0.03)
PRETRAIN = Stage(name="pretrain", epochs=20, data="source", settings={"batch_size": 32, "lr": 0.05})


@dataclass(frozen=True, kw_only=True)
class NoConfig:
    """A model without settings."""


class FeaturesOnly(Recommender[NoConfig]):
    """The next item is the one whose features are nearest to a linear map of the last item's."""

    feat: Tensor

    def __init__(self, catalog: Catalog, stages: tuple[Stage, ...]) -> None:
        super().__init__(NoConfig(), catalog)
        self.plan, self.catalogs, self.met = stages, [catalog], []  # type: ignore[var-annotated]
        self.register_buffer("feat", catalog.text_feat, persistent=False)
        self.map = nn.Linear(DIM, DIM, bias=False)

    @property
    def needs(self) -> Needs:
        return Needs(samples=("all",), extras=(Negatives(k=2),))

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.plan

    def use_catalog(self, catalog: Catalog) -> None:
        assert catalog.text_feat is not None
        self.catalogs.append(catalog)
        self.n_items, self.feat = catalog.n_items, catalog.text_feat

    def start_stage(self, name: str) -> None:
        if name == "frozen":
            self.map.weight.requires_grad_(False)

    def query(self, batch: Batch) -> Tensor:
        return self.map(F.embedding(batch.at_slots(batch.item_seq), self.feat))

    def item_table(self) -> Tensor:
        return self.feat[1:]

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        self.met.append((self.n_items, batch))
        return {"ce": F.cross_entropy(self.query(batch) @ self.item_table().T, batch.target - 1)}


def data_set(name: str, *, n_items: int, seed: int, n_users: int = 60) -> Source:
    """Histories in which the item after one is nearest to the shifted features of that one, in every data set."""
    rng = np.random.default_rng(seed)
    feat = np.concatenate([np.zeros((1, DIM)), rng.normal(size=(n_items, DIM))])
    following = 1 + (np.roll(feat, 1, axis=1) @ feat[1:].T).argmax(1)
    histories = []
    for _ in range(n_users):
        history = [int(rng.integers(1, n_items + 1))]
        while len(history) < 5:
            history.append(int(following[history[-1]]))
        histories.append(history)
    items = np.array(histories, dtype=np.int64).ravel()
    view = TrainView(items=items, times=np.arange(len(items)), offsets=np.arange(n_users + 1) * 5)
    catalog = Catalog(
        n_items=n_items, n_users=n_users, max_len=MAX_LEN, text_feat=torch.from_numpy(feat).float(),
        train_items=torch.from_numpy(items), train_times=torch.from_numpy(view.times),
        train_offsets=torch.from_numpy(view.offsets),
    )  # fmt: skip
    return Source(name, view, catalog)


SOURCES = (data_set("first", n_items=31, seed=1), data_set("second", n_items=23, seed=2))
TARGET = data_set("target", n_items=40, seed=3)


def agreement(model: Recommender[Any]) -> float:
    """Return the cosine of the learned map and the one by which items follow each other in all data sets."""
    assert isinstance(model, FeaturesOnly)
    planted = torch.eye(DIM).roll(1, 0)
    return F.cosine_similarity(model.map.weight.detach().flatten(), planted.flatten(), dim=0).item()


def trainer_of(folder: Path, *stages: Stage, seed: int = 5, sources: Any = SOURCES) -> Trainer:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    model = FeaturesOnly(TARGET.catalog, stages)
    pretraining = None if sources is None else Pretraining(sources, TARGET.catalog)
    return Trainer(model, TARGET.view, agreement, CONFIG, seed=seed, folder=folder, pretraining=pretraining)


def test_two_sources_with_their_own_features_and_then_the_target(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, PRETRAIN, Stage(name="finetune"))
    trainer.fit()
    model = trainer.model
    assert isinstance(model, FeaturesOnly)
    assert [catalog.n_items for catalog in model.catalogs] == [40, 54, 40]
    assert model.catalogs[-1] is TARGET.catalog
    first, second = (source.catalog.text_feat for source in SOURCES)
    joined = model.catalogs[1].text_feat
    assert joined is not None
    assert torch.equal(joined, torch.cat([first, second[1:]]))  # type: ignore[index, list-item]
    mixed, joined_items = 0, model.catalogs[1].train_items.view(120, 5)
    for n_items, batch in model.met:
        assert (len(batch.target) <= 32) == (n_items == 54), "each stage has its own batch_size"
        assert int(batch.item_seq.max()) <= n_items
        assert int(batch.negatives.max()) <= n_items
        if n_items == 54:
            of_first = batch.user < 60
            assert torch.equal(of_first, batch.target <= 31)
            owned = joined_items[batch.user]  # [T, 5]
            assert not (owned[:, :, None] == batch.negatives[:, None]).any()
            mixed += bool(of_first.any() and not of_first.all())
    assert mixed > 100, "users of both sources share steps"
    assert agreement(model) > 0.75


def test_what_is_learned_on_the_sources_holds_on_the_target(tmp_path: Path) -> None:
    pretrained = trainer_of(tmp_path / "a", PRETRAIN)
    pretrained.fit()
    assert agreement(pretrained.model) > 0.75
    assert agreement(trainer_of(tmp_path / "b", PRETRAIN).model) < 0.5
    model = pretrained.model
    assert isinstance(model, FeaturesOnly)
    assert (model.n_items, len(model.feat)) == (40, 41), "the run's own data are back for the ranking"
    other = trainer_of(tmp_path / "c", PRETRAIN).model
    checkpoint.load_weights(other, tmp_path / "a" / BEST)
    assert same(state_of(other), state_of(model))


def test_a_killed_pretraining_continues_with_the_same_result(tmp_path: Path) -> None:
    stages = (replace(PRETRAIN, epochs=3), Stage(name="finetune"))
    whole = trainer_of(tmp_path / "whole", *stages)
    whole.fit()
    for killed_in in range(1, 7):  # three epochs of each stage
        folder, left = tmp_path / str(killed_in), killed_in
        trainer = trainer_of(folder, *stages)
        inner = trainer.files.log

        def log(line: Any, inner: Any = inner) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KilledError
            inner(line)

        trainer.files.log = log  # type: ignore[method-assign]
        with pytest.raises(KilledError):
            trainer.fit()
        assert (folder / RESUME).exists() == (killed_in > 1)
        again = trainer_of(folder, *stages)
        again.fit()
        assert same(state_of(again.model), state_of(whole.model)), killed_in
        assert without_times(again.progress) == without_times(whole.progress)


def test_seeds_are_pretrained_as_a_stack(tmp_path: Path) -> None:
    """The model draws nothing in its loss, so a seed in a stack is the seed alone, up to rounding."""
    stages = (replace(PRETRAIN, epochs=2), Stage(name="finetune"))
    alone = [trainer_of(tmp_path / f"alone{seed}", *stages, seed=seed) for seed in (1, 2)]
    together = [trainer_of(tmp_path / f"together{seed}", *stages, seed=seed) for seed in (1, 2)]
    for trainer in alone:
        trainer.fit()
    assert [fault for _, fault in fit_together(together, size=2)] == [None, None]
    for single, stacked in zip(alone, together, strict=True):
        assert stacked.progress.stack == [1, 2]
        for name, tensor in state_of(single.model).items():
            torch.testing.assert_close(stacked.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_joining_keeps_each_user_s_items_and_features() -> None:
    third = replace(SOURCES[0].catalog, n_items=31, text_feat=None, category_ids=torch.tensor([1, 0, 1]),
                    category_offsets=torch.tensor([0] * 4 + [1] * 8 + [3] * 21), n_categories=2)  # fmt: skip
    parts = (SOURCES[1], Source("third", SOURCES[0].view, third))
    joined = join_sources(parts)
    assert joined.name == "second + third"
    start = 0
    for part in parts:
        events = slice(start, start + len(part.view.items))
        assert (joined.view.times[events] == part.view.times).all()
        assert (joined.view.items[events] - part.view.items == (0 if part is parts[0] else 23)).all()
        start += len(part.view.items)
    assert np.diff(joined.view.offsets).tolist() == [5] * 120
    catalog = joined.catalog
    assert (catalog.n_items, catalog.n_users, catalog.n_categories) == (54, 120, 2)
    assert catalog.text_feat is not None
    assert catalog.has_text is not None
    assert not catalog.text_feat[24:].any()
    assert catalog.has_text.tolist() == [False] + [True] * 23 + [False] * 31
    expected = torch.cat([torch.zeros(24, 2), third.category_matrix()[1:]])
    assert torch.equal(catalog.category_matrix(), expected)
    assert torch.equal(catalog.histories.items, torch.from_numpy(joined.view.items))


def test_categories_of_different_sources_differ() -> None:
    owns = {
        "category_ids": torch.tensor([0, 1]),
        "category_offsets": torch.tensor([0, 0, 1] + [2] * 30),
        "n_categories": 2,
    }
    source = Source("a", SOURCES[0].view, replace(SOURCES[0].catalog, **owns))
    matrix = join_sources([source, replace(source, name="b")]).catalog.category_matrix()
    assert matrix.nonzero().tolist() == [[1, 0], [2, 1], [32, 2], [33, 3]]


def test_what_cannot_be_pretrained_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"^FeaturesOnly is pre-trained on other data sets, and none are given$"
    ):
        trainer_of(tmp_path, PRETRAIN, sources=None)
    with pytest.raises(UsageError, match="no source data set is given"):
        trainer_of(tmp_path, PRETRAIN, sources=())
    narrow = replace(SOURCES[1].catalog, text_feat=torch.zeros(24, 4))
    sources = (SOURCES[0], Source("narrow", SOURCES[1].view, narrow))
    with pytest.raises(
        UsageError, match=r"text features of first are 6 wide, those of narrow 4; extract both"
    ):
        trainer_of(tmp_path, PRETRAIN, sources=sources)
    short = Source("short", SOURCES[1].view, replace(SOURCES[1].catalog, max_len=5))
    with pytest.raises(UsageError, match="must have the same max_len: first has 8, short has 5"):
        trainer_of(tmp_path, PRETRAIN, sources=(SOURCES[0], short))
    with pytest.raises(ValueError, match="'pretrain': source data has no validation; set a number of epochs"):
        Stage(name="pretrain", data="source")

    class Plain(FeaturesOnly):
        use_catalog = Recommender.use_catalog  # type: ignore[assignment]

    with pytest.raises(UsageError, match=r"Plain has a stage on source data, but no use_catalog\(\)"):
        Trainer(
            Plain(TARGET.catalog, (PRETRAIN,)), TARGET.view, agreement, CONFIG, seed=1, folder=tmp_path,
            pretraining=Pretraining(SOURCES, TARGET.catalog),
        )  # fmt: skip
