"""Linear maps and norms, also of G independent groups (modalities) in a single call: a batched product instead of G.

Weights are [G, ...]. Vectors of each group (biases, norms) are stored flat, [G * D]: optimisers take a parameter with a
single dimension for a bias or a norm.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.nn.parts import is_eager_cpu, on_gpu


class Linear(nn.Linear):
    """torch's linear map, faster on a CPU.

    The bias is added to the product in place; torch copies it into every row first and adds the product.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None or not adds_in_place(x):
            return super().forward(x)
        return F.linear(x, self.weight).add_(self.bias)


def adds_in_place(x: Tensor) -> bool:
    """Return whether biases should be added to products of x: on an eager CPU, in the precision of x."""
    return is_eager_cpu(x) and not torch.is_autocast_enabled("cpu")


class GroupedLinear(nn.Module):
    """G linear maps, x [G, ..., D_in] -> [G, ..., D_out], initialised like G `nn.Linear`s."""

    def __init__(self, n_groups: int, d_in: int, d_out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.n_groups = n_groups
        self.weight = nn.Parameter(torch.empty(n_groups, d_out, d_in))
        self.bias = nn.Parameter(torch.empty(n_groups * d_out)) if bias else None
        bound = d_in**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.view(self.n_groups, 1, -1)
        mapped = _map_groups(x.flatten(1, -2), self.weight, bias)
        return mapped.view(*x.shape[:-1], mapped.shape[-1])

    def extra_repr(self) -> str:
        return f"{self.n_groups} x ({self.weight.shape[2]} -> {self.weight.shape[1]})"


def _map_groups(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x @ w.T + b of x [G, P, D_in], w [G, D_out, D_in] and b [G, 1, D_out] or None, in autocast's precision."""
    if torch.compiler.is_compiling():
        return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias, x, weight.mT)
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    mapped: Tensor = _GroupedMap.apply(x, weight, bias)
    return mapped


class _GroupedMap(torch.autograd.Function):
    """`_map_groups`, whose gradient of w comes out as w lies in memory.

    Autograd's is its transpose, which is copied for every step. On a GPU it is summed in parts (`choose_n_parts`).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if bias is not None and on_gpu(x):
            return torch.baddbmm(bias, x, weight.mT)
        mapped = torch.bmm(x, weight.mT)
        return mapped if bias is None else mapped.add_(bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        (x, weight), (grad,) = ctx.saved_tensors, grads
        by_x, by_weight, by_bias = ctx.needs_input_grad
        return (
            torch.bmm(grad, weight) if by_x else None,
            _sum_of_products(grad, x) if by_weight else None,
            grad.sum(1, keepdim=True) if by_bias else None,
        )


def _sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    """Return a.T @ b of a [G, P, D] and b [G, P, D'], [G, D, D']."""
    n_parts = choose_n_parts(a.shape[1]) if on_gpu(a) else 1
    if n_parts == 1:
        return torch.bmm(a.mT, b)
    a, b = (x.reshape(len(x) * n_parts, -1, x.shape[-1]) for x in (a, b))
    return torch.bmm(a.mT, b).unflatten(0, (-1, n_parts)).sum(1)


class GroupedLayerNorm(nn.Module):
    """G LayerNorms over D of x [G, ..., D], each with a scale and a shift."""

    def __init__(self, n_groups: int, dim: int, eps: float) -> None:
        super().__init__()
        self.n_groups, self.dim, self.eps = n_groups, dim, eps
        self.weight = nn.Parameter(torch.ones(n_groups * dim))
        self.bias = nn.Parameter(torch.zeros(n_groups * dim))

    def forward(self, x: Tensor) -> Tensor:
        size = (self.dim,)
        if self.n_groups == 1:
            return F.layer_norm(x, size, self.weight, self.bias, self.eps)
        if is_eager_cpu(x):  # a pass that scales and shifts as it norms; a GPU wants few operations instead
            groups = zip(x, self.weight.split(self.dim), self.bias.split(self.dim), strict=True)
            return torch.stack([F.layer_norm(part, size, scale, by, self.eps) for part, scale, by in groups])
        shape = (self.n_groups, *[1] * (x.dim() - 2), self.dim)
        normed = F.layer_norm(x, (self.dim,), eps=self.eps)
        return normed * self.weight.view(shape) + self.bias.view(shape)

    def extra_repr(self) -> str:
        return f"{self.n_groups} x {self.dim}, eps={self.eps}"


def choose_n_parts(n_rows: int) -> int:
    """Return into how many parts a GPU should split a product whose gradient sums over `n_rows`.

    The gradient of a small weight is a product with a long inner axis, for which cuBLAS starts only a few blocks.
    """
    n_parts = 1
    while n_parts < 32 and n_rows % (2 * n_parts) == 0 and n_rows // (2 * n_parts) >= 256:
        n_parts *= 2
    return n_parts


def linear(d_in: int, d_out: int, n_groups: int | None = None, *, use_bias: bool = True) -> nn.Module:
    """Return a linear map, or with `n_groups` one for each group of a leading axis."""
    if n_groups is None:
        return Linear(d_in, d_out, bias=use_bias)
    return GroupedLinear(n_groups, d_in, d_out, bias=use_bias)


def layer_norm(dim: int, eps: float, n_groups: int | None = None) -> nn.Module:
    """Return a LayerNorm, or with `n_groups` one for each group of a leading axis."""
    return nn.LayerNorm(dim, eps=eps) if n_groups is None else GroupedLayerNorm(n_groups, dim, eps)
