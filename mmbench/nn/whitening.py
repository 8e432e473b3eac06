"""Parametric whitening with a mixture of experts: UniSRec's adaptor from features to item vectors.

Axes: n items or slots, F width of the features, G experts, D hidden width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.nn.layers import cut_of, dropout, keep_bytes
from mmbench.nn.parts import on_gpu

BLOCK = 2048  # rows of which a GPU holds G copies in memory together
CPU_DIVISOR = 32  # makes blocks smaller on a CPU, so that its caches hold them: about twice as fast
NOISE_FLOOR = 0.01  # is the least deviation of a gate's noise


def _block(x: Tensor) -> int:
    """Return how many rows are copied at a time."""
    return BLOCK if on_gpu(x) else max(BLOCK // CPU_DIVISOR, 1)


class _DroppedProducts(torch.autograd.Function):
    """Products [G, n, D] of x [n, F], masked for each group by keep uint8 [G, n, F], with weight [G, D, F].

    The G dropped copies of x exist a block of rows at a time, in both passes; only the masks are kept. No gradient
    reaches x.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, keep: Tensor, weight: Tensor) -> Tensor:
        blocks = zip(x.split(_block(x)), keep.split(_block(x), 1), strict=True)
        return torch.cat([(rows * kept.to(x.dtype)) @ weight.mT for rows, kept in blocks], 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x, keep, _ = inputs
        ctx.save_for_backward(x, keep)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[None, None, Tensor]:
        x, keep = ctx.saved_tensors
        blocks = zip(
            grads[0].to(x.dtype).split(_block(x), 1),
            x.split(_block(x)),
            keep.split(_block(x), 1),
            strict=True,
        )
        return None, None, sum(grad.mT @ (rows * kept.to(x.dtype)) for grad, rows, kept in blocks)


class WhiteningExperts(nn.Module):
    """v [..., D] = sum_g gate_g(x) W_g (drop(x) - b_g) of features x [..., F]; the gate is a softmax over all experts.

    The gate reads x without dropout. In training its logits get normal noise of the learned deviation
    softplus(x W_noise) + 0.01, unless `is_noisy` is False.

    mask_per_expert  draws a mask for each expert; False: all share a mask, and their maps are a single product
    """

    def __init__(
        self, width: int, dim: int, n_experts: int, rate: float, *, mask_per_expert: bool, is_noisy: bool
    ) -> None:
        super().__init__()
        self.rate, self.mask_per_expert, self.is_noisy = rate, mask_per_expert, is_noisy
        self.weight = nn.Parameter(torch.empty(n_experts, dim, width))  # W_g
        self.offset = nn.Parameter(torch.empty(n_experts * width))  # b_g of all experts
        self.gate = nn.Linear(width, n_experts, bias=False)
        self.noise = nn.Linear(width, n_experts, bias=False)
        self.reset()

    def reset(self) -> None:
        """Draw the maps anew and zero offsets and gates, so that all experts weigh the same in evaluation."""
        nn.init.normal_(self.weight, std=0.02)
        for parameter in (self.offset, self.gate.weight, self.noise.weight):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        v = (self.gates(rows).T[..., None] * self.experts(rows)).sum(0)
        return v.unflatten(0, x.shape[:-1])

    def experts(self, x: Tensor) -> Tensor:
        """Return e_g(x) of all experts, [G, n, D], of x [n, F]."""
        n_experts, _, width = self.weight.shape
        shift = (self.weight @ self.offset.view(n_experts, width, 1)).mT  # W_g b_g, [G, 1, D]
        cut = cut_of(self.rate)
        if self.training and cut and self.mask_per_expert:
            keep = keep_bytes(self.weight.new_empty(n_experts, *x.shape), cut)
            return _DroppedProducts.apply(x, keep, self.weight) * (256.0 / (256 - cut)) - shift
        together = F.linear(dropout(x, self.rate, self.training), self.weight.flatten(0, 1))
        return together.unflatten(-1, (n_experts, -1)).movedim(-2, 0) - shift

    def gates(self, x: Tensor) -> Tensor:
        """Return the softmax weights of the experts, [n, G], of x [n, F]."""
        logits = self.gate(x)
        if self.training and self.is_noisy:
            noise = torch.randn(logits.shape, dtype=logits.dtype, device=logits.device)
            logits = logits + noise * (F.softplus(self.noise(x)) + NOISE_FLOOR)
        return logits.softmax(-1)
