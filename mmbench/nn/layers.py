"""Transformer encoders over packed histories, dropout, and weight initialisation.

Axes: R rows, W width, H heads, D hidden width, T slots (positions that predict), G groups.
With `n_groups` an encoder is G encoders of equal shape in a single call: x has a leading axis G, the mask is shared.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.nn.grouped import GroupedLayerNorm, GroupedLinear, layer_norm, linear
from mmbench.nn.parts import has_values, is_stacked, on_gpu


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Apply inverted dropout with 8 random bits per element; the rate is rounded to a 256th, the scale fits it exactly.

    On a CPU a 64-bit draw serves eight elements, which is about twice as fast as torch's dropout; on a GPU torch's is a
    single kernel.
    """
    cut = cut_of(p)
    if not training or cut == 0:
        return x
    if on_gpu(x):
        return F.dropout(x, cut / 256)
    return _dropped(x, keep_bytes(x, cut), cut)


def dropout_of_rows(x: Tensor, row: Tensor, n_rows: int, p: float, training: bool) -> Tensor:
    """Apply dropout to the rows `row` int64 [P] of a table with `n_rows`, x [P, ...].

    A CPU draws for the whole table, so the result is that of dropping the table and then taking its rows.
    """
    cut = cut_of(p)
    if not training or cut == 0 or on_gpu(x):
        return dropout(x, p, training)
    return _dropped(x, keep_bytes(x.new_empty(n_rows, *x.shape[1:]), cut).index_select(0, row), cut)


def _dropped(x: Tensor, keep: Tensor, cut: int) -> Tensor:
    """Return x with the kept elements scaled, and 0 elsewhere."""
    return x * keep.to(x.dtype).mul_(256.0 / (256 - cut))


def cut_of(p: float) -> int:
    """Return a rate of dropout as how many of 256 bytes are dropped, 255 at most."""
    return min(round(p * 256), 255)


def keep_bytes(x: Tensor, cut: int) -> Tensor:
    """Draw 1 (kept) or, with probability `cut` / 256, 0 for each element of `x`; uint8, 0 < cut < 256."""
    # 0 below `cut`, else 1, without a comparison: comparisons are not vectorised on CPUs.
    return _random_bytes(x).clamp(cut - 1, cut).sub_(cut - 1)


