"""Losses. Axes: T targets, N items, D width, K negatives."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.data.batch import TrainBatch
from mmbench.nn.layers import take_rows
from mmbench.nn.parts import on_gpu
from mmbench.nn.unit import unit

ROWS_OF_LOGITS = 512  # are held in memory together; below 128 the matrix products get slower
LOGITS_ON_GPU = 2**26  # are held there if ROWS_OF_LOGITS rows are fewer: 256 MiB in single precision
FEWEST_ROWS = 64
_rows_of_logits = ContextVar("rows of logits", default=ROWS_OF_LOGITS)
ALIGN = 16  # rows of logits begin at multiples of it, which makes products on CPUs 1.2 to 1.8 times faster
# Single precision has no digits left below 1e-38, and products there take 200 times as long.
NEGLIGIBLE = 1e-30


def logits_buffer(n_rows: int, n_items: int, like: Tensor) -> Tensor:
    """Return memory for `n_rows` rows of scores, [n_rows, n_items rounded up to ALIGN]; callers cut the columns."""
    return like.new_empty(n_rows, -(-n_items // ALIGN) * ALIGN)


def _ce_with_gradients(
    query: Tensor, table: Tensor, bias: Tensor | None, target: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the mean loss [..] and the gradients of the SUM over targets by query, table and bias (empty if None).

    query Q [.., T, D], table E [.., N, D], bias b [.., N] or None, target y [.., T] from 0. For each model, with Y
    [T, N] the one-hot rows of the targets:

        Z     = Q E' + b                   logits [T, N]
        P     = softmax(Z)                 row by row
        loss  = -mean_t log P[t, y_t]
              = mean_t (Z[t, k] - Z[t, y_t] - log P[t, k]) for any item k of each row; see `_losses`
        dL/dZ = P - Y                      L is the sum over targets
        dL/dQ = (P - Y) E  = P E - E[y]
        dL/dE = (P - Y)' Q = P' Q less Q[t] in row y_t, for each t
        dL/db = the column sums of P - Y

    `..` is () for one model and (S,) for the S models of a stack. The terms of P are summed over chunks of rows, which
    share a buffer for Z and P. On a GPU they are those of P - Y, which takes few kernels. On a CPU the terms of Y
    follow for all rows together, as a row of E and a row of Q for each target, and P' Q is summed as its transpose:
    half of the time at D = 64, no more at D = 192.
    """
    lead, (n_targets, n_items) = query.shape[:-2], (query.shape[-2], table.shape[-2])
    n_models, is_gpu = math.prod(lead), on_gpu(query)
    weigh = _loss_and_residuals if is_gpu else _loss_and_softmax
    chunk = rows_on_gpu(n_models * n_items) if is_gpu else rows_of_logits()
    buffer = logits_buffer(n_models * min(chunk, n_targets), n_items, query)
    shape = table.shape if is_gpu else (*lead, table.shape[-1], buffer.shape[1])
    grad_query, grad_table = query.new_empty(query.shape), table.new_empty(shape)
    grad_bias = table.new_zeros(0 if bias is None else bias.shape)
    add_product = grad_table.baddbmm_ if lead else grad_table.addmm_
    losses = []
    for start in range(0, max(n_targets, 1), chunk):
        part = slice(start, start + chunk)
        rows = query[..., part, :]
        memory = buffer[: n_models * rows.shape[-2]].view(*lead, rows.shape[-2], buffer.shape[1])
        loss, weight = weigh(rows, table, bias, target[..., part], memory)
        losses.append(loss)
        torch.matmul(weight, table, out=grad_query[..., part, :])
        add_product(*((weight.mT, rows) if is_gpu else (rows.mT, memory)), beta=float(start > 0))
        if bias is not None:
            grad_bias += weight.sum(-2)
    if not is_gpu:
        grad_table = grad_table[..., :n_items].mT.contiguous()
        _subtract_targets(grad_query, grad_table, None if bias is None else grad_bias, query, table, target)
    return sum(losses[1:], losses[0]) / max(n_targets, 1), grad_query, grad_table, grad_bias


