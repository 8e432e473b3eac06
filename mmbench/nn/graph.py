"""Sums over the edges of a graph, whose gradients add in a fixed order and store nothing of the size [E, D].

Axes: n targets, m sources, E edges, D width, S models of a stack.

    graph.mix(weight, x)     y_t = sum over edges s -> t of weight_st x_s       [E], [m, D] -> [n, D]
    graph.products(a, b)     p_st = a_t . b_s for each edge                     [n, D], [m, D] -> [E]

Each is the other's gradient. `Graph.mix` reads the edges target after target, and its backward pass source after
source, so that a single thread forms each sum: no atomic additions, and the same digits each time.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

N_STRUCTURE = 5  # tensors of a graph that its operations take: see Graph.structure


def bag(source: Tensor, offsets: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    """Return for each target t the sum over its edges offsets[t]:offsets[t + 1] of weight * x[source], [n, D]."""
    if not len(source):
        return x.new_zeros(len(offsets) - 1, x.shape[1])
    return F.embedding_bag(
        source, x, offsets, mode="sum", per_sample_weights=weight, include_last_offset=True
    )


def edge_products(source: Tensor, offsets: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return a[target] . b[source] of each edge, [E]; a [n, D], b [m, D]."""
    if not len(source):
        return a.new_zeros(0)
    with warnings.catch_warnings():  # sparse CSR is "in beta"
        warnings.simplefilter("ignore", UserWarning)
        pattern = torch.sparse_csr_tensor(offsets, source, a.new_zeros(len(source)), (len(a), len(b)))
    return torch.sparse.sampled_addmm(pattern, a, b.mT, beta=0.0).values()


