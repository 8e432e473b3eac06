"""Mixers without attention: MLPs along one axis of a history, and triangular kernels along time.

Axes: R rows (a history each), W width, K rows of an item (its id and its features), D hidden width, L = max_len.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.nn.grouped import Linear
from mmbench.nn.layers import Dropout, take_rows, take_slots

Activation = Literal["sigmoid", "gelu", "relu", "identity"]
EXPANSION = 4  # inner width of the MLPs of an `MLPEncoder`, divided by the outer width; "parallel" has 3


def shift(x: Tensor, steps: Tensor) -> Tensor:
    """Rotate row r of x [R, W, ...] by steps[r] to the right; entries that leave at the end enter at the front.

    Steps equal to the padding of each row turn right padding into left padding; their negatives undo it.
    """
    column = torch.arange(x.shape[1], device=x.device)
    source = (column - steps[:, None]) % x.shape[1]
    first = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    return take_rows(x.flatten(0, 1), first + source)


class AxisMLP(nn.Module):
    """Linear a -> ratio * a, GELU, dropout, Linear back, dropout, along an axis (counted from the end)."""

    def __init__(self, size: int, *, axis: int, ratio: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.axis = axis
        self.up = Linear(size, ratio * size, bias=bias)
        self.down = Linear(ratio * size, size, bias=bias)
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(self.axis, -1)
        return self.drop(self.down(self.drop(F.gelu(self.up(x))))).transpose(self.axis, -1)


class MLPEncoder(nn.Module):
    """MLPs over positions, channels and item rows, the same three in every layer; not causal, reads the padding.

    "serial":   x = x + MLP(LN(x)) along positions, then channels, then rows; inner width 4 a, with biases.
    "parallel": x = the sum of all three of the same LN(x), without a residual; inner width 3 a, without biases.
    With a single row per item there is no MLP over rows.
    """

    def __init__(
        self,
        *,
        dim: int,
        max_len: int,
        n_rows: int,
        n_layers: int,
        dropout: float,
        mixing: Literal["serial", "parallel"] = "serial",
    ) -> None:
        super().__init__()
        self.n_layers, self.is_serial = n_layers, mixing == "serial"
        sizes = {"place": (max_len, -3), "channel": (dim, -1), "row": (n_rows, -2)}
        if n_rows == 1:
            del sizes["row"]
        ratio = EXPANSION if self.is_serial else 3
        self.mlps = nn.ModuleDict(
            {
                name: AxisMLP(size, axis=axis, ratio=ratio, dropout=dropout, bias=self.is_serial)
                for name, (size, axis) in sizes.items()
            }
        )
        self.norms = nn.ModuleDict(
            {name: nn.LayerNorm(dim) for name in (sizes if self.is_serial else ("all",))}
        )
        self.out_norm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor, slot: Tensor | None = None) -> Tensor:
        """Return the states of row 0 of x [R, L, K, D], [R, L, D], or [T, D] at `slot`, indices of the flattened [R L].

        With `slot` the last layer mixes channels and rows at the slots only.
        """
        layer = self._serial if self.is_serial else self._parallel
        for number in range(1, self.n_layers + 1):
            x = layer(x, slot if number == self.n_layers else None)
        return self.out_norm(x[..., 0, :])

    def _serial(self, x: Tensor, slot: Tensor | None) -> Tensor:
        x = take_slots(x + self.mlps["place"](self.norms["place"](x)), slot)
        for name in list(self.mlps)[1:]:
            x = x + self.mlps[name](self.norms[name](x))
        return x

    def _parallel(self, x: Tensor, slot: Tensor | None) -> Tensor:
        normed = self.norms["all"](x)
        total = take_slots(self.mlps["place"](normed), slot)
        normed = take_slots(normed, slot)
        for name in list(self.mlps)[1:]:
            total = total + self.mlps[name](normed)
        return total


class TriangularKernel(nn.Module):
    """A mixer of positions inside sessions of equal length, y_t = sum_j w[j, t] x_j over the j <= t of t's session.

    The weights of each SOURCE j over the later positions t of its session are a softmax, so rows of w sum to 1 and
    columns do not. Only entries that are not fixed at 0 are parameters.
    """

    index: Tensor

    def __init__(self, *, max_len: int, n_sessions: int) -> None:
        super().__init__()
        if max_len % n_sessions:
            raise ValueError(f"max_len {max_len} is not divisible by n_sessions {n_sessions}")
        session = torch.arange(max_len) // (max_len // n_sessions)
        allowed = (session[:, None] == session).triu()
        self.entries = nn.Parameter(torch.ones(int(allowed.sum())))  # row by row
        number = allowed.flatten().cumsum(0).view_as(allowed) - 1  # index of each entry among the parameters
        self.register_buffer("index", number.masked_fill(~allowed, len(self.entries)), persistent=False)

    def weights(self) -> Tensor:
        """Return w [L, L], row = source."""
        logits = F.pad(self.entries, (0, 1), value=float("-inf")).index_select(0, self.index.flatten())
        return logits.view(self.index.shape).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """Mix x [R, W, D], W <= L, whose column t is position t of the kernel."""
        width = x.shape[1]
        return self.weights()[:width, :width].T @ x


class TriangularMixer(nn.Module):
    """A kernel over the whole history, then a kernel inside sessions, each with an activation; no channel mixing.

    align  "right": histories begin at position 0 and padding follows unseen; causal
           "left-pad": histories end at position L - 1; padding is zeroed before each kernel, because act(0) need not
           be 0. A state then depends on the length of its whole row
    """

    def __init__(
        self, *, max_len: int, n_sessions: int, activation: Activation, align: Literal["right", "left-pad"]
    ) -> None:
        super().__init__()
        self.whole = TriangularKernel(max_len=max_len, n_sessions=1)
        self.local = TriangularKernel(max_len=max_len, n_sessions=n_sessions)
        self.activation, self.is_left_padded = activation, align == "left-pad"

    def activate(self, x: Tensor) -> Tensor:
        if self.activation == "sigmoid":
            return x.sigmoid()
        if self.activation == "gelu":
            return F.gelu(x)
        return F.relu(x) if self.activation == "relu" else x

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Mix x [R, W, D], right padded (W = L with "left-pad"), real bool [R, W]; the result is right padded too."""
        if not self.is_left_padded:
            return self.activate(self.local(self.activate(self.whole(x))))
        n_empty = (~real).sum(1)
        keep = shift(real, n_empty)[..., None].to(x.dtype)
        mixed = self.activate(self.whole(shift(x, n_empty) * keep))
        return shift(self.activate(self.local(mixed * keep)), -n_empty)
