"""MISSRec: section "How to check it" of its specification, and its states and scores against plain loops.

Clusters are in tests/nn/test_lloyd.py, stages in test_missrec_stages.py.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import TrainBatch
from mmbench.nn import late_fusion
from mmbench.nn.encoder_decoder import DecoderLayer, EncoderLayer
from mmbench.nn.losses import ROWS_OF_LOGITS, rows_at_once
from tests.fixed import fill
from tests.models.make_missrec import MISSREC, PLAIN, QUIET, make
from tests.models.toy import (
    catalog_of,
    close,
    gradients,
    history_batch,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)

HISTORIES, TARGETS = [[1, 2, 3, 4], [5, 2], [4]], [5, 1, 3]


# -- numbers of the official code -----------------------------------------------------------------------------------


def v(n: int, *shape: int) -> Tensor:
    """Return the specification's parameter number n, 0.3 sin(1 + n + f (f + 3) / 7)."""
    f = torch.arange(math.prod(shape), dtype=torch.float64)
    return (0.3 * (1 + n + f * (f + 3) / 7).sin()).view(*shape)


def parameters_in_order(model: Any) -> list[tuple[Tensor, bool]]:
    """Return the parameters as the specification numbers them, and whether each is a norm's weight."""
    encoder, decoder = model.encoder[0], model.decoder[0]

    def both(*layers: nn.Module) -> list[tuple[Any, bool]]:
        is_norm = [isinstance(layer, nn.LayerNorm) for layer in layers]
        return [
            (parameter, norm and parameter is layer.weight)
            for layer, norm in zip(layers, is_norm, strict=True)
            for parameter in (layer.weight, layer.bias)
        ]

    def attention(layer: Any) -> list[nn.Module]:
        return [layer.qkv, layer.out]

    def forward(layer: Any) -> list[nn.Module]:
        return [layer.feed_forward.up, layer.feed_forward.down]

    first: list[Any] = [(model.position_emb.weight, False)]
    return [
        (model.item_emb.weight, False),
        *first,
        *both(model.adaptors.text, model.adaptors.image, model.norm),
        *both(
            *attention(encoder.attention), *forward(encoder), encoder.norm1, encoder.norm2, model.encoder_norm
        ),
        *both(*attention(decoder.attention), *attention(decoder.memory_attention), *forward(decoder)),
        *both(decoder.norm1, decoder.norm2, decoder.norm3, model.decoder_norm),
    ]


def numbered(name: str = "missrec", **settings: Any) -> Any:
    """Return the specification's model of 5 items and 3 interests, in evaluation mode."""
    i, j = torch.arange(6, dtype=torch.float64)[:, None], torch.arange(3, dtype=torch.float64)
    text, image = (i + 2 * j).cos(), (3 * i + j).cos()
    text[0], image[[0, 3]] = 0, 0
    plain = catalog_of(view_of([[1, 2, 3], [4, 5]]), n_items=5, max_len=4, features=False)
    catalog = replace(plain, text_feat=text, image_feat=image)
    sizes = {"hidden_dim": 4, "inner_dim": 6, "cluster_ratio": 0.3}
    model: Any = toy_model(name, catalog, **sizes, **QUIET, **settings).double().eval()
    ordered = parameters_in_order(model)
    with torch.no_grad():
        for n, (parameter, is_scale) in enumerate(ordered):
            parameter.copy_(v(n, *parameter.shape) + (1.0 if is_scale else 0.0))
        model.item_emb.weight[0] = 0
        model.slope.fill_(0.5)
    assert len(ordered) == 42
    assert {id(parameter) for parameter, _ in ordered} | {id(model.slope)} == {
        id(p) for p in model.parameters()
    }
    k, d = torch.arange(1, 4, dtype=torch.float64)[:, None], torch.arange(4, dtype=torch.float64)
    model._set_interests((2 * k + d).sin(), torch.tensor([1, 2, 3, 1, 2, 2, 2, 1, 3, 3]) - 1)
    return model


def numbered_batch(width: int = 4) -> TrainBatch:
    """Return the three histories right padded to `width`, each with its target."""
    length = torch.tensor([len(history) for history in HISTORIES])
    items = torch.tensor([history + [0] * (width - len(history)) for history in HISTORIES])
    real = torch.arange(width) < length[:, None]
    return TrainBatch(
        item_seq=items, time_seq=torch.zeros_like(items), position=torch.arange(width) * real, segment=real.long(),
        slot=torch.arange(3) * width + length - 1, user=torch.arange(3), target=torch.tensor(TARGETS),
    )  # fmt: skip


@pytest.mark.parametrize("width", [4, 7])
def test_numbers(width: int) -> None:
    model, batch = numbered(diversity_weight=1.0), numbered_batch(width)
    close(model.query(batch)[1], -0.8681216029, 0.2085602493, 0.3719027575, -0.2540784208)
    close(model.score(batch)[0], -0.0807164415, 0.1554582049, 0.2677505179, 0.3417906070, -0.1572174468)
    terms = model.loss(batch)
    close(terms["ce"], 5.8634909914)
    close(terms["diversity"], 0.3035742627)
    terms["ce"].backward()
    close(model.slope.grad, -0.6682406500)


