"""Losses. Axes: T targets, N items, D width, K negatives."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 512  # rows of logits held at once; below 128 the matrix products get slower
SMALLEST_CHUNK = 64
ALIGN = 16  # rows of logits begin at multiples of so many numbers: 1.2 to 1.8 times faster products on CPUs


def logits_buffer(n_rows: int, n_items: int, like: Tensor) -> Tensor:
    """Memory for `n_rows` rows of scores, [n_rows, n_items rounded up to ALIGN]; the caller cuts the columns."""
    return like.new_empty(n_rows, -(-n_items // ALIGN) * ALIGN)


class _CatalogueCrossEntropy(torch.autograd.Function):
    """Mean cross entropy over the whole catalogue that never keeps the [T, N] logits.

    The gradients of query, table and bias are formed chunk by chunk in the forward pass and scaled in the
    backward pass, so each logit is computed once and the memory is CHUNK x N. The softmax's share is formed
    from the probabilities as they are; the target's own -1 is one row of the table and one of the queries.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, table: Tensor, bias: Tensor | None, target: Tensor) -> Tensor:
        total = query.new_zeros(())
        grad_query = torch.empty_like(query)
        grad_table = torch.zeros_like(table)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        buffer = logits_buffer(min(CHUNK, len(query)), len(table), query)
        for start in range(0, len(query), CHUNK):
            rows, classes = query[start : start + CHUNK], target[start : start + CHUNK]
            padded = buffer[: len(rows)]
            padded[:, len(table) :] = float("-inf")
            logits = padded[:, : len(table)]
            if bias is None:
                torch.mm(rows, table.T, out=logits)
            else:
                torch.addmm(bias, rows, table.T, out=logits)
            own, top = logits.gather(1, classes[:, None])[:, 0], logits.amax(1)
            torch.softmax(padded, 1, out=padded)
            # The largest probability is 1 / sum exp(logit - top), which saves a pass for the sum.
            total += (top - own - logits.amax(1).log()).sum()
            torch.mm(logits, table, out=grad_query[start : start + CHUNK])
            grad_table.addmm_(logits.T, rows)
            if grad_bias is not None:
                grad_bias += logits.sum(0)
        grad_query.sub_(table.index_select(0, target))
        grad_table.index_add_(0, target, query, alpha=-1)
        if grad_bias is not None:
            grad_bias.index_add_(0, target, torch.ones_like(query[:, 0]), alpha=-1)
        ctx.n = max(len(query), 1)
        ctx.has_bias = bias is not None
        ctx.save_for_backward(grad_query, grad_table, *([] if grad_bias is None else [grad_bias]))
        return total / ctx.n

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, Tensor | None, None]:
        scale = grads[0] / ctx.n
        grad_query, grad_table, *rest = ctx.saved_tensors
        return grad_query * scale, grad_table * scale, rest[0] * scale if ctx.has_bias else None, None


def cross_entropy(query: Tensor, table: Tensor, target: Tensor, bias: Tensor | None = None) -> Tensor:
    """Mean -log softmax(query @ table.T + bias)[target - 1]; padding is no class.

    query [T, D], table [N, D] (row i - 1 = item i), target int64 [T] in 1..N, bias [N] or None -> scalar.
    Half-precision inputs (autocast) are computed in float32: a softmax over a catalogue needs it.
    """
    with torch.autocast(query.device.type, enabled=False):
        wide = [one.float() if one is not None and one.itemsize < 4 else one for one in (query, table, bias)]
        return _CatalogueCrossEntropy.apply(*wide, target - 1)


def shrink_chunks() -> bool:
    """Half as many rows of logits at once from here on; False when they are few already."""
    global CHUNK
    if CHUNK <= SMALLEST_CHUNK:
        return False
    CHUNK //= 2
    return True


def bce(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean over targets of -log sigma(r+) - sum_k log(1 - sigma(r-)); positive [T], negative [T, K].

    softplus keeps gradient and value where log(sigmoid(x) + 1e-24) saturates.
    """
    return (F.softplus(-positive) + F.softplus(negative).sum(-1)).mean()


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean -log sigma(r+ - r-); positive [T], negative [T, K]."""
    return F.softplus(negative - positive[:, None]).mean()


def info_nce(
    anchor: Tensor,
    positive: Tensor,
    *,
    temperature: float,
    same: Tensor | None = None,
    same_logit: float | None = None,
) -> Tensor:
    """In-batch InfoNCE with cosine similarity; row i of `positive` belongs to row i of `anchor`, both [T, D].

    same  bool [T, T], True = i and j share their target, so j is no negative of i; removed from the
    denominator, or its logit set to `same_logit` (released codes use 0, which leaves exp(0) in the sum).
    """
    logits = F.normalize(anchor, dim=-1) @ F.normalize(positive, dim=-1).T / temperature
    if same is not None:
        own = torch.eye(len(anchor), dtype=torch.bool, device=anchor.device)
        logits = logits.masked_fill(same & ~own, float("-inf") if same_logit is None else same_logit)
    return F.cross_entropy(logits, torch.arange(len(anchor), device=anchor.device))


def nce(a: Tensor, b: Tensor, temperature: float, *, similarity: Literal["dot", "cos"] = "dot") -> Tensor:
    """a, b [T, D]: each of the 2T vectors finds its partner among the 2T - 1 others -> mean cross entropy.

    Unlike `info_nce`, vectors of the own side are negatives too.
    """
    z = torch.cat([a, b])
    if similarity == "cos":
        z = F.normalize(z, dim=-1)
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(own, float("-inf"))
    return F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(a)))
