"""TedRec: section "How to check it" of its specification, and the network against plain loops."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.data.batch import Batch, TrainBatch
from mmbench.errors import UsageError
from mmbench.models.base import Recommender
from tests.fixed import signed
from tests.models import reference_tedrec
from tests.models.reference_tedrec import Noise, World
from tests.models.test_reference import RANKED, assert_terms_and_gradients, catalog, leaves, make, step_of
from tests.models.toy import (
    catalog_of,
    history_batch,
    overfit,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)
from tests.models.waves import TOY_HISTORIES, name_of, put, queries, wave, with_targets

NO_DROPOUT = {"dropout": 0.0, "attn_dropout": 0.0, "adaptor_dropout": 0.0}
SWITCHES: list[dict[str, Any]] = [
    {},
    {"zero_padding": True},
    {"modalities": ["image"]},
    {"modalities": ["text", "image"]},
    {"modalities": []},
]


def lively(**settings: Any) -> Recommender[Any]:
    """Return a model in evaluation mode with weights so large that every part shows."""
    sizes = {"hidden_dim": 8, "inner_dim": 6, "n_experts": 3}
    model = toy_model("tedrec", toy_catalog(), **sizes | NO_DROPOUT | settings)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


def grid_of(model: Recommender[Any], batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the place in the batch, and whether it is one, of each place of each slot's history [T, L]."""
    place, last = torch.arange(model.max_len), batch.position.flatten()[batch.slot][:, None]
    return batch.slot[:, None] - last + place, place <= last


@contextmanager
def noise_from(draw: Callable[[tuple[int, ...]], Tensor]) -> Iterator[None]:
    with mock.patch.object(torch, "randn", lambda shape, **_: draw(tuple(shape))):
        yield


# -- numbers of the released code --------------------------------------------------------------------------------

WAVE_HISTORIES, WAVE_TARGETS = [[2], [1, 3, 5], [4, 2, 1, 5, 3, 2]], torch.tensor([3, 4, 3])


def wave_model(**settings: Any) -> Recommender[Any]:
    text = torch.cat([torch.zeros(1, 6, dtype=torch.float64), wave(90, 5, 6)])
    known = replace(catalog_of(view_of([[1, 2]]), n_items=5, max_len=6, features=False), text_feat=text)
    sizes = {"hidden_dim": 4, "inner_dim": 6, "n_heads": 2, "n_layers": 1, "n_experts": 2}
    model = toy_model("tedrec", known, **sizes, **NO_DROPOUT, **settings).double()
    put(model, "item_emb.weight", wave(100, 6, 4))
    put(model, "position_emb.weight", wave(1, 6, 4))
    put(model, "norm.weight", 1 + wave(2, 4))
    put(model, "norm.bias", wave(3, 4))
    block, adaptor, fusion = model.encoder.blocks[0], model.adaptors["text"], model.fusion
    put(block, "attention.qkv.weight", wave(10, 4, 4), wave(12, 4, 4), wave(14, 4, 4))
    put(block, "attention.qkv.bias", wave(11, 4), wave(13, 4), wave(15, 4))
    for name, k, n_out, n_in in (("attention.out", 16, 4, 4), ("up", 18, 6, 4), ("down", 20, 4, 6)):
        put(block, f"{name}.weight", wave(k, n_out, n_in))
        put(block, f"{name}.bias", wave(k + 1, n_out))
    for name, k in (("norm1", 22), ("norm2", 24)):
        put(block, f"{name}.weight", 1 + wave(k, 4))
        put(block, f"{name}.bias", wave(k + 1, 4))
    put(adaptor, "experts.weight", wave(60, 4, 6), wave(62, 4, 6))
    put(adaptor, "offsets", wave(61, 6, 6), wave(63, 6, 6))
    put(adaptor, "gate.weight", wave(80, 6, 2).T)
    put(adaptor, "noise.weight", wave(81, 6, 2).T)
    put(fusion, "filter", *wave(120, 4, 4, 2).unbind(-1))
    for k, gate in enumerate(fusion.gates):
        put(gate, "weight", wave(110 + 2 * k, 4))
        put(gate, "bias", wave(111 + 2 * k, 1))
    return model.eval()


def wave_batch(model: Recommender[Any]) -> TrainBatch:
    return with_targets(history_batch(model, WAVE_HISTORIES), WAVE_TARGETS)