def _logits(rows: Tensor, table: Tensor, bias: Tensor | None, memory: Tensor) -> Tensor:
    """Return Z [.., T, N] of some rows Q [.., T, D], in `memory`, whose further columns become minus infinity."""
    n_items = table.shape[-2]
    memory[..., n_items:].fill_(float("-inf"))
    logits = memory[..., :n_items]
    if bias is None:
        torch.matmul(rows, table.mT, out=logits)
    else:
        multiply = torch.baddbmm if rows.dim() > 2 else torch.addmm
        multiply(bias[..., None, :], rows, table.mT, out=logits)
    return logits


def _loss_and_residuals(
    rows: Tensor, table: Tensor, bias: Tensor | None, target: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the sum of -log P[t, y_t] [..] and P - Y [.., T, N] of some rows Q [.., T, D]; P - Y lies in `memory`."""
    residual = _logits(rows, table, bias, memory)
    torch.log_softmax(memory, -1, out=memory)
    of_target = residual.gather(-1, target[..., None])
    memory.exp_()
    residual.scatter_(-1, target[..., None], of_target.expm1())
    return -of_target.sum((-2, -1)), residual


def _loss_and_softmax(
    rows: Tensor, table: Tensor, bias: Tensor | None, target: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the sum of -log P[t, y_t] [..] and P [.., T, N] of some rows Q [.., T, D]; P lies in `memory`."""
    logits = _logits(rows, table, bias, memory)
    of_target = logits.gather(-1, target[..., None])[..., 0]
    torch.softmax(memory, -1, out=memory)
    probability = logits  # the same memory
    likelihood = probability.gather(-1, target[..., None])[..., 0]
    losses = -likelihood.clamp(min=NEGLIGIBLE).log()
    is_unlikely = likelihood < NEGLIGIBLE
    if is_unlikely.any():
        losses[is_unlikely] = _losses(is_unlikely, of_target, probability, rows, table, bias)
    return losses.sum(-1), probability


def _losses(
    chosen: Tensor, of_target: Tensor, probability: Tensor, rows: Tensor, table: Tensor, bias: Tensor | None
) -> Tensor:
    """Return -log P[t, y_t] of the chosen rows, bool [.., T], by the likeliest item k: Z[k] - Z[y] - log P[k].

    The logarithm of a vanishing P[t, y_t] would be infinite; Z[y] is `of_target` [.., T].
    """
    index = chosen.nonzero(as_tuple=True)
    largest, item = probability[index].max(-1)
    item_index = (*index[:-1], item)
    logit = (rows[index] * table[item_index]).sum(-1)
    if bias is not None:
        logit += bias[item_index]
    return logit - of_target[index] - largest.log()


def _subtract_targets(
    grad_query: Tensor,
    grad_table: Tensor,
    grad_bias: Tensor | None,
    query: Tensor,
    table: Tensor,
    target: Tensor,
) -> None:
    """Subtract the terms of Y in place: E[y] from dL/dQ, Q[t] and 1 from row y_t of dL/dE and dL/db."""
    dim, n_models = table.shape[-1], math.prod(query.shape[:-2])
    first = torch.arange(n_models, device=query.device).view(*query.shape[:-2], 1) * table.shape[-2]
    row = (target + first).flatten()  # counts through the tables of all models, stacked
    grad_query -= table.reshape(-1, dim).index_select(0, row).view(query.shape)
    grad_table.view(-1, dim).index_add_(0, row, query.reshape(-1, dim), alpha=-1)
    if grad_bias is not None:
        grad_bias.view(-1).index_add_(0, row, torch.ones_like(row, dtype=query.dtype), alpha=-1)


class _CatalogueCrossEntropy(torch.autograd.Function):
    """Mean cross entropy over the whole catalogue that never keeps the [T, N] logits.

    The forward pass forms the gradients of query, table and bias chunk by chunk (`_ce_with_gradients` has the
    formulas), the backward pass scales them. So each logit is computed once, and the memory is `rows_of_logits()` x N
    for each of the models that mmbench.training.stack trains together.
    """

    @staticmethod
    def forward(query: Tensor, table: Tensor, bias: Tensor | None, target: Tensor) -> tuple[Tensor, ...]:
        return _ce_with_gradients(query, table, bias, target)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        query, _, bias, _ = inputs
        ctx.n, ctx.has_bias = max(query.shape[-2], 1), bias is not None
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # theirs would be zeros as large as the table
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        """Return the saved gradients of the sum times (gradient of the mean) / T."""
        if grads[0] is None:
            return None, None, None, None
        by_query, by_table, by_bias = ctx.saved_tensors
        scale = grads[0] / ctx.n
        of_matrix = scale[..., None, None]
        grad_bias = by_bias * scale[..., None] if ctx.has_bias else None
        return by_query * of_matrix, by_table * of_matrix, grad_bias, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor | None) -> tuple[Any, Any]:
        """Treat the models of a stack as another leading axis."""

        def models_first(value: Tensor | None, dim: int | None) -> Tensor | None:
            if value is None or dim is None:
                return None if value is None else value.expand(info.batch_size, *value.shape)
            return value.movedim(dim, 0)

        stacked = [models_first(value, dim) for value, dim in zip(inputs, in_dims, strict=True)]
        outputs = _CatalogueCrossEntropy.apply(*stacked)
        return outputs, (0, 0, 0, None if inputs[2] is None else 0)


