"""LRURec: section "How to check" of its specification; the scan and the whole model against plain loops in complex
arithmetic."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.errors import UsageError
from mmbench.models import registry
from mmbench.models.base import Recommender
from mmbench.settings.config import TrainConfig
from mmbench.training.optim import make_optimizer
from tests.models.toy import (
    catalog_of,
    gradients,
    history_batch,
    loss_by_hand,
    overfit,
    random_fives,
    ranks_last_items_first,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)

FORMS = pytest.mark.parametrize("form", ["code", "paper"])
HISTORIES = [[4, 9, 2], [1], [3, 3, 8, 20, 30, 7, 7, 2], [11, 12]]


def scan(u: Tensor, log_lambda: Tensor, position: Tensor) -> Tensor:
    module = __import__("sys").modules[registry.find("lrurec").load().__module__]
    h: Tensor = module.LinearScan.apply(u, log_lambda, position)
    return h


def loop(u: Tensor, log_lambda: Tensor, position: Tensor) -> Tensor:
    """The recurrence place by place."""
    rows = []
    for row, place in zip(u, position, strict=True):
        h = torch.zeros_like(row[0])
        states = []
        for t in range(len(row)):
            h = row[t] + (log_lambda.exp() * h if place[t] > 0 else 0)
            states.append(h)
        rows.append(torch.stack(states))
    return torch.stack(rows)


def positions(*rows: list[int]) -> Tensor:
    """Rows of histories of the given lengths; position 0, 1, .. in each."""
    return torch.stack([torch.cat([torch.arange(length) for length in row]) for row in rows])


LAYOUTS = [
    positions([1]),
    positions([2], [1] * 2),
    positions([3], [1, 2]),
    positions([50]),
    positions([64], [50, 14], [1, 2, 3, 4, 5, 6, 7, 8, 28], [1] * 64),
]


@pytest.mark.parametrize("position", LAYOUTS, ids=lambda layout: "x".join(map(str, layout.shape)))
@pytest.mark.parametrize(("dtype", "atol"), [(torch.complex128, 1e-12), (torch.complex64, 1e-4)])
def test_scan_is_the_loop_in_value_and_gradient(position: Tensor, dtype: torch.dtype, atol: float) -> None:
    torch.manual_seed(0)
    u = torch.randn(*position.shape, 5, dtype=dtype, requires_grad=True)
    modulus = torch.tensor([0.0001, 0.25, 0.8, 0.99, 0.9999], dtype=torch.float64)
    angle = torch.rand(5, dtype=torch.float64) * 2 * math.pi
    log_lambda = torch.complex(modulus.log(), angle).to(dtype).requires_grad_()
    weight = torch.randn_like(u)
    actual = []
    for function in (scan, loop):
        h = function(u, log_lambda, position)
        objective = (h * weight).real.sum()
        wanted = [u, log_lambda] if (position > 0).any() or function is scan else [u]
        grads = torch.autograd.grad(objective, wanted)
        actual.append((h, *grads))
    (h, of_u, of_lambda), (h_loop, of_u_loop, *rest) = actual
    torch.testing.assert_close(h, h_loop, rtol=0, atol=atol)
    torch.testing.assert_close(of_u, of_u_loop, rtol=0, atol=atol)
    expected = rest[0] if rest else torch.zeros_like(of_lambda)
    torch.testing.assert_close(of_lambda, expected, rtol=1e2 * atol, atol=1e2 * atol)


def test_a_history_is_untouched_by_what_lies_before_it() -> None:
    """Bit by bit: nothing is carried in and taken out again."""
    torch.manual_seed(0)
    position = positions([5, 9, 2])
    u, log_lambda = (
        torch.randn(1, 16, 3, dtype=torch.complex64),
        torch.tensor([-0.01 + 1j, -1 + 2j, -0.1 + 6j]),
    )
    other = u.clone()
    other[:, :5] *= 1e6
    assert torch.equal(scan(u, log_lambda, position)[:, 5:], scan(other, log_lambda, position)[:, 5:])


def by_hand(model: Recommender[Any], history: list[int]) -> Tensor:
    """State after each item of one history [L, D]: one item at a time, from each block's complex state alone."""
    is_paper = model.config.form == "paper"
    states = [0.0] * len(model.blocks)
    actual = []
    for t, item in enumerate(history):
        x = F.layer_norm(
            model.item_emb.weight[item], (model.config.hidden_dim,), model.norm.weight, model.norm.bias
        )
        for k, block in enumerate(model.blocks):
            nu, theta, gamma = block.ring_log.exp()
            decay = torch.polar(torch.exp(-nu), theta)
            b_in = torch.complex(block.state_in.weight[0::2], block.state_in.weight[1::2])
            c_out = torch.complex(block.state_out.weight[:, 0::2], -block.state_out.weight[:, 1::2])
            u = b_in @ x.to(b_in.dtype)
            if not is_paper:
                u = gamma * (u + torch.complex(block.state_in.bias[0::2], block.state_in.bias[1::2]))
            elif t:
                u = gamma * u
            states[k] = decay * states[k] + u
            out = (c_out @ states[k]).real + (0 if is_paper else block.state_out.bias)
            y = block.norm1(out + x)
            z = block.down(F.gelu(block.up(y)))
            x = block.norm2((F.gelu(z) if is_paper else z) + y)
        actual.append(x)
    return torch.stack(actual)