def _random_bytes(x: Tensor) -> Tensor:
    """Return random bytes of the shape of `x`."""
    if is_stacked(x):  # under vmap, where some versions of torch cannot read the words as bytes
        return torch.randint(0, 256, x.shape, dtype=torch.uint8, device=x.device)
    n_words = (x.numel() + 7) // 8
    words = torch.randint(-(2**63), 2**63 - 1, (n_words,), dtype=torch.int64, device=x.device)
    return words.view(torch.uint8)[: x.numel()].view(x.shape)


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
    """Multi-head attention among the positions of a row; `mask` True = may look."""

    def __init__(
        self,
        dim: int,
        n_heads: int,
        attn_dropout: float,
        n_groups: int | None = None,
        *,
        use_bias: bool = True,
    ) -> None:
        super().__init__()
        check_heads(dim, n_heads)
        self.n_heads, self.attn_dropout = n_heads, attn_dropout
        self.qkv = linear(dim, 3 * dim, n_groups, use_bias=use_bias)
        self.out = linear(dim, dim, n_groups, use_bias=use_bias)

    def forward(self, x: Tensor, mask: Tensor, slot: Tensor | None = None) -> Tensor:
        """Mix x [..., R, W, D] under mask bool [R, W, W]: [..., R, W, D], or [..., T, D] at `slot`, flat in [R W]."""
        return self.out(self.mix(self.qkv(x), mask, slot))

    def mix(self, qkv: Tensor, mask: Tensor, slot: Tensor | None = None) -> Tensor:
        """Return the values mixed by the attention weights, before the output map.

        qkv [..., R, W, 3D] -> [..., R, W, D], or [..., T, D] at `slot` [T].
        """
        if slot is None or len(slot) > len(mask):
            q, k, v = by_head(qkv, 3, self.n_heads)
            return take_grouped_slots(self.attend(q, k, v, mask), slot)
        # With no more slots than rows it is cheaper to compute the slots' rows of the weights only.
        query, key_value = qkv.split((qkv.shape[-1] // 3, qkv.shape[-1] * 2 // 3), -1)
        return self.attend_once(take_grouped_slots(query, slot), key_value, mask, slot)

    def attend_once(
        self, query: Tensor, key_value: Tensor, mask: Tensor, slot: Tensor, band: Tensor | None = None
    ) -> Tensor:
        """Attend from query [..., T, D] at `slot` [T] to key_value [..., R, W, 2D], mask bool [R, W, W]: [..., T, D].

        `band`, a symmetric [W, W], mixes keys and values over the width; it is applied to the weights instead.
        """
        width = mask.shape[2]
        row, column = slot // width, slot % width
        q = query.unflatten(-1, (self.n_heads, 1, -1))  # [..., T, H, 1, D/H]
        k, v = by_head(rows_at(key_value, row, -3), 2, self.n_heads)  # each [..., T, H, W, D/H]
        return self.attend(q, k, v, mask[row, column][:, None], band).squeeze(-2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, band: Tensor | None = None) -> Tensor:
        """Attend from q [..., R, H, Q, D/H] to k, v [..., R, H, W, D/H] under mask bool [R, Q, W]: [..., R, Q, D]."""
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        logits = hide(logits if band is None else logits @ band, mask)
        weights = dropout(logits.softmax(-1), self.attn_dropout, self.training)
        return ((weights if band is None else weights @ band) @ v).transpose(-2, -3).flatten(-2)


def by_head(x: Tensor, n_parts: int, n_heads: int) -> list[Tensor]:
    """Return the parts of x [..., R, W, n D] by head, each [..., R, H, W, D/H].

    A copy of each part here saves copies in the products, and leaves a single copy on the way back.
    """
    parts = x.unflatten(-1, (n_parts, n_heads, -1)).unbind(-3)
    return [part.transpose(-2, -3).contiguous() for part in parts]


def hide(logits: Tensor, mask: Tensor) -> Tensor:
    """Add a large negative number to logits [..., R, H, Q, W], in place, where mask bool [R, Q, W] is False.

    The number is finite: a row without any key gives a uniform softmax, not NaN. Adding, unlike filling, needs no
    backward pass, because the gradient of the softmax is zero there.
    """
    return logits.add_(~mask[:, None], alpha=-1e9)


def take_rows(table: Tensor, index: Tensor) -> Tensor:
    """Return `table[index]`, with a gradient that adds to each row in a fixed order.

    table [P, ...], index int64 of any shape -> [*index.shape, ...]. Several threads add autograd's gradient of
    `table[index]`, in whatever order they arrive, so that the same step can have different results.
    """
    rows = F.embedding(index, table[..., None].flatten(1))
    return rows.view(*index.shape, *table.shape[1:])


def rows_at(x: Tensor, row: Tensor, dim: int = 0) -> Tensor:
    """Return x at the rows `row` int64 [T] of an axis; x itself, not a copy, where they are all its rows in order.

    So they are where every sample is a row of its own.
    """
    if len(row) == x.shape[dim] and has_values(row) and torch.equal(row, torch.arange(len(row))):
        return x
    return x.index_select(dim, row)


def take_slots(x: Tensor, slot: Tensor | None) -> Tensor:
    """Return x [R, W, ...] at `slot` [T], indices of the flattened [R W], [T, ...]; without `slot` x itself."""
    return x if slot is None else x.flatten(0, 1).index_select(0, slot)


def take_grouped_slots(x: Tensor, slot: Tensor | None) -> Tensor:
    """Return x [..., R, W, D] at `slot` [T], [..., T, D]; any leading axes are groups."""
    return x if slot is None else x.flatten(-3, -2).index_select(-2, slot)


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
        n_groups: int | None = None,
        *,
        attn_bias: bool = True,
    ) -> None:
        super().__init__()
        self.attention = Attention(dim, n_heads, attn_dropout, n_groups, use_bias=attn_bias)
        self.norm1 = layer_norm(dim, eps, n_groups)
        self.up = linear(dim, inner_dim, n_groups)
        self.down = linear(inner_dim, dim, n_groups)
        self.norm2 = layer_norm(dim, eps, n_groups)
        self.drop = Dropout(dropout)
        self.activation = F.gelu if activation == "gelu" else F.relu

    def forward(self, x: Tensor, mask: Tensor, slot: Tensor | None = None) -> Tensor:
        """Return the output for x [..., R, W, D] under mask bool [R, W, W], or [..., T, D] at `slot` [T] only."""
        x = self.norm1(take_grouped_slots(x, slot) + self.drop(self.attention(x, mask, slot)))
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
        n_groups: int | None = None,
        attn_bias: bool = True,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            PostNormBlock(
                dim, inner_dim, n_heads, dropout, attn_dropout, activation, eps, n_groups, attn_bias=attn_bias
            )
            for _ in range(n_layers)
        )

    def forward(self, x: Tensor, mask: Tensor, slot: Tensor | None = None) -> Tensor:
        """Encode x [R, W, D] under mask bool [R, W, W] (True = may look): [R, W, D], or [T, D] at `slot` [T] only.

        With `slot` the last block computes the slots only; the other positions serve as keys and values.
        With groups x is [G, R, W, D] and the result [G, R, W, D] or [G, T, D].
        """
        for block in self.blocks[:-1]:
            x = block(x, mask)
        return self.blocks[-1](x, mask, slot)


