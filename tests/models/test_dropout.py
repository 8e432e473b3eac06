"""Where dropout acts, and at what rate: seen in the outputs of encoders whose weights let one part through.

All norms are taken out, maps and biases are 0 unless a test sets them. A rate is rounded to a 256th, and what is kept
is scaled so that the mean stays (mmbench.nn.layers.dropout).
"""

import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmbench.models.registry import find
from mmbench.nn import layers
from mmbench.nn.layers import Attention, PostNormEncoder, PreQueryEncoder, dropout
from tests.models.toy import toy_catalog, toy_model, toy_view, training_batch

ROWS, WIDTH, DIM = 40, 16, 16
MASK = torch.ones(ROWS, WIDTH, WIDTH, dtype=torch.bool)
REAL = torch.ones(ROWS, WIDTH, dtype=torch.bool)
UNIT = torch.eye(WIDTH, dtype=torch.float64).expand(ROWS, WIDTH, DIM)  # position i has the i-th unit vector
FIVES = torch.full((ROWS, WIDTH, DIM), 5.0, dtype=torch.float64)
FIRST_OF_ROWS = torch.arange(0, ROWS * WIDTH, WIDTH)
RATES = pytest.mark.parametrize("rate", [0.5, 0.1])
GROUPS = pytest.mark.parametrize("n_groups", [None, 2])


def rounded(rate: float) -> float:
    return round(rate * 256) / 256


def assert_dropped(values: Tensor, rate: float, *, kept: float) -> None:
    """Raise unless a share `rate` of the elements, within five standard deviations, is 0 and the others are `kept`."""
    deviation = (rate * (1 - rate) / values.numel()) ** 0.5
    assert values.eq(0).double().mean().item() == pytest.approx(rate, abs=5 * deviation)
    rest = values[values != 0]
    torch.testing.assert_close(rest, torch.full_like(rest, kept))


def bare(module: nn.Module) -> Any:
    """Return the module in training and float64, without norms, with all weights 0."""
    for path in [name for name, _ in module.named_modules()]:
        parent, _, name = path.rpartition(".")
        if "norm" in name:
            setattr(module.get_submodule(parent), name, nn.Identity())
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module.double().train()


def post_norm(n_groups: int | None = None, **rates: float) -> Any:
    sizes = {"dim": DIM, "inner_dim": DIM, "n_layers": 1, "n_heads": 1}
    return bare(PostNormEncoder(**sizes, n_groups=n_groups, **{"dropout": 0.0, "attn_dropout": 0.0, **rates}))


def pre_query(rate: float, n_groups: int | None = None) -> Any:
    sizes = {"dim": DIM, "inner_dim": DIM, "n_layers": 1, "n_heads": 1}
    return bare(PreQueryEncoder(**sizes, n_groups=n_groups, dropout=rate, project_out=True))


def let_through(linear: nn.Module, rows: slice = slice(None)) -> None:
    """Make a map, or some of its rows, the identity."""
    with torch.no_grad():
        linear.weight[..., rows, :] = torch.eye(DIM, dtype=torch.float64)


def answer_one(linear: nn.Module) -> None:
    """Make a map say 1 whatever it reads."""
    nn.init.ones_(linear.bias)


def grouped(x: Tensor, n_groups: int | None) -> Tensor:
    return x if n_groups is None else x.expand(n_groups, *x.shape)


# -- the function ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.9])
def test_elements_are_zeroed_one_by_one_and_the_mean_stays(rate: float) -> None:
    torch.manual_seed(0)
    values, p = dropout(torch.ones(203, 201, dtype=torch.float64), rate, training=True), rounded(rate)
    assert_dropped(values, p, kept=1 / (1 - p))
    for axis in (0, 1):
        shares = values.eq(0).double().mean(axis)
        assert (shares - p).abs().max() < 6 * (p * (1 - p) / values.shape[axis]) ** 0.5


def test_nothing_is_dropped_in_evaluation_or_at_rate_zero() -> None:
    ones = torch.ones(100)
    assert torch.equal(dropout(ones, 0.5, training=False), ones)
    assert torch.equal(dropout(ones, 0.0, training=True), ones)


# -- attention weights: equal logits, unit vectors as values, so that the output shows the weights ----------------


@RATES
@pytest.mark.parametrize("slot", [None, FIRST_OF_ROWS], ids=["all-places", "one-of-each-row"])
def test_attention_drops_weights(rate: float, slot: Tensor | None) -> None:
    torch.manual_seed(0)
    attention, p = bare(Attention(DIM, 1, rate)), rounded(rate)
    let_through(attention.qkv, slice(2 * DIM, None))
    let_through(attention.out)
    weights = attention(UNIT, MASK, slot)
    assert_dropped(weights, p, kept=1 / WIDTH / (1 - p))
    torch.testing.assert_close(attention.eval()(UNIT, MASK, slot), torch.full_like(weights, 1 / WIDTH))