def cosines_with_padding(model: Recommender[Any], batch: Batch) -> Tensor:
    return model.query(batch) @ F.normalize(model.item_emb.weight, dim=-1).T


def test_fusion_of_the_released_code() -> None:
    model = wave_model()
    batch, seen = history_batch(model, WAVE_HISTORIES), {}
    for k, gate in enumerate(model.fusion.gates, start=1):
        gate.register_forward_pre_hook(lambda _, args, k=k: seen.update({f"c{k}": args[0][1, 2]}))
    with torch.no_grad():
        seen["X"] = model.fuse(batch).flatten(0, 1)[batch.slot[1]]
        content = model.adaptors["text"](batch.item_seq, batch.position)
        seen["F"] = content.flatten(0, 1)[batch.slot[1]]
    expected = {
        "F": [0.2036793225, -0.1845306224, -0.0227430535, 0.2068306786],
        "c1": [-0.0500242463, 0.0467795130, -0.0135987658, -0.1035394361],
        "c2": [-0.0001822310, 0.0241905389, -0.0065509537, -0.0327082477],
        "X": [-0.0442761289, 0.0649347710, -0.0184050767, -0.1233141444],
    }
    for name, values in expected.items():
        torch.testing.assert_close(
            seen[name], torch.tensor(values, dtype=torch.float64), rtol=0, atol=6e-11, msg=name
        )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.3241763702, -0.1756118002, -0.0034024945, 0.1767706330, -0.3157088833, 0.4102999195]),
        (
            {"zero_padding": True},
            [0.5157291527, -0.3870942083, 0.1977039713, 0.0143515460, -0.2095595468, 0.3673555177],
        ),
    ],
    ids=["as-released", "zero-padding"],
)
def test_cosines_of_the_released_code(settings: dict[str, Any], expected: list[float]) -> None:
    model = wave_model(**settings)
    batch = history_batch(model, WAVE_HISTORIES)
    wanted = torch.tensor(expected, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(cosines_with_padding(model, batch)[1], wanted, rtol=0, atol=6e-11)
        torch.testing.assert_close(model.score(batch)[1], wanted[1:], rtol=0, atol=6e-11)


def test_losses_of_the_released_code() -> None:
    model = wave_model()
    batch = wave_batch(model)
    assert model.loss(batch)["ce"].item() == pytest.approx(4.9634046730, abs=6e-11)
    with_padding = F.cross_entropy(cosines_with_padding(model, batch) / 0.07, WAVE_TARGETS)
    assert with_padding.item() == pytest.approx(5.0460423426, abs=6e-11)


def test_loss_of_the_released_code_with_noise() -> None:
    """Noise cos(0, 1, 2, ..) of [3, 6, 2] places and experts; here it is drawn apart for events and for padding."""
    model = wave_model().train()
    batch = wave_batch(model)
    source, real = grid_of(model, batch)
    noise = torch.arange(36, dtype=torch.float64).cos().view(3, 6, 2)

    def draw(shape: tuple[int, ...]) -> Tensor:
        if shape == (3, 6, 2):
            return noise
        of_events = torch.zeros(batch.item_seq.numel(), 2, dtype=torch.float64)
        of_events[source[real]] = noise[real]
        return of_events.view(shape)

    with noise_from(draw):
        loss = F.cross_entropy(cosines_with_padding(model, batch) / 0.07, WAVE_TARGETS)
    assert loss.item() == pytest.approx(5.1184713277, abs=6e-11)


# -- the network against plain loops -----------------------------------------------------------------------------


def built(**settings: Any) -> tuple[Recommender[Any], World]:
    model, known = make("tedrec", n_experts=3, temperature=0.3, adaptor_dropout=0.0, **settings), catalog()
    features = {
        name: getattr(known, f"{name}_feat").double() for name in settings.pop("modalities", ["text"])
    }
    sizes = {"max_len": known.max_len, "n_layers": 2, "n_heads": 2, "n_experts": 3, "temperature": 0.3}
    return model, World(features=features, **sizes, **settings)


def drawn_for_test(world: World) -> Callable[[tuple[int, ...]], Tensor]:
    """Return numbers that differ between modalities, and between events and padding."""
    count: dict[tuple[int, ...], int] = {}

    def draw(shape: tuple[int, ...]) -> Tensor:
        count[shape] = count.get(shape, 0) + 1
        return 2 * signed(f"noise {shape} {count[shape]}", shape)

    return draw


def noises_of(model: Recommender[Any], world: World, batch: Batch) -> list[Noise]:
    """Return the numbers of `drawn_for_test` by target, modality and place."""
    draw, by_modality = drawn_for_test(world), {}
    source, real = grid_of(model, batch)
    for name in world.features:
        of_events = draw((*batch.item_seq.shape, world.n_experts)).flatten(0, 1)
        by_place = of_events[torch.where(real, source, 0)]
        if not world.zero_padding:
            of_padding = draw((len(batch.slot), world.max_len, world.n_experts))
            by_place = torch.where(real[..., None], by_place, of_padding)
        by_modality[name] = by_place
    return [
        {name: list(by_place[t]) for name, by_place in by_modality.items()} for t in range(len(batch.slot))
    ]


@pytest.mark.parametrize("settings", SWITCHES, ids=name_of)
def test_scores_losses_and_gradients(settings: dict[str, Any]) -> None:
    model, world = built(**settings)
    batch, samples = step_of(model, "prefix")
    weights, noises = leaves(model), noises_of(model, world, batch)
    with noise_from(drawn_for_test(world)):
        terms = model.train().loss(batch)
    expected = {"ce": reference_tedrec.loss(weights, world, samples, noises)}
    assert_terms_and_gradients(terms, expected, model, weights)
    scores = model.eval().score(history_batch(model, RANKED))
    for row, items in enumerate(RANKED):
        state = reference_tedrec.state(weights, world, items)
        torch.testing.assert_close(
            scores[row], torch.stack(reference_tedrec.scores(weights, state)), rtol=1e-10, atol=1e-12
        )


# -- histories and padding ---------------------------------------------------------------------------------------


def test_frequencies_mix_later_events_into_earlier_places() -> None:
    model = lively()
    with torch.no_grad():
        before, after = (model.fuse(history_batch(model, [items]))[0] for items in ([4, 9, 2], [4, 9, 7]))
    assert (before - after)[:3].abs().amax(1).min() > 1e-3
    # So a prefix is a history of its own.
    assert (queries(model, [[4, 9]]) - queries(model, [[4, 9, 2]])).abs().max() > 1e-3


@pytest.mark.parametrize("zero_padding", [False, True])
def test_padding_takes_part_unless_it_is_zeroed(zero_padding: bool) -> None:
    model = lively(zero_padding=zero_padding)
    before = queries(model)
    with torch.no_grad():
        model.item_emb.weight[0] += 1.0
        moved = (queries(model) - before).abs().amax(1)
        # Only the third history has an event at the last place.
        model.adaptors["text"].offsets[:, 7] += 1.0
        moved_by_offset = (queries(model) - before).abs().amax(1)
    is_full = torch.tensor([len(history) == 8 for history in TOY_HISTORIES])
    assert moved[is_full].max() == 0
    assert moved_by_offset[is_full].min() > 1e-4
    assert bool(moved[~is_full].max() == 0) is zero_padding
    assert bool(moved_by_offset[~is_full].max() == 0) is zero_padding


def test_states_do_not_depend_on_how_histories_lie_in_a_batch() -> None:
    """Evaluation rows hold several histories of like length; training packs others beside each other."""
    model, view = lively(), toy_view()
    batch = training_batch(model, view)
    assert (batch.segment.amax(1) > 1).any()
    with torch.no_grad():
        together = model.query(batch)
        source, real = grid_of(model, batch)
        items = batch.item_seq.flatten()
        for t in range(0, len(together), 7):
            alone = queries(model, [items[source[t][real[t]]].tolist()])[0]
            torch.testing.assert_close(together[t], alone, rtol=0, atol=1e-12)


# -- sizes, starts, bad input ------------------------------------------------------------------------------------


def count(name: str, known: Any, **settings: Any) -> int:
    return sum(p.numel() for p in toy_model(name, known, **settings).parameters())


def test_parameters_of_the_published_log() -> None:
    """ML-1M: 3,416 items with 768-wide texts."""
    bare = catalog_of(view_of([[1, 2]]), n_items=3416, max_len=50, features=False)
    known = replace(bare, text_feat=torch.zeros(3417, 768))
    assert count("tedrec:official", known) == 4_252_702


def test_parameters_are_those_of_sasrec_and_the_fusion() -> None:
    known, sizes = toy_catalog(max_len=50), {"hidden_dim": 64}
    text, image = (8 * (64 * width + 50 * width) + 2 * width * 8 for width in (12, 8))
    frequencies = 2 * 26 * 64
    sasrec = count("sasrec", known, **sizes)
    assert count("tedrec", known, **sizes) == sasrec + text + frequencies + 2 * 65
    assert count("tedrec:text-image", known, **sizes) == sasrec + text + image + frequencies + 3 * 65
    assert count("tedrec:id", known, **sizes) == sasrec + frequencies + 65


def test_weights_start_as_released() -> None:
    model = toy_model("tedrec", toy_catalog(n_items=400, n_users=400))
    fusion = model.fusion
    assert fusion.filter.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.item_emb.weight[0].std().item() == pytest.approx(0.02, rel=0.5)  # padding has a vector
    for adaptor in model.adaptors.values():
        assert not adaptor.offsets.any()
        assert not adaptor.gate.weight.any()
        assert not adaptor.noise.weight.any()
        assert adaptor.experts.weight.std().item() == pytest.approx(0.02, rel=0.1)
    biases = torch.stack([gate.bias for gate in fusion.gates])
    assert 0 < biases.abs().max() <= 1 / 8
    assert fusion.gates[0].weight.std().item() == pytest.approx(0.02, rel=0.4)


def test_scores_are_cosines() -> None:
    model = lively()
    with torch.no_grad():
        before = model.score(history_batch(model, TOY_HISTORIES))
        assert before.abs().max() <= 1
        model.encoder.blocks[-1].norm2.weight.mul_(3)
        model.encoder.blocks[-1].norm2.bias.mul_(3)
        torch.testing.assert_close(model.score(history_batch(model, TOY_HISTORIES)), before)


def test_frequencies_are_in_single_precision_under_autocast() -> None:
    model = lively().float()
    batch = training_batch(model, toy_view())
    plain = model.loss(batch)["ce"].item()
    kinds: list[torch.dtype] = []
    model.fusion.register_forward_hook(lambda _, args, out: kinds.extend([args[1][0].dtype, out.dtype]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.loss(batch)["ce"].item() == pytest.approx(plain, rel=0.05)
    assert kinds == [torch.bfloat16, torch.float32]


def test_bad_modalities() -> None:
    with pytest.raises(UsageError, match="must name each modality once"):
        toy_model("tedrec", toy_catalog(), modalities=["text", "text"])
    with pytest.raises(ValueError, match="reads text features, and the data set has none"):
        toy_model("tedrec", toy_catalog(features=False))
    model = toy_model("tedrec:text-image", replace(toy_catalog(), image_feat=None))
    assert model.extra_state() == {"modalities": ["text"]}


# -- a planted answer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "knows"), [("tedrec", True), ("tedrec:id", False)])
def test_texts_tell_what_an_item_is_that_training_never_showed(name: str, knows: bool) -> None:
    """A history is a greeting and an item of one of four kinds, which its text says; the next item is its kind's.

    Half of the items of each kind are never shown in training.
    """
    kinds, greeting = 4, 1
    answers = [2 + kind for kind in range(kinds)]
    members = torch.arange(6, 86).view(kinds, 20)
    text = torch.zeros(86, 12)
    for kind in range(kinds):
        text[members[kind], kind] = 3.0
    text[1:, kinds:] = torch.randn(85, 12 - kinds, generator=torch.Generator().manual_seed(0))
    shown = [[greeting, int(item), answers[k]] for k in range(kinds) for item in members[k, :10]]
    hidden = [[greeting, int(item), answers[k]] for k in range(kinds) for item in members[k, 10:]]
    known = catalog_of(view_of(shown), n_items=85, features=False)
    model = toy_model(name, replace(known, text_feat=text), hidden_dim=32, inner_dim=32, **NO_DROPOUT)
    batch = training_batch(model, view_of(shown))

    def right(histories: list[list[int]]) -> float:
        model.eval()
        with torch.no_grad():
            best = model.score(history_batch(model, [items[:-1] for items in histories])).argmax(1) + 1
        model.train()
        return (best == torch.tensor([items[-1] for items in histories])).double().mean().item()

    torch.manual_seed(0)
    overfit(model, lambda: model.loss(batch)["ce"], lambda: False, lr=0.01, n_steps=120)
    assert right(shown) > 0.95
    assert (right(hidden) > 0.9) is knows
