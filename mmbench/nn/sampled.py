"""Losses over a sample of items instead of the whole catalogue.

Axes: T targets, N items, D width, K negatives, B buckets, X states and Y items of a bucket.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.nn.layers import take_rows
from mmbench.nn.losses import dots, rows_of_logits
from mmbench.nn.parts import has_gpu_memory, on_gpu

MOST_FLOATS, MOST_ON_GPU = 2**21, 2**25  # of item vectors that are gathered together
DENSE = 100  # on a CPU, scores of all N <= DENSE * K items cost less than K gathered vectors


def chosen_scores(query: Tensor, table: Tensor, items: Tensor) -> Tensor:
    """Return query[t] . table[items[t, k] - 1], [T, K], for query [T, D], table [N, D], items int64 [T, K] in 1..N.

    The K vectors of all targets are never in memory together.
    """
    if items.numel() * query.shape[-1] <= _most_floats(query):
        return dots(query, F.embedding(items - 1, table))
    scores: Tensor = _ChosenScores.apply(query, table, items - 1)
    return scores


class _ChosenScores(torch.autograd.Function):
    """Scores of K items for each target, computed for some targets at a time in both passes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(query: Tensor, table: Tensor, index: Tensor) -> Tensor:
        is_dense, size = _plan(query, table, index)
        parts = zip(query.split(size), index.split(size), strict=True)
        if is_dense:
            return torch.cat([(rows @ table.T).gather(1, chosen) for rows, chosen in parts])
        return torch.cat([dots(rows, F.embedding(chosen, table)) for rows, chosen in parts])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        query, table, index = ctx.saved_tensors
        is_dense, size = _plan(query, table, index)
        by_query, by_table = [], torch.zeros_like(table)
        for rows, chosen, grad in zip(*(x.split(size) for x in (query, index, grads[0])), strict=True):
            if is_dense:
                spread = grad.new_zeros(len(grad), len(table)).scatter_add(1, chosen, grad)
                by_query.append(spread @ table)
                by_table = by_table + spread.T @ rows
            else:  # adds in a fixed order, unlike index_add on a GPU
                by_query.append((grad[..., None] * F.embedding(chosen, table)).sum(1))
                each = (grad[..., None] * rows[:, None]).flatten(0, 1)
                by_table = by_table + torch.ops.aten.embedding_dense_backward(
                    each, chosen.flatten(), len(table), -1, False
                )
        return torch.cat(by_query), by_table, None


def _plan(query: Tensor, table: Tensor, index: Tensor) -> tuple[bool, int]:
    """Return whether to form the scores of all items, and for how many targets at a time."""
    n_chosen = index.shape[1]
    if not on_gpu(query) and len(table) <= DENSE * n_chosen:
        return True, rows_of_logits()
    return False, max(_most_floats(query) // (n_chosen * query.shape[1]), 1)


def _most_floats(query: Tensor) -> int:
    """Return how many numbers may be gathered."""
    return MOST_ON_GPU if has_gpu_memory(query) else MOST_FLOATS


# -- formulas -----------------------------------------------------------------------------------------------------


def gbce_weight(n_negatives: int, n_items: int, t: float) -> float:
    """Return beta of gBCE, 1 - t (1 - alpha), where alpha = K / (N - 1) is the rate at which items are drawn.

    Petrov and Macdonald, RecSys 2023: it weighs the positive term of `bce`. t 0 = BCE, 1 = calibrated.
    """
    return 1 - t * (1 - min(n_negatives / max(n_items - 1, 1), 1.0))


def sampled_softmax(positive: Tensor, negative: Tensor, is_negative: Tensor | None = None) -> Tensor:
    """Return the mean over targets of -log( e^r+ / (e^r+ + sum_k e^r-) ); positive [T], negative [T, K].

    is_negative  bool [T, K], which negatives count; None = all
    """
    if is_negative is not None:
        negative = negative + torch.where(is_negative, 0.0, float("-inf"))
    return (torch.cat([positive[:, None], negative], 1).logsumexp(1) - positive).mean()


def bucket_cross_entropy(query: Tensor, table: Tensor, target: Tensor, *, n_bucket_items: int) -> Tensor:
    """Return the scalable cross entropy (SCE) of query [T, D] with table [N, D]; target int64 [T] in 1..N.

    Mezentsev et al., RecSys 2024. Each of B random directions has a bucket: the X states and the Y items that lie
    farthest along it, B = X = int(2 sqrt(T)). Inside a bucket a state's softmax is over its target and the bucket's
    items; a state in several buckets keeps the largest of its losses, a state in none has no loss.
    """
    n_buckets = max(min(int(2 * len(query) ** 0.5), len(query)), 1)
    states, items = _buckets(query.detach(), table.detach(), n_buckets, min(n_bucket_items, len(table)))
    positive = dots(query, F.embedding(target - 1, table)[:, None])[:, 0]  # [T]
    positive_in = take_rows(positive, states)  # [B, X]
    logits = F.embedding(states, query) @ F.embedding(items, table).mT  # [B, X, Y]
    is_target = items[:, None] == (target - 1)[states][..., None]
    logits = logits + torch.where(is_target, float("-inf"), 0.0)
    losses = torch.cat([positive_in[..., None], logits], -1).logsumexp(-1) - positive_in
    worst = torch.full_like(positive, -1.0).scatter_reduce(0, states.flatten(), losses.flatten(), "amax")
    has_loss = worst >= 0
    return torch.where(has_loss, worst, 0.0).sum() / has_loss.sum()


def _buckets(query: Tensor, table: Tensor, n_buckets: int, n_bucket_items: int) -> tuple[Tensor, Tensor]:
    """Draw buckets; return the states int64 [B, X], X = B, and the items int64 [B, Y], from 0, of each."""
    directions = torch.randn(n_buckets, query.shape[1], dtype=query.dtype, device=query.device)
    states = (directions @ query.T).topk(n_buckets, 1).indices
    return states, (directions @ table.T).topk(n_bucket_items, 1).indices
