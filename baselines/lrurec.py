"""LRURec: Linear Recurrent Units for Sequential Recommendation. Yue et al., WSDM 2024, doi 10.1145/3616855.3635760.
Official code: github.com/yueqirex/LRURec. Unit: Orvieto et al., ICML 2023, arXiv:2303.06349.

A history is read by linear recurrences with a complex decay per state, h_t = lambda h_{t-1} + gamma (B x_t + b),
each followed by LayerNorm and a feed-forward net; the last state is compared with the item embeddings. No positions:
order enters through the recurrence. Because it is linear, log2(W) steps compute all positions together
(`LinearScan`).

Axes: R rows, W width, D hidden, S complex states, T targets, N items.
Follows: the official code; `form = "paper"` has the printed equations where they differ: h_1 = B x_1 without gamma, no
complex biases, a second GELU at the end of the feed-forward net, no dropout between embedding and LayerNorm.
Differences: (1) a history starts from h = 0, wherever it lies in its row; the code pads on the left, up to a power of
two, and masks. (2) The code also trains the padding before a history to predict its first item; here the first item is
input only. (3) Padding is not a class of the softmax. (4) Every target is trained once, with the
newest items before it; the code cuts sequences of two windows or more into windows that do not overlap. (5) Complex
maps are real maps of (real, imaginary) pairs; the imaginary part of the output map's bias never reaches a score and
is left out. (6) Powers of lambda are computed as exponentials, not by repeated products. (7) Sampled negatives
(XLong) are not offered.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs
from mmbench.models.next_item import Loss, NextItem, Sampling
from mmbench.nn.layers import Dropout, take_slots
from mmbench.settings.config import PositiveFloat, PositiveInt, Probability


@dataclass(frozen=True, kw_only=True)
class LRURecConfig(Sampling):
    loss: Loss = "ce"
    form: Literal["code", "paper"] = "code"
    hidden_dim: PositiveInt
    state_dim: PositiveInt  # counts complex numbers
    inner_dim: PositiveInt
    n_layers: PositiveInt
    dropout: Probability  # applies to the embeddings and the feed-forward net
    lru_dropout: Probability  # applies to the output of the recurrence
    r_min: PositiveFloat  # |lambda| at the start lies between these two
    r_max: PositiveFloat

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.r_min < self.r_max < 1:
            raise ValueError(f"r_min {self.r_min} < r_max {self.r_max} < 1 must hold")


def _doubling(h: Tensor, log_lambda: Tensor, position: Tensor, *, backward: bool) -> Tensor:
    """Add to each event the decayed terms of those before it; after the step of shift s it holds its 2 s nearest terms.

    An event at `position` p has p events of its history before it, so the event s steps back counts if p >= s.
    """
    h, shift = h.clone(), 1
    while shift < h.shape[1]:
        older, newer = h[:, :-shift], h[:, shift:]
        source, target = (newer, older) if backward else (older, newer)
        carried = source * torch.exp(log_lambda * shift)
        target += carried.mul_(position[:, shift:, None] >= shift)
        shift *= 2
    return h


class LinearScan(torch.autograd.Function):
    """h [R, W, S] of u complex [R, W, S], log_lambda complex [S], position int64 [R, W], for every column t

        h_t = lambda h_{t-1} [position_t > 0] + u_t.

    The gradient of u is the same recurrence from the right with conj(lambda). Only h is kept for it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, log_lambda: Tensor, position: Tensor) -> Tensor:
        return _doubling(u, log_lambda, position, backward=False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _, log_lambda, position = inputs
        ctx.save_for_backward(output, log_lambda, position)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None]:
        h, log_lambda, position = ctx.saved_tensors
        conj = log_lambda.conj()
        grad_u = _doubling(grads[0], conj, position, backward=True)
        carried = (h[:, :-1].conj() * grad_u[:, 1:]).mul_(position[:, 1:, None] > 0)
        return grad_u, carried.sum((0, 1)) * conj.exp(), None


