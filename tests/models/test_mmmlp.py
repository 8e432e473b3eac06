"""MMMLP: section "How to check it" of its specification, and the streams against a literal loop over rows."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.models.base import Catalog, Recommender
from tests.fixed import fill
from tests.models.test_dropout import assert_dropped, bare
from tests.models.toy import (
    catalog_of,
    gradients,
    history_batch,
    loss_by_hand,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
    with_targets,
)

HISTORIES = [[4, 9, 2], [1], [3, 3, 8, 20, 30, 7, 7, 2], [11, 12]]
VARIANTS = ["mmmlp", "mmmlp:as-released", "mmmlp:left", "mmmlp:-text", "mmmlp:-image", "mmmlp:id"]
NAMES = pytest.mark.parametrize("name", VARIANTS)


def make(name: str = "mmmlp", catalog: Catalog | None = None, **settings: Any) -> Recommender[Any]:
    """Return a small model in float64 and evaluation mode, whose weights let every bias show."""
    small = {"hidden_dim": 6, "n_layers": 2}
    model = toy_model(name, catalog or toy_catalog(), **(small | settings)).double().eval()
    fill(model)
    return model


def state(model: Recommender[Any], history: list[int]) -> Tensor:
    with torch.no_grad():
        return model.query(history_batch(model, [history]))[0]


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# -- numbers -----------------------------------------------------------------------------------------------------

ROWS, TARGETS = [[1, 2, 3], [4], [5, 6, 1, 2]], [4, 5, 3]


def matrix(p: int, d_out: int, d_in: int) -> Tensor:
    """Return the specification's tensor number p, 0.3 sin(p + i j + i / 2 + j)."""
    i, j = torch.arange(d_out, dtype=torch.float64)[:, None], torch.arange(d_in, dtype=torch.float64)
    return 0.3 * (p + i * j + i / 2 + j).sin()


def vector(p: int, size: int, *, is_scale: bool = False) -> Tensor:
    return 0.3 * (p + torch.arange(size, dtype=torch.float64) / 2).sin() + float(is_scale)


def numbers_catalog() -> Catalog:
    """Return 6 items with contents as wide as the model, row 0 zero."""
    i, j = torch.arange(7, dtype=torch.float64)[:, None], torch.arange(6, dtype=torch.float64)
    text, image = (1 + i * j + i + j / 2).sin(), (2 + i * j + i / 2 + j).cos()
    text[0] = image[0] = 0.0
    present = torch.arange(7) > 0
    view = view_of([[*row, target] for row, target in zip(ROWS, TARGETS, strict=True)])
    return replace(
        catalog_of(view, n_items=6, max_len=4, features=False),
        text_feat=text, image_feat=image, has_text=present, has_image=present,
    )  # fmt: skip


def stream_numbers(first: int) -> dict[str, Tensor]:
    """Return the 14 tensors of a stream from number `first` on, under the names of a mixer with one stream."""
    values = {"norm.weight": vector(first, 6, is_scale=True), "norm.bias": vector(first + 1, 6)}
    for kind, p, size in (("time", first + 2, 4), ("channel", first + 8, 6)):
        values |= {
            f"{kind}_norm.weight": vector(p, 6, is_scale=True), f"{kind}_norm.bias": vector(p + 1, 6),
            f"{kind}.up.weight": matrix(p + 2, 4 * size, size), f"{kind}.up.bias": vector(p + 3, 4 * size),
            f"{kind}.down.weight": matrix(p + 4, size, 4 * size), f"{kind}.down.bias": vector(p + 5, size),
        }  # fmt: skip
    return values


def numbers_model(name: str, streams: tuple[int, ...] = (1, 15, 29), **settings: Any) -> Recommender[Any]:
    """Return a model with the specification's tensors; `streams` are the numbers at which each stream's begin."""
    model = make(name, numbers_catalog(), dropout=0.0, **settings)
    table = matrix(0, 7, 6)
    if model.config.padding_id == "zero":
        table[0] = 0.0
    weights = {
        "item_emb.weight": table, "fusion_norm.weight": vector(43, 18, is_scale=True),
        "fusion_norm.bias": vector(44, 18), "fusion.weight": matrix(45, 6, 18), "fusion.bias": vector(46, 6),
    }  # fmt: skip
    values = [stream_numbers(first) for first in streams]
    for part in ("weight", "bias"):
        weights[f"norm.{part}"] = values[0][f"norm.{part}"]
        weights[f"content_norm.{part}"] = torch.cat([stream[f"norm.{part}"] for stream in values[1:]])
    low = 0
    for number, size in enumerate(model.sizes):
        for key in (key for key in values[0] if not key.startswith("norm")):
            stacked = torch.stack([stream[key] for stream in values[low : low + size]])
            weights[f"mixers.{number}.{key}"] = stacked if stacked.dim() > 2 else stacked.flatten()
        low += size
    model.load_state_dict(weights, strict=True)
    return model


