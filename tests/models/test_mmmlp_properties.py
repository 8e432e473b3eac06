"""MMMLP: properties of its network, its losses, its dropout and its initial weights; numbers are in test_mmmlp.py."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.models.make_mmmlp import HISTORIES, NAMES, make, stream_by_hand
from tests.models.test_dropout import assert_dropped, bare
from tests.models.toy import (
    gradients,
    history_batch,
    last_state,
    loss_by_hand,
    n_parameters,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
)

# -- properties --------------------------------------------------------------------------------------------------


@NAMES
def test_order_matters_without_positions(name: str) -> None:
    model = make(name)
    assert (last_state(model, [4, 9, 2, 7]) - last_state(model, [9, 4, 2, 7])).abs().max() > 1e-6


@NAMES
def test_silent_mlps_leave_the_inputs_of_the_last_event(name: str) -> None:
    model = make(name)
    with torch.no_grad():
        for mixer in model.mixers:
            for mlp in (mixer.time, mixer.channel):
                mlp.down.weight.zero_()
                mlp.down.bias.zero_()
        inputs = model.streams(torch.tensor([[history[-1]] for history in HISTORIES]))[:, :, 0]  # [M, T, D]
        expected = model.norm(model.fusion(model.fusion_norm(inputs.movedim(0, 1).flatten(1))))
        torch.testing.assert_close(model.query(history_batch(model, HISTORIES)), expected)


def test_layers_share_their_parameters_and_their_number_is_the_specifications() -> None:
    catalog = toy_catalog(max_len=50)
    wide = {f"{name}_feat": torch.zeros(31, 768) for name in ("text", "image")}
    sizes = {
        n_parameters(toy_model("mmmlp", replace(catalog, **wide), hidden_dim=64, n_layers=n))
        for n in (1, 4, 8)
    }
    assert sizes == {3 * (128 + 20_250 + 128 + 33_088) + 384 + 12_352 + 2 * 49_216 + 384 + 31 * 64}


def test_content_acts_through_the_history_only_and_without_it_ids_remain() -> None:
    """Features of 0 leave constants in the streams of texts and pictures: users then differ by their ids alone."""
    model = make()
    before = last_state(model, [4, 9, 2])
    text = model.features["text"].feat
    text[20] += 1.0  # not in the history
    assert torch.equal(last_state(model, [4, 9, 2]), before)
    text[9] += 1.0
    assert (last_state(model, [4, 9, 2]) - before).abs().max() > 1e-6
    for table in model.features.values():
        table.feat.zero_()
        with torch.no_grad():
            table.map.bias.zero_()
    other = [4, 9, 8]
    with torch.no_grad():
        model.item_emb.weight[8] = model.item_emb.weight[2]
    torch.testing.assert_close(last_state(model, [4, 9, 2]), last_state(model, other))


def test_padding_and_items_without_a_feature_have_the_bias_of_the_norm() -> None:
    """Toy items 3 and 7 have no text, 3, 11 and 12 no picture; the maps' biases must not stand in."""
    model = make()
    bias = model.content_norm.bias.view(2, 6)
    streams = model.streams(torch.tensor([[3, 11, 5, 0]]))[1:, 0]
    is_bias = (streams - bias[:, None]).abs().amax(-1) < 1e-12
    assert is_bias.tolist() == [[True, False, False, True], [True, True, False, True]]


def test_content_as_wide_as_the_model_is_used_as_it_is() -> None:
    catalog = toy_catalog()
    model = make(catalog=catalog, hidden_dim=8)  # toy pictures have width 8
    assert model.features["image"].map is None
    for name, table in model.features.items():
        assert torch.equal(table.feat.float(), getattr(catalog, f"{name}_feat"))
    assert model.features["text"].map is not None


def test_mixing_is_not_causal_and_sees_the_padding() -> None:
    """Why it is trained on prefixes padded to max_len."""
    model = make()
    assert not model.needs.causal
    assert (model.needs.samples, model.needs.layout) == (("prefix",), "fixed")
    first, second = (
        model.mixers[0](model.streams(torch.tensor([[4, 9, 2, item, 0, 0, 0, 0]])), torch.tensor([1]))
        for item in (7, 8)
    )
    assert (first - second).abs().max() > 1e-6
    right, left = make(), make("mmmlp:left")
    assert (last_state(right, [4, 9]) - last_state(left, [4, 9])).abs().max() > 1e-6
    full = [3, 1, 8, 20, 30, 7, 9, 2]
    assert torch.equal(last_state(right, full), last_state(left, full))