@RATES
@GROUPS
def test_post_norm_drops_attention_weights_at_their_own_rate(rate: float, n_groups: int | None) -> None:
    torch.manual_seed(0)
    encoder, p, x = post_norm(n_groups, attn_dropout=rate), rounded(rate), grouped(UNIT, n_groups)
    let_through(encoder.blocks[0].attention.qkv, slice(2 * DIM, None))
    let_through(encoder.blocks[0].attention.out)
    assert_dropped(encoder(x, MASK) - x, p, kept=1 / WIDTH / (1 - p))


@RATES
@GROUPS
def test_pre_query_drops_attention_weights(rate: float, n_groups: int | None) -> None:
    torch.manual_seed(0)
    encoder, p, x = pre_query(rate, n_groups), rounded(rate), grouped(UNIT, n_groups)
    let_through(encoder.blocks[0].value)
    let_through(encoder.blocks[0].out)
    assert_dropped(encoder(x, MASK, REAL) - x, p, kept=1 / WIDTH / (1 - p))


# -- after attention ---------------------------------------------------------------------------------------------


@RATES
@GROUPS
def test_post_norm_drops_what_attention_adds_and_not_the_residual(rate: float, n_groups: int | None) -> None:
    torch.manual_seed(0)
    encoder, p, x = post_norm(n_groups, dropout=rate), rounded(rate), grouped(FIVES, n_groups)
    answer_one(encoder.blocks[0].attention.out)
    assert_dropped(encoder(x, MASK) - 5, p, kept=1 / (1 - p))


def test_pre_query_drops_nothing_after_attention() -> None:
    encoder = pre_query(0.5)
    answer_one(encoder.blocks[0].out)
    assert torch.equal(encoder(FIVES, MASK, REAL), FIVES + 1)


# -- in the feed-forward layer -----------------------------------------------------------------------------------


@RATES
@GROUPS
def test_post_norm_drops_what_the_feed_forward_layer_adds(rate: float, n_groups: int | None) -> None:
    torch.manual_seed(0)
    encoder, p, x = post_norm(n_groups, dropout=rate), rounded(rate), grouped(FIVES, n_groups)
    answer_one(encoder.blocks[0].down)
    assert_dropped(encoder(x, MASK) - 5, p, kept=1 / (1 - p))


@RATES
def test_post_norm_drops_nothing_between_the_two_maps(rate: float) -> None:
    torch.manual_seed(0)
    encoder, p = post_norm(dropout=rate), rounded(rate)
    answer_one(encoder.blocks[0].up)
    let_through(encoder.blocks[0].down)
    gelu_of_1 = (1 + math.erf(0.5**0.5)) / 2
    assert_dropped(encoder(FIVES, MASK) - 5, p, kept=gelu_of_1 / (1 - p))


@RATES
def test_pre_query_drops_between_the_two_maps_and_after_them(rate: float) -> None:
    torch.manual_seed(0)
    encoder, p = pre_query(rate), rounded(rate)
    answer_one(encoder.blocks[0].down)
    assert_dropped(encoder(FIVES, MASK, REAL) - 5, p, kept=1 / (1 - p))
    nn.init.zeros_(encoder.blocks[0].down.bias)
    answer_one(encoder.blocks[0].up)
    let_through(encoder.blocks[0].down)
    assert_dropped(encoder(FIVES, MASK, REAL) - 5, 1 - (1 - p) ** 2, kept=1 / (1 - p) ** 2)


# -- input -------------------------------------------------------------------------------------------------------


def test_encoders_drop_nothing_of_their_input() -> None:
    assert torch.equal(post_norm(dropout=0.5, attn_dropout=0.5)(FIVES, MASK), FIVES)
    assert torch.equal(pre_query(0.5)(FIVES, MASK, REAL), FIVES)


