"""The layers of torch's nn.Transformer (post-norm, GELU) over packed rows: an encoder, a decoder that reads its output.

Unlike the blocks of mmbench.nn.layers they apply dropout inside the feed-forward map too.
Axes: R rows, W width, V width of the memory, H heads, D hidden width, T slots.
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.nn.grouped import Linear
from mmbench.nn.layers import Attention, Dropout, take_grouped_slots

EPS = 1e-12  # is added to the variance in LayerNorms


class FeedForward(nn.Module):
    """Two maps, D -> inner -> D, with GELU and dropout between them."""

    def __init__(self, dim: int, inner_dim: int, dropout: float) -> None:
        super().__init__()
        self.up, self.down = Linear(dim, inner_dim), Linear(inner_dim, dim)
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.drop(F.gelu(self.up(x))))


class CrossAttention(Attention):
    """Attention from the positions of a row to another row of vectors, its memory."""

    def across(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Return what x [R, W, D] reads in memory [R, V, D] under mask bool [R, W, V], [R, W, D]."""
        dim = x.shape[-1]
        weight, bias = cast(Tensor, self.qkv.weight), cast(Tensor, self.qkv.bias)
        q = F.linear(x, weight[:dim], bias[:dim]).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        kv = F.linear(memory, weight[dim:], bias[dim:]).unflatten(-1, (2, self.n_heads, -1))
        k, v = kv.movedim((-3, -2), (0, 2)).contiguous()  # each [R, H, V, D/H]
        return self.out(self.attend(q, k, v, mask))


class EncoderLayer(nn.Module):
    """torch's post-norm encoder layer: self-attention and a feed-forward map."""

    def __init__(self, dim: int, inner_dim: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, n_heads, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=EPS), nn.LayerNorm(dim, eps=EPS)
        self.feed_forward, self.drop = FeedForward(dim, inner_dim, dropout), Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map x [R, V, D], mask bool [R, V, V] to [R, V, D]."""
        x = self.norm1(x + self.drop(self.attention(x, mask)))
        return self.norm2(x + self.drop(self.feed_forward(x)))


class DecoderLayer(nn.Module):
    """torch's post-norm decoder layer: self-attention, attention to a memory, a feed-forward map."""

    def __init__(self, dim: int, inner_dim: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, n_heads, dropout)
        self.memory_attention = CrossAttention(dim, n_heads, dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps=EPS) for _ in range(3))
        self.feed_forward, self.drop = FeedForward(dim, inner_dim, dropout), Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor, looks: Tensor, slot: Tensor | None) -> Tensor:
        """Return the next layer's x [R, W, D], or [T, D] at `slot`; mask bool [R, W, W], memory [R, V, D], looks bool
        [R, W, V]."""
        x = self.norm1(x + self.drop(self.attention(x, mask)))
        x = self.norm2(x + self.drop(self.memory_attention.across(x, memory, looks)))
        x = take_grouped_slots(x, slot)
        return self.norm3(x + self.drop(self.feed_forward(x)))
