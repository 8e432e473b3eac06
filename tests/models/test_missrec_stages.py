"""MISSRec's epochs and stages: when interests are found, what is stored of them, pre-training, other data sets."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mmbench.data.batch import TrainBatch
from mmbench.errors import UsageError
from mmbench.models.base import Recommender
from mmbench.models.registry import find
from mmbench.nn.clusters import density_peaks, nearest
from mmbench.settings.config import TrainConfig
from mmbench.training.sources import Pretraining, Source
from mmbench.training.stack import fit_together
from mmbench.training.trainer import Trainer
from tests.models.toy import (
    catalog_of,
    gradients,
    history_batch,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
)
from tests.scorers import state_of
from tests.toy_training import KilledError, same

SMALL: dict[str, Any] = {"hidden_dim": 8, "inner_dim": 12}
CONFIG = TrainConfig(max_len=8, batch_size=32, max_epochs=3, lr=0.01, precision="float64")
MISSREC: Any = sys.modules[find("missrec").load().__module__]


def make(name: str = "missrec", catalog: Any = None, **settings: Any) -> Any:
    return toy_model(name, catalog or toy_catalog(), **(SMALL | settings))


def test_sizes_of_what_is_looked_up() -> None:
    """ceil(ratio x vectors) interests; every item has one by modality, padding none."""
    cases = [("missrec", 0.5, 30), ("missrec", 0.51, 31), ("missrec:-text", 0.5, 15), ("missrec", 0.0, 1)]
    for name, ratio, n_interests in cases:
        model = make(name, cluster_ratio=ratio)
        for _ in range(2):
            assert model.centroids.shape == (n_interests + 1, 8)
            assert model.lookup.shape == (31, len(model.modalities))
            assert not model.centroids[0].any()
            assert not model.lookup[0].any()
            assert model.lookup[1:].min() >= 1
            assert model.lookup[1:].max() <= n_interests
            model.start_epoch(1)
        facts = model.extra_state()
        assert facts["interests"] == n_interests
        assert facts["interests_used"] == len(model.lookup[1:].unique())
        assert 1 - 1e-9 <= facts["interests_effective"] <= facts["interests_used"] + 1e-9


@pytest.mark.parametrize("name", ["missrec", "missrec:dpc-knn", "missrec:as-released"])
def test_interests_are_clusters_of_the_vectors_of_now(name: str) -> None:
    model, drawn = make(name, cluster_ratio=0.1).double(), []
    for epoch, scale in ((1, 1.0), (2, -2.0)):
        with torch.no_grad():
            model.adaptors.text.weight.mul_(scale)
        torch.manual_seed(3)
        model.start_epoch(epoch)
        rows = torch.cat([table[1:] for table in model.adapted()]).detach()
        label = model.lookup[1:].T.flatten() - 1
        drawn.append(model.centroids.clone())
        if name == "missrec":
            assert torch.equal(label, nearest(rows, model.centroids[1:]))
            torch.manual_seed(3)
            first = torch.randperm(len(rows))[:6]
            expected, _ = MISSREC.lloyd(rows, rows[first], 5)
            torch.testing.assert_close(model.centroids[1:], expected)
        if name == "missrec:dpc-knn":
            expected, peaks = density_peaks(rows, 6, 0.1)
            torch.testing.assert_close(model.centroids[1:], expected)
            assert torch.equal(label, peaks)
        if name == "missrec:as-released":
            assert model.centroids.min() >= 0
    assert not torch.allclose(*drawn)


def test_vectors_with_one_origin_share_an_interest() -> None:
    """Items 1-15 and 16-30 lie far apart in both modalities: no interest has members of both halves."""
    catalog = toy_catalog()
    half = (torch.arange(31) > 15).float()[:, None]
    far = {"text_feat": catalog.text_feat * 0.01 + half, "image_feat": catalog.image_feat * 0.01 + half}  # type: ignore[operator]
    model = make(catalog=replace(catalog, **far), cluster_ratio=0.1)
    torch.manual_seed(0)
    model.start_epoch(1)
    for column in model.lookup.T:
        assert not set(column[1:16].tolist()) & set(column[16:].tolist())


# -- trainings ---------------------------------------------------------------------------------------------------------


def trainer_of(folder: Path, *, name: str = "missrec", seed: int = 1, **settings: Any) -> Trainer:
    folder.mkdir(exist_ok=True)
    view = toy_view()
    model = make(name, seed=seed, **settings).double()
    return Trainer(model, view, validation, CONFIG, seed=seed, folder=folder)


def validation(model: Recommender[Any]) -> float:
    batch: TrainBatch = training_batch(model, toy_view())
    with torch.no_grad():
        scores = model.eval().score(batch)
    model.train()
    return -F.cross_entropy(10 * scores, batch.target - 1).item()


def test_a_killed_run_finds_the_same_interests(tmp_path: Path) -> None:
    whole = trainer_of(tmp_path / "whole", pretrain_on=("target",), pretrain_epochs=2)
    whole.fit()
    for killed_in in (1, 3, 4):
        folder, left = tmp_path / str(killed_in), killed_in
        trainer = trainer_of(folder, pretrain_on=("target",), pretrain_epochs=2)
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
        again = trainer_of(folder, pretrain_on=("target",), pretrain_epochs=2)
        again.fit()
        assert same(state_of(again.model), state_of(whole.model)), killed_in


def test_seeds_in_a_stack_have_interests_of_their_own(tmp_path: Path) -> None:
    """Each epoch's interests are those that a seed finds alone; no dropout, so that nothing else is drawn."""
    alone = [trainer_of(tmp_path / f"a{seed}", seed=seed, dropout=0.0) for seed in (1, 2)]
    together = [trainer_of(tmp_path / f"t{seed}", seed=seed, dropout=0.0) for seed in (1, 2)]
    for trainer in alone:
        trainer.fit()
    assert [fault for _, fault in fit_together(together, size=2)] == [None, None]
    for single, stacked in zip(alone, together, strict=True):
        assert stacked.progress.stack == [1, 2]
        assert torch.equal(stacked.model.state_dict()["lookup"], single.model.state_dict()["lookup"])
        for key, tensor in state_of(single.model).items():
            torch.testing.assert_close(stacked.model.state_dict()[key], tensor, rtol=1e-7, atol=1e-9)
    assert not torch.equal(alone[0].model.state_dict()["lookup"], alone[1].model.state_dict()["lookup"])