@pytest.mark.parametrize("is_training", [False, True])
def test_the_released_loop_is_one_pass(is_training: bool) -> None:
    """Each pass begins with the stream's input: the fourth one's answer and gradient are the first one's."""
    model = make("mmmlp:as-released", dropout=0.0).train(is_training)
    stacked = make("mmmlp:as-released", dropout=0.0, content_depth="stacked").train(is_training)
    deep = make("mmmlp:as-released", dropout=0.0, n_layers=3).train(is_training)
    batch = training_batch(model, toy_view())
    assert model.mixers[1].depth == 1
    assert deep.mixers[1].depth == 1
    assert deep.mixers[0].depth == 3
    assert stacked.mixers[0].depth == 2
    loss, grads = gradients(model, batch)
    assert loss != pytest.approx(gradients(deep, batch)[0])  # the id stream is deeper there
    x, place = model.streams(batch.item_seq)[1:], batch.slot % 8
    for _ in range(4):
        actual = model.mixers[1](x, place)
    items = [history.tolist() for history in batch.item_seq]
    for k in (1, 2):
        expected = torch.stack(
            [stream_by_hand(model, k, row)[p] for row, p in zip(items, place, strict=True)]
        )
        torch.testing.assert_close(actual[k - 1], expected)
    assert all(grads[key].abs().max() > 0 for key in grads)


def test_streams_that_a_data_set_lacks_are_left_out() -> None:
    model = make(catalog=replace(toy_catalog(), image_feat=None, has_image=None))
    assert model.extra_state() == {"streams": ["id", "text"]}
    assert make(catalog=toy_catalog(features=False)).extra_state() == {"streams": ["id"]}
    cls = type(model)
    assert [cls.reads(make("mmmlp:-text").config, name) for name in ("text", "image")] == [False, True]


# -- loss, dropout, start ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ce", "bpr"])
def test_losses_are_those_of_the_scores(kind: str) -> None:
    model = make(loss=kind)
    batch = training_batch(model, toy_view())
    torch.testing.assert_close(model.loss(batch)[kind], loss_by_hand(kind, model.score(batch), batch))


def test_the_padding_id_is_a_class_as_released_and_moves_as_such_only() -> None:
    model = make("mmmlp:as-released")
    assert model.item_emb.weight[0].any()
    batch = training_batch(model, toy_view())
    scores = model.query(batch) @ model.item_emb.weight.T
    torch.testing.assert_close(model.loss(batch)["ce"], F.cross_entropy(scores, batch.target))
    assert not make().item_emb.weight[0].any()


def silent(rate: float, depth: int = 1) -> Any:
    """Return a mixer of two streams with L = D = 8 in training, all maps silent and without norms."""
    model = toy_model("mmmlp:-image", toy_catalog(), hidden_dim=8, n_layers=depth, dropout=rate)
    return bare(model.mixers[0])


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("kind", ["time", "channel"])
def test_dropout_acts_inside_both_maps(kind: str, depth: int) -> None:
    """In the last layer and in earlier ones: whose answer 1 reaches the output through the residuals."""
    torch.manual_seed(0)
    mixer, x = silent(0.25, depth), torch.full((2, 300, 8, 8), 5.0, dtype=torch.float64)
    place, mlp = torch.arange(300) % 8, getattr(mixer, kind)
    nn.init.ones_(mlp.down.bias)  # each layer adds 1, dropped by itself
    added = mixer(x, place) - 5
    shares = [(added - value).abs().lt(1e-9).double().mean().item() for value in (0.0, depth / 0.75)]
    assert shares == pytest.approx([0.25**depth, 0.75**depth], abs=0.03)
    nn.init.zeros_(mlp.down.bias)
    nn.init.ones_(mlp.up.bias)
    with torch.no_grad():
        mlp.down.weight[..., :8] = torch.eye(8, dtype=torch.float64)
    mlp.drop, inner = nn.Identity(), mlp.drop
    kept = F.gelu(torch.tensor(1.0, dtype=torch.float64)).item()
    torch.testing.assert_close(
        mixer(x, place) - 5, torch.full((2, 300, 8), depth * kept, dtype=torch.float64)
    )
    mlp.drop = inner
    if depth == 1:  # both drops, one after the other
        assert_dropped(mixer(x, place) - 5, 1 - 0.75**2, kept=kept / 0.75**2)


def test_nothing_else_is_dropped() -> None:
    """Inputs, residuals, fusion: with silent maps training and evaluation agree."""
    model = toy_model("mmmlp", toy_catalog(), hidden_dim=8).train()
    batch = training_batch(model, toy_view())
    assert not torch.equal(model.query(batch), model.query(batch))
    with torch.no_grad():
        for mixer in model.mixers:
            for parameter in (*mixer.time.parameters(), *mixer.channel.parameters()):
                parameter.zero_()
    assert torch.equal(model.query(batch), model.eval().query(batch))


def test_initialisation() -> None:
    model = toy_model("mmmlp", toy_catalog(n_items=400, max_len=40), hidden_dim=64)
    assert model.item_emb.weight[1:].std().item() == pytest.approx(0.02, rel=0.05)
    assert not model.item_emb.weight[0].any()
    mixer = model.mixers[0]
    for layer in (mixer.channel.up, mixer.channel.down, model.fusion, model.features["text"].map):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert not layer.bias.any()
    for layer, fan_in in ((mixer.time.up, 40), (mixer.time.down, 160)):  # torch's convolutions
        assert layer.weight.abs().max().item() == pytest.approx(fan_in**-0.5, rel=0.01)
        assert layer.bias.abs().max().item() == pytest.approx(fan_in**-0.5, rel=0.1)
        assert layer.weight.std().item() == pytest.approx(fan_in**-0.5 / math.sqrt(3), rel=0.05)