@RATES
@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("sasrec", "encoder"),
        ("sasrec:official", "official_encoder"),
        ("bert4rec", "encoder"),
        ("fearec", "encoder"),
        ("ticoserec", "encoder"),
        ("hm4sr", "encoders.0.transformer"),
        ("hm4sr", "encoders.1.transformer"),
        ("hm4sr:-pcl", "encoders.0.transformer"),
        ("tmmsrec:np", "encoders.all"),
        ("tedrec:id", "encoder"),  # without experts, whose noise would move the input
        ("nextitnet", "encoder"),
        ("trimlp", "mixer"),
    ],
)
def test_models_drop_the_input_of_their_encoders(name: str, encoder: str, rate: float) -> None:
    """The same step without dropout shows what is kept; padding that a model zeroes is left out."""
    model = toy_model(name, toy_catalog(), hidden_dim=12, dropout=rate)
    batch, p = training_batch(model, toy_view()), rounded(rate)
    inputs: list[Tensor] = []
    model.get_submodule(encoder).register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    for mode in (True, False):
        torch.manual_seed(0)
        model.train(mode).loss(batch)
    dropped, whole = inputs[0], inputs[len(inputs) // 2]
    assert_dropped((dropped / whole)[whole != 0], p, kept=1 / (1 - p))


# -- in models whose blocks are their own ----------------------------------------------------------------------------

WEIGHTS = 0  # stands for the number of keys, the width of attention weights
STATE, INNER, ATTENTION = (12, 0.5), (20, 0.5), (WEIGHTS, 0.25)
TABLES = [STATE] * 4  # keys and values of positions, then of times


def drops_of(name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """Return widths of what a training step drops, and rates, in order; WEIGHTS where the width is that of a row."""
    own = set(find(name).own_settings())
    sizes = {
        "hidden_dim": 12,
        "inner_dim": 20,
        "n_layers": 1,
        "n_heads": 2,
        "dropout": 0.5,
        "attn_dropout": 0.25,
    }
    model = toy_model(name, toy_catalog(), **{k: v for k, v in (sizes | settings).items() if k in own})
    seen: list[tuple[int, float]] = []
    batch = training_batch(model, toy_view())
    row = batch.item_seq.shape[1]

    def watch(x: Tensor, p: float, training: bool) -> Tensor:
        assert training
        is_weight = x.dim() == 4 and x.shape[-1] == row
        seen.append((WEIGHTS if is_weight else x.shape[-1], p))
        return x

    for module in (layers, sys.modules[type(model).__module__]):
        if hasattr(module, "dropout"):
            monkeypatch.setattr(module, "dropout", watch)
    model.loss(batch)
    return seen


@pytest.mark.parametrize(
    ("name", "settings", "places"),
    [
        ("sasrec", {}, [STATE, ATTENTION, STATE, STATE]),
        ("sasrec:official", {}, [STATE, (WEIGHTS, 0.5), INNER, STATE]),
        ("bert4rec", {}, [STATE, ATTENTION, STATE, STATE]),
        ("ticoserec:-contrast", {}, [STATE, ATTENTION, STATE, STATE]),
        ("late-fusion:id", {}, [STATE, ATTENTION, STATE, STATE]),
        ("sasrec-ensemble", {"modalities": ["id"]}, [STATE, (WEIGHTS, 0.5), (12, 0.5), STATE]),
        ("tisasrec", {}, [*TABLES, STATE, ATTENTION, STATE, STATE]),
        ("tisasrec:official", {}, [*TABLES, STATE, (WEIGHTS, 0.5), INNER, STATE]),
        ("tisasrec:paper", {}, [*TABLES, STATE, (WEIGHTS, 0.5), STATE, INNER, STATE]),
        ("fearec", {"contrast": "none"}, [STATE, ATTENTION, STATE, STATE]),
        ("lrurec", {"state_dim": 6, "lru_dropout": 0.25}, [STATE, (12, 0.25), INNER, STATE]),
        ("gru4rec:official", {"emb_dim": 12, "hidden_dropout": 0.5, "n_layers": 2}, [STATE] * 2),
        ("nextitnet", {"dropout": 0.5, "n_blocks": 1}, [STATE]),
        ("trimlp", {}, [STATE]),
        ("caser", {"window": 4, "n_vertical": 2, "n_horizontal": 3}, [(2 * 12 + 3 * 4, 0.5)]),
    ],
)  # fmt: skip
def test_a_layer_drops_at_these_places_and_nowhere_else(
    name: str, settings: dict[str, Any], places: list[tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Widths of what is dropped, and rates, in order; GRU4Rec drops rows of its table by another function."""
    assert drops_of(name, settings, monkeypatch) == places


@pytest.mark.parametrize(
    ("name", "settings", "n_first"),
    [
        ("sasrec", {}, 1),
        ("sasrec:official", {}, 1),
        ("tisasrec", {}, len(TABLES) + 1),
        ("tisasrec:official", {}, len(TABLES) + 1),
        ("tisasrec:paper", {}, len(TABLES) + 1),
        ("fearec", {"contrast": "none"}, 1),
        ("lrurec", {"lru_dropout": 0.25}, 1),
        ("mlp4rec:mm", {}, 0),
    ],
)
def test_all_layers_drop_alike(
    name: str, settings: dict[str, Any], n_first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is dropped before the first layer, the input and any tables, is dropped once."""
    single = drops_of(name, settings, monkeypatch)
    several = drops_of(name, {**settings, "n_layers": 3}, monkeypatch)
    assert several == [*single[:n_first], *3 * single[n_first:]]