def lively(form: str = "code", **settings: Any) -> Recommender[Any]:
    """Weights large enough that every term shows."""
    model = toy_model("lrurec", toy_catalog(), form=form, hidden_dim=6, state_dim=9, inner_dim=10, **settings)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ring_log" not in name:
                parameter.copy_(torch.randn_like(parameter) * 0.5)
    return model.double().eval()


@FORMS
def test_streaming_by_hand_is_the_full_pass(form: str) -> None:
    model = lively(form)
    batch = history_batch(model, HISTORIES)
    with torch.no_grad():
        actual = model.encode(batch).flatten(0, 1)
        for segment_end, history in zip(batch.slot.tolist(), HISTORIES, strict=True):
            expected = by_hand(model, history)
            torch.testing.assert_close(
                actual[segment_end - len(history) + 1 : segment_end + 1], expected, rtol=0, atol=1e-12
            )
        scores = (
            torch.stack([by_hand(model, history)[-1] for history in HISTORIES]) @ model.item_emb.weight[1:].T
        )
        torch.testing.assert_close(model.score(batch), scores + model.item_bias, rtol=0, atol=1e-12)


def test_without_memory_only_the_last_item_counts() -> None:
    model = lively()
    histories = [[4, 9, 2], [7, 2], [2]]
    with torch.no_grad():
        states = model.query(history_batch(model, histories))
        assert (states[0] - states[1]).abs().max() > 1e-3
        for block in model.blocks:
            block.ring_log[0] = 5.0  # |lambda| = exp(-e^5)
        states = model.query(history_batch(model, histories))
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(states[0], states[2], rtol=0, atol=1e-12)


def test_without_angle_and_bias_states_are_moving_sums() -> None:
    model = lively()
    block = model.blocks[0]
    with torch.no_grad():
        block.ring_log[0], block.ring_log[1] = math.log(-math.log(0.9)), math.log(2 * math.pi)
        block.state_in.bias.zero_()
        x = torch.randn(1, 7, 6, dtype=torch.float64)
        h = block.states(x, torch.arange(7)[None])[0]
        age = torch.arange(7)[:, None] - torch.arange(7)
        kernel = torch.where(age >= 0, 0.9 ** age.double(), 0.0)
        expected = (kernel @ x[0] @ block.state_in.weight.T).unflatten(-1, (-1, 2)) * block.ring_log[2].exp()[
            :, None
        ]
    torch.testing.assert_close(torch.view_as_real(h), expected, rtol=0, atol=1e-12)


def test_without_output_map_the_block_is_its_feed_forward_part() -> None:
    model = lively()
    block = model.blocks[0]
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        block.state_out.weight.zero_()
        block.state_out.bias.zero_()
        y = block.norm1(x)
        expected = block.norm2(y + block.down(F.gelu(block.up(y))))
        torch.testing.assert_close(block(x, torch.arange(5).expand(2, 5)), expected, rtol=0, atol=1e-14)


@FORMS
def test_only_the_wanted_places_are_finished(form: str) -> None:
    model = lively(form)
    batch = history_batch(model, HISTORIES)
    with torch.no_grad():
        torch.testing.assert_close(model.encode(batch, batch.slot), batch.at_slots(model.encode(batch)))