@pytest.mark.parametrize("width", [4, 7])
def test_released_numbers(width: int) -> None:
    model, batch = numbered("missrec:as-released", diversity_weight=1.0), numbered_batch(width)
    terms = model.loss(batch)
    close(terms["ce"], 5.9156021931)
    close(terms["diversity"], 4.4206045573)
    taken_back = {"regulariser": "intended", "padding": "no class"}
    terms = numbered("missrec:as-released", diversity_weight=0.1, **taken_back).loss(batch)
    close(terms["ce"], 5.8634909914)
    close(terms["diversity"] * 10, 0.3035742627)


def test_contextual_numbers() -> None:
    model = numbered("missrec:contextual", diversity_weight=1.0)
    terms = model.loss(numbered_batch())
    close(terms["ce"], 3.6739842111)
    close(terms["diversity"], 0.3035742627)


# -- plain loops -----------------------------------------------------------------------------------------------------


def test_layers_are_those_of_torch() -> None:
    """torch.nn's encoder and decoder layers with the same weights, biases and masks."""
    torch.manual_seed(0)
    kwargs: dict[str, Any] = {
        "activation": "gelu",
        "batch_first": True,
        "layer_norm_eps": 1e-12,
        "dropout": 0.0,
    }
    theirs: Any = nn.TransformerDecoderLayer(8, 2, 12, **kwargs).double()
    ours = DecoderLayer(8, 12, 2, 0.0).double()
    encoder: Any = nn.TransformerEncoderLayer(8, 2, 12, **kwargs).double()
    our_encoder = EncoderLayer(8, 12, 2, 0.0).double()
    fill(ours)
    fill(our_encoder)

    def take(layer: Any, attention: Any, ours_of: Any) -> None:
        attention.in_proj_weight.copy_(ours_of.qkv.weight)
        attention.in_proj_bias.copy_(ours_of.qkv.bias)
        attention.out_proj.load_state_dict(ours_of.out.state_dict())

    with torch.no_grad():
        for layer, own in ((theirs, ours), (encoder, our_encoder)):
            take(layer, layer.self_attn, own.attention)
            layer.linear1.load_state_dict(own.feed_forward.up.state_dict())
            layer.linear2.load_state_dict(own.feed_forward.down.state_dict())
            for name in ("norm1", "norm2", "norm3"):
                if hasattr(layer, name):
                    getattr(layer, name).load_state_dict(getattr(own, name).state_dict())
        take(theirs, theirs.multihead_attn, ours.memory_attention)
        x, memory = torch.randn(3, 5, 8).double(), torch.randn(3, 4, 8).double()
        keys = torch.rand(3, 5) < 0.7
        keys[:, 0] = True
        looks = torch.rand(3, 4) < 0.6
        looks[:, 1] = True
        expected = theirs(x, memory, tgt_key_padding_mask=~keys, memory_key_padding_mask=~looks)
        mask, look = keys[:, None].expand(3, 5, 5), looks[:, None].expand(3, 5, 4)
        torch.testing.assert_close(ours(x, mask, memory, look, None), expected)
        slot = torch.tensor([14, 2, 3])
        torch.testing.assert_close(ours(x, mask, memory, look, slot), expected.flatten(0, 1)[slot])
        torch.testing.assert_close(our_encoder(x, mask), encoder(x, src_key_padding_mask=~keys))


def scores_by_hand(model: Any, u: list[float]) -> list[float]:
    """Return the scores of items 1..N for a unit state u, item by item."""

    def unit(x: Tensor) -> list[float]:
        return (x / x.square().sum().sqrt()).tolist()

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    scores, slope = [], model.slopes().tolist()
    for item in range(1, model.n_items + 1):
        text, image = (
            dot(u, unit(adaptor.weight @ model.features(name)[item] + adaptor.bias))
            for name, adaptor in model.adaptors.items()
        )
        a = slope[item - 1] if len(slope) > 1 else slope[0]
        e_text, e_image = math.exp(a * text), math.exp(a * image)
        weight = e_text / (e_text + e_image)
        score = weight * text + (1 - weight) * image
        if model.item_emb is not None:
            score = (dot(u, unit(model.item_emb.weight[item])) + 2 * score) / 3
        scores.append(score)
    return scores


@pytest.mark.parametrize("name", ["missrec", "missrec:inductive", "missrec:mean", "missrec:per-item"])
def test_scores_are_what_their_formula_says(name: str) -> None:
    model = make(name).eval()
    batch = history_batch(model, PLAIN)
    with torch.no_grad():
        actual, states = model.score(batch), model.query(batch)
        expected = [scores_by_hand(model, u) for u in states.tolist()]
    torch.testing.assert_close(actual.tolist(), expected)
    assert actual.abs().max() <= 1


