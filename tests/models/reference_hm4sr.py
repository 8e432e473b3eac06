"""HM4SR written out for one prefix after another, from the paper's equations (its numbers stand beside them).

Where paper and released code disagree, the reference has the model's defaults and the settings that change them.
Dropout is off. Nothing of mmbench is used; weights have the names of the model's `state_dict`, and the vectors of an
item come in the order id, text, image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import torch
from torch import Tensor

from tests.models.reference_math import (
    Sample,
    Weights,
    affine,
    below,
    dot,
    mean,
    minus_log_sigmoid,
    normalise,
    post_norm_block,
    softmax,
)

ID, TEXT, IMAGE = 0, 1, 2
Vectors = list[Tensor]  # of one item or one position: id, text, image, each [D]


@dataclass(frozen=True, kw_only=True)
class World:
    """What the model knows beside its weights; rows 1..N of `text`, `image` and `categories` belong to items."""

    text: Tensor
    image: Tensor
    categories: list[list[int]]
    n_categories: int
    first_day: int  # of the training events, in days since 1970
    n_layers: int
    n_heads: int
    n_interactive_experts: int  # k1
    n_temporal_experts: int  # k2
    scale: float = 100.0  # mu of eq. 12
    frequency: float = 10_000.0  # freq of eq. 13
    temperature: float = 0.2  # tau of eq. 23
    time_encoding: str = "both"
    interval_log: str = "log2"
    phase: str = "inside"
    category_loss: str = "mean"
    same_target: str = "removed"
    same_user: str = "negatives"
    weights_of_terms: tuple[float, float, float] = (1.0, 1.0, 1.0)  # lambda_1, lambda_2, lambda_3 of eq. 27


# -- items and time ----------------------------------------------------------------------------------------------


def item_vectors(weights: Weights, world: World, item: int) -> Vectors:
    """Return x of an item, eq. 4-5."""
    return [
        weights["item_emb.weight"][item],
        affine(weights, "projections.text", world.text[item]),
        affine(weights, "projections.image", world.image[item]),
    ]


def interval_vector(weights: Weights, world: World, seconds: int) -> Tensor:
    """Return r1 of eq. 12; an interval longer than all of training has the last row."""
    table = weights["time.interval_emb.weight"]
    log = math.log2 if world.interval_log == "log2" else math.log
    return table[min(math.floor(world.scale * log(seconds + 1)), len(table) - 1)]


def absolute_vector(weights: Weights, world: World, seconds: int) -> Tensor:
    """Return r2 of eq. 13, dimension by dimension."""
    slopes, shifts = weights["time.absolute.weight"], weights["time.absolute.bias"]
    values = []
    for j in range(len(slopes)):
        rate = world.frequency ** (-j / len(slopes))
        if world.phase == "inside":
            values.append(torch.cos((slopes[j] * seconds + shifts[j]) * rate))
        else:
            values.append(torch.cos(slopes[j] * seconds * rate + shifts[j]))
    return torch.stack(values)


def day_vector(weights: Weights, world: World, seconds: int) -> Tensor:
    """Return the embedding of the day in the data set, or in the year (fig. 5)."""
    table = weights["time.day_emb.weight"]
    if world.time_encoding == "day-of-year":
        return table[datetime.fromtimestamp(seconds, UTC).timetuple().tm_yday - 1]
    return table[min(max(seconds // 86_400 - world.first_day, 0), len(table) - 1)]


def time_vectors(weights: Weights, world: World, times: Sequence[int]) -> list[Tensor]:
    """Return what the gate reads of the time, for each position: eq. 11-13, or an alternative of fig. 5."""
    vectors = []
    for i, seconds in enumerate(times):
        interval = seconds - times[i - 1] if i else 0  # eq. 11
        if world.time_encoding == "both":
            r1 = interval_vector(weights, world, interval)
            vectors.append(torch.cat([r1, absolute_vector(weights, world, seconds)]))
        elif world.time_encoding == "interval":
            vectors.append(interval_vector(weights, world, interval))
        elif world.time_encoding == "absolute":
            vectors.append(absolute_vector(weights, world, seconds))
        elif world.time_encoding == "cos":
            slopes, shifts = weights["time.cosine.weight"], weights["time.cosine.bias"]
            vectors.append(torch.cos(slopes * interval + shifts))
        else:
            vectors.append(day_vector(weights, world, seconds))
    return vectors


# -- the two levels of experts -----------------------------------------------------------------------------------


def interactive_experts(weights: Weights, world: World, e: Vectors) -> Vectors:
    """Return e' of eq. 7-10 at a position: an expert reads all modalities, a modality has its own gate."""
    dim, together, mixed, n = len(e[ID]), torch.cat(e), [], world.n_interactive_experts
    for m, vector in enumerate(e):
        gate = weights["interactive.gates.weight"][m]
        bias = weights["interactive.gates.bias"][m * n : (m + 1) * n]
        share = softmax([dot(gate[i], vector) + bias[i] for i in range(n)])
        total = torch.zeros(dim, dtype=torch.float64)
        for i in range(n):
            rows = slice((i * len(e) + m) * dim, (i * len(e) + m + 1) * dim)  # W_{i,m}
            expert = weights["interactive.experts.weight"][rows] @ together
            total = total + share[i] * (expert + weights["interactive.experts.bias"][rows])
        mixed.append(vector + weights["interactive.alpha"][m] * total)
    return mixed