def numbers_loss(model: Recommender[Any]) -> float:
    batch = with_targets(history_batch(model, ROWS), TARGETS)
    return model.loss(batch)["ce"].item()


def test_numbers_of_the_official_file() -> None:
    model = numbers_model("mmmlp:as-released")
    user = [0.4600161217, 1.8995424457, -1.6366380773, 0.7904492742, 0.1968495079, -1.4745505700]
    assert state(model, [1, 2, 3]).tolist() == pytest.approx(user, abs=1e-9)
    scores = [1.3744826542, -0.6145562837, -0.3031503236, 0.1117614238, -0.0181800085, -0.1882118392]
    assert model.score(history_batch(model, [[1, 2, 3]]))[0].tolist() == pytest.approx(scores, abs=1e-9)
    padding = model.item_emb.weight[0] @ state(model, [1, 2, 3])
    assert padding.item() == pytest.approx(0.4460320215, abs=1e-9)
    assert numbers_loss(model) == pytest.approx(2.2793394244, abs=1e-9)


def test_numbers_of_the_first_release() -> None:
    """Before 5f4deaa the pictures passed through the modules of the ids."""
    assert numbers_loss(numbers_model("mmmlp:as-released", (1, 15, 1))) == pytest.approx(
        2.1718184615, abs=1e-9
    )


def test_numbers_of_the_switches() -> None:
    model = numbers_model("mmmlp:as-released")
    batch = history_batch(model, ROWS)
    without_padding = F.cross_entropy(model.score(batch), torch.tensor(TARGETS) - 1).item()
    assert without_padding == pytest.approx(2.0350208129, abs=1e-9)
    stacked = numbers_model("mmmlp:as-released", content_depth="stacked")
    assert numbers_loss(stacked) == pytest.approx(2.3159629915, abs=1e-9)
    with torch.no_grad():
        model.item_emb.weight[0] = 0.0
    assert numbers_loss(model) == pytest.approx(2.1614461678, abs=1e-9)
    assert numbers_loss(numbers_model("mmmlp")) == pytest.approx(2.0680393859, abs=1e-9)


# -- plain loops -------------------------------------------------------------------------------------------------


def by_hand(model: Recommender[Any], history: list[int]) -> Tensor:
    """Return the user vector of one history: a stream at a time, convolutions with kernel 1 as in the released code."""
    n_empty = 8 - len(history)
    is_left = model.config.pad_side == "left"
    items = [0] * n_empty + history if is_left else history + [0] * n_empty
    last = 7 if is_left else len(history) - 1
    states = [stream_by_hand(model, k, items)[last] for k in range(1 + len(model.features))]
    fusion = model.fusion_norm
    joined = F.layer_norm(torch.cat(states), fusion.normalized_shape, fusion.weight, fusion.bias, eps=1e-12)
    return F.layer_norm(
        model.fusion.weight @ joined + model.fusion.bias, (6,), model.norm.weight, model.norm.bias, eps=1e-12
    )


