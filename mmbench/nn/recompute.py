"""States of an encoder in chunks of rows whose inner tensors are computed a second time for their gradients.

What an encoder keeps of a long row for its backward pass is a hundred times the row; only one chunk's is in memory at
any time. Noise is drawn the same both times.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mmbench.nn.layers import rows_at, take_rows
from mmbench.nn.parts import has_values, is_eager_cpu

MANY_PLACES = 2**14  # rows times width from which memory counts more than the time of a second pass
CHUNK_PLACES = 2**12


Rows = tuple[Tensor, Tensor, Tensor]  # x [R, W, ...], mask bool [R, W, W], places int64 [T] of the flat [R W]


def both_states(encoder: nn.Module, rows: Rows, others: Rows) -> tuple[Tensor, Tensor]:
    """Return `encoder(x, mask, slot)` [G, T, D] of rows and of as many places of other rows.

    Both go through the encoder in one pass, or one after the other where there are many.
    """
    (x, mask, slot), (other_x, other_mask, other_slot) = rows, others
    if wants_chunks(x) or wants_chunks(other_x):
        return states_at(encoder, *rows), states_at(encoder, *others)
    slots = torch.cat([slot, other_slot + x.shape[0] * x.shape[1]])
    first, second = encoder(torch.cat([x, other_x]), torch.cat([mask, other_mask]), slots).chunk(2, 1)
    return first, second


def states_at(encoder: nn.Module, x: Tensor, mask: Tensor, slot: Tensor) -> Tensor:
    """Return `encoder(x, mask, slot)` [G, T, D], made in chunks where there are many places."""
    if not wants_chunks(x):
        states: Tensor = encoder(x, mask, slot)
        return states
    if has_values(slot):
        return chunked_states(encoder, x, mask, slot)
    every = chunked_states(encoder, x, mask).flatten(1, 2).movedim(0, 1)  # [R W, G, D]
    return take_rows(every, slot).movedim(0, 1)


def wants_chunks(x: Tensor) -> bool:
    """Return whether rows [R, W, ...] are so many that their states should be made in chunks; on a CPU only.

    A GPU has the memory, or does the step again with less; a compiled or captured step cannot be recomputed.
    """
    return is_eager_cpu(x) and x.shape[0] * x.shape[1] >= MANY_PLACES


def chunked_states(encoder: nn.Module, x: Tensor, mask: Tensor, slot: Tensor | None = None) -> Tensor:
    """Return `encoder(x, mask, slot)`: x [R, W, ...], mask bool [R, W, W] -> states [G, R, W, D] or [G, T, D]."""
    names, parameters = zip(*encoder.named_parameters(), strict=True)
    is_cast, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def run(slots: Tensor | None, rows: Tensor, masks: Tensor, *weights: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=dtype, enabled=is_cast):
            states: Tensor = functional_call(
                encoder, dict(zip(names, weights, strict=True)), (rows, masks, slots)
            )
        return states

    def states_of(rows: Tensor, masks: Tensor, slots: Tensor | None) -> Tensor:
        made: Tensor = _Recomputed.apply(partial(run, slots), torch.get_rng_state(), rows, masks, *parameters)
        return made

    size = max(1, CHUNK_PLACES // x.shape[1])
    chunks = zip(x.split(size), mask.split(size), strict=True)
    if slot is None:
        return torch.cat([states_of(*chunk, None) for chunk in chunks], 1)
    order = (slot // x.shape[1]).argsort(stable=True)  # by rows
    slots = slots_of_chunks(slot[order], size * x.shape[1], -(-len(x) // size))
    states = [states_of(*chunk, part) for chunk, part in zip(chunks, slots, strict=True) if len(part)]
    return rows_at(torch.cat(states, 1), order.argsort(), 1)


def slots_of_chunks(slot: Tensor, places: int, n_chunks: int) -> tuple[Tensor, ...]:
    """Return the slots of each chunk, counted from its first place; slot int64 [T] in the order of chunks."""
    counts = torch.bincount(slot // places, minlength=n_chunks)
    return (slot % places).split(counts.tolist())


class _Recomputed(torch.autograd.Function):
    """run(*tensors), of which nothing but the tensors is kept; `state` is the generator's before the first pass."""

    @staticmethod
    def forward(run: Callable[..., Tensor], state: Tensor, *tensors: Tensor) -> Tensor:
        return run(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        run, *tensors = inputs
        ctx.run = run
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        state, *tensors = ctx.saved_tensors
        needs = ctx.needs_input_grad[2:]
        inputs = [tensor.detach().requires_grad_(need) for tensor, need in zip(tensors, needs, strict=True)]
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.set_rng_state(state)
            output = ctx.run(*inputs)
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        found = iter(torch.autograd.grad(output, wanted, grads[0], allow_unused=True))
        return None, None, *(next(found) if need else None for need in needs)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        run: Callable[..., Tensor],
        state: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, int]:
        """Compute the models of a stack in one pass, both times."""
        together = torch.vmap(run, in_dims[2:], randomness=info.randomness)
        return _Recomputed.apply(together, state, *tensors), 0