# -- stages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("freeze", [True, False])
def test_what_each_stage_trains(freeze: bool) -> None:
    model = make(pretrain_on=("target",), freeze=freeze)
    first, last = model.stages
    assert (first.epochs, first.settings, last.epochs) == (100, {"batch_size": 1024}, None)
    batch = training_batch(model, toy_view())
    model.start_stage(first.name)
    assert len(model.centroids) - 1 == 2  # ceil(0.02 x 60)
    terms = model.loss(batch)
    assert set(terms) == {"si", "ss", "diversity"}
    _, grads = gradients(model, batch)
    assert not any(key.startswith("item_emb") for key in grads)
    assert {"slope", "position_emb.weight", "adaptors.image.bias", "norm.weight"} <= set(grads)
    model.start_stage(last.name)
    assert len(model.centroids) - 1 == 30
    _, grads = gradients(model, batch)
    still = {key for key in dict(model.named_parameters()) if key.split(".")[0] in FROZEN}
    everything = set(dict(model.named_parameters()))
    assert set(grads) == (everything - still if freeze else everything)


FROZEN = ("encoder", "encoder_norm", "decoder", "decoder_norm", "position_emb")


def test_without_pretraining_there_is_one_stage() -> None:
    (stage,) = make().stages
    assert (stage.epochs, stage.data) == (None, "target")


