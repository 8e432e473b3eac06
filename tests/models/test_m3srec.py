"""M3SRec: section "How to check it" of its specification; scores, losses and gradients against plain loops."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.models.base import Catalog, Recommender
from tests.models.make_m3srec import HISTORIES, TARGETS, make, states_of
from tests.models.reference_math import (
    affine,
    below,
    dot,
    gelu,
    mean,
    minus_log_share,
    normalise,
    softmax,
)
from tests.models.toy import (
    catalog_of,
    gradients,
    history_batch,
    training_batch,
    view_of,
    with_targets,
)

EXPERTS = pytest.mark.parametrize("n_experts", [1, 3])


# -- numbers -----------------------------------------------------------------------------------------------------


def numbers_catalog() -> Catalog:
    """Return 5 items with features of width 3: text cos(i + 2j), image cos(3i + j), item 3 without a picture."""
    i, j = torch.arange(6, dtype=torch.float64)[:, None], torch.arange(3, dtype=torch.float64)
    text, image = (i + 2 * j).cos(), (3 * i + j).cos()
    text[0], image[[0, 3]] = 0.0, 0.0
    present = torch.ones(6, dtype=torch.bool)
    return replace(
        catalog_of(view_of(HISTORIES), n_items=5, max_len=4, features=False),
        text_feat=text, image_feat=image, has_text=present, has_image=present,
    )  # fmt: skip


def numbered(n: int, *shape: int) -> Tensor:
    """Return the specification's parameter number n, 0.3 sin(1 + n + f (f + 3) / 7) at the flat index f."""
    f = torch.arange(math.prod(shape), dtype=torch.float64)
    return 0.3 * (1 + n + f * (f + 3) / 7).sin().view(shape)


class Numbers:
    """Hands out the specification's parameters in its order, for these modalities of the three."""

    def __init__(self, modalities: Sequence[int]) -> None:
        self.n, self.modalities, self.values = 0, list(modalities), dict[str, Tensor]()

    def take(self, *shape: int) -> Tensor:
        self.n += 1
        return numbered(self.n - 1, *shape)

    def norm(self, name: str) -> None:
        self.values |= {f"{name}.weight": 1 + self.take(4), f"{name}.bias": self.take(4)}

    def linear(self, name: str, d_out: int, d_in: int) -> None:
        self.values |= {f"{name}.weight": self.take(d_out, d_in), f"{name}.bias": self.take(d_out)}

    def experts(self, layer: str, groups: Sequence[int]) -> None:
        """Take the experts and second norms of all three groups (or of the one), and keep those of `groups`."""
        sets = []
        for _ in range(3 if len(groups) > 1 else 1):
            router, router_bias = self.take(2, 4), self.take(2)
            up, up_bias, down, down_bias = (
                self.take(2, 6, 4),
                self.take(2, 6),
                self.take(2, 4, 6),
                self.take(2, 4),
            )
            sets.append(
                {
                    "experts.router.weight": router, "experts.router.bias": router_bias,
                    "experts.up.weight": up.flatten(0, 1), "experts.up.bias": up_bias.flatten(),
                    "experts.down.weight": down.transpose(0, 1).flatten(1), "experts.down_bias": down_bias.flatten(),
                    "norm2.weight": 1 + self.take(4), "norm2.bias": self.take(4),
                }
            )  # fmt: skip
        for name in sets[0]:
            kept = torch.stack([sets[m][name] for m in groups])
            self.values[f"{layer}.{name}"] = kept if kept.dim() > 2 else kept.flatten()

    def all(self, *, is_fused: bool) -> dict[str, Tensor]:
        content = [name for m, name in enumerate(("id", "text", "image")) if m in self.modalities][1:]
        table = self.take(6, 4)
        table[0] = 0.0
        self.values |= {"item_emb.weight": table, "position_emb.weight": self.take(4, 4)}
        self.values["modality_emb.weight"] = self.take(3, 4)[self.modalities]
        for name in ("text", "image"):
            self.linear(f"projections.{name}", 4, 3)
        self.norm("norm")
        for number, groups in enumerate([self.modalities, [0]]):
            self.linear(f"layers.{number}.attention.qkv", 12, 4)
            self.linear(f"layers.{number}.attention.out", 4, 4)
            self.norm(f"layers.{number}.norm1")
            self.experts(f"layers.{number}", groups)
        assert self.n == 53
        for side in ("user", "item") if is_fused else ():
            self.linear(f"{side}_fusion.map", 4, 4)
            self.values[f"{side}_fusion.weight.weight"] = self.take(1, 4)
        return {k: v for k, v in self.values.items() if "projections" not in k or k.split(".")[1] in content}


