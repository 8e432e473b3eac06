"""TedRec written out for one history after another, from the paper's section 3 and the released code.

Instead of Fourier transforms: convolutions around the circle of all places. Dropout is off. Nothing of mmbench is
used; weights have the names of the model's `state_dict`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.models.reference_math import (
    Sample,
    Weights,
    below,
    dot,
    mean,
    minus_log_share,
    normalise,
    post_norm_block,
    softmax,
)


@dataclass(frozen=True, kw_only=True)
class World:
    """What the model was built with. `features` of each modality, [N + 1, F], padding first."""

    features: Mapping[str, Tensor]
    max_len: int
    n_layers: int
    n_heads: int
    n_experts: int
    temperature: float
    zero_padding: bool = False


Noise = Mapping[str, Sequence[Tensor]]  # of each modality and place, a number for each expert


def adapted(weights: Weights, world: World, x: Tensor, place: int, noise: Tensor | None) -> Tensor:
    """Return sum_g share_g W_g (x - b_g[place])."""
    experts = weights["experts.weight"].view(world.n_experts, -1, len(x))
    logits = [dot(row, x) for row in weights["gate.weight"]]
    if noise is not None:
        scales = [torch.log(1 + torch.exp(dot(row, x))) + 0.01 for row in weights["noise.weight"]]
        logits = [logit + drawn * scale for logit, drawn, scale in zip(logits, noise, scales, strict=True)]
    total = torch.zeros_like(experts[0, :, 0])
    for share, expert, offsets in zip(softmax(logits), experts, weights["offsets"], strict=True):
        total = total + share * (expert @ (x - offsets[place]))
    return total


def circular(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    """Return sum_s a[s] b[t - s] around the circle, for each place t and channel."""
    n = len(a)
    return [sum(a[s] * b[(t - s) % n] for s in range(n)) for t in range(n)]


def filter_in_time(frequencies: Tensor, n_places: int) -> list[Tensor]:
    """Return the signal [D] of each place whose rfft has these real, then imaginary parts [2 K, D]."""
    real, imaginary = frequencies.chunk(2)
    signal = []
    for s in range(n_places):
        total = torch.zeros_like(real[0])
        for k in range(len(real)):
            angle = 2 * math.pi * k * s / n_places
            twice = 1 if k == 0 or 2 * k == n_places else 2
            total = total + twice * (math.cos(angle) * real[k] - math.sin(angle) * imaginary[k])
        signal.append(total / n_places)
    return signal


def fuse(weights: Weights, world: World, items: Sequence[int], noise: Noise | None) -> list[Tensor]:
    """Return X of every place, padding included."""
    padded = [*items, *[0] * (world.max_len - len(items))]
    table = weights["item_emb.weight"]
    ids = [
        table[item] if item else table[item].detach() for item in padded
    ]  # padding's vector is not trained
    if world.zero_padding:
        ids = [x if item else torch.zeros_like(x) for x, item in zip(ids, padded, strict=True)]
    convolved = [circular(ids, filter_in_time(weights["fusion.filter"], world.max_len))]
    for name, features in world.features.items():
        adaptor = below(weights, f"adaptors.{name}")
        contents = [
            adapted(adaptor, world, features[item], place, None if noise is None else noise[name][place])
            for place, item in enumerate(padded)
        ]
        if world.zero_padding:
            contents = [x if item else torch.zeros_like(x) for x, item in zip(contents, padded, strict=True)]
        convolved.append([c / math.sqrt(world.max_len) for c in circular(contents, ids)])
    fused = []
    for place in range(world.max_len):
        total = torch.zeros_like(ids[0])
        for k, streams in enumerate(convolved):
            gate = below(weights, f"fusion.gates.{k}")
            share = 1 / (1 + torch.exp(-(dot(gate["weight"][0], streams[place]) + gate["bias"][0])))
            total = total + 2 * share * streams[place]
        fused.append(total)
    return fused


def state(weights: Weights, world: World, items: Sequence[int], noise: Noise | None = None) -> Tensor:
    """Return the state after the last of `items`, [D]."""
    states = []
    for place, x in enumerate(fuse(weights, world, items, noise)[: len(items)]):
        x = x + weights["position_emb.weight"][place]
        states.append(normalise(x, weights["norm.weight"], weights["norm.bias"], 1e-12))
    for layer in range(world.n_layers):
        states = post_norm_block(below(weights, f"encoder.blocks.{layer}"), states, world.n_heads, 1e-12)
    return states[-1]


def scores(weights: Weights, query: Tensor) -> list[Tensor]:
    """Return the cosine of a state with the vector of every item 1..N."""
    cosines = []
    for item in weights["item_emb.weight"][1:]:
        cosines.append(dot(query, item) / (dot(query, query).sqrt() * dot(item, item).sqrt()))
    return cosines


def loss(weights: Weights, world: World, samples: Sequence[Sample], noises: Sequence[Noise]) -> Tensor:
    """Return the mean cross entropy of the cosines over all items."""
    terms = []
    for sample, noise in zip(samples, noises, strict=True):
        cosines = scores(weights, state(weights, world, sample.items, noise))
        terms.append(minus_log_share([x / world.temperature for x in cosines], sample.target - 1))
    return mean(terms)
