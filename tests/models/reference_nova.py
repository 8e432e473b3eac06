"""NOVA written out for one history after another, from the paper's sections 3.3 to 3.6.

Dropout is off. Nothing of mmbench is used; weights have the names of the model's `state_dict`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.models.reference_math import (
    Sample,
    Weights,
    affine,
    attend,
    below,
    dot,
    gelu,
    mean,
    minus_log_share,
    normalise,
)

EPS = 1e-12


@dataclass(frozen=True, kw_only=True)
class World:
    """What the model was built with. `categories` of every item, padding first."""

    categories: Sequence[Sequence[int]]
    n_layers: int
    n_heads: int
    fusion: str = "gate"
    sides: Sequence[str] = ("position", "category")
    pooling: str = "sum"
    fuse_once: bool = False
    ids_in_fusion: bool = True
    side_norm: bool = False


def side_vectors(weights: Weights, world: World, item: int, position: int) -> list[Tensor]:
    """Return the vectors of an event's position and of its item's categories, as far as they are sides."""
    vectors = []
    if "position" in world.sides:
        vectors.append(weights["sides.position.weight"][position])
    if "category" in world.sides:
        table = weights["sides.category.emb.weight"]
        total = torch.zeros_like(table[0])
        for category in world.categories[item]:
            total = total + table[category]
        if world.pooling == "mean" and world.categories[item]:
            total = total / len(world.categories[item])
        vectors.append(total)
    if world.side_norm:
        norms = [below(weights, f"sides.norms.{k}") for k in range(len(vectors))]
        vectors = [
            normalise(x, norm["weight"], norm["bias"], EPS) for x, norm in zip(vectors, norms, strict=True)
        ]
    return vectors


def fuse(weights: Weights, world: World, layer: int, ids: Tensor, sides: Sequence[Tensor]) -> Tensor:
    """Return what queries and keys of one event are made of."""
    streams, fusion = [*([ids] if world.ids_in_fusion else []), *sides], below(weights, f"fusions.{layer}")
    if world.fusion == "concat":
        return affine(fusion, "concat", torch.cat(streams))
    if world.fusion == "gate":
        streams = [x / (1 + torch.exp(-dot(fusion["gate.weight"][0], x))) for x in streams]
    total = streams[0]
    for stream in streams[1:]:
        total = total + stream
    return total


def block(weights: Weights, ids: Sequence[Tensor], fused: Sequence[Tensor], world: World) -> list[Tensor]:
    """Return x = LN(x + attention), x = LN(x + W2 gelu(W1 x)) of each event; attention reads ids where fused looks."""
    dim, weight, bias = len(ids[0]), weights["attention.qkv.weight"], weights["attention.qkv.bias"]
    queries = [weight[:dim] @ r + bias[:dim] for r in fused]
    keys = [weight[dim : 2 * dim] @ r + bias[dim : 2 * dim] for r in fused]
    values = [weight[2 * dim :] @ x + bias[2 * dim :] for x in ids]
    results = []
    for x, mixed in zip(ids, attend(queries, keys, values, world.n_heads), strict=True):
        u = x + affine(weights, "attention.out", mixed)
        u = normalise(u, weights["norm1.weight"], weights["norm1.bias"], EPS)
        u = u + affine(weights, "down", gelu(affine(weights, "up", u)))
        results.append(normalise(u, weights["norm2.weight"], weights["norm2.bias"], EPS))
    return results


def state(weights: Weights, world: World, items: Sequence[int]) -> Tensor:
    """Return the state after the last of `items`, [D]."""
    table, scale, shift = weights["item_emb.weight"], weights["norm.weight"], weights["norm.bias"]
    ids = [normalise(table[item], scale, shift, EPS) for item in items]
    sides = [side_vectors(weights, world, item, position) for position, item in enumerate(items)]
    first = [fuse(weights, world, 0, x, side) for x, side in zip(ids, sides, strict=True)]
    for layer in range(world.n_layers):
        fused = first
        if not world.fuse_once:
            fused = [fuse(weights, world, layer, x, side) for x, side in zip(ids, sides, strict=True)]
        ids = block(below(weights, f"blocks.{layer}"), ids, fused, world)
    return ids[-1]


def scores(weights: Weights, query: Tensor) -> list[Tensor]:
    """Return the score of every item 1..N for a state."""
    table = weights["item_emb.weight"]
    return [dot(query, table[item]) for item in range(1, len(table))]


def loss(weights: Weights, world: World, samples: Sequence[Sample]) -> Tensor:
    """Return the mean cross entropy over all items."""
    return mean(
        [
            minus_log_share(scores(weights, state(weights, world, sample.items)), sample.target - 1)
            for sample in samples
        ]
    )
