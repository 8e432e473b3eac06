"""S3-Rec_ITV: the specification's numbers, plain loops of what pictures add, codes, and what a weight of 0 leaves."""

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmbench.models.registry import find
from mmbench.settings.config import TrainConfig
from mmbench.training.trainer import Trainer
from tests.models.make_s3rec import MASK, SMALL, module, of_each_history, prefixes, pretraining, shaken
from tests.models.test_s3rec import (
    layer,
    place_released_weights,
    put,
    put_layer,
    released_catalog,
    released_step,
    sigmoid,
    states_by_hand,
)
from tests.models.toy import (
    MAX_LEN,
    N_ITEMS,
    catalog_of,
    gradients,
    history_batch,
    overfit,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)
from tests.training.test_graphs import refused

ITV: Any = sys.modules[find("s3rec-itv").load().__module__]
FEW = {"attribute_min_count": 1, "n_blocks": 2, "n_codes": 4}


def make(**settings: Any) -> Any:
    return toy_model("s3rec-itv", toy_catalog(), **(SMALL | FEW | settings)).double()


def unweighted(terms: dict[str, Tensor]) -> dict[str, float]:
    """Return the terms that pictures, or text vectors, add to S3-Rec's, without the weight of AAP."""
    return {name: terms[name].item() / (0.2 if "aap" in name else 1) for name in terms if "ap" in name}


# -- the specification's numbers (float64, dropout off) --------------------------------------------------------------


