"""SASRec: section "How to check it" of its specification, and its encoders against torch's own layers."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.models.base import Recommender
from mmbench.nn.layers import PostNormEncoder, PreQueryBlock, PreQueryEncoder
from tests.models.toy import (
    catalog_of,
    gradients,
    history_batch,
    loss_by_hand,
    n_parameters,
    overfit,
    random_fives,
    ranks_last_items_first,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)

BOTH = pytest.mark.parametrize("name", ["sasrec", "sasrec:official"])


def states(model: Recommender[Any], history: list[int]) -> Tensor:
    """State after each event of one history, float64 [length, D]."""
    batch = history_batch(model, [history])
    place = batch.mask.flatten().nonzero()[:, 0]
    with torch.no_grad():
        return model.encode(batch).flatten(0, 1)[place]


@BOTH
def test_causal(name: str) -> None:
    model = toy_model(name, toy_catalog()).double().eval()
    base, changed = states(model, [4, 9, 2, 7, 5]), states(model, [4, 9, 2, 8, 5])
    torch.testing.assert_close(base[:3], changed[:3], rtol=0, atol=1e-12)
    assert (base[3] - changed[3]).abs().max() > 1e-4
    assert (base[4] - changed[4]).abs().max() > 1e-6


@BOTH
def test_padding_and_neighbours_do_not_matter(name: str) -> None:
    histories = [[4, 9, 2], [1], [3, 3, 8, 20, 30, 7, 7, 2, 5], [11, 12]]
    model = toy_model(name, toy_catalog()).double().eval()
    together = model.query(history_batch(model, histories))
    alone = torch.cat([model.query(history_batch(model, [history])) for history in histories])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


@BOTH
def test_all_positions_give_the_gradient_of_all_prefixes(name: str) -> None:
    settings = {"dropout": 0.0, "attn_dropout": 0.0, "loss": "ce"}
    model = toy_model(name, toy_catalog(), **settings).double()
    view = toy_view()  # holds histories longer than max_len
    loss_all, of_all = gradients(model, training_batch(model, view, samples="all"))
    loss_prefix, of_prefix = gradients(model, training_batch(model, view, samples="prefix"))
    assert loss_all == pytest.approx(loss_prefix, rel=1e-13)
    assert of_all.keys() == of_prefix.keys()
    for key, part in of_all.items():
        torch.testing.assert_close(part, of_prefix[key], rtol=0, atol=1e-14)


def test_history_of_one_attends_to_itself_alone() -> None:
    model = toy_model("sasrec", toy_catalog()).double().eval()
    block = model.encoder.blocks[0]
    x = torch.randn(2, 1, 64, dtype=torch.float64)
    value = F.linear(x, block.attention.qkv.weight[128:], block.attention.qkv.bias[128:])
    seen = block.attention(x, torch.ones(2, 1, 1, dtype=torch.bool))
    torch.testing.assert_close(seen, block.attention.out(value), rtol=0, atol=1e-12)


def test_one_layer_without_positions_reads_a_set() -> None:
    model = toy_model("sasrec", toy_catalog(), n_layers=1).double().eval()
    with torch.no_grad():
        first = model.query(history_batch(model, [[4, 9, 2, 7]]))
        assert (first - model.query(history_batch(model, [[2, 4, 9, 7]]))).abs().max() > 1e-5
        model.position_emb.weight.zero_()
        first = model.query(history_batch(model, [[4, 9, 2, 7]]))
        torch.testing.assert_close(
            first, model.query(history_batch(model, [[2, 4, 9, 7]])), rtol=0, atol=1e-12
        )
        assert (first - model.query(history_batch(model, [[7, 9, 2, 4]]))).abs().max() > 1e-5


@pytest.mark.parametrize(("name", "ceiling"), [("sasrec", 0.05), ("sasrec:official", 0.2)])
def test_overfits_64_sequences(name: str, ceiling: float) -> None:
    histories = random_fives()
    view = view_of(histories)
    catalog = catalog_of(view, n_items=64, features=False)
    model = toy_model(name, catalog, dropout=0.0, attn_dropout=0.0, hidden_dim=32, inner_dim=64)
    target = torch.tensor([history[4] for history in histories])
    seeds = iter(range(10_000))

    def step() -> Tensor:
        """The last target of each history, as in prefix training of full histories."""
        batch = training_batch(model, view, samples="prefix", seed=next(seeds))
        keep = torch.arange(3, 256, 4)  # prefix rows come in user order, four each
        drawn = {name: items[keep] for name, items in batch.drawn.items()}
        last = replace(batch, slot=batch.slot[keep], target=target, drawn=drawn)
        return sum(model.loss(last).values())

    def done() -> bool:
        with torch.no_grad():
            return ranks_last_items_first(model, histories) and step().item() < ceiling

    overfit(model, step, done, lr=3e-3, n_steps=600)
    assert done()


@BOTH
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = toy_model(name, toy_catalog(), dropout=0.0, attn_dropout=0.0)
    _, actual = gradients(model, training_batch(model, toy_view()))
    assert actual.keys() == dict(model.named_parameters()).keys()
    for key, grad in actual.items():
        if key.endswith("key.bias"):  # adds the same to all keys of a query, which the softmax forgets
            continue
        assert grad.any(), key
    assert not actual["item_emb.weight"][0].any(), "the padding row must get no gradient"
    assert actual["position_emb.weight"].any(1).all()


def test_positions_beyond_the_longest_history_get_no_gradient() -> None:
    model = toy_model("sasrec", toy_catalog(), dropout=0.0, attn_dropout=0.0)
    _, actual = gradients(model, training_batch(model, view_of([[1, 2, 3, 4]])))
    assert actual["position_emb.weight"].any(1).tolist() == [True] * 3 + [False] * 5


def test_post_norm_encoder_is_torchs() -> None:
    torch.manual_seed(0)
    sizes = {"dim": 12, "inner_dim": 20, "n_heads": 3}
    ours = PostNormEncoder(**sizes, n_layers=2, dropout=0.0, attn_dropout=0.0, eps=1e-12).double().eval()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    mask = torch.rand(4, 7, 7) < 0.5
    mask |= torch.eye(7, dtype=torch.bool)
    x = expected = torch.randn(4, 7, 12, dtype=torch.float64)
    for block in ours.blocks:
        other = nn.TransformerEncoderLayer(
            12,
            3,
            20,
            dropout=0.0,
            activation="gelu",
            layer_norm_eps=1e-12,
            batch_first=True,
            dtype=torch.float64,
        )
        attention = block.attention
        pairs = {
            "self_attn.in_proj_weight": attention.qkv.weight,
            "self_attn.in_proj_bias": attention.qkv.bias,
            "self_attn.out_proj.weight": attention.out.weight,
            "self_attn.out_proj.bias": attention.out.bias,
        }
        for theirs, own in (("linear1", "up"), ("linear2", "down"), ("norm1", "norm1"), ("norm2", "norm2")):
            pairs |= {f"{theirs}.{k}": getattr(getattr(block, own), k) for k in ("weight", "bias")}
        other.load_state_dict(pairs)
        other.train()  # evaluation would take torch's fused path; there is no dropout to switch off
        expected = other(expected, src_mask=~mask.repeat_interleave(3, 0))
    torch.testing.assert_close(ours(x, mask), expected, rtol=0, atol=1e-12)


def official_by_hand(encoder: PreQueryEncoder, x: Tensor) -> Tensor:
    """One unpadded history [L, D] through the authors' block, head by head, with loops instead of masks."""

    def norm(layer: nn.Module, y: Tensor) -> Tensor:
        centred = y - y.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + 1e-8).sqrt()
        return centred / scale * layer.weight + layer.bias

    for block in encoder.blocks:
        q = norm(block.norm1, x)
        query, key, value = block.query(q), block.key(x), block.value(x)
        width = x.shape[1] // block.n_heads
        rows = []
        for i in range(len(x)):
            parts = []
            for h in range(0, x.shape[1], width):
                logits = key[: i + 1, h : h + width] @ query[i, h : h + width] / width**0.5
                parts.append(logits.softmax(0) @ value[: i + 1, h : h + width])
            rows.append(torch.cat(parts))
        y = norm(block.norm2, q + block.out(torch.stack(rows)))
        x = y + block.down(block.up(y).relu())
    return norm(encoder.norm, x)