def test_pretraining_terms_and_gradients_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each augmented history as one of its own; nothing is removed for equal targets."""
    model = make(
        pretrain_on=("target",), dropout=0.0, ss_weight=0.5, diversity_weight=0.3, temperature=0.4
    ).double()
    model.start_stage("pretrain")
    model.start_epoch(1)
    batch = training_batch(model, toy_view())
    torch.manual_seed(5)
    kept = MISSREC.choose_kept(batch, 0.3, "first-kept")
    monkeypatch.setattr(MISSREC, "choose_kept", lambda *_: kept)
    terms = model.loss(batch)
    lists = []
    for slot in batch.slot.tolist():
        places = range(slot - int(batch.position.flatten()[slot]), slot + 1)
        lists.append([int(batch.item_seq.flatten()[p]) for p in places if kept.flatten()[p]])
    lengths = batch.position.flatten()[batch.slot] + 1
    assert any(len(items) < length for items, length in zip(lists, lengths.tolist(), strict=True))
    _, computed = gradients(model, batch)
    model.zero_grad()
    tables = model.adapted()
    u, diversity = model.states(MISSREC.whole(batch), tables)
    shorter, shorter_diversity = model.states(MISSREC.whole(history_batch(model, lists)), tables)
    text, image = (u @ F.normalize(table, dim=1)[batch.target].T for table in tables)
    weight = (model.slope * (text - image)).sigmoid()
    own = torch.arange(len(u))
    expected = {
        "si": F.cross_entropy((weight * text + (1 - weight) * image) / 0.4, own),
        "ss": 0.5 * F.cross_entropy(u @ shorter.T / 0.4, own),
        "diversity": 0.3 * (diversity + shorter_diversity),
    }
    torch.stack(list(expected.values())).sum().backward()
    for term, value in expected.items():
        torch.testing.assert_close(terms[term], value)
    for name, grad in computed.items():
        torch.testing.assert_close(model.get_parameter(name).grad, grad, rtol=1e-8, atol=1e-11)


# -- other data sets ---------------------------------------------------------------------------------------------------


def other(n_items: int, seed: int, **changes: Any) -> Source:
    view = toy_view(n_items=n_items, seed=seed)
    return Source(f"other{seed}", view, replace(catalog_of(view, n_items=n_items, seed=seed), **changes))


def test_other_data_sets_and_then_the_target(tmp_path: Path) -> None:
    sources = (other(25, 1), other(41, 2))
    model = make(pretrain_on=("first", "second"), pretrain_epochs=1, pretrain_cluster_ratio=0.1).double()
    before = {key: value.clone() for key, value in state_of(model).items()}
    pretraining = Pretraining(sources, toy_catalog())
    trainer = Trainer(model, toy_view(), validation, CONFIG, seed=1, folder=tmp_path, pretraining=pretraining)
    trainer.begin()
    assert (model.n_items, model.lookup.shape, len(model.centroids)) == (66, (67, 2), 15)
    assert torch.equal(model.has_image[1:26], sources[0].catalog.has_image[1:])  # type: ignore[index]
    trainer.fit()
    after = state_of(model)
    assert (model.n_items, model.lookup.shape, len(model.centroids)) == (30, (31, 2), 31)
    assert after["item_emb.weight"].shape == (31, 8)
    for key in ("encoder.0.attention.qkv.weight", "adaptors.text.weight", "item_emb.weight", "slope"):
        assert not torch.equal(after[key], before[key]), key


@pytest.mark.parametrize(
    ("changes", "has"), [({"text_feat": None}, "has none"), ({"text_feat": torch.zeros(26, 5)}, "has 5")]
)
def test_data_sets_that_do_not_fit_are_one_line(changes: dict[str, Any], has: str) -> None:
    model = make(pretrain_on=("first", "second"))
    with pytest.raises(
        UsageError, match=f"^MISSRec reads text features 12 wide, and a data set .* {has}; extract"
    ):
        model.use_catalog(other(25, 1, **changes).catalog)
