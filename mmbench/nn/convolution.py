"""Causal dilated convolutions over packed histories, and NextItNet's residual blocks.

Axes: R rows, W width, D channels, K taps. An event reads earlier events of its history only: its `position` in the
history, int64 [R, W], says how far back it may look, so histories can lie side by side.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.nn.grouped import Linear

BlockKind = Literal["two-convolutions", "bottleneck"]


class CausalConv(nn.Module):
    """y_t = b + sum_j W_j x_{t - (K-1-j) delta}, j = 0..K-1; zeros precede a history.

    A single product maps the K taps side by side by [W_0 .. W_{K-1}], `map.weight` [D, K D]. Its initial weights are
    those of torch's convolution, which counts the same K D inputs.
    """

    def __init__(self, in_dim: int, out_dim: int, *, kernel_size: int, dilation: int) -> None:
        super().__init__()
        # How far back each tap reads, oldest first.
        self.steps = [j * dilation for j in range(kernel_size - 1, -1, -1)]
        self.map = Linear(kernel_size * in_dim, out_dim)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Map x [R, W, D], position [R, W] to [R, W, D']."""
        width = x.shape[1]
        taps = [
            F.pad(x, (0, 0, step, 0))[:, :width] * (position >= step)[..., None] if step else x
            for step in self.steps
        ]
        return self.map(torch.cat(taps, dim=-1))


class TwoConvolutions(nn.Module):
    """Block (b): x + ReLU(LN(C_{2 delta}(ReLU(LN(C_delta(x))))))."""

    def __init__(self, dim: int, *, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = CausalConv(dim, dim, kernel_size=kernel_size, dilation=dilation)
        self.norm1 = nn.LayerNorm(dim, eps=1e-8)
        self.conv2 = CausalConv(dim, dim, kernel_size=kernel_size, dilation=2 * dilation)
        self.norm2 = nn.LayerNorm(dim, eps=1e-8)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(x, position)))
        return x + F.relu(self.norm2(self.conv2(hidden, position)))


class Bottleneck(nn.Module):
    """Block (a), pre-activation: x + up(ReLU(LN(C_delta(ReLU(LN(down(ReLU(LN(x))))))))), half as wide inside."""

    def __init__(self, dim: int, *, kernel_size: int, dilation: int) -> None:
        super().__init__()
        half = dim // 2
        self.norm1, self.down = nn.LayerNorm(dim, eps=1e-8), Linear(dim, half)
        self.norm2 = nn.LayerNorm(half, eps=1e-8)
        self.conv = CausalConv(half, half, kernel_size=kernel_size, dilation=dilation)
        self.norm3, self.up = nn.LayerNorm(half, eps=1e-8), Linear(half, dim)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        hidden = self.down(F.relu(self.norm1(x)))
        hidden = self.conv(F.relu(self.norm2(hidden)), position)
        return x + self.up(F.relu(self.norm3(hidden)))


class CausalConvEncoder(nn.Module):
    """A residual block for each dilation in the list, and the whole list `n_blocks` times."""

    def __init__(
        self,
        *,
        dim: int,
        n_blocks: int,
        dilations: Sequence[int] = (1, 4),
        kernel_size: int = 3,
        kind: BlockKind = "two-convolutions",
    ) -> None:
        super().__init__()
        block = TwoConvolutions if kind == "two-convolutions" else Bottleneck
        self.blocks = nn.ModuleList(
            block(dim, kernel_size=kernel_size, dilation=dilation)
            for _ in range(n_blocks)
            for dilation in dilations
        )
        #: How many events a state may read, itself included.
        span = 3 if kind == "two-convolutions" else 1
        self.reach = 1 + n_blocks * (kernel_size - 1) * span * sum(dilations)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Map x [R, W, D], position int64 [R, W] to [R, W, D]."""
        for block in self.blocks:
            x = block(x, position)
        return x
