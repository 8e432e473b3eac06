"""A GRU over packed sequences on a CPU, with a backward pass of its own.

torch's GRU builds a graph of some ten operations for each step of time, and multiplies each step's gradients with its
inputs. Here the backward pass keeps all gradients of the gates and multiplies once.

Axes: P places of all sequences, step after step, B sequences that are as long as a step, E input width, H hidden width.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence

from mmbench.nn.parts import is_eager_cpu


def gru_states(layer: nn.GRU, packed: PackedSequence) -> PackedSequence:
    """Return the states of a GRU with a single layer and direction, those of `layer(packed)[0]`."""
    if not is_eager_cpu(packed.data) or torch.is_autocast_enabled("cpu"):
        states: PackedSequence = layer(packed)[0]
        return states
    weights = [layer.weight_ih_l0, layer.weight_hh_l0]
    biases = [layer.bias_ih_l0, layer.bias_hh_l0] if layer.bias else [None, None]
    return packed._replace(
        data=_Recurrence.apply(packed.data, packed.batch_sizes.tolist(), *weights, *biases)
    )


class _Recurrence(torch.autograd.Function):
    """The states [P, H] of data [P, E], whose step t has the first `sizes[t]` sequences.

    r = sigmoid(W_r x + U_r h)     reset            h: the state before, 0 at the first step
    z = sigmoid(W_z x + U_z h)     update           W [3H, E] and U [3H, H]: rows for r, z and n
    n = tanh(W_n x + r (U_n h))    new              biases, where there are any, are added to both products
    h' = n + z (h - n)
    """

    @staticmethod
    def forward(
        ctx: Any,
        data: Tensor,
        sizes: Sequence[int],
        w: Tensor,
        u: Tensor,
        bias_w: Tensor | None,
        bias_u: Tensor | None,
    ) -> Tensor:
        hidden = u.shape[1]
        gates = nn.functional.linear(data, w, bias_w)  # of the inputs; r, z and n afterwards
        from_state = gates.new_empty(gates.shape)
        states = gates.new_empty(len(gates), hidden)
        before = gates.new_zeros(sizes[0], hidden)
        # The first two of the three gates together, then each; views of all steps are made in a few calls.
        first_two, rest = slice(0, 2 * hidden), slice(2 * hidden, None)
        columns = (
            from_state, gates[:, first_two], from_state[:, first_two], *gates.chunk(3, 1), from_state[:, rest], states,
        )  # fmt: skip
        for product, gate, of_gate, reset, update, new, of_new, state in _steps(columns, sizes):
            before = before[: len(state)]
            torch.mm(before, u.T, out=product)
            if bias_u is not None:
                product += bias_u
            gate.add_(of_gate).sigmoid_()
            new.addcmul_(reset, of_new).tanh_()
            torch.lerp(new, before, update, out=state)
            before = state
        ctx.sizes, ctx.has_bias = sizes, bias_w is not None
        ctx.save_for_backward(data, w, u, gates, from_state[:, 2 * hidden :], states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        data, w, u, gates, product_new, states = ctx.saved_tensors
        before = _states_before(states, ctx.sizes)
        slopes = _slopes(gates, product_new, before, grad.clone(), u, ctx.sizes)
        # r and n stand where the input's and where the state's product needs them, see _slopes.
        of_data, of_state = slopes[:, :3].flatten(1), slopes[:, 1:].flatten(1)
        grad_w = _reversed(of_data.T @ data)
        update, reset, new = (of_state.T @ before).chunk(3)
        bias_w = _reversed(of_data.sum(0)) if ctx.has_bias else None
        bias_u = torch.cat([slopes[:, k].sum(0) for k in (2, 1, 3)]) if ctx.has_bias else None
        return of_data @ _reversed(w), None, grad_w, torch.cat([reset, update, new]), bias_w, bias_u


def _states_before(states: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the state before each place, [P, H]; 0 at the first step."""
    steps = states.split(list(sizes))
    earlier = [step[:size] for step, size in zip(steps[:-1], sizes[1:], strict=True)]
    return torch.cat([torch.zeros_like(steps[0]), *earlier])


def _slopes(
    gates: Tensor, product_new: Tensor, before: Tensor, grad: Tensor, u: Tensor, sizes: Sequence[int]
) -> Tensor:
    """Return the gradients of the sums inside n, z, r, and of the product U_n h, [P, 4, H].

    grad [P, H] are the gradients of the states by what reads them outside; those by later steps are added in place.
    """
    reset, update, new = gates.chunk(3, 1)
    rest = 1 - update
    by_state = torch.stack([rest * (1 - new * new), (before - new) * update * rest], 1)  # of n, z
    by_new = torch.stack([product_new * reset * (1 - reset), reset], 1)  # of r, and of the product
    slopes = grad.new_empty(len(grad), 4, grad.shape[1])
    u_reset, u_update, u_new = u.chunk(3)
    to_state = torch.cat([u_update, u_reset, u_new])
    whole = slopes.flatten(1)
    columns = (
        grad, grad[:, None], update, by_state, by_new, slopes[:, :1], slopes[:, :2], slopes[:, 2:],
        whole[:, grad.shape[1] :],
    )  # fmt: skip
    steps = list(_steps(columns, sizes))
    for number in reversed(range(len(steps))):
        of_state, of_each, share, first, second, of_new, of_two, of_rest, of_sums = steps[number]
        torch.mul(of_each, first, out=of_two)
        torch.mul(of_new, second, out=of_rest)
        if number:
            earlier = steps[number - 1][0][: len(of_state)]
            earlier.addcmul_(of_state, share).addmm_(of_sums, to_state)
    return slopes


def _steps(columns: Sequence[Tensor], sizes: Sequence[int]) -> Iterator[tuple[Tensor, ...]]:
    """Yield views of the places of each step in several tensors [P, ...]."""
    return zip(*(column.split(list(sizes)) for column in columns), strict=True)


def _reversed(x: Tensor) -> Tensor:
    """Return the three parts of x [3H, ...] in the opposite order."""
    first, second, third = x.chunk(3)
    return torch.cat([third, second, first])