class _Mix(torch.autograd.Function):
    """weight [E], x [m, D] -> [n, D]; the other inputs are the graph's structure."""

    @staticmethod
    def forward(weight: Tensor, x: Tensor, *structure: Tensor) -> Tensor:
        source, offsets = structure[:2]
        return bag(source, offsets, weight, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        weight, x, source, offsets, back_target, back_offsets, edge = ctx.saved_tensors
        by_weight, by_x, grad = None, None, grads[0].contiguous()
        if ctx.needs_input_grad[0]:
            by_weight = edge_products(source, offsets, grad, x)
        if ctx.needs_input_grad[1]:
            by_x = bag(back_target, back_offsets, weight.index_select(0, edge), grad)
        return by_weight, by_x, *[None] * N_STRUCTURE

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        """Mix wider vectors once if all models share the weighted graph, else mix model after model."""
        x, dim = inputs[1], in_dims[1]
        if dim is None or any(other is not None for other in (in_dims[0], *in_dims[2:])):
            return _model_by_model(_Mix.apply, info, in_dims, inputs)
        wide = x.movedim(dim, 1).flatten(1)  # [m, S D]
        mixed: Tensor = _Mix.apply(inputs[0], wide, *inputs[2:])
        return mixed.unflatten(1, (info.batch_size, -1)), 1


class _Products(torch.autograd.Function):
    """a [n, D], b [m, D] -> [E]; the other inputs are the graph's structure."""

    @staticmethod
    def forward(a: Tensor, b: Tensor, *structure: Tensor) -> Tensor:
        source, offsets = structure[:2]
        return edge_products(source, offsets, a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        a, b, source, offsets, back_target, back_offsets, edge = ctx.saved_tensors
        by_a, by_b, grad = None, None, grads[0].contiguous()
        if ctx.needs_input_grad[0]:
            by_a = bag(source, offsets, grad, b)
        if ctx.needs_input_grad[1]:
            by_b = bag(back_target, back_offsets, grad.index_select(0, edge), a)
        return by_a, by_b, *[None] * N_STRUCTURE

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        return _model_by_model(_Products.apply, info, in_dims, inputs)


def _model_by_model(
    work: Callable[..., Tensor], info: Any, in_dims: tuple[int | None, ...], inputs: tuple[Tensor, ...]
) -> tuple[Tensor, int]:
    """Compute the models of a stack in turn; return their results [S, ...] and the axis of the models."""
    results = []
    for k in range(info.batch_size):
        inputs_of_model = [
            x if dim is None else x.select(dim, k).contiguous()
            for x, dim in zip(inputs, in_dims, strict=True)
        ]
        results.append(work(*inputs_of_model))
    return torch.stack(results), 0


class Graph(nn.Module):
    """Edges source -> target, sorted by target, and sorted by source for the backward pass. Not in checkpoints."""

    source: Tensor  # int64 [E], each edge's source, in the order of the targets
    target: Tensor  # int64 [E]
    offsets: Tensor  # int64 [n + 1], target t has edges offsets[t]:offsets[t + 1]
    edge: Tensor  # int64 [E], numbers of the edges in the order of the sources
    back_target: Tensor  # int64 [E], their targets
    back_offsets: Tensor  # int64 [m + 1], source s has those back_offsets[s]:back_offsets[s + 1]
    order: Tensor  # int64 [E], each edge's index in the constructor's arguments

    def __init__(self, source: Tensor, target: Tensor, *, n_sources: int, n_targets: int) -> None:
        """Take edges int64 [E] in any order; parallel edges add up."""
        super().__init__()
        self.n_sources, self.n_targets = n_sources, n_targets
        for name, tensor in self._sorted(source, target).items():
            self.register_buffer(name, tensor, persistent=False)

    def _sorted(self, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        order = (target * self.n_sources + source).argsort(stable=True)
        source, target = source[order], target[order]
        edge = source.argsort(stable=True)
        return {
            "source": source, "target": target, "offsets": _offsets(target, self.n_targets), "edge": edge,
            "back_target": target[edge], "back_offsets": _offsets(source, self.n_sources), "order": order,
        }  # fmt: skip

    def replace(self, source: Tensor, target: Tensor) -> None:
        """Replace the edges by as many others, in the same memory."""
        for name, tensor in self._sorted(source, target).items():
            self.get_buffer(name).copy_(tensor)

    @property
    def degree(self) -> Tensor:
        """Return how many edges lead to each target, int64 [n]."""
        return self.offsets.diff()

    @property
    def structure(self) -> tuple[Tensor, ...]:
        return self.source, self.offsets, self.back_target, self.back_offsets, self.edge

    def mix(self, weight: Tensor, x: Tensor) -> Tensor:
        """Return sums over edges with weight [E] in the graph's order, of x [m, D], [n, D]; in float32 at least."""
        with torch.autocast(x.device.type, enabled=False):
            mixed: Tensor = _Mix.apply(*(_wide(part).contiguous() for part in (weight, x)), *self.structure)
            return mixed

    def products(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a[target] . b[source] of each edge, [E]; a [n, D], b [m, D]; in float32 at least."""
        with torch.autocast(a.device.type, enabled=False):
            products: Tensor = _Products.apply(
                *(_wide(part).contiguous() for part in (a, b)), *self.structure
            )
            return products

    def softmax_mix(self, logits: Tensor, x: Tensor) -> Tensor:
        """Mix with the softmax of logits [E] over each target's edges as weights; zero for targets without edges.

        Mixing a column of ones gives the sum of the weights, by which the result is divided: no second softmax pass.
        """
        with torch.autocast(x.device.type, enabled=False):
            logits, x = _wide(logits), _wide(x)
            lowest = logits.new_full((self.n_targets,), float("-inf"))
            highest = lowest.scatter_reduce(0, self.target, logits.detach(), "amax")
            weight = (logits - highest.index_select(0, self.target)).exp()
            total = self.mix(weight, x.new_ones(self.n_sources, 1))
            return self.mix(weight, x) / (total + (self.degree == 0)[:, None])


def _offsets(sorted_ids: Tensor, n: int) -> Tensor:
    count = torch.bincount(sorted_ids, minlength=n)
    return torch.cat([count.new_zeros(1), count.cumsum(0)])


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.itemsize < 4 else x


def both_ways(user: Tensor, item: Tensor, n_users: int) -> tuple[Tensor, Tensor]:
    """Return sources and targets of the user-item graph, each pair in both directions; item nodes follow the users."""
    node = n_users + item
    return torch.cat([node, user]), torch.cat([user, node])


def distinct_pairs(user: Tensor, item: Tensor, n_items: int) -> tuple[Tensor, Tensor]:
    """Return each (user, item) once, sorted by user and then item; items int64 in 0..n_items - 1."""
    keys = torch.unique(user * n_items + item)
    return keys // n_items, keys % n_items
