"""MLP4Rec: section "How to check it" of its specification, and the mixer against a literal loop over rows."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.errors import UsageError
from mmbench.models.base import Recommender
from mmbench.nn.mlp import AxisMLP, shift
from tests.models.test_dropout import assert_dropped
from tests.models.toy import (
    history_batch,
    last_state,
    loss_by_hand,
    n_parameters,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
)

HISTORIES = [[4, 9, 2], [1], [3, 3, 8, 20, 30, 7, 7, 2], [11, 12]]
NAMES = pytest.mark.parametrize(
    "name", ["mlp4rec", "mlp4rec:mm", "mlp4rec:id", "mlp4rec:left", "mlp4rec:smlp"]
)


def make(name: str = "mlp4rec", **settings: Any) -> Recommender[Any]:
    """float64, evaluation mode, all weights moved off their starts so that a forgotten bias shows."""
    model = toy_model(name, toy_catalog(), hidden_dim=6, **settings).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        model.item_emb.weight[0] = 0
    return model


def by_hand(model: Recommender[Any], history: list[int]) -> Tensor:
    """The state of one history: one row at a time, convolutions with kernel 1 as in the released code."""
    n_empty, encoder = 8 - len(history), model.encoder
    is_left = model.config.pad_side == "left"
    items = torch.tensor([0] * n_empty + history if is_left else history + [0] * n_empty)
    rows = [model.item_emb(items), *(feature(items) for feature in model.features.values())]  # each [L, D]

    def unit(name: str, x: Tensor) -> Tensor:
        mlp = encoder.mlps[name]
        inner = F.gelu(F.conv1d(x[None], mlp.up.weight[..., None], mlp.up.bias))
        return F.conv1d(inner, mlp.down.weight[..., None], mlp.down.bias)[0]

    def norm(name: str, x: Tensor) -> Tensor:
        layer = encoder.norms[name]
        return F.layer_norm(x, (6,), layer.weight, layer.bias, eps=1e-5)

    for _ in range(model.config.n_layers):
        if model.config.mixing == "parallel":
            normed = [norm("all", row) for row in rows]
            across = torch.stack(
                [unit("row", torch.stack([feature[t] for feature in normed])) for t in range(8)], 1
            )
            rows = [
                unit("place", feature) + unit("channel", feature.T).T + across[k]
                for k, feature in enumerate(normed)
            ]
            continue
        rows = [row + unit("place", norm("place", row)) for row in rows]
        rows = [row + unit("channel", norm("channel", row).T).T for row in rows]
        if len(rows) > 1:
            mixed = [torch.stack([row[t] for row in rows]) for t in range(8)]  # each [K, D]
            mixed = [part + unit("row", norm("row", part)) for part in mixed]
            rows = [torch.stack([part[k] for part in mixed]) for k in range(len(rows))]
    last = rows[0][7 if is_left else len(history) - 1]
    return F.layer_norm(last, (6,), encoder.out_norm.weight, encoder.out_norm.bias, eps=1e-12)


@NAMES
@pytest.mark.parametrize("n_layers", [1, 3])
def test_equals_a_loop_over_rows(name: str, n_layers: int) -> None:
    model = make(name, n_layers=n_layers)
    with torch.no_grad():
        together = model.query(history_batch(model, HISTORIES))
        for k, history in enumerate(HISTORIES):
            expected = by_hand(model, history)
            torch.testing.assert_close(together[k], expected, rtol=0, atol=1e-10)
            torch.testing.assert_close(last_state(model, history), expected, rtol=0, atol=1e-10)


@NAMES
def test_the_last_layer_at_slots_equals_the_last_layer_everywhere(name: str) -> None:
    model = make(name)
    rows = model.rows(history_batch(model, HISTORIES).item_seq)
    slot = torch.tensor([2, 8, 9, 31])
    everywhere = model.encoder(rows)
    assert everywhere.shape == (4, 8, 6)
    torch.testing.assert_close(model.encoder(rows, slot), everywhere.flatten(0, 1)[slot])


def test_layers_and_rows_share_their_parameters() -> None:
    sizes = {n: n_parameters(toy_model("mlp4rec", toy_catalog(), n_layers=n).encoder) for n in (1, 4, 8)}
    assert len(set(sizes.values())) == 1
    rows = {name: n_parameters(toy_model(name, toy_catalog()).encoder) for name in ("mlp4rec", "mlp4rec:mm")}
    assert rows["mlp4rec:mm"] - rows["mlp4rec"] == (8 * 16 + 5 * 4) - (8 * 4 + 5 * 2)


def test_parameter_count_is_the_specifications() -> None:
    encoder = toy_model("mlp4rec", toy_catalog(max_len=50), hidden_dim=64).encoder
    count = {
        name: n_parameters(encoder.mlps[name]) + n_parameters(encoder.norms[name]) for name in encoder.mlps
    }
    assert count == {"place": 20_378, "channel": 33_216, "row": 170}
    assert n_parameters(encoder) == sum(count.values()) + 128


def test_silent_mlps_leave_the_last_id() -> None:
    model = make("mlp4rec:mm")
    with torch.no_grad():
        for mlp in model.encoder.mlps.values():
            mlp.down.weight.zero_()
            mlp.down.bias.zero_()
        norm = model.encoder.out_norm
        expected = F.layer_norm(model.item_emb.weight[[2, 1, 2, 12]], (6,), norm.weight, norm.bias, eps=1e-12)
        torch.testing.assert_close(model.query(history_batch(model, HISTORIES)), expected)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_features_act_through_the_row_mixer_only(n_layers: int) -> None:
    model = make("mlp4rec:mm", n_layers=n_layers)
    history = [4, 9, 2, 20]
    base = last_state(model, history)

    def moved(place: int) -> Tensor:
        """The state when the text of one item of the history is another one."""
        feat = model.features["text"].feat
        kept = feat[history[place]].clone()
        feat[history[place]] += 1.0
        actual = last_state(model, history)
        feat[history[place]] = kept
        return actual

    for place in range(4):
        assert (moved(place) - base).abs().max() > 1e-6, place
    with torch.no_grad():
        row = model.encoder.mlps["row"]
        row.down.weight.zero_()
        row.down.bias.zero_()
    base = last_state(model, history)
    for place in range(4):
        assert torch.equal(moved(place), base)


@NAMES
def test_order_matters_without_positions(name: str) -> None:
    model = make(name)
    assert (last_state(model, [4, 9, 2, 7]) - last_state(model, [9, 4, 2, 7])).abs().max() > 1e-6


def test_the_mixer_is_not_causal_and_sees_the_padding() -> None:
    """Why it is trained on prefixes: a state of the middle knows what comes later, and how much is missing."""
    model = make()
    assert not model.needs.causal
    assert (model.needs.samples, model.needs.layout) == (("prefix",), "fixed")
    first, second = (
        model.encoder(model.rows(history_batch(model, [history]).item_seq))
        for history in ([4, 9, 2, 7], [4, 9, 2, 8])
    )
    assert (first[0, 1] - second[0, 1]).abs().max() > 1e-6
    right, left = make(), make("mlp4rec:left")
    assert (last_state(right, [4, 9]) - last_state(left, [4, 9])).abs().max() > 1e-6
    full = [3, 1, 8, 20, 30, 7, 9, 2]
    assert torch.equal(last_state(right, full), last_state(left, full))


def test_category_rows_are_means() -> None:
    """Toy item 3 has categories 3 and 4, item 6 one and 2, item 2 only 2, item 4 none."""
    table = make().features["category"]
    weight = table.emb.weight
    actual = table(torch.tensor([[0, 3, 6], [2, 4, 4]]))
    expected = [torch.zeros(6), weight[[3, 4]].mean(0), weight[[1, 2]].mean(0), weight[2], torch.zeros(6)]
    torch.testing.assert_close(
        actual.flatten(0, 1)[:5], torch.stack([tensor.double() for tensor in expected])
    )


def test_items_without_a_feature_have_a_zero_row() -> None:
    """Toy items 3 and 7 have no text, 3, 11 and 12 no image; the maps' biases must not stand in."""
    model = make("mlp4rec:mm")
    actual = model.rows(torch.tensor([[3, 11, 5, 0]]))[0, :, 2:].abs().sum(-1) > 0
    assert actual.tolist() == [[False, False], [True, False], [True, True], [False, False]]


