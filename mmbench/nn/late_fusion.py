"""Scores of two modalities, weighed for each user and item, and their cross entropy over a catalogue.

Axes: T targets, N items, D width.
"""

from typing import Any

import torch
from torch import Tensor

from mmbench.nn.losses import rows_of_logits, rows_on_gpu
from mmbench.nn.parts import has_gpu_memory

ID_SHARE = 1 / 3  # weighs the ids in a score that has them
MAPS = 4  # a row needs several maps of N numbers at a time, so a chunk has fewer rows of logits


def fuse(first: Tensor, second: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return w * first + (1 - w) * second with w = sigmoid(slope * (first - second)); first - second; and w.

    first, second [T, N]; slope [1] or [N]. It is their softmax-weighted mean.
    """
    difference = first - second
    weight = torch.sigmoid(slope * difference)
    return second + weight * difference, difference, weight


def fused_scores(query: Tensor, first: Tensor, second: Tensor, ids: Tensor | None, slope: Tensor) -> Tensor:
    """Return scores [T, N] of queries [T, D] with the tables of two modalities, and of ids or None, [N, D] each."""
    scores = fuse(query @ first.T, query @ second.T, slope)[0]
    return scores if ids is None else (1 - ID_SHARE) * scores + ID_SHARE * (query @ ids.T)


def _rows(query: Tensor, n_items: int) -> int:
    """Return how many rows of logits may be held."""
    return rows_on_gpu(n_items) if has_gpu_memory(query) else rows_of_logits()


class _FusedCrossEntropy(torch.autograd.Function):
    """Mean cross entropy of `fused_scores` / temperature that keeps no [T, N] matrix.

    The forward pass forms the gradients chunk by chunk, as in mmbench.nn.losses; empty `ids` mean none.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        query: Tensor,
        first: Tensor,
        second: Tensor,
        ids: Tensor,
        slope: Tensor,
        target: Tensor,
        temperature: float,
    ) -> tuple[Tensor, ...]:
        has_ids, chunk = ids.numel() > 0, max(_rows(query, len(first)) // MAPS, 1)
        content_share = 1 - ID_SHARE if has_ids else 1.0
        total, by_query = torch.zeros_like(slope[0]), []
        sums: list[Tensor] = []
        for rows, classes in zip(query.split(chunk), target.split(chunk), strict=True):
            content, difference, weight = fuse(rows @ first.T, rows @ second.T, slope)
            scores = content_share * content + ID_SHARE * (rows @ ids.T) if has_ids else content
            log_p = (scores / temperature).log_softmax(-1)
            total = total - log_p.gather(1, classes[:, None]).sum()
            is_target = torch.full_like(log_p[:, :1], -1.0)
            by_score = log_p.exp().scatter_add(1, classes[:, None], is_target) / temperature
            by_content = content_share * by_score
            steep = difference * weight * (1 - weight)
            by_first = by_content * (weight + slope * steep)
            by_second = by_content - by_first
            parts = [by_first.T @ rows, by_second.T @ rows, (by_content * difference * steep).sum(0)]
            rows_gradient = by_first @ first + by_second @ second
            if has_ids:
                parts.append(ID_SHARE * (by_score.T @ rows))
                rows_gradient = rows_gradient + ID_SHARE * (by_score @ ids)
            by_query.append(rows_gradient)
            sums = parts if not sums else [total + part for total, part in zip(sums, parts, strict=True)]
        by_ids = sums[3] if has_ids else torch.zeros_like(ids)
        by_slope = sums[2] if slope.numel() > 1 else sums[2].sum(0, keepdim=True)
        return total / len(target), torch.cat(by_query), sums[0], sums[1], by_ids, by_slope

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.n = inputs[0].shape[0]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # theirs would be zeros as large as the tables
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        if grads[0] is None:
            return (None,) * 7
        scale = grads[0] / ctx.n
        return (*(gradient * scale for gradient in ctx.saved_tensors), None, None)


def fused_cross_entropy(
    query: Tensor,
    first: Tensor,
    second: Tensor,
    ids: Tensor | None,
    slope: Tensor,
    target: Tensor,
    temperature: float,
) -> Tensor:
    """Return the mean of -log softmax(fused_scores / temperature)[target], target int64 [T] counted from 0.

    Half-precision inputs (autocast) are computed in float32: a softmax over a catalogue needs it.
    """
    with torch.autocast(query.device.type, enabled=False):
        tables = [query, first, second, query.new_zeros(0) if ids is None else ids, slope]
        wide = [x.float() if x.itemsize < 4 else x for x in tables]
        loss: Tensor = _FusedCrossEntropy.apply(*wide, target, temperature)[0]
        return loss