class PreQueryBlock(nn.Module):
    """A block of the SASRec authors' code: only the query is normalised, and the residual adds the normalised input.

        q = LN(x);  x = q + attention(q, x, x);  y = LN(x);  x = y + drop(W2 drop(relu(W1 y)))

    `project_out` False leaves out the output map (the authors' TensorFlow code); True keeps it (torch's
    multi-head layer, used by later ports and TMMSRec).
    """

    def __init__(
        self,
        dim: int,
        inner_dim: int,
        n_heads: int,
        dropout: float,
        *,
        project_out: bool,
        n_groups: int | None = None,
        eps: float = 1e-8,
    ) -> None:
        super().__init__()
        check_heads(dim, n_heads)
        self.n_heads = n_heads
        self.norm1 = layer_norm(dim, eps, n_groups)
        self.query, self.key, self.value = (linear(dim, dim, n_groups) for _ in range(3))
        self.out = linear(dim, dim, n_groups) if project_out else nn.Identity()
        self.norm2 = layer_norm(dim, eps, n_groups)
        self.up = linear(dim, inner_dim, n_groups)
        self.down = linear(inner_dim, dim, n_groups)
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, slot: Tensor | None = None) -> Tensor:
        """Return the output for x [..., R, W, D] under mask bool [R, W, W], or [..., T, D] at `slot` [T] only."""
        normed = self.norm1(x)

        def heads(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.n_heads, -1)).transpose(-2, -3)  # [..., R, H, W, D/H]

        q, k, v = heads(self.query(normed)), heads(self.key(x)), heads(self.value(x))
        logits = hide((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), mask)
        weights = self.drop(logits.softmax(-1))
        mixed = (weights @ v).transpose(-2, -3).flatten(-2)
        y = self.norm2(take_grouped_slots(normed, slot) + self.out(take_grouped_slots(mixed, slot)))
        return y + self.drop(self.down(self.drop(F.relu(self.up(y)))))


class PreQueryEncoder(nn.Module):
    """A stack of `PreQueryBlock`s and a final LayerNorm; padding is zeroed after each block."""

    def __init__(
        self,
        *,
        dim: int,
        inner_dim: int,
        n_layers: int,
        n_heads: int,
        dropout: float,
        project_out: bool,
        n_groups: int | None = None,
        eps: float = 1e-8,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            PreQueryBlock(
                dim, inner_dim, n_heads, dropout, project_out=project_out, n_groups=n_groups, eps=eps
            )
            for _ in range(n_layers)
        )
        self.norm = layer_norm(dim, eps, n_groups)

    def forward(self, x: Tensor, mask: Tensor, real: Tensor, slot: Tensor | None = None) -> Tensor:
        """Encode x [R, W, D] under mask bool [R, W, W], real bool [R, W] (False = padding): [R, W, D].

        With `slot` int64 [T] the last block computes only the slots of the flattened [R W]: [T, D].
        With groups x is [G, R, W, D] and the result [G, R, W, D] or [G, T, D].
        """
        keep = real[..., None].to(x.dtype)
        for block in self.blocks[:-1]:
            x = block(x * keep, mask)
        return self.norm(self.blocks[-1](x * keep, mask, slot) * take_grouped_slots(keep, slot))


def check_heads(dim: int, n_heads: int) -> None:
    """Raise ValueError when the heads of an attention cannot share its width equally."""
    if dim % n_heads:
        raise ValueError(f"hidden_dim {dim} is not divisible by n_heads {n_heads}; change one of them")


@torch.no_grad()
def zero_padding(table: nn.Embedding) -> None:
    """Set row 0 to the zero vector, which an initialisation of all weights has overwritten."""
    table.weight[0].zero_()


def init_normal(module: nn.Module, std: float = 0.02) -> None:
    """Draw Linear and Embedding weights from N(0, std^2), set biases to 0 and LayerNorms to 1 and 0, grouped or not, in
    `module` and below."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding | GroupedLinear):
            nn.init.normal_(part.weight, std=std)
            if not isinstance(part, nn.Embedding) and part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm | GroupedLayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