def numbers_model(modalities: Sequence[int] = (0, 1, 2), score: str = "sum") -> Recommender[Any]:
    model = make(catalog=numbers_catalog(), score=score, use_image=2 in modalities)
    model.load_state_dict(Numbers(modalities).all(is_fused=score == "attn"), strict=True)
    return model


def test_numbers_of_the_sum() -> None:
    model = numbers_model()
    batch = with_targets(history_batch(model, HISTORIES), TARGETS)
    terms, scores = model.loss(batch), model.score(batch)
    expected = [-0.4923369871, 0.1909652517, 0.8178684401, 1.5132877191, 0.6760576805]
    assert scores[0].tolist() == pytest.approx(expected, abs=6e-11)
    u_img = [-0.4033947493, 0.9424463095, 0.7776535660, -1.2979438429]
    assert states_of(model, batch)[2, 1].tolist() == pytest.approx(u_img, abs=6e-11)
    values = {name: value.item() for name, value in terms.items()}
    assert values == pytest.approx(
        {"ce": 1.4261385545, "same": 0.87526895963, "cross": 0.90966153687}, abs=6e-11
    )
    assert sum(values.values()) == pytest.approx(3.2110690510, abs=6e-11)


@pytest.mark.parametrize(
    ("modalities", "score", "ce"), [((0, 1, 2), "attn", 1.6371915308), ((0, 1), "sum", 1.2920667338)]
)
def test_numbers_of_the_cross_entropy(modalities: Sequence[int], score: str, ce: float) -> None:
    model = numbers_model(modalities, score)
    batch = with_targets(history_batch(model, HISTORIES), TARGETS)
    assert model.loss(batch)["ce"].item() == pytest.approx(ce, abs=6e-11)


# -- plain loops -------------------------------------------------------------------------------------------------


def by_hand(model: Recommender[Any], weights: dict[str, Tensor], history: list[int]) -> list[list[Tensor]]:
    """Return the states of all tokens, [place][modality] -> [D], one token and one expert after another."""
    config, n_modalities = model.config, len(model.modalities)
    states = []
    for t, item in enumerate(history):
        row = []
        for m, vector in enumerate(item_by_hand(model, weights, item)):
            x = vector + weights["position_emb.weight"][t] + weights["modality_emb.weight"][m]
            row.append(normalise(x, weights["norm.weight"], weights["norm.bias"], 1e-12))
        states.append(row)
    tokens = list(product(range(len(history)), range(n_modalities)))
    for number in range(config.n_specific_layers + config.n_cross_layers):
        layer, is_specific = below(weights, f"layers.{number}"), number < config.n_specific_layers
        mixed = {key: attention_by_hand(model, layer, states, tokens, key) for key in tokens}
        for (t, m), value in mixed.items():
            y = normalise(states[t][m] + value, layer["norm1.weight"], layer["norm1.bias"], 1e-12)
            group = m if is_specific else 0
            out = y + experts_by_hand(model, below(layer, "experts"), y, group)
            scale, shift = (layer[f"norm2.{part}"].view(-1, len(y))[group] for part in ("weight", "bias"))
            states[t][m] = normalise(out, scale, shift, 1e-12)
    return states


def item_by_hand(model: Recommender[Any], weights: dict[str, Tensor], item: int) -> list[Tensor]:
    """Return q_m of an item, one after another."""
    content = [
        affine(weights, f"projections.{name}", model.get_buffer(f"{name}_feat")[item]) for name in model.modalities[1:]
    ]  # fmt: skip
    return [weights["item_emb.weight"][item], *content]


def attention_by_hand(
    model: Recommender[Any],
    layer: dict[str, Tensor],
    states: list[list[Tensor]],
    tokens: list[tuple[int, int]],
    key: tuple[int, int],
) -> Tensor:
    """Return what the token `key` = (place, modality) reads of all tokens of its own and of earlier places."""
    dim, width = model.config.hidden_dim, model.config.hidden_dim // model.config.n_heads
    seen = {(s, m): affine(layer, "attention.qkv", states[s][m]) for s, m in tokens if s <= key[0]}
    heads = []
    for start in range(0, dim, width):
        query = seen[key][start : start + width]
        logits = [dot(query, x[dim + start : dim + start + width]) / math.sqrt(width) for x in seen.values()]
        values = [x[2 * dim + start : 2 * dim + start + width] for x in seen.values()]
        heads.append(sum(share * value for share, value in zip(softmax(logits), values, strict=True)))
    return affine(layer, "attention.out", torch.cat(heads))