def specified_model(**settings: Any) -> Any:
    """Return a model of six items, of which the third has no picture and the fifth that of the first.

    The reference's features are float32, as stored ones are; in float64 the dense terms differ in the eighth digit.
    """
    i, j = torch.arange(7, dtype=torch.float32)[:, None], torch.arange(3, dtype=torch.float32)
    feat = 0.3 * (1 + i + 2 * j).sin()
    feat[5] = feat[1]
    feat[[0, 3]] = 0
    catalog = replace(released_catalog(), image_feat=feat, has_image=feat.ne(0).any(1))
    sizes = {"hidden_dim": 4, "inner_dim": 16, "n_layers": 1, "attributes": "category", "n_codes": 2}
    model: Any = toy_model("s3rec-itv", catalog, **(SMALL | FEW | sizes | settings)).double()
    place_released_weights(model)
    side = model.sides["image"]
    if settings.get("image") == "dense":
        put_layer(side.key, 19)
    else:
        items = torch.tensor([1, 2, 4, 5, 6])
        label = torch.stack([items % 2, 2 + items // 2 % 2], 1)
        side.labels = ITV.Labels(items[:, None].expand(-1, 2).flatten(), label.flatten(), 6, 0, 4)
        put(side.attribute_emb.weight, 16)
    put_layer(side.aap, 17)
    put_layer(side.map, 18)
    return model


def specified_step() -> tuple[Any, Any]:
    return released_step(
        [[1, 2, 3, 4], [2, 6, 5, 1]],
        items=[[1, 7, 3, 7], [2, 6, 5, 7]], negatives=[[1, 6, 3, 5], [2, 6, 5, 4]],
        context=[[1, 7, 7, 4], [7, 6, 5, 1]], positive=[[7, 2, 3, 7], [2, 7, 7, 7]],
        negative=[[7, 6, 1, 7], [4, 7, 7, 7]],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("image", "aap", "masked", "total"),
    [
        ("codes", 11.1036409804, 8.3828287722, 27.3833597612),
        ("dense", 10.3326442707, 11.2899651197, 30.1362967667),
    ],
)
def test_terms_are_the_specifications(image: str, aap: float, masked: float, total: float) -> None:
    terms = specified_model(image=image).pretraining_loss(*specified_step())
    expected = {"aap": 17.4834958448, "map": 10.5138546174, "aap_image": aap, "map_image": masked}
    assert unweighted(terms) == pytest.approx(expected, abs=6e-11)
    assert terms["mip"].item() == pytest.approx(2.0763017994, abs=6e-11)
    assert terms["sp"].item() / 0.5 == pytest.approx(1.3858944142, abs=6e-11)
    assert sum(terms.values()).item() == pytest.approx(total, abs=6e-11)


# -- plain loops, one event at a time --------------------------------------------------------------------------------

HISTORIES = [[4, 9, 9, 2, 30, 7], [5, 3], [1, 12], [3, 8, 1]]  # items 3, 11 and 12 have no picture


def class_loss(side: Any, classes: set[int], query: np.ndarray) -> float:
    total = 0.0
    for number, vector in enumerate(side.attribute_emb.weight.detach().numpy()):
        p = sigmoid(float(vector @ query))
        total -= math.log(p if number in classes else 1 - p)
    return total


def contrast_loss(side: Any, item: int, others: Sequence[int], query: np.ndarray, tau: float) -> float:
    """Return the InfoNCE of an item among others; those of equal features are left out."""
    feats = side.feat.numpy()

    def similarity(other: int) -> float:
        key = layer(feats[other], side.key)
        return float(key @ query / np.linalg.norm(key) / np.linalg.norm(query)) / tau

    rest = [other for other in set(others) if not np.array_equal(feats[other], feats[item])]
    own = math.exp(similarity(item))
    return -math.log(own / (own + sum(math.exp(similarity(other)) for other in rest)))


def terms_by_hand(model: Any, side: Any, histories: list[list[int]], seen: list[list[int]]) -> list[float]:
    """Return AAP and MAP of a modality; `seen` are the histories with [MASK]."""
    events = []
    for history, visible in zip(histories, seen, strict=True):
        states = states_by_hand(model, visible, causal=False)
        for item, shown, state in zip(history, visible, states, strict=True):
            if side.present[item]:
                events.append((item, shown == MASK, layer(state, side.map if shown == MASK else side.aap)))
    totals = [0.0, 0.0]
    for item, is_masked, query in events:
        if isinstance(side, ITV.CodeTerms):
            classes = set(side.labels.ids[item][side.labels.is_real[item]].tolist())
            totals[is_masked] += class_loss(side, classes, query)
        else:
            others = [other for other, masked, _ in events if masked == is_masked]
            totals[is_masked] += contrast_loss(side, item, others, query, model.config.temperature)
    return totals


@pytest.mark.parametrize("mode", ["codes", "dense"])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_added_terms_are_those_of_plain_loops(mode: str, layout: str) -> None:
    model = shaken(pretraining(make(text=mode, image=mode)))
    batch = prefixes(view_of(HISTORIES), layout)
    torch.manual_seed(3)
    cloze = module().draw_cloze(batch, model.pretraining.events, N_ITEMS, 0.2)
    terms = unweighted(model.pretraining_loss(batch, cloze))
    histories = of_each_history(batch, batch.item_seq)
    seen = of_each_history(batch, cloze.items)
    for name, suffix in (("text", ""), ("image", "_image")):
        aap, masked = terms_by_hand(model, model.sides[name], histories, seen)
        assert terms[f"aap{suffix}"] == pytest.approx(aap, rel=1e-9)
        assert terms[f"map{suffix}"] == pytest.approx(masked, rel=1e-9)


def test_labels_against_items_of_the_catalogue_by_hand() -> None:
    model = shaken(pretraining(make(image="dense", contrast="bce", pool=7)))
    side, items = model.sides["image"], torch.tensor([4, 9, 2])
    others = side.draw_others(items, torch.ones(3, dtype=torch.bool))[0].tolist()
    assert len(others) == 7
    assert all(side.present[other] for other in others)
    query = torch.randn(3, 12, dtype=torch.float64)
    keys = side.key(side.feat).detach()
    expected = 0.0
    for q, item in zip(query, items.tolist(), strict=True):
        rest = [math.log(1 - sigmoid(float(q @ keys[other]))) for other in others if other != item]
        expected -= math.log(sigmoid(float(q @ keys[item]))) + sum(rest) / len(rest)
    loss = side.contrasts(query, keys[items], items, torch.ones(3, dtype=torch.bool))
    assert loss.item() == pytest.approx(expected, rel=1e-9)


# -- a weight of 0, and who learns from pictures ---------------------------------------------------------------------


def trained(name: str, folder: Path, **settings: Any) -> Any:
    """Return the model after an epoch of each stage, with dropout and weights that vary."""
    few = {
        "hidden_dim": 8, "inner_dim": 8, "n_layers": 1, "attribute_min_count": 1, "pretrain_epochs": 1,
        "pretrain_batch_size": 64,
    }  # fmt: skip
    model = toy_model(name, toy_catalog(), seed=3, **few, **settings)
    config = TrainConfig(max_len=MAX_LEN, max_epochs=1, batch_size=64, batch_unit="rows")
    folder.mkdir()
    Trainer(model, toy_view(), lambda _: 0.0, config, seed=1, folder=folder).fit()
    return model


def test_a_weight_of_zero_trains_what_s3rec_does(tmp_path: Path) -> None:
    plain = trained("s3rec", tmp_path / "a")
    for image in ("codes", "dense"):
        without = trained("s3rec-itv", tmp_path / image, image=image, image_weight=0.0, pool=5)
        weights = dict(without.named_parameters())
        for name, parameter in plain.named_parameters():
            assert torch.equal(parameter, weights[name]), name
        batch = history_batch(plain, HISTORIES)
        assert torch.equal(plain.eval().score(batch), without.eval().score(batch))


@pytest.mark.parametrize("image", ["codes", "dense"])
def test_pictures_teach_the_embeddings_of_visible_items_and_of_the_mask(image: str) -> None:
    model = shaken(pretraining(make(image=image, aap_weight=1.0, mip_weight=0.0, sp_weight=0.0)))
    batch = prefixes(view_of(HISTORIES))
    torch.manual_seed(3)
    cloze = module().draw_cloze(batch, model.pretraining.events, N_ITEMS, 0.2)
    terms = model.pretraining_loss(batch, cloze)
    (terms["aap_image"] + terms["map_image"]).backward()
    rows = model.item_emb.weight.grad.ne(0).any(1).nonzero()[:, 0].tolist()
    assert rows == sorted(set(cloze.items.flatten().tolist()) - {0})
    assert 3 in rows, "an item without a picture is visible, and tells of the others"
    model.start_stage("finetune")
    _, grads = gradients(model, training_batch(model, toy_view()))
    assert not [name for name in grads if name.startswith(("sides", "pretraining"))]


def test_each_term_of_pre_training_teaches_both_sides_of_what_it_compares() -> None:
    """One step along a term's gradient in all weights makes that term smaller by the gradient's square."""
    model = shaken(pretraining(make(text="dense", image="dense")))
    batch, weights = prefixes(view_of(HISTORIES)), list(model.parameters())
    torch.manual_seed(3)
    cloze = module().draw_cloze(batch, model.pretraining.events, N_ITEMS, 0.2)
    for name in model.pretraining_loss(batch, cloze):
        term = model.pretraining_loss(batch, cloze)[name]
        grads = torch.autograd.grad(term, weights, allow_unused=True)
        pairs = [(weight, grad) for weight, grad in zip(weights, grads, strict=True) if grad is not None]
        square = sum(float(grad.square().sum()) for _, grad in pairs)
        step = 1e-5 / square**0.5
        with torch.no_grad():
            for weight, grad in pairs:
                weight -= step * grad
            fall = (term - model.pretraining_loss(batch, cloze)[name]).item()
            for weight, grad in pairs:
                weight += step * grad
        assert fall == pytest.approx(step * square, rel=1e-2), name


def test_a_pre_training_step_asks_nothing_of_the_host() -> None:
    for settings in (
        {},
        {"text": "dense", "image": "dense", "pool": 5},
        {"image": "dense", "contrast": "bce"},
    ):
        assert refused(pretraining(make(**settings)), prefixes(toy_view())) == []


# -- planted answers, errors -----------------------------------------------------------------------------------------


def style_rate(image: str, *, shuffled: bool = False) -> float:
    """Return how often pre-training tells the style of a masked last item of held histories, which pictures show.

    Customers stay with one of six styles.
    """
    rng = np.random.default_rng(0)
    style = np.arange(60) % 6
    histories = [(rng.permutation(10)[:4] * 6 + rng.integers(6) + 1).tolist() for _ in range(110)]
    look = rng.permutation(style) if shuffled else style
    feat = torch.zeros(61, 12)
    feat[1:] = torch.eye(12)[look] + 0.05 * torch.from_numpy(rng.normal(size=(60, 12)))
    catalog = replace(
        catalog_of(view_of(histories[:60]), n_items=60), image_feat=feat, has_image=torch.arange(61) > 0
    )
    sizes = {
        "hidden_dim": 16,
        "n_layers": 1,
        "n_blocks": 1,
        "n_codes": 6,
        "max_code_share": 1.0,
        "attribute_min_count": 1,
    }
    model: Any = toy_model("s3rec-itv", catalog, **(SMALL | sizes | {"image": image}))
    model = pretraining(model)
    if image == "codes":
        model.sides["image"].labels = ITV.Labels(torch.arange(1, 61), torch.from_numpy(look), 60, 0, 6)
        model.sides["image"].attribute_emb = torch.nn.Embedding(6, 16)
    train, test = prefixes(view_of(histories[:60])), history_batch(model, histories[60:])

    def step() -> Tensor:
        return torch.stack(list(model.loss(train).values())).sum()

    overfit(model, step, lambda: False, lr=0.02, n_steps=40)
    last = test.item_seq.flatten()[test.slot]
    hidden = test.item_seq.flatten().index_fill(0, test.slot, 61).view_as(test.item_seq)
    side = model.eval().sides["image"]
    with torch.no_grad():
        query = side.map(model.encode(hidden, test, causal=False, slot=test.slot))
        if image == "codes":
            best = (query @ side.attribute_emb.weight.T).argmax(1)
        else:
            keys = torch.nn.functional.normalize(side.key(feat[1:]), dim=1)
            best = torch.from_numpy(look)[(query @ keys.T).argmax(1)]
    return float((best == torch.from_numpy(look)[last - 1]).double().mean())


@pytest.mark.parametrize("image", ["codes", "dense"])
def test_pre_training_finds_the_style_that_pictures_show(image: str) -> None:
    assert style_rate(image) > 0.75
    assert image == "dense" or style_rate(image, shuffled=True) < 0.5


def test_data_sets_without_what_the_model_reads() -> None:
    bare = replace(toy_catalog(), image_feat=None, has_image=None, text_feat=None, has_text=None)
    settings = SMALL | FEW
    with pytest.raises(
        ValueError, match=r"no item of the data set has image features; .* or train s3rec instead"
    ):
        toy_model("s3rec-itv", bare, **settings)
    with pytest.raises(
        ValueError, match=r"no item of the data set has text features; .* or set text = \"attr"
    ):
        toy_model("s3rec-itv", bare, **settings, text="dense")
    toy_model("s3rec-itv", bare, **settings, pretrain_epochs=0)
    with pytest.raises(ValueError, match="n_blocks = 9 is more than the 8 dims of a vector"):
        make(n_blocks=9)
    with pytest.raises(ValueError, match="n_blocks = 4 is more than the 3 dims of a vector"):
        make(n_blocks=4, n_components=3)
