"""What the references share: a few formulas on vectors of one position, without batches, masks or padding.

A state is a float64 vector [D]; a history is a list of them, oldest first. Weights are tensors of a model's
`state_dict`, which may ask for gradients.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


class Sample(NamedTuple):
    """A history and the item that follows it; `times` in unix seconds."""

    user: int
    items: list[int]
    times: list[int]
    target: int


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


def affine(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Return W x + b of the linear map `name`."""
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def normalise(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """Return LayerNorm's (x - mean) / sqrt(variance + eps) * scale + shift."""
    centred = x - x.sum() / len(x)
    return centred / ((centred * centred).sum() / len(x) + eps).sqrt() * scale + shift


def gelu(x: Tensor) -> Tensor:
    """Return x times the share of a normal distribution below x."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.0)


def softmax(logits: Sequence[Tensor]) -> list[Tensor]:
    top = max(logit.item() for logit in logits)
    powers = [torch.exp(logit - top) for logit in logits]
    return [power / sum(powers) for power in powers]


def mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum() / len(values)


def minus_log_share(logits: Sequence[Tensor], correct: int) -> Tensor:
    """Return -log of the softmax of `logits` at the index `correct`."""
    return -torch.log(softmax(logits)[correct])


def minus_log_sigmoid(x: Tensor) -> Tensor:
    return torch.log(1 + torch.exp(-x))


def attend(
    queries: Sequence[Tensor], keys: Sequence[Tensor], values: Sequence[Tensor], n_heads: int
) -> list[Tensor]:
    """Return what each position reads of itself and of the earlier ones: every head has its own part of the dims."""
    width = len(queries[0]) // n_heads
    mixed = []
    for i, query in enumerate(queries):
        heads = []
        for h in range(n_heads):
            part = slice(h * width, (h + 1) * width)
            logits = [dot(query[part], keys[j][part]) / math.sqrt(width) for j in range(i + 1)]
            share = softmax(logits)
            heads.append(sum(share[j] * values[j][part] for j in range(i + 1)))
        mixed.append(torch.cat(heads))
    return mixed


def post_norm_block(weights: Weights, states: Sequence[Tensor], n_heads: int, eps: float) -> list[Tensor]:
    """Return BERT's x = LN(x + attention(x)); x = LN(x + W2 gelu(W1 x)) of each position.

    weights: attention.qkv (queries, keys, values, one below the other), attention.out, norm1, up, down, norm2.
    """
    dim, queries, keys, values = len(states[0]), [], [], []
    for state in states:
        together = affine(weights, "attention.qkv", state)
        queries.append(together[:dim])
        keys.append(together[dim : 2 * dim])
        values.append(together[2 * dim :])
    results = []
    for state, mixed in zip(states, attend(queries, keys, values, n_heads), strict=True):
        x = _norm(weights, "norm1", state + affine(weights, "attention.out", mixed), eps)
        inner = gelu(affine(weights, "up", x))
        results.append(_norm(weights, "norm2", x + affine(weights, "down", inner), eps))
    return results


def _norm(weights: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return normalise(x, weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def below(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """Return the weights whose names begin with `prefix.`, without it."""
    return {
        name[len(prefix) + 1 :]: value for name, value in weights.items() if name.startswith(f"{prefix}.")
    }