def experts_by_hand(model: Recommender[Any], weights: dict[str, Tensor], y: Tensor, group: int) -> Tensor:
    """Return sum_e p_e FFN_e(y), one expert after another."""
    n_experts, inner, dim = model.config.n_experts, model.config.inner_dim, len(y)
    up, up_bias = (
        weights["up.weight"][group],
        weights["up.bias"].view(-1, n_experts * inner)[group],
    )
    down, down_bias = weights["down.weight"][group], weights["down_bias"].view(-1, n_experts, dim)[group]
    shares = [torch.ones((), dtype=y.dtype)]
    if n_experts > 1:
        bias = weights["router.bias"].view(-1, n_experts)[group]
        shares = softmax(list(weights["router.weight"][group] @ y + bias))
    total = torch.zeros_like(y)
    for e, share in enumerate(shares):
        own = slice(e * inner, (e + 1) * inner)
        total = total + share * (down[:, own] @ gelu(up[own] @ y + up_bias[own]) + down_bias[e])
    return total


def contrast_by_hand(
    queries: list[Tensor], keys: list[Tensor], targets: list[int], temperature: float
) -> Tensor:
    """Return the mean over rows of -log softmax of cosines, other rows of the same target left out."""
    losses = []
    for i, query in enumerate(queries):
        others = [j for j in range(len(keys)) if j == i or targets[j] != targets[i]]
        cosines = [dot(query, keys[j]) / (query.norm() * keys[j].norm() * temperature) for j in others]
        losses.append(minus_log_share(cosines, others.index(i)))
    return mean(losses)


def losses_by_hand(
    model: Recommender[Any], weights: dict[str, Tensor], histories: list[list[int]], targets: list[int]
) -> dict[str, Tensor]:
    """Return cross entropy and contrasts of one history after another."""
    last = [by_hand(model, weights, history)[-1] for history in histories]
    items = [item_by_hand(model, weights, item) for item in range(1, model.n_items + 1)]
    ce = []
    for states, target in zip(last, targets, strict=True):
        scores = [sum(dot(u, q) for u, q in zip(states, item, strict=True)) for item in items]
        ce.append(minus_log_share(scores, target - 1))
    own, terms = [items[target - 1] for target in targets], {"ce": mean(ce)}
    content = range(1, len(model.modalities))
    for name, is_same in (("same", True), ("cross", False)):
        terms[name] = model.config.contrast_weight * sum(
            contrast_by_hand([u[a] for u in last], [q[b] for q in own], targets, model.config.temperature)
            for a, b in product(content, content)
            if (a == b) == is_same
        )
    return terms


@EXPERTS
@pytest.mark.parametrize("depth", [(1, 1), (0, 2), (2, 0)], ids=str)
def test_losses_and_gradients_are_those_of_plain_loops(depth: tuple[int, int], n_experts: int) -> None:
    """All positions of all histories in one pass, against each prefix by itself."""
    settings = {"n_specific_layers": depth[0], "n_cross_layers": depth[1], "n_experts": n_experts}
    view = view_of([[1, 2, 3, 4], [5, 2, 1], [3, 3, 2]])
    catalog = catalog_of(view, n_items=12, max_len=4)
    model = make(catalog=catalog, **settings)
    model.text_feat, model.image_feat = model.text_feat.double(), model.image_feat.double()
    batch = training_batch(model, view)
    prefixes = [[1], [1, 2], [1, 2, 3], [5], [5, 2], [3], [3, 3]]
    order = [prefixes.index(_history_at(batch, slot)) for slot in batch.slot.tolist()]
    weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    expected = losses_by_hand(model, weights, [prefixes[k] for k in order], batch.target.tolist())
    terms = model.loss(batch)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-10, atol=1e-12)
    torch.stack(list(expected.values())).sum().backward()
    _, computed = gradients(model, batch)
    for name, gradient in computed.items():
        wanted = weights[name].grad
        assert wanted is not None
        if name == "item_emb.weight":
            wanted[0] = 0.0
        torch.testing.assert_close(
            gradient, wanted, rtol=1e-8, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}"
        )


def _history_at(batch: Batch, slot: int) -> list[int]:
    """Return the items of the history up to a slot."""
    first = slot - int(batch.position.flatten()[slot])
    return batch.item_seq.flatten()[first : slot + 1].tolist()