def stream_by_hand(model: Recommender[Any], k: int, items: list[int]) -> Tensor:
    """Return all states of stream k, [L, D]."""
    is_together = len(model.mixers) == 1
    mixer, group = model.mixers[0 if is_together or k == 0 else 1], k if is_together else max(k - 1, 0)

    def norm(layer: nn.Module, x: Tensor, group: int, eps: float) -> Tensor:
        scale, shift = (getattr(layer, part).view(-1, 6)[group] for part in ("weight", "bias"))
        return F.layer_norm(x, (6,), scale, shift, eps=eps)

    def mlp(layer: Any, x: Tensor) -> Tensor:
        """x [channels, width], along the channels."""
        up, down = ((m.weight[group], m.bias.view(len(m.weight), -1)[group]) for m in (layer.up, layer.down))
        return F.conv1d(F.gelu(F.conv1d(x[None], up[0][..., None], up[1])), down[0][..., None], down[1])[0]

    if k == 0:
        x = norm(model.norm, model.item_emb.weight[items], 0, 1e-12)
        depth = model.config.n_layers
    else:
        table = list(model.features.values())[k - 1]
        vectors = table.feat[items] if table.map is None else table.map(table.feat[items])
        vectors = torch.stack([v if table.present[i] else 0 * v for v, i in zip(vectors, items, strict=True)])
        x = norm(model.content_norm, vectors, k - 1, 1e-12)
        depth = model.config.n_layers if model.config.content_depth == "stacked" else 1
    for _ in range(depth):
        x = x + mlp(mixer.time, norm(mixer.time_norm, x, group, 1e-5))
        x = x + mlp(mixer.channel, norm(mixer.channel_norm, x, group, 1e-5).T).T
    return x


@NAMES
@pytest.mark.parametrize("n_layers", [1, 3])
def test_equals_a_loop_over_streams_and_rows(name: str, n_layers: int) -> None:
    model = make(name, n_layers=n_layers)
    with torch.no_grad():
        together = model.query(history_batch(model, HISTORIES))
        for k, history in enumerate(HISTORIES):
            expected = by_hand(model, history)
            torch.testing.assert_close(together[k], expected, rtol=0, atol=1e-11)
            torch.testing.assert_close(state(model, history), expected, rtol=0, atol=1e-11)


@NAMES
def test_gradients_are_those_of_the_loop(name: str) -> None:
    """Of all weights, through the places that the last layer leaves out."""
    model = make(name, dropout=0.0)
    view = view_of([[4, 9, 2, 5], [1, 3]])
    batch = training_batch(model, view)
    _, computed = gradients(model, batch)
    model.zero_grad()
    users = torch.stack([by_hand(model, history) for history in ([4], [4, 9], [4, 9, 2], [1])])
    table, target = model.item_emb.weight, torch.tensor([9, 2, 5, 3])
    is_class = model.config.padding_id == "class"
    F.cross_entropy(users @ (table if is_class else table[1:]).T, target - int(not is_class)).backward()
    assert batch.target.tolist() == target.tolist()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None
        wanted = parameter.grad.clone()
        if key == "item_emb.weight":  # row 0 is looked up too; it moves as a class only
            padding = (users.detach().T @ (users @ table.T).softmax(1)[:, :1].detach())[:, 0] / 4
            wanted[0] = padding if is_class else 0.0
        torch.testing.assert_close(
            computed[key], wanted, rtol=1e-8, atol=1e-10, msg=lambda text, n=key: f"{n}: {text}"
        )


# -- properties --------------------------------------------------------------------------------------------------


@NAMES
def test_order_matters_without_positions(name: str) -> None:
    model = make(name)
    assert (state(model, [4, 9, 2, 7]) - state(model, [9, 4, 2, 7])).abs().max() > 1e-6


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
    before = state(model, [4, 9, 2])
    text = model.features["text"].feat
    text[20] += 1.0  # not in the history
    assert torch.equal(state(model, [4, 9, 2]), before)
    text[9] += 1.0
    assert (state(model, [4, 9, 2]) - before).abs().max() > 1e-6
    for table in model.features.values():
        table.feat.zero_()
        with torch.no_grad():
            table.map.bias.zero_()
    other = [4, 9, 8]
    with torch.no_grad():
        model.item_emb.weight[8] = model.item_emb.weight[2]
    torch.testing.assert_close(state(model, [4, 9, 2]), state(model, other))


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
    assert (state(right, [4, 9]) - state(left, [4, 9])).abs().max() > 1e-6
    full = [3, 1, 8, 20, 30, 7, 9, 2]
    assert torch.equal(state(right, full), state(left, full))


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
        found = model.mixers[1](x, place)
    items = [history.tolist() for history in batch.item_seq]
    for k in (1, 2):
        expected = torch.stack(
            [stream_by_hand(model, k, row)[p] for row, p in zip(items, place, strict=True)]
        )
        torch.testing.assert_close(found[k - 1], expected)
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
