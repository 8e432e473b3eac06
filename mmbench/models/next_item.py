"""The setting `loss` of models that score by a dot product, with the negatives that some of the losses need.

A model's configuration inherits `Sampling` and names its `loss`; its constructor makes a `NextItem`, whose `extras`
it adds to its needs and which it calls in `loss()`. Every key is part of a result's identity.

Axes: T targets of the step, N items, D width, K negatives.  s+ is the score of the target, s_j that of a negative,
both with the item's bias if it has any.  Means are over the targets:

    ce    log sum_i e^s_i - s+, over all items
    bce   softplus(-s+) + sum_j softplus(s_j)
    gbce  beta softplus(-s+) + sum_j softplus(s_j), beta = 1 - t (1 - K / (N - 1))
    bpr   mean_j softplus(s_j - s+)
    ss    log(e^s+ + sum_j e^(s_j - c_j)) - s+, c_j by `logq`
    sce   mmbench.nn.sampled.bucket_cross_entropy

At its optimum a loss ranks by p(next item | history) if negatives are uniform, but by p / q where q, the probability
of being drawn, differs between items: popular items are then pushed down, unless c_j = log(K q_j) is subtracted.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from mmbench.data.batch import TrainBatch
from mmbench.data.negatives import Distribution
from mmbench.models.base import Catalog
from mmbench.models.needs import SHARED, UNIFORM, Extra, Negatives, SharedNegatives, nothing, whole_history
from mmbench.nn.layers import take_rows
from mmbench.nn.losses import bce, bpr, cross_entropy, wide
from mmbench.nn.sampled import bucket_cross_entropy, chosen_scores, gbce_weight, sampled_softmax
from mmbench.settings.config import Fraction, NonNegativeFloat, PositiveInt

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Loss = Literal["ce", "bce", "bpr", "gbce", "ss", "sce"]


def is_loss(kind: str) -> "TypeIs[Loss]":
    """Return whether a model's setting names a loss of this module, not a loss that only the model has."""
    return kind in get_args(Loss)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of negative sampling; the loss over the whole catalogue (ce) reads none of them.

    n_negatives  K of each target, or of a step; with sce the number of items in a bucket
    negatives    "popularity": ~ (count + 1)^pop_power; "mixed": by popularity with probability `mix`, else uniform;
                 "in-batch": the other targets of the step, all of them, whatever n_negatives is
    share        "target": each target has negatives of its own; "step": all targets of a step share them
    exclude      items that are never negatives: all training items of the user, the target only, or none. The
                 negatives of a step are drawn from all items, then hidden from the targets that exclude them
    logq         corrects ss. "negatives": s_j - log(K q_j), where q_j is the probability among the items that are
                 not excluded; "all": log q_j is subtracted from the scores of negatives and target (biased)
    gbce_t       t of gbce, 0 = bce
    """

    n_negatives: PositiveInt = 1
    negatives: Literal["uniform", "popularity", "in-batch", "mixed"] = "uniform"
    pop_power: NonNegativeFloat = 1.0
    mix: Fraction = 0.5
    share: Literal["target", "step"] = "target"
    exclude: Literal["history", "target", "none"] = "history"
    logq: Literal["none", "negatives", "all"] = "negatives"
    gbce_t: Fraction = 0.75

    def __post_init__(self) -> None:
        if self.negatives == "in-batch" and self.share == "target":
            raise ValueError('negatives = "in-batch" are shared by a step; set share = "step"')

    @property
    def distribution(self) -> Distribution:
        """Return how often each item is drawn."""
        share = {"popularity": 1.0, "mixed": self.mix}.get(self.negatives, 0.0)
        return Distribution(self.pop_power, share) if share else UNIFORM


class NextItem(nn.Module):
    """The loss that a model's settings name."""

    log_q: Tensor  # [N], log q of items 1..N
    log_free: Tensor  # [U], log of the total probability of the items that a user does not have
    user_items: Tensor  # int64, user * (N + 1) + item of all training pairs, sorted

    def __init__(self, loss: Loss, sampling: Sampling, catalog: Catalog) -> None:
        super().__init__()
        self.kind, self.sampling, self.n_items = loss, sampling, catalog.n_items
        if loss in ("ce", "sce"):
            return
        items, offsets = catalog.train_items.cpu().numpy(), catalog.train_offsets.cpu().numpy()
        q = self._probabilities(items, offsets)
        users = np.repeat(np.arange(catalog.n_users), np.diff(offsets))
        user_items = np.unique(users * (self.n_items + 1) + items)
        user, item = np.divmod(user_items, self.n_items + 1)
        taken = np.bincount(user, weights=q[item - 1], minlength=catalog.n_users)
        dtype, device = torch.get_default_dtype(), catalog.train_items.device
        log_free = np.log1p(-taken.clip(max=1 - 1e-9))
        self.register_buffer("log_q", torch.from_numpy(np.log(q)).to(device, dtype), persistent=False)
        self.register_buffer("log_free", torch.from_numpy(log_free).to(device, dtype), persistent=False)
        self.register_buffer("user_items", torch.from_numpy(user_items).to(device), persistent=False)

    def _probabilities(self, items: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Return q of items 1..N, float64; for in-batch negatives, how often an item is a target.

        items int64 [E], offsets int64 [U + 1]: the training events, user after user
        """
        if self.sampling.negatives != "in-batch":
            return self.sampling.distribution.of(items, self.n_items)
        is_target = np.ones(len(items), dtype=bool)
        is_target[offsets[:-1][np.diff(offsets) > 0]] = False  # a first event has no history
        count = np.bincount(items[is_target], minlength=self.n_items + 1)[1:]
        q: np.ndarray = np.maximum(count, 1) / max(count.sum(), 1)
        return q

    @property
    def has_target_negatives(self) -> bool:
        """Return whether each target is compared with negatives drawn for itself, `batch.negatives`."""
        return self.kind not in ("ce", "sce") and self.sampling.share == "target"

    @property
    def extras(self) -> tuple[Extra, ...]:
        """Return what the engine must draw for the loss."""
        config = self.sampling
        if self.kind in ("ce", "sce") or config.negatives == "in-batch":
            return ()
        if config.share == "step":
            return (SharedNegatives(k=config.n_negatives, distribution=config.distribution),)
        return (
            Negatives(
                k=config.n_negatives,
                exclude=whole_history if config.exclude == "history" else nothing,
                excludes_target=config.exclude == "target",
                distribution=config.distribution,
            ),
        )

    def forward(self, query: Tensor, table: Tensor, batch: TrainBatch, bias: Tensor | None = None) -> Tensor:
        """Return the loss of the batch's targets, a scalar.

        query [T, D], table [N, D] (row i - 1 = item i), bias [N] or None; half precision is computed in float32
        """
        if self.kind == "ce":
            return cross_entropy(query, table, batch.target, bias)
        with torch.autocast(query.device.type, enabled=False):
            query, table, bias = wide(query), wide(table), None if bias is None else wide(bias)
            if self.kind == "sce":
                if bias is not None:  # becomes a column of the table
                    query = torch.cat([query, query.new_ones(len(query), 1)], 1)
                    table = torch.cat([table, bias[:, None]], 1)
                return bucket_cross_entropy(
                    query, table, batch.target, n_bucket_items=self.sampling.n_negatives
                )
            return self.from_scores(*self.scores(query, table, batch, bias), batch)

    def from_scores(self, positive: Tensor, negative: Tensor, items: Tensor, batch: TrainBatch) -> Tensor:
        """Return the loss of the scores of targets [T] and negatives [T, K], which are items [T, K] or [1, K]."""
        is_negative = self._is_negative(batch, items)
        if self.kind == "bpr":
            return bpr(positive, negative, is_negative)
        if self.kind == "bce":
            return bce(positive, negative, is_negative)
        if self.kind == "gbce":
            weight = gbce_weight(self._n_drawn(items), self.n_items, self.sampling.gbce_t)
            return bce(positive, negative, is_negative, weight=weight)
        if self.sampling.logq == "all":
            positive = positive - self.log_q[batch.target - 1].to(positive.dtype)
        if self.sampling.logq != "none":
            negative = negative - self._correction(batch, items).to(negative.dtype)
        return sampled_softmax(positive, negative, is_negative)

    def scores(
        self, query: Tensor, table: Tensor, batch: TrainBatch, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scores of targets [T] and negatives [T, K], and the negatives, int64 [T, K] or [1, K]."""
        target = batch.target[:, None]
        if self.sampling.share == "target":
            items = batch.negatives
            scores = chosen_scores(query, table, torch.cat([target, items], 1))
            positive, negative = scores[:, 0], scores[:, 1:]
        else:
            items = (batch.target if self.sampling.negatives == "in-batch" else batch.drawn[SHARED])[None]
            positive = chosen_scores(query, table, target)[:, 0]
            negative = query @ nn.functional.embedding(items[0] - 1, table).T
        if bias is not None:
            positive = positive + take_rows(bias, batch.target - 1)
            negative = negative + take_rows(bias, items - 1)
        return positive, negative, items

    def _is_negative(self, batch: TrainBatch, items: Tensor) -> Tensor | None:
        """Return which of the step's negatives [1, K] each target meets, bool [T, K]; None = all of them."""
        config = self.sampling
        if config.share == "target":
            return None  # the engine never draws an excluded item
        if config.exclude == "none" and config.negatives != "in-batch":
            return None
        is_hidden = batch.target[:, None] == items  # in-batch: also each target's own entry
        if config.exclude == "history":
            key = batch.user[:, None] * (self.n_items + 1) + items
            nearest = torch.searchsorted(self.user_items, key).clamp(max=len(self.user_items) - 1)
            is_hidden = is_hidden | (self.user_items[nearest] == key)
        return ~is_hidden

    def _n_drawn(self, items: Tensor) -> int:
        """Return K; in-batch, the target's own entry does not count."""
        if self.sampling.negatives == "in-batch":
            return max(items.shape[-1] - 1, 1)
        return items.shape[-1]

    def _correction(self, batch: TrainBatch, items: Tensor) -> Tensor:
        """Return c_j of each negative, [T, K] or [1, K].

        Hidden draws count in K, so that the sum over the others stays unbiased; items that are never drawn make the
        others more probable.
        """
        log_q = self.log_q[items - 1]
        if self.sampling.logq == "all":
            return log_q
        log_q = log_q + math.log(self._n_drawn(items))
        if self.sampling.share == "step" or self.sampling.exclude == "none":
            return log_q
        if self.sampling.exclude == "history":
            return log_q - self.log_free[batch.user][:, None]
        return log_q - torch.log1p(-self.log_q[batch.target - 1].exp())[:, None]