def test_features_that_a_data_set_lacks_are_left_out() -> None:
    model = toy_model("mlp4rec:mm", replace(toy_catalog(), image_feat=None, has_image=None, n_categories=0))
    assert model.extra_state() == {"rows": ["id", "text"]}
    assert toy_model("mlp4rec", toy_catalog(features=False)).extra_state() == {"rows": ["id"]}
    cls = type(model)
    assert not cls.reads(make().config, "text")
    assert cls.reads(make("mlp4rec:mm").config, "image")


@pytest.mark.parametrize("axis", [-1, -2])
def test_dropout_acts_inside_both_maps(axis: int) -> None:
    torch.manual_seed(0)
    mlp: Any = AxisMLP(16, axis=axis, ratio=1, dropout=0.25, bias=True).double()
    for parameter in mlp.parameters():
        nn.init.zeros_(parameter)
    x = torch.full((40, 16, 16), 5.0, dtype=torch.float64)
    nn.init.ones_(mlp.down.bias)
    assert_dropped(mlp(x), 0.25, kept=1 / 0.75)
    nn.init.zeros_(mlp.down.bias)
    nn.init.ones_(mlp.up.bias)
    nn.init.eye_(mlp.down.weight)
    gelu_of_1 = (1 + math.erf(0.5**0.5)) / 2
    assert_dropped(mlp(x), 1 - 0.75**2, kept=gelu_of_1 / 0.75**2)