@pytest.mark.parametrize("name", ["missrec:-text", "missrec:-image"])
@pytest.mark.parametrize("use_ids", [True, False])
def test_one_modality_is_added_to_the_ids(name: str, use_ids: bool) -> None:
    model = make(name, use_ids=use_ids).eval()
    (adaptor,), batch = model.adaptors.values(), history_batch(model, PLAIN)
    assert model.slope is None
    assert model.is_dot_product
    with torch.no_grad():
        table = model.features(model.modalities[0]) @ adaptor.weight.T + adaptor.bias
        table = table + model.item_emb.weight if use_ids else table
        expected = model.query(batch) @ F.normalize(table[1:], dim=1).T
        torch.testing.assert_close(model.score(batch), expected)
        torch.testing.assert_close(model.query(batch) @ model.item_table().T, expected)


@pytest.mark.parametrize(
    "name",
    [
        "missrec",
        "missrec:inductive",
        "missrec:mean",
        "missrec:per-item",
        "missrec:-text",
        "missrec:contextual",
    ],
)
@pytest.mark.parametrize("where", ["in chunks of five rows", "on a CPU", "on a GPU"])
def test_loss_and_gradients_are_those_of_the_scores(
    name: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunked cross entropy against autograd through all scores."""
    model, view = make(name, **QUIET, temperature=0.3, diversity_weight=0.0), toy_view()
    batch = training_batch(model, view)
    assert len(batch.target) > 10
    monkeypatch.setattr(late_fusion, "has_gpu_memory", lambda _: where == "on a GPU")
    with rows_at_once(5 * late_fusion.MAPS if where == "in chunks of five rows" else ROWS_OF_LOGITS):
        loss, grads = gradients(model, batch)
    model.zero_grad()
    expected = F.cross_entropy(model.score(batch) / 0.3, batch.target - 1)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    assert set(grads) == {key for key, parameter in model.named_parameters()}
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[key], rtol=1e-9, atol=1e-12)


def interests_of(model: Any, history: list[int]) -> set[int]:
    return {int(k) for item in history for k in model.lookup[item]}


@pytest.mark.parametrize("name", ["missrec", "missrec:-image"])
def test_memory_and_diversity_are_those_of_a_set(name: str) -> None:
    """Each history's interests as a row without padding or repetitions, through torch-like layers one by one."""
    model = make(name, diversity_weight=1.0).eval()
    batch = training_batch(model, toy_view())
    histories = []
    for slot in batch.slot.tolist():
        first = slot - int(batch.position.flatten()[slot])
        histories.append(batch.item_seq.flatten()[first : slot + 1].tolist())
    with torch.no_grad():
        actual, looks = model.memory(MISSREC.whole(batch))
        width, total = batch.item_seq.shape[1], 0.0
        for slot, history in zip(batch.slot.tolist(), histories, strict=True):
            interests = sorted(interests_of(model, history))
            x = model.centroids[interests][None]
            expected = model.encoder_norm(
                model.encoder[0](x, torch.ones(1, len(interests), len(interests)) > 0)
            )[0]
            row, place = divmod(slot, width)
            seen = actual[row][looks[row, place]]
            assert len(seen) == len(interests)
            ids = model.lookup[batch.item_seq[row]].T.flatten()[looks[row, place]]
            torch.testing.assert_close(seen[ids.argsort()], expected)
            total += expected.mean(0).square().sum().item() / 8
        assert model.loss(batch)["diversity"].item() == pytest.approx(total / len(histories))


def test_the_released_regulariser_counts_padding() -> None:
    """Each history as a row of its own interests and one place of padding, which sees them and is seen by none."""
    model = make("missrec:as-released", diversity_weight=1.0, cluster_ratio=0.5).eval()
    # An interest for each modality, but for three items.
    label = torch.tensor([[0], [1]]).repeat(1, model.n_items)
    label[:, [7, 10, 11]] = torch.arange(2, 8).view(2, 3)
    model._set_interests(model.centroids[1:], label.flatten())
    view = view_of([[1, 2, 3, 4, 5, 6, 7, 9, 10], [8, 11, 12, 1], [6, 6, 7, 7, 4, 4, 4, 4, 8]])
    batch = training_batch(model, view)
    rows, lengths = [], []
    for slot in batch.slot.tolist():
        first = slot - int(batch.position.flatten()[slot])
        history = batch.item_seq.flatten()[first : slot + 1].tolist()
        interests = sorted(interests_of(model, history))
        visible = torch.tensor([True] * len(interests) + [False]).expand(1, len(interests) + 1, -1)
        x = model.centroids[[*interests, 0]][None]
        rows.append(model.encoder_norm(model.encoder[0](x, visible))[0].detach())
        lengths.append(len(history))
    # One history of 8 items is full; another, shorter one could be the widest but for its padding.
    n_slots = max(len(row) - 1 + (n < 8) for row, n in zip(rows, lengths, strict=True))
    assert n_slots > max(len(row) - 1 for row, n in zip(rows, lengths, strict=True))
    total = 0.0
    for row in rows:
        n_real = len(row) - 1
        summed = row[:-1].sum(0) + (n_slots - n_real) * row[-1]
        total += ((n_real / n_slots) * summed).square().sum().item() / 8
    assert model.loss(batch)["diversity"].item() == pytest.approx(total)
