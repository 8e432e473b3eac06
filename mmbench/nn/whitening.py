"""Parametric whitening with a mixture of experts: UniSRec's adaptor from features to item vectors.

Axes: n items or slots, F width of the features, G experts, D hidden width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.nn.layers import dropout, keep_bytes

BLOCK = 2048  # rows of which G copies are held at once on a GPU
OF_CACHE = 32  # a CPU takes so many times fewer, which its caches hold: about twice as fast
NOISE_FLOOR = 0.01  # least deviation of a gate's noise


def _block(x: Tensor) -> int:
    """Return how many rows are copied at once."""
    return BLOCK if x.is_cuda else max(BLOCK // OF_CACHE, 1)


class _DroppedProducts(torch.autograd.Function):
    """x [n, F] with a mask for each group, keep uint8 [G, n, F], times weight [G, D, F] -> [G, n, D].

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
    """features [..., F] -> v [..., D] = sum_g gate_g(x) W_g (drop(x) - b_g); the gate is a softmax over all experts.

    The gate sees x without dropout. In training its logits get normal noise of the learned deviation
    softplus(x W_noise) + 0.01, unless `is_noisy` is False.

    own_dropout  a mask for each expert; False: one for all, which is one product
    """

    def __init__(
        self, width: int, dim: int, n_experts: int, rate: float, *, own_dropout: bool, is_noisy: bool
    ) -> None:
        super().__init__()
        self.rate, self.own_dropout, self.is_noisy = rate, own_dropout, is_noisy
        self.weight = nn.Parameter(torch.empty(n_experts, dim, width))  # W_g
        self.offset = nn.Parameter(torch.empty(n_experts * width))  # b_g of all experts
        self.gate = nn.Linear(width, n_experts, bias=False)
        self.noise = nn.Linear(width, n_experts, bias=False)
        self.reset()

    def reset(self) -> None:
        """Draw the maps anew; offsets and gates are 0, so that all experts have the same weight in evaluation."""
        nn.init.normal_(self.weight, std=0.02)
        for parameter in (self.offset, self.gate.weight, self.noise.weight):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        v = (self.gates(rows).T[..., None] * self.experts(rows)).sum(0)
        return v.unflatten(0, x.shape[:-1])

    def experts(self, x: Tensor) -> Tensor:
        """Return e_g(x) of all experts; x [n, F] -> [G, n, D]."""
        n_experts, _, width = self.weight.shape
        shift = (self.weight @ self.offset.view(n_experts, width, 1)).mT  # W_g b_g, [G, 1, D]
        cut = min(round(self.rate * 256), 255)
        if self.training and cut and self.own_dropout:
            keep = keep_bytes(self.weight.new_empty(n_experts, *x.shape), cut)
            return _DroppedProducts.apply(x, keep, self.weight) * (256.0 / (256 - cut)) - shift
        together = F.linear(dropout(x, self.rate, self.training), self.weight.flatten(0, 1))
        return together.unflatten(-1, (n_experts, -1)).movedim(-2, 0) - shift

    def gates(self, x: Tensor) -> Tensor:
        """Return the weights of the experts, a softmax; x [n, F] -> [n, G]."""
        logits = self.gate(x)
        if self.training and self.is_noisy:
            noise = torch.randn(logits.shape, dtype=logits.dtype, device=logits.device)
            logits = logits + noise * (F.softplus(self.noise(x)) + NOISE_FLOOR)
        return logits.softmax(-1)