@NAMES
def test_nothing_else_is_dropped(name: str) -> None:
    """Inputs, residuals: with silent MLPs training and evaluation agree."""
    model = make(name).train()
    batch = training_batch(model, toy_view())
    assert not torch.equal(model.query(batch), model.query(batch))
    with torch.no_grad():
        for parameter in model.encoder.mlps.parameters():
            parameter.zero_()
    assert torch.equal(model.query(batch), model.eval().query(batch))


def test_bpr_is_softplus_of_the_difference() -> None:
    model = make(loss="bpr")
    batch = training_batch(model, toy_view())
    torch.testing.assert_close(model.loss(batch)["bpr"], loss_by_hand("bpr", model.score(batch), batch))


def test_initialisation() -> None:
    model = toy_model("mlp4rec:mm", toy_catalog(n_items=400, max_len=40), hidden_dim=64)
    assert model.item_emb.weight[1:].std().item() == pytest.approx(0.02, rel=0.05)
    assert not model.item_emb.weight[0].any()
    channel, place = model.encoder.mlps["channel"], model.encoder.mlps["place"]
    assert channel.up.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not channel.up.bias.any()
    assert model.features["text"].map.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.features["category"].emb.weight.std().item() == pytest.approx(0.02, rel=0.15)
    for name, width in (("place", 40), ("row", 4)):  # torch's convolutions
        up = model.encoder.mlps[name].up
        assert 0.85 * width**-0.5 < up.weight.abs().max().item() <= width**-0.5
        assert up.bias.any()
    assert place.up.weight.abs().max().item() == pytest.approx(40**-0.5, rel=0.01)


def test_smlp4rec_has_inner_layers_three_times_as_wide_no_biases_and_small_weights() -> None:
    mlps = toy_model("mlp4rec:smlp", toy_catalog(max_len=40), hidden_dim=64).encoder.mlps
    for name, width in (("place", 40), ("channel", 64), ("row", 2)):
        up, down = mlps[name].up, mlps[name].down
        assert (tuple(up.weight.shape), tuple(down.weight.shape)) == ((3 * width, width), (width, 3 * width))
        assert up.bias is None
        assert down.bias is None
        values = torch.cat([up.weight.flatten(), down.weight.flatten()])
        assert values.std().item() == pytest.approx(0.02, rel=4 * (2 * values.numel()) ** -0.5)


def test_shift_turns_rows_and_back() -> None:
    x = torch.tensor([[1, 2, 0, 0], [3, 4, 5, 6], [7, 0, 0, 0]])
    left = shift(x, torch.tensor([2, 0, 3]))
    assert left.tolist() == [[0, 0, 1, 2], [3, 4, 5, 6], [0, 0, 0, 7]]
    assert torch.equal(shift(left, torch.tensor([-2, 0, -3])), x)


def test_a_feature_named_twice_is_refused() -> None:
    with pytest.raises(UsageError, match=r"features .* must name each feature once"):
        make(features=["text", "text"])