_apply: Callable[..., Any] = _CatalogueCrossEntropy.apply


@cache
def keep_from_compiler() -> None:
    """Let compiled losses call the cross entropy as it is.

    The compiler cannot follow its products into one buffer, and would try again for each of its functions and shapes.
    """
    global _apply
    _apply = torch.compiler.disable(_CatalogueCrossEntropy.apply)


def wide(x: Tensor) -> Tensor:
    """Return half precision as float32, anything else as it is."""
    return x.float() if x.itemsize < 4 else x


def cross_entropy(query: Tensor, table: Tensor, target: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the mean of -log softmax(query @ table.T + bias)[target - 1]; padding is not a class.

    query [T, D], table [N, D] (row i - 1 = item i), target int64 [T] in 1..N, bias [N] or None -> scalar.
    Half-precision inputs (autocast) are computed in float32: a softmax over a catalogue needs it.
    """
    with torch.autocast(query.device.type, enabled=False):
        operands = [wide(query), wide(table), None if bias is None else wide(bias)]
        loss: Tensor = _apply(*operands, target - 1)[0]
        return loss


@contextmanager
def rows_at_once(n_rows: int) -> Iterator[None]:
    """Let losses inside the `with` block hold `n_rows` rows of logits in memory; others keep their limit."""
    token = _rows_of_logits.set(n_rows)
    try:
        yield
    finally:
        _rows_of_logits.reset(token)


def rows_of_logits() -> int:
    """Return how many rows of logits a loss may hold in memory."""
    return _rows_of_logits.get()


def rows_on_gpu(n_items: int) -> int:
    """Return how many rows of so many items a loss on a GPU may hold; as many as memory let it have once it ran out."""
    n_rows = rows_of_logits()
    return n_rows if n_rows < ROWS_OF_LOGITS else max(n_rows, LOGITS_ON_GPU // n_items)


def fewer_rows(n_rows: int) -> int:
    """Return half as many rows of logits, or 0 when fewer would not help."""
    return n_rows // 2 if n_rows > FEWEST_ROWS else 0


def dots(query: Tensor, vectors: Tensor) -> Tensor:
    """Return query [T, D] . vectors [T, K, D], [T, K]; 1.2 to 2 times as fast as a product of T small matrices."""
    return (query[:, None] * vectors).sum(-1)


def item_scores(query: Tensor, table: Tensor, items: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the scores of a few items per query, [T, K]; table [N, D] (row i - 1 = item i), items int64 [T, K]."""
    scores = dots(query, F.embedding(items - 1, table))
    return scores if bias is None else scores + take_rows(bias, items - 1)


def pairs(batch: TrainBatch) -> Tensor:
    """Return each target followed by its K negatives, int64 [T, 1 + K]."""
    return torch.cat([batch.target[:, None], batch.negatives], 1)


def bce(
    positive: Tensor, negative: Tensor, is_negative: Tensor | None = None, *, weight: float = 1.0
) -> Tensor:
    """Return the mean over targets of -weight log sigma(r+) - sum_k log(1 - sigma(r-)); positive [T], negative [T, K].

    softplus keeps gradient and value where log(sigmoid(x) + 1e-24) saturates.
    is_negative  bool [T, K], which negatives count; None = all
    """
    return (weight * F.softplus(-positive) + _counted(F.softplus(negative), is_negative).sum(-1)).mean()


def bpr(positive: Tensor, negative: Tensor, is_negative: Tensor | None = None) -> Tensor:
    """Return the mean of -log sigma(r+ - r-); positive [T], negative [T, K].

    is_negative  bool [T, K], False = the term is 0; None = all count
    """
    return _counted(F.softplus(negative - positive[:, None]), is_negative).mean()


def _counted(terms: Tensor, is_negative: Tensor | None) -> Tensor:
    return terms if is_negative is None else torch.where(is_negative, terms, 0.0)


def info_nce(
    anchor: Tensor,
    positive: Tensor,
    *,
    temperature: float,
    same: Tensor | None = None,
    same_logit: float | None = None,
) -> Tensor:
    """Return in-batch InfoNCE with cosine similarity; row i of `positive` belongs to row i of `anchor`, [..., T, D].

    Leading axes are further batches, averaged with equal weights.
    same  bool [T, T], True = i and j share their target, so j is not a negative of i: it leaves the denominator, or its
          logit becomes `same_logit` (released codes use 0, which leaves exp(0) in the sum)
    """
    n = anchor.shape[-2]
    logits = (unit(anchor) / temperature) @ unit(positive).transpose(-1, -2)
    if same is not None:
        others = same > torch.eye(n, dtype=torch.bool, device=anchor.device)
        if same_logit is None:  # adding needs no backward pass: the gradient of the softmax is zero there
            logits.add_(others, alpha=-1e9)
        else:
            logits = logits.masked_fill(others, same_logit)
    partner = torch.arange(n, device=anchor.device).expand(logits.shape[:-1])
    return F.cross_entropy(logits.flatten(0, -2), partner.flatten())


class _Gram(torch.autograd.Function):
    """z @ z.T of z [T, D], with a single matrix product in the backward pass where autograd needs two.

    The derivatives of a softmax of large dot products vanish; negligible ones become 0 before they are multiplied.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return z @ z.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        z: Tensor
        (z,) = ctx.saved_tensors
        return F.hardshrink(grads[0] + grads[0].mT, NEGLIGIBLE) @ z


def nce(a: Tensor, b: Tensor, temperature: float, *, similarity: Literal["dot", "cos"] = "dot") -> Tensor:
    """Return the mean cross entropy with which each of the 2T vectors a, b [T, D] picks its partner among the others.

    Unlike in `info_nce`, vectors of the same side are negatives too. Half-precision inputs (autocast) are computed in
    float32: dot products of whole histories reach thousands, where bfloat16 counts in steps of 16.
    """
    with torch.autocast(a.device.type, enabled=False):
        z = wide(torch.cat([a, b]))
        if similarity == "cos":
            z = unit(z)
        is_self = torch.eye(len(z), dtype=torch.bool, device=z.device)
        logits = (_Gram.apply(z) / temperature).masked_fill(is_self, float("-inf"))
        return F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(a)))