@pytest.mark.parametrize("project_out", [False, True])
def test_official_encoder_by_hand(project_out: bool) -> None:
    torch.manual_seed(0)
    encoder = PreQueryEncoder(
        dim=6, inner_dim=5, n_layers=2, n_heads=2, dropout=0.0, project_out=project_out
    ).double()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(1, 5, 6, dtype=torch.float64)
    mask = torch.ones(1, 5, 5, dtype=torch.bool).tril()
    real = torch.ones(1, 5, dtype=torch.bool)
    torch.testing.assert_close(encoder(x, mask, real)[0], official_by_hand(encoder, x[0]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["sasrec:official", "gsasrec", "sasrec-ensemble"])
def test_official_blocks_have_no_output_map(name: str) -> None:
    """Queries, keys, values and the two maps of the feed-forward layer, each with a bias, and two LayerNorms."""
    modules = toy_model(name, toy_catalog(), hidden_dim=12).modules()
    blocks = [module for module in modules if isinstance(module, PreQueryBlock)]
    assert blocks
    for block in blocks:
        inner = block.up.out_features
        assert n_parameters(block) == 3 * (12 * 12 + 12) + (12 * inner + inner) + (inner * 12 + 12) + 4 * 12


def test_official_embedding_is_scaled_and_its_table_is_not() -> None:
    model = toy_model("sasrec:official", toy_catalog()).double().eval()
    given: list[Tensor] = []
    model.official_encoder.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    model.query(history_batch(model, [[4, 9]]))
    weight = model.item_emb.weight
    expected = weight[[4, 9]] * 50**0.5 + model.position_emb.weight[:2]
    torch.testing.assert_close(given[0][0, :2], expected)
    assert torch.equal(model.item_table(), weight[1:])


def test_official_loss_is_bce_over_shifted_positions() -> None:
    view = toy_view()
    model = toy_model("sasrec:official", toy_catalog(), dropout=0.0).double()
    batch = training_batch(model, view, samples="last-window")
    torch.testing.assert_close(model.loss(batch)["bce"], loss_by_hand("bce", model.score(batch), batch))


@pytest.mark.parametrize("loss", ["ce", "bce", "bpr"])
def test_l2_adds_both_tables(loss: str) -> None:
    plain = toy_model("sasrec", toy_catalog(), dropout=0.0, attn_dropout=0.0, loss=loss)
    heavy = toy_model("sasrec", toy_catalog(), dropout=0.0, attn_dropout=0.0, loss=loss, l2_emb=0.5)
    batch = training_batch(plain, toy_view())
    terms = heavy.loss(batch)
    torch.testing.assert_close(terms[loss], plain.loss(batch)[loss])
    norms = heavy.item_emb.weight.square().sum() + heavy.position_emb.weight.square().sum()
    torch.testing.assert_close(terms["l2"], 0.5 * norms)


def test_initialisation() -> None:
    model = toy_model("sasrec", toy_catalog(n_items=400), hidden_dim=64)
    assert model.item_emb.weight[1:].std().item() == pytest.approx(0.02, rel=0.05)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert parameter.eq(1.0 if name.endswith("weight") else 0.0).all(), name
        elif name.endswith("bias"):
            assert not parameter.any(), name


def test_width_must_fit_the_heads() -> None:
    from mmbench.errors import UsageError

    with pytest.raises(UsageError, match="hidden_dim 50 is not divisible by n_heads 4"):
        toy_model("sasrec", toy_catalog(), hidden_dim=50, n_heads=4)