def temporal_experts(weights: Weights, world: World, e: Vectors, time: Tensor) -> Vectors:
    """Return x^temp of eq. 14-16 at a position: a gate on time mixes vectors that scale the dimensions."""
    dim, together, n = len(e[ID]), torch.cat(e), world.n_temporal_experts
    logits = affine(weights, "temporal.gate", time)
    share = softmax([logits[i] for i in range(n)])
    scaled = torch.zeros(len(together), dtype=torch.float64)
    for i in range(n):
        scaled = scaled + share[i] * (weights["temporal.experts"][i] * together)
    return [scaled[m * dim : (m + 1) * dim] for m in range(len(e))]


def fused(weights: Weights, world: World, sample: Sample) -> tuple[list[Vectors], list[Tensor]]:
    """Return the vectors of each position after both levels of experts, eq. 6-16, and its time vectors."""
    times, positions = time_vectors(weights, world, sample.times), []
    for i, item in enumerate(sample.items):
        e = [x + weights["position_emb.weight"][i] for x in item_vectors(weights, world, item)]  # eq. 6
        e = interactive_experts(weights, world, e)
        positions.append(temporal_experts(weights, world, e, times[i]))
    return positions, times


# -- encoders ----------------------------------------------------------------------------------------------------


def encoder_weights(weights: Weights, m: int) -> dict[str, Tensor]:
    """Return the weights of a modality's encoder: the id has its own, text and image share each tensor."""
    shared = below(weights, f"encoders.{min(m, 1)}")
    group, n_groups = max(m - 1, 0), 1 if m == ID else 2
    return {name: value.view(n_groups, -1, *value.shape[2:])[group] for name, value in shared.items()}


def encoded(weights: Weights, world: World, m: int, vectors: Sequence[Tensor]) -> Tensor:
    """Return the state of modality m after the last position, [D], eq. 17-18."""
    encoder = encoder_weights(weights, m)
    states = [normalise(x, encoder["norm.weight"], encoder["norm.bias"], 1e-12) for x in vectors]
    for layer in range(world.n_layers):
        block = below(encoder, f"transformer.blocks.{layer}")
        states = post_norm_block(block, states, world.n_heads, 1e-12)
    return states[-1]


def states_of(weights: Weights, world: World, sample: Sample) -> Vectors:
    """Return H of id, text and image after a history."""
    positions, _ = fused(weights, world, sample)
    return [encoded(weights, world, m, [vectors[m] for vectors in positions]) for m in (ID, TEXT, IMAGE)]


