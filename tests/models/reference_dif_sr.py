"""DIF-SR written out for one history after another, from the paper's section 3 and the released code.

A history is padded to full length, because rows of scores are read whole. Dropout is off. Nothing of mmbench is used;
weights have the names of the model's `state_dict`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.models.reference_math import (
    Sample,
    Weights,
    affine,
    below,
    dot,
    gelu,
    mean,
    minus_log_share,
    minus_log_sigmoid,
    normalise,
    relu,
    softmax,
)

EPS = 1e-12
STREAMS = ("attribute", "item", "position")  # numbers 0, 1, 2 of the model's maps


@dataclass(frozen=True, kw_only=True)
class World:
    """What the model was built with. `categories` of every item, padding first."""

    categories: Sequence[Sequence[int]]
    n_categories: int
    max_len: int
    n_layers: int
    n_heads: int
    fusion: str = "gate"
    fusion_input: str = "raw"
    pooling: str = "sum"
    attribute_weight: float = 5.0


def attribute(weights: Weights, world: World, item: int) -> Tensor:
    table = weights["attribute_table.emb.weight"]
    total = torch.zeros_like(table[0])
    for category in world.categories[item]:
        total = total + table[category]
    if world.pooling == "mean" and world.categories[item]:
        total = total / len(world.categories[item])
    return total


def fuse(fusion: Weights, world: World, rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return one row of scores of the three rows of a place: to every place, unscaled."""
    if world.fusion == "sum":
        return [a + b + c for a, b, c in zip(*rows, strict=True)]
    stacked = [torch.stack(list(row)) for row in rows]
    if world.fusion == "concat":
        return list(affine(fusion, "concat", torch.cat(stacked)))
    energies = [affine(fusion, "energy", relu(affine(fusion, "inner", row)))[0] for row in stacked]
    shares = softmax(energies)
    return list(sum(share * row for share, row in zip(shares, stacked, strict=True)))


def attend(
    weights: Weights, world: World, streams: Sequence[Sequence[Tensor]], real: Sequence[bool]
) -> list[Tensor]:
    """Return what each place reads of the ids of the earlier ones; streams in the order of STREAMS."""
    n_places, dim = len(real), len(streams[1][0])
    queries = [[affine(weights, f"query.{k}", x) for x in streams[k]] for k in range(3)]
    keys = [[affine(weights, f"key.{k}", x) for x in streams[k]] for k in range(3)]
    values = [affine(weights, "value", x) for x in streams[1]]
    mixed = []
    for t in range(n_places):
        may_look = [j for j in range(n_places) if j <= t and real[j]]
        heads = []
        for h in range(world.n_heads):
            rows = []
            for k in range(3):
                width = len(streams[k][0]) // world.n_heads
                part = slice(h * width, (h + 1) * width)
                row = [dot(queries[k][t][part], keys[k][j][part]) for j in range(n_places)]
                if world.fusion_input == "masked":
                    row = [score if j in may_look else torch.zeros_like(score) for j, score in enumerate(row)]
                rows.append(row)
            fused = fuse(below(weights, "fusion"), world, rows)
            share = softmax([fused[j] / math.sqrt(dim // world.n_heads) for j in may_look])
            part = slice(h * (dim // world.n_heads), (h + 1) * (dim // world.n_heads))
            heads.append(sum(p * values[j][part] for p, j in zip(share, may_look, strict=True)))
        mixed.append(affine(weights, "out", torch.cat(heads)))
    return mixed


def state(weights: Weights, world: World, items: Sequence[int]) -> Tensor:
    """Return the state after the last of `items`, [D]."""
    padded = [*items, *[0] * (world.max_len - len(items))]
    table = weights["item_emb.weight"]
    ids = [
        table[item] if item else table[item].detach() for item in padded
    ]  # padding's vector is not trained
    ids = [normalise(x, weights["norm.weight"], weights["norm.bias"], EPS) for x in ids]
    attributes = [attribute(weights, world, item) for item in padded]
    positions = list(weights["position_emb.weight"])
    for layer in range(world.n_layers):
        block, results = below(weights, f"blocks.{layer}"), []
        mixed = attend(
            below(block, "attention"), world, [attributes, ids, positions], [item > 0 for item in padded]
        )
        for x, y in zip(ids, mixed, strict=True):
            u = normalise(x + y, block["norm1.weight"], block["norm1.bias"], EPS)
            inner = gelu(affine(block, "up", u))
            u = u + affine(block, "down", inner)
            results.append(normalise(u, block["norm2.weight"], block["norm2.bias"], EPS))
        ids = results
    return ids[len(items) - 1]


def scores(weights: Weights, query: Tensor) -> list[Tensor]:
    """Return the score of every item 1..N for a state."""
    table = weights["item_emb.weight"]
    return [dot(query, table[item]) for item in range(1, len(table))]


def losses(weights: Weights, world: World, samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Return the mean cross entropy over all items, and the weighted mean over samples and categories."""
    next_item, categories = [], []
    for sample in samples:
        query = state(weights, world, sample.items)
        next_item.append(minus_log_share(scores(weights, query), sample.target - 1))
        for category, logit in enumerate(affine(weights, "attribute_head", query)):
            has_it = category in world.categories[sample.target]
            categories.append(minus_log_sigmoid(logit if has_it else -logit))
    return {"ce": mean(next_item), "attribute": world.attribute_weight * mean(categories)}
