"""Transformer encoders over packed histories, dropout, and weight initialisation.

Axes: R rows, W width, H heads, D hidden width, G independent groups (modalities) in one call.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Inverted dropout with 8 random bits per element: the rate is rounded to a 256th, the scale fits it exactly.

    On a CPU one 64-bit draw serves eight elements, which is about twice as fast as torch's own.
    """
    cut = round(p * 256)
    if not training or cut == 0:
        return x
    n_words = (x.numel() + 7) // 8
    words = torch.randint(-(2**63), 2**63 - 1, (n_words,), dtype=torch.int64, device=x.device)
    # 0 below `cut`, else 1, without a comparison: those that make booleans are not vectorised on CPUs.
    keep = words.view(torch.uint8)[: x.numel()].clamp(cut - 1, cut).sub_(cut - 1).view(x.shape)
    return x * keep.to(x.dtype).mul_(256.0 / (256 - cut))


class Dropout(nn.Module):
    """`dropout` as a layer."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Attention(nn.Module):
    """Multi-head attention of a row's places to each other; `mask` True = may look."""

    def __init__(self, dim: int, n_heads: int, attn_dropout: float) -> None:
        super().__init__()
        if dim % n_heads:
            raise ValueError(f"hidden_dim {dim} is not divisible by n_heads {n_heads}")
        self.n_heads, self.attn_dropout = n_heads, attn_dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor, slot: Tensor | None = None) -> Tensor:
        """x [R, W, D], mask bool [R, W, W] -> [R, W, D], or [T, D] for the places `slot` [T] of the flat [R W]."""
        return self.out(at(self.mix(self.qkv(x), mask), slot))

    def mix(self, qkv: Tensor, mask: Tensor) -> Tensor:
        """Values mixed by the attention weights, before the output map: qkv [R, W, 3D] -> [R, W, D]."""
        n_rows, width, dim = *qkv.shape[:2], qkv.shape[2] // 3
        shape = (n_rows, width, 3, self.n_heads, dim // self.n_heads)
        q, k, v = qkv.view(shape).permute(2, 0, 3, 1, 4)  # each [R, H, W, D/H]
        logits = (q * (dim // self.n_heads) ** -0.5) @ k.transpose(-1, -2)
        # A finite mask value: a row without any key gives a uniform softmax, not NaN.
        logits = logits.masked_fill(~mask[:, None], -1e9)
        weights = dropout(logits.softmax(-1), self.attn_dropout, self.training)
        return (weights @ v).transpose(1, 2).reshape(n_rows, width, dim)


def at(x: Tensor, slot: Tensor | None) -> Tensor:
    """x [R, W, ...] -> [T, ...] at places `slot` of the flattened [R W]; x itself when there are none named."""
    return x if slot is None else x.flatten(0, 1).index_select(0, slot)


class PostNormBlock(nn.Module):
    """x = LN(x + drop(attention)); x = LN(x + drop(ffn)), the BERT arrangement."""

    def __init__(
        self,
        dim: int,
        inner_dim: int,
        n_heads: int,
        dropout: float,
        attn_dropout: float,
        activation: Literal["gelu", "relu"],
        eps: float,
    ) -> None:
        super().__init__()
        self.attention = Attention(dim, n_heads, attn_dropout)
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.up = nn.Linear(dim, inner_dim)
        self.down = nn.Linear(inner_dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.drop = Dropout(dropout)
        self.activation = F.gelu if activation == "gelu" else F.relu

    def forward(self, x: Tensor, mask: Tensor, slot: Tensor | None = None) -> Tensor:
        """x [R, W, D], mask bool [R, W, W] -> [R, W, D], or [T, D] at the places `slot` [T] only."""
        x = self.norm1(at(x, slot) + self.drop(self.attention(x, mask, slot)))
        return self.norm2(x + self.drop(self.down(self.activation(self.up(x)))))


class PostNormEncoder(nn.Module):
    """A stack of post-norm blocks."""

    def __init__(
        self,
        *,
        dim: int,
        inner_dim: int,
        n_layers: int,
        n_heads: int,
        dropout: float,
        attn_dropout: float,
        activation: Literal["gelu", "relu"] = "gelu",
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            PostNormBlock(dim, inner_dim, n_heads, dropout, attn_dropout, activation, eps)
            for _ in range(n_layers)
        )

    def forward(self, x: Tensor, mask: Tensor, slot: Tensor | None = None) -> Tensor:
        """x [R, W, D], mask bool [R, W, W] (True = may look) -> [R, W, D], or [T, D] at the places `slot` [T] only.

        Where only some places predict, the last block need not finish the others: they are keys and values there.
        """
        for block in self.blocks[:-1]:
            x = block(x, mask)
        return self.blocks[-1](x, mask, slot)


class PreQueryBlock(nn.Module):
    """Block of the SASRec authors' code: only the query is normalised, and the residual adds the normalised input.

        q = LN(x);  x = q + attention(q, x, x);  y = LN(x);  x = y + drop(W2 drop(relu(W1 y)))

    `project_out` False leaves out the output map (the authors' TensorFlow code); True keeps it (torch's
    multi-head layer, used by later ports and TMMSRec).
    """

    def __init__(
        self, dim: int, inner_dim: int, n_heads: int, dropout: float, *, project_out: bool, eps: float = 1e-8
    ) -> None:
        super().__init__()
        check_heads(dim, n_heads)
        self.n_heads = n_heads
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out: nn.Module = nn.Linear(dim, dim) if project_out else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.up = nn.Linear(dim, inner_dim)
        self.down = nn.Linear(inner_dim, dim)
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, slot: Tensor | None = None) -> Tensor:
        """x [R, W, D], mask bool [R, W, W] -> [R, W, D], or [T, D] at the places `slot` [T] only."""
        n_rows, width, dim = x.shape
        normed = self.norm1(x)

        def heads(y: Tensor) -> Tensor:
            return y.view(n_rows, width, self.n_heads, -1).transpose(1, 2)

        q, k, v = heads(self.query(normed)), heads(self.key(x)), heads(self.value(x))
        logits = (q * (dim // self.n_heads) ** -0.5) @ k.transpose(-1, -2)
        weights = self.drop(logits.masked_fill(~mask[:, None], -1e9).softmax(-1))
        mixed = (weights @ v).transpose(1, 2).reshape(n_rows, width, dim)
        y = self.norm2(at(normed, slot) + self.out(at(mixed, slot)))
        return y + self.drop(self.down(self.drop(F.relu(self.up(y)))))


class PreQueryEncoder(nn.Module):
    """A stack of `PreQueryBlock`s and the final LayerNorm; padding is zeroed after each block."""

    def __init__(
        self, *, dim: int, inner_dim: int, n_layers: int, n_heads: int, dropout: float, project_out: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            PreQueryBlock(dim, inner_dim, n_heads, dropout, project_out=project_out) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-8)

    def forward(self, x: Tensor, mask: Tensor, real: Tensor, slot: Tensor | None = None) -> Tensor:
        """x [R, W, D], mask bool [R, W, W], real bool [R, W] (True = no padding) -> [R, W, D].

        With `slot` int64 [T] the last block finishes those places of the flattened [R W] only -> [T, D].
        """
        keep = real[..., None].to(x.dtype)
        for block in self.blocks[:-1]:
            x = block(x * keep, mask)
        return self.norm(self.blocks[-1](x * keep, mask, slot) * at(keep, slot))


def check_heads(dim: int, n_heads: int) -> None:
    """ValueError when the heads of an attention cannot share its width alike."""
    if dim % n_heads:
        raise ValueError(f"hidden_dim {dim} is not divisible by n_heads {n_heads}")


@torch.no_grad()
def zero_padding(table: nn.Embedding) -> None:
    """Row 0, which an initialisation of all weights has filled, becomes the zero vector again."""
    table.weight[0].zero_()


def init_normal(module: nn.Module, std: float = 0.02) -> None:
    """Linear and Embedding weights N(0, std^2), biases 0, LayerNorm 1/0 - for everything below `module`."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std)
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