def states_with_placeholders(
    weights: Weights, world: World, sample: Sample, chosen: Sequence[bool]
) -> list[Tensor]:
    """Return H of text and image when the chosen positions hold placeholders, which only time decides, eq. 24."""
    positions, times = fused(weights, world, sample)
    results = []
    for m in (TEXT, IMAGE):
        vectors = []
        for i, replaced in enumerate(chosen):
            dim = len(positions[i][m])
            placeholder = affine(weights, "placeholders", times[i])[(m - 1) * dim : m * dim]
            vectors.append(placeholder if replaced else positions[i][m])
        results.append(encoded(weights, world, m, vectors))
    return results


def scores(weights: Weights, world: World, states: Vectors) -> list[Tensor]:
    """Return the score of every item 1..N, eq. 19; items have neither positions nor experts."""
    results = []
    for item in range(1, len(world.text)):
        vectors = item_vectors(weights, world, item)
        results.append(sum(dot(states[m], vectors[m]) for m in (ID, TEXT, IMAGE)))
    return results


# -- losses ------------------------------------------------------------------------------------------------------


def main_term(weights: Weights, world: World, samples: Sequence[Sample], states: Sequence[Vectors]) -> Tensor:
    """Return the mean cross entropy, eq. 20."""
    terms = []
    for sample, state in zip(samples, states, strict=True):
        share = softmax(scores(weights, world, state))
        terms.append(-torch.log(share[sample.target - 1]))
    return mean(terms)


def category_term(weights: Weights, world: World, samples: Sequence[Sample]) -> Tensor:
    """Return the loss of eq. 21-22 over the items of all histories: mean over items and classes, or sum per history."""
    terms = []
    for sample in samples:
        for item in sample.items:
            logits = affine(weights, "category_head", torch.cat(item_vectors(weights, world, item)))
            for c in range(world.n_categories):
                sign = 1.0 if c in world.categories[item] else -1.0
                terms.append(minus_log_sigmoid(sign * logits[c]))
    return mean(terms) if world.category_loss == "mean" else torch.stack(terms).sum() / len(samples)


def contrast(
    world: World,
    anchors: Sequence[Tensor],
    positives: Sequence[Tensor],
    samples: Sequence[Sample],
    temperature: float,
) -> Tensor:
    """Return InfoNCE with cosines, eq. 23 and 25; samples with the same target are not negatives of each other."""
    terms = []
    for i, anchor in enumerate(anchors):
        total = torch.zeros((), dtype=torch.float64)
        for j, positive in enumerate(positives):
            cosine = dot(anchor, positive) / (dot(anchor, anchor) * dot(positive, positive)).sqrt()
            value = torch.exp(cosine / temperature)
            if i == j:
                correct = value
            elif is_same(world, samples[i], samples[j]):
                value = torch.tensor(1.0 if world.same_target == "zero-logit" else 0.0, dtype=torch.float64)
            total = total + value
        terms.append(-torch.log(correct / total))
    return mean(terms)


def is_same(world: World, a: Sample, b: Sample) -> bool:
    """Return whether neither sample is a negative of the other."""
    return a.target == b.target or (world.same_user == "removed" and a.user == b.user)


def losses(
    weights: Weights, world: World, samples: Sequence[Sample], chosen: Sequence[Sequence[bool]]
) -> dict[str, Tensor]:
    """Return the terms of eq. 27; `chosen` says which positions of each history PCL replaces."""
    states = [states_of(weights, world, sample) for sample in samples]
    ids = [weights["item_emb.weight"][sample.target] for sample in samples]
    anchors = [state[ID] for state in states]
    augmented = [
        states_with_placeholders(weights, world, *pair) for pair in zip(samples, chosen, strict=True)
    ]
    by_modality = [
        contrast(
            world, [state[m] for state in states], [both[m - 1] for both in augmented], samples, 1.0
        )  # eq. 25
        for m in (TEXT, IMAGE)
    ]
    category_weight, idcl_weight, pcl_weight = world.weights_of_terms
    return {
        "ce": main_term(weights, world, samples, states),
        "cp": category_weight * category_term(weights, world, samples),
        "idcl": idcl_weight * contrast(world, anchors, ids, samples, world.temperature),
        "pcl": pcl_weight * (by_modality[0] + by_modality[1]) / 2,  # eq. 26
    }