def test_ring() -> None:
    model = toy_model("lrurec", toy_catalog(), state_dim=20_000, n_layers=1)
    nu, theta, gamma = model.blocks[0].ring_log.detach().double().exp()
    square = torch.exp(-2 * nu)
    assert square.sqrt().min() >= 0.8 - 1e-6
    assert square.sqrt().max() <= 0.99 + 1e-6
    low, high = 0.8**2, 0.99**2
    assert square.mean().item() == pytest.approx((low + high) / 2, abs=0.005)
    assert square.std().item() == pytest.approx((high - low) / 12**0.5, rel=0.02)
    assert theta.max() <= 2 * math.pi + 1e-5
    assert theta.std().item() == pytest.approx(2 * math.pi / 12**0.5, rel=0.02)
    torch.testing.assert_close(gamma.square() + square, torch.ones_like(square), rtol=0, atol=1e-5)


def test_the_ring_lies_between_the_radii_of_the_settings() -> None:
    model = toy_model("lrurec", toy_catalog(), state_dim=500, r_min=0.3, r_max=0.5)
    for block in model.blocks:
        modulus = torch.exp(-block.ring_log[0].detach().exp())
        assert 0.3 - 1e-6 <= modulus.min() < 0.31
        assert 0.49 < modulus.max() <= 0.5 + 1e-6


def test_everything_else_is_truncated_normal() -> None:
    model = toy_model("lrurec", toy_catalog(n_items=400))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert parameter.eq(1.0 if name.endswith("weight") else 0.0).all(), name
        elif "ring" not in name:
            assert parameter.abs().max() <= 0.04, name
            if parameter.numel() > 1000:  # cut at two deviations: .8796 of the uncut deviation
                assert parameter.std().item() == pytest.approx(0.02 * 0.8796, rel=0.1), name
    assert not model.item_emb.weight[0].any()


def test_gradients_reach_decays_angles_and_scales() -> None:
    model = toy_model("lrurec", toy_catalog(), dropout=0.0, lru_dropout=0.0)
    _, actual = gradients(model, training_batch(model, toy_view()))
    for name in ("blocks.0.ring_log", "blocks.1.ring_log"):
        assert actual[name].abs().amax(1).gt(0).all()
    assert not actual["item_emb.weight"][0].any(), "the padding row must get no gradient"


def test_the_loss_is_the_cross_entropy_of_the_scores() -> None:
    model = lively(dropout=0.0, lru_dropout=0.0)
    batch = training_batch(model, toy_view())
    torch.testing.assert_close(model.loss(batch)["ce"], loss_by_hand("ce", model.score(batch), batch))


def test_weight_decay_reaches_the_ring_but_no_bias() -> None:
    """As in the released code, whose optimiser leaves out biases and LayerNorms only."""
    model = toy_model("lrurec", toy_catalog())
    recipe = {key: setting.value for key, setting in registry.find("lrurec").recipe.settings.items()}
    config = TrainConfig(weight_decay=recipe["weight_decay"], decay_1d=recipe["decay_1d"], optimizer="adamw")
    decayed = {
        id(parameter): group["weight_decay"] > 0 for group in make_optimizer(model, config).param_groups
        for parameter in group["params"]
    }  # fmt: skip
    for name, parameter in model.named_parameters():
        assert decayed[id(parameter)] == ("bias" not in name and "norm" not in name), name


@FORMS
def test_dropout_lies_before_the_first_layer_norm(form: str) -> None:
    model = toy_model("lrurec", toy_catalog(), form=form).train()
    given: list[Tensor] = []
    model.norm.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    batch = history_batch(model, HISTORIES)
    model.query(batch)
    share = (given[0][batch.mask] == 0).double().mean().item()
    assert share == pytest.approx(0.5 if form == "code" else 0.0, abs=0.1)


def test_overfits_64_sequences() -> None:
    histories = random_fives()
    catalog = catalog_of(view_of(histories), n_items=64, features=False)
    model = toy_model(
        "lrurec", catalog, dropout=0.0, lru_dropout=0.0, hidden_dim=32, state_dim=64, inner_dim=64
    )
    last = history_batch(model, [history[:4] for history in histories])
    target = torch.tensor([history[4] for history in histories])

    def step() -> Tensor:
        return F.cross_entropy(model.score(last), target - 1)

    overfit(model, step, lambda: step().item() < 0.05, lr=3e-3, n_steps=600)
    assert step().item() < 0.05
    assert ranks_last_items_first(model, histories)


def test_radii_must_be_ordered_and_below_one() -> None:
    with pytest.raises(UsageError, match=r"r_min 0.8 < r_max 1.0 < 1 must hold"):
        toy_model("lrurec", toy_catalog(), r_max=1.0)