def ring(n: int, r_min: float, r_max: float) -> Tensor:
    """Draw log nu, theta, gamma [3, n]: |lambda|^2 uniform in r_min^2..r_max^2, any angle, gamma^2 + |lambda|^2 = 1."""
    square = torch.rand(n) * (r_max**2 - r_min**2) + r_min**2  # |lambda|^2
    angle = 2 * math.pi * (1 - torch.rand(n))  # never 0, which has no logarithm
    return torch.stack([(-0.5 * square.log()).log(), angle.log(), 0.5 * (1 - square).log()])


class LRUBlock(nn.Module):
    """Recurrence and feed-forward net, each with dropout, residual and LayerNorm after it."""

    def __init__(self, config: LRURecConfig) -> None:
        super().__init__()
        dim, n_states, self.is_paper = config.hidden_dim, config.state_dim, config.form == "paper"
        # A matrix, so that weight decay reaches it even where vectors are exempt, as in the code.
        self.ring_log = nn.Parameter(torch.empty(3, n_states))
        self.state_in = nn.Linear(dim, 2 * n_states, bias=not self.is_paper)  # B, (real, imaginary) per state
        self.state_out = nn.Linear(2 * n_states, dim, bias=not self.is_paper)  # Re(C h): Re C and -Im C
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, config.inner_dim), nn.Linear(config.inner_dim, dim)
        self.drop, self.lru_drop = Dropout(config.dropout), Dropout(config.lru_dropout)

    def states(self, x: Tensor, position: Tensor) -> Tensor:
        """Return h, complex [R, W, S], of inputs x [R, W, D]."""
        nu, theta, gamma = self.ring_log.exp()
        scale = torch.where(position[..., None] > 0, gamma, 1.0) if self.is_paper else gamma
        u = torch.view_as_complex(self.state_in(x).unflatten(-1, (-1, 2))) * scale
        h: Tensor = LinearScan.apply(u, torch.complex(-nu, theta), position)
        return h

    def forward(self, x: Tensor, position: Tensor, slot: Tensor | None = None) -> Tensor:
        """Return the next layer's x [R, W, D], or [T, D] at `slot` [T] only."""
        h = take_slots(self.states(x, position), slot)
        y = self.norm1(self.lru_drop(self.state_out(torch.view_as_real(h).flatten(-2))) + take_slots(x, slot))
        z = self.down(self.drop(F.gelu(self.up(y))))
        return self.norm2(self.drop(F.gelu(z) if self.is_paper else z) + y)


class LRURec(Recommender[LRURecConfig]):
    def __init__(self, config: LRURecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.item_emb = nn.Embedding(catalog.n_items + 1, config.hidden_dim, padding_idx=0)
        self.item_bias = nn.Parameter(torch.empty(catalog.n_items))
        self.norm = nn.LayerNorm(config.hidden_dim)
        self.drop = Dropout(config.dropout)
        self.blocks = nn.ModuleList(LRUBlock(config) for _ in range(config.n_layers))
        self.next_item = NextItem(config.loss, config, catalog)
        self._init_weights()

    def _init_weights(self) -> None:
        """Draw everything from a truncated normal, biases too, except LayerNorms and rings."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("ring_log"):
                    parameter.copy_(ring(self.config.state_dim, self.config.r_min, self.config.r_max))
                elif "norm" not in name:
                    nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)
            self.item_emb.weight[0].zero_()

    @property
    def needs(self) -> Needs:
        return Needs(samples=("all", "prefix", "last-window"), extras=self.next_item.extras)

    def encode(self, batch: Batch, slot: Tensor | None = None) -> Tensor:
        """Return the states of all positions [R, W, D], or only those at `slot` (flat in [R W]), [T, D]."""
        x = self.item_emb(batch.item_seq)
        x = self.norm(x if self.config.form == "paper" else self.drop(x))
        for block in self.blocks[:-1]:
            x = block(x, batch.position)
        hidden: Tensor = self.blocks[-1](x, batch.position, slot)
        return hidden

    def query(self, batch: Batch) -> Tensor:
        """Return [T, D + 1]; the last column meets the items' biases."""
        return F.pad(self.encode(batch, batch.slot), (0, 1), value=1.0)

    def item_table(self) -> Tensor:
        return torch.cat([self.item_emb.weight[1:], self.item_bias[:, None]], 1)

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        hidden = self.encode(batch, batch.slot)
        return {self.config.loss: self.next_item(hidden, self.item_emb.weight[1:], batch, self.item_bias)}
