"""Caser: Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding. Tang and Wang, WSDM 2018,
doi 10.1145/3159652.3159656.  Official code: github.com/graytowne/caser_pytorch.

The embeddings of the newest L items form an image of L rows. Horizontal filters (k rows high, full width) look for
patterns of k successive items, vertical filters (a column wide, L high) weigh the items by age; both and the user's
vector give the state. Two output layers go by this name: "toolbox" (default; RecBole's: a linear map, then the input
table) and "official" (a separate item table of twice the width, with a bias).

Axes: R rows, W width, T slots, L window, D width, H filters per height, V vertical filters, K negatives, N items.
Follows: the paper's embedding look-up windows(), horizontal layer HorizontalFilters, vertical layer VerticalFilters,
fully connected layers state(), network training loss().
Differences: (1) toolbox: no ReLU after the last map, which would keep states from being negative (`final_relu`).
(2) The window is padded on the left, so the newest item always lies in row L; RecBole pads on the right. Padding is
the zero vector, neither a target nor a class of the softmax. (3) A window per slot of a history: the same samples as
RecBole's prefixes. (4) official: windows of a user come from the newest max_len items; a user with fewer than
L + n_targets events gives a single window with the targets that it has, never padding. (5) log sigma is a softplus.
(6) Users without a training target have the zero vector, not an untrained random vector.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Extra, Needs, WholeRows
from mmbench.models.next_item import Loss, NextItem, Sampling
from mmbench.nn.layers import Dropout
from mmbench.nn.losses import item_scores
from mmbench.settings.config import NonNegativeFloat, NonNegativeInt, PositiveInt, Probability

Activation = Literal["relu", "tanh", "sigmoid", "identity"]
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "identity": lambda x: x,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CaserConfig(Sampling):
    network: Literal["toolbox", "official"] = "toolbox"
    loss: Loss = "ce"  # bce compares windows, see _bce()
    hidden_dim: PositiveInt
    window: PositiveInt  # L
    n_targets: PositiveInt = 1  # T, items after the window that it predicts; "bce" reads it
    train_windows: Literal["every", "full"] = "every"  # "full": those of L inputs and n_targets targets only
    n_vertical: NonNegativeInt  # n_v
    n_horizontal: NonNegativeInt  # n_h, filters of each height
    conv_activation: Activation = "relu"
    fc_activation: Activation = "relu"
    final_relu: bool
    dropout: Probability
    n_negatives: PositiveInt = 3  # counts negatives of a window; "bce" reads it
    reg_weight: NonNegativeFloat  # weighs plain norms: tables, filters, both maps

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss == "bce" and self.share == "step":
            raise ValueError('loss = "bce" has negatives for each window; set share = "target"')
        if not self.n_vertical and not self.n_horizontal:
            raise ValueError("n_vertical and n_horizontal are both 0: no filter is left")
        if self.loss == "ce" and (self.n_targets > 1 or self.train_windows == "full"):
            raise ValueError("n_targets > 1 and train_windows = 'full' belong to loss = 'bce'")
        if self.network == "official" and self.final_relu:
            raise ValueError("final_relu is about the last map of network = 'toolbox'")


class HorizontalFilters(nn.Module):
    """H filters of each height 1..L: responses at every start, their maximum, bias and activation.

    A single product covers all heights: its matrix holds every filter at every start, [L D] x [sum_k (L-k+1) H].
    The activations are monotone, so the maximum comes first.
    """

    def __init__(self, *, window: int, dim: int, n_filters: int, activation: Activation) -> None:
        super().__init__()
        self.window, self.dim, self.n_filters = window, dim, n_filters
        self.activation = ACTIVATIONS[activation]
        self.weight = nn.ParameterList(
            torch.empty(n_filters, height * dim) for height in range(1, window + 1)
        )
        self.bias = nn.Parameter(torch.empty(window, n_filters))
        for height, weight in enumerate(self.weight, start=1):  # as torch's convolutions
            bound = (height * dim) ** -0.5
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(self.bias.data[height - 1], -bound, bound)

    def _placed(self, weight: Tensor) -> Tensor:
        """Return filters [H, k D] at every start, [H (L-k+1), L D], zero elsewhere.

        Copies of a row that is D longer than L D, cut into rows of L D, shift by D from row to row.
        """
        total = self.window * self.dim
        n_starts = self.window - weight.shape[1] // self.dim + 1
        longer = F.pad(weight, (0, total + self.dim - weight.shape[1]))
        copies = longer[:, None].expand(-1, n_starts, -1).flatten(1)
        return copies[:, : n_starts * total].reshape(-1, total)

    def forward(self, x: Tensor) -> Tensor:
        """Return the responses to x [T, L, D], [T, L H], heights in ascending order."""
        placed = [self._placed(weight) for weight in self.weight]
        responses = F.linear(x.flatten(1), torch.cat(placed)).split(list(map(len, placed)), dim=1)
        best = torch.stack([part.view(len(x), self.n_filters, -1).amax(2) for part in responses], dim=1)
        return self.activation(best + self.bias).flatten(1)


class VerticalFilters(nn.Module):
    """V weighted sums of the window's rows, o[f] = sum_t w[f, t] x_t + b[f], without activation."""

    def __init__(self, *, window: int, n_filters: int) -> None:
        super().__init__()
        bound = window**-0.5
        self.weight = nn.Parameter(torch.empty(n_filters, window).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_filters).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted sums of x [T, L, D], [T, V D]."""
        return (self.weight @ x + self.bias[:, None]).flatten(1)


class Caser(Recommender[CaserConfig]):
    def __init__(self, config: CaserConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.next_item = NextItem(config.loss, config, catalog)
        dim, window = config.hidden_dim, config.window
        self.is_official = config.network == "official"
        self.item_emb = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)
        self.user_emb = nn.Embedding(catalog.n_users, dim)
        self.vertical = (
            VerticalFilters(window=window, n_filters=config.n_vertical) if config.n_vertical else None
        )
        self.horizontal = (
            HorizontalFilters(
                window=window, dim=dim, n_filters=config.n_horizontal, activation=config.conv_activation
            )
            if config.n_horizontal
            else None
        )
        self.drop = Dropout(config.dropout)
        self.fc = nn.Linear(config.n_vertical * dim + config.n_horizontal * window, dim)
        if self.is_official:
            self.out_table = nn.Parameter(torch.empty(catalog.n_items, 2 * dim))
            self.item_bias = nn.Parameter(torch.zeros(catalog.n_items))
        else:
            self.out = nn.Linear(2 * dim, dim)
        self._init_weights(catalog)

    def _init_weights(self, catalog: Catalog) -> None:
        """Draw tables from N(0, 1/D^2), as both codes do. toolbox: xavier-normal maps; official: torch's default maps
        and an output table from N(0, 1/(2D)^2)."""
        for table in (self.item_emb, self.user_emb):
            nn.init.normal_(table.weight, std=1 / self.config.hidden_dim)
        if self.is_official:
            nn.init.normal_(self.out_table, std=0.5 / self.config.hidden_dim)
        else:
            for linear in (self.fc, self.out):
                nn.init.xavier_normal_(linear.weight)
                nn.init.zeros_(linear.bias)
        with torch.no_grad():
            self.item_emb.weight[0].zero_()
            self.user_emb.weight[catalog.histories.n_events < 2] = 0.0

    @property
    def needs(self) -> Needs:
        config = self.config
        extras: tuple[Extra, ...] = self.next_item.extras
        if config.n_targets > 1 or config.train_windows == "full":
            # Further targets are those of a history's later slots, so these must be in the same step. Not stackable,
            # because how many windows a step uses differs between seeds.
            return Needs(samples=("last-window",), stackable=False, extras=(*extras, WholeRows()))
        return Needs(samples=("all", "prefix", "last-window"), extras=extras)

    def windows(self, batch: Batch) -> Tensor:
        """Return the L newest items up to each slot, newest last, 0 before a history's first: int64 [T, L]."""
        back = torch.arange(self.config.window - 1, -1, -1, device=batch.slot.device)
        index = batch.slot[:, None] - back
        is_same_history = batch.position.flatten()[batch.slot][:, None] >= back
        return torch.where(is_same_history, batch.item_seq.flatten()[index.clamp(min=0)], 0)

    def state(self, window: Tensor, user: Tensor) -> Tensor:
        """Return the states [T, D] (official: [T, 2 D + 1]) of windows [T, L] and users [T]."""
        x = self.item_emb(window)
        parts = [part(x) for part in (self.vertical, self.horizontal) if part is not None]
        z = ACTIVATIONS[self.config.fc_activation](self.fc(self.drop(torch.cat(parts, 1))))
        both = torch.cat([z, self.user_emb(user)], 1)
        if self.is_official:
            return F.pad(both, (0, 1), value=1.0)
        state = self.out(both)
        return F.relu(state) if self.config.final_relu else state

    def query(self, batch: Batch) -> Tensor:
        return self.state(self.windows(batch), batch.user)

    def item_table(self) -> Tensor:
        if self.is_official:
            return torch.cat([self.out_table, self.item_bias[:, None]], 1)
        return self.item_emb.weight[1:]

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        table = self.item_table()
        kind = self.config.loss
        terms: dict[str, Tensor] = {}
        if kind == "bce":
            terms[kind] = self._bce(batch, table)
        else:
            terms[kind] = self.next_item(self.query(batch), table, batch)
        if self.config.reg_weight:
            terms["reg"] = self.config.reg_weight * self._norms()
        return terms

    def targets(self, batch: TrainBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the windows to train on and what they predict: slot index [U], items and bool [U, n_targets].

        The j-th target of a slot is the target of the j-th slot after it, in the same history.
        """
        config, position = self.config, batch.position.flatten()[batch.slot]
        continues = (batch.slot.diff() == 1) & (position.diff() == 1)
        history = F.pad((~continues).cumsum(0), (1, 0))[: len(position)]
        number = torch.arange(len(position), device=position.device)
        count = torch.zeros_like(position).scatter_add(0, history, torch.ones_like(position))
        left = count.cumsum(0)[history] - number  # targets from this slot on
        if config.train_windows == "full":
            is_full = (left >= config.n_targets) & (position >= config.window - 1)
            is_short = position + left < config.window - 1 + config.n_targets
            is_used = is_full | (is_short & (left == count[history].clamp(max=config.n_targets)))
            number = number[is_used]
        ahead = torch.arange(config.n_targets, device=position.device)
        following = (number[:, None] + ahead).clamp(max=len(position) - 1)
        return number, batch.target[following], ahead < left[number][:, None]

    def _bce(self, batch: TrainBatch, table: Tensor) -> Tensor:
        """Return the mean loss of the targets of the used windows plus that of their negatives."""
        used, targets, is_target = self.targets(batch)
        state = self.state(self.windows(batch)[used], batch.user[used])
        scores = item_scores(state, table, torch.cat([targets, batch.negatives[used]], 1))
        positive, negative = scores[:, : targets.shape[1]], scores[:, targets.shape[1] :]
        return (F.softplus(-positive) * is_target).sum() / is_target.sum() + F.softplus(negative).mean()

    def _norms(self) -> Tensor:
        """Return the sum of the Frobenius norms (not squared) of the tables, the filters and the maps."""
        weights = [self.user_emb.weight, self.item_emb.weight, self.fc.weight]
        weights.append(self.out_table if self.is_official else self.out.weight)
        if self.vertical is not None:
            weights.append(self.vertical.weight)
        if self.horizontal is not None:
            weights += list(self.horizontal.weight)
        return torch.stack([weight.norm() for weight in weights]).sum()
