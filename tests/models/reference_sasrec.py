"""SASRec written out for one history after another, from its papers' and codes' formulas.

"bert-style" is BERT's block over item + position vectors, trained with cross entropy over the catalogue; "official"
is the authors' TensorFlow code: only queries are normalised, and the normalised input is the residual.
Dropout is off. Nothing of mmbench is used; weights have the names of the model's `state_dict`.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from tests.models.reference_math import (
    Sample,
    Weights,
    affine,
    attend,
    below,
    dot,
    mean,
    minus_log_share,
    minus_log_sigmoid,
    normalise,
    post_norm_block,
    relu,
)


def state(weights: Weights, items: Sequence[int], *, network: str, n_layers: int, n_heads: int) -> Tensor:
    """Return the state after the last of `items`, [D]."""
    run = bert_style if network == "bert-style" else official
    return run(weights, items, n_layers, n_heads)[-1]


def bert_style(weights: Weights, items: Sequence[int], n_layers: int, n_heads: int) -> list[Tensor]:
    states = []
    for position, item in enumerate(items):
        x = weights["item_emb.weight"][item] + weights["position_emb.weight"][position]
        states.append(normalise(x, weights["norm.weight"], weights["norm.bias"], 1e-12))
    for layer in range(n_layers):
        states = post_norm_block(below(weights, f"encoder.blocks.{layer}"), states, n_heads, 1e-12)
    return states


def official(weights: Weights, items: Sequence[int], n_layers: int, n_heads: int) -> list[Tensor]:
    dim = weights["item_emb.weight"].shape[1]
    states = []
    for position, item in enumerate(items):
        vector = math.sqrt(dim) * weights["item_emb.weight"][item]
        states.append(vector + weights["position_emb.weight"][position])
    encoder = below(weights, "official_encoder")
    for layer in range(n_layers):
        states = official_block(below(encoder, f"blocks.{layer}"), states, n_heads)
    return [normalise(x, encoder["norm.weight"], encoder["norm.bias"], 1e-8) for x in states]


def official_block(weights: Weights, states: Sequence[Tensor], n_heads: int) -> list[Tensor]:
    """Return y + W2 relu(W1 y) with y = LN(q + attention(q, x, x)) and q = LN(x), of each position."""
    normed = [normalise(x, weights["norm1.weight"], weights["norm1.bias"], 1e-8) for x in states]
    queries = [affine(weights, "query", q) for q in normed]
    keys = [affine(weights, "key", x) for x in states]
    values = [affine(weights, "value", x) for x in states]
    results = []
    for q, mixed in zip(normed, attend(queries, keys, values, n_heads), strict=True):
        y = normalise(q + mixed, weights["norm2.weight"], weights["norm2.bias"], 1e-8)
        results.append(y + affine(weights, "down", relu(affine(weights, "up", y))))
    return results


def scores(weights: Weights, query: Tensor) -> list[Tensor]:
    """Return the score of every item 1..N for a state."""
    table = weights["item_emb.weight"]
    return [dot(query, table[item]) for item in range(1, len(table))]


def loss(
    weights: Weights,
    samples: Sequence[Sample],
    negatives: Sequence[int],
    *,
    kind: str,
    network: str,
    n_layers: int,
    n_heads: int,
) -> Tensor:
    """Return the mean over samples: "ce" over all items, or "bce" or "bpr" against one negative each."""
    terms = []
    for sample, negative in zip(samples, negatives, strict=True):
        query = state(weights, sample.items, network=network, n_layers=n_layers, n_heads=n_heads)
        all_scores = scores(weights, query)
        right, wrong = all_scores[sample.target - 1], all_scores[negative - 1]
        if kind == "ce":
            terms.append(minus_log_share(all_scores, sample.target - 1))
        elif kind == "bce":
            terms.append(minus_log_sigmoid(right) + minus_log_sigmoid(-wrong))
        else:
            terms.append(minus_log_sigmoid(right - wrong))
    return mean(terms)
