"""TiCoSeRec: Uniform Sequence Better: Time Interval Aware Data Augmentation for Sequential Recommendation. Dang,
Yang, Guo, Jiang, Wang, Xu, Sun, Liu, AAAI 2023, arXiv:2212.08262.
Official code: github.com/KingGugu/TiCoSeRec@302b295; slips of earlier commits are in ticoserec_released.py.

SASRec with a contrastive term: two views of a user's training history, each changed by one of five operations, should
have similar states. Operations crop, reorder, mask, substitute or insert where that makes the gaps between events more
even. Times act on the views only; encoder and score read item ids.

Axes: R rows (a user each), W width of the histories, L max_len, D hidden, T targets, N items, U users.
Follows: crop(), reorder(), mask(), substitute() and insert() the five operations (mmbench.nn.augmentation), augment()
the draw of one of them; most_uniform() users with even gaps; SimilarItems() similar items; encode() the network, loss()
its two terms.
Differences that matter (ticoserec.toml lists all, with their switches):
(1) users that are not augmented: those with the most even gaps, as the paper says; the code compares row numbers of a
    sorted file with user ids.
(2) items beside the largest and smallest gaps: substitute, insert and mask act on them; until 2023-04-02 the code used
    ranks in the sorted list as positions, and so acted on other items (variant as-released).
(3) warm-ups: epochs; the code counts drawn samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs
from mmbench.models.next_item import Loss, NextItem
from mmbench.models.transformer import TransformerConfig
from mmbench.nn.augmentation import (
    Choose,
    choose_positions,
    crop,
    insert,
    left_pad,
    mask,
    reorder,
    substitute,
)
from mmbench.nn.histories import TrainHistories
from mmbench.nn.layers import Dropout, init_normal
from mmbench.nn.losses import nce
from mmbench.settings.config import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
)

BLOCK = 1024  # items whose similarities to all others are in memory together
SHORT = 3  # the first three operations in `augment` apply to short histories too


@dataclass(frozen=True, kw_only=True)
class TiCoSeRecConfig(TransformerConfig):
    loss: Loss = "bce"
    crop_rate: Fraction
    reorder_rate: Fraction
    mask_rate: Fraction
    substitute_rate: Fraction
    insert_rate: Fraction
    mask_mode: Literal["random", "maximum", "minimum"]
    short_length: NonNegativeInt  # shorter histories are only substituted, inserted into or masked
    uniform_share: Fraction  # users with the most even gaps, whose views are unchanged
    neighbours: Literal["offline", "hybrid"]
    temperature: PositiveFloat
    contrast_weight: NonNegativeFloat
    contrast_warm_up: NonNegativeInt  # epochs without the contrastive term
    online_warm_up: NonNegativeInt  # epochs before item embeddings may name similar items


def augment(
    items: Tensor,
    gaps: Tensor,
    length: Tensor,
    *,
    similar: Tensor,
    unchanged: Tensor,
    config: TiCoSeRecConfig,
    choose: Choose = choose_positions,
) -> tuple[Tensor, Tensor]:
    """Return a view: each history changed by a random operation, except those that are `unchanged`, bool [R]."""
    history = (items, gaps, length)
    results = [
        substitute(*history, config.substitute_rate, similar, choose),
        insert(*history, config.insert_rate, similar, choose),
        mask(*history, config.mask_rate, config.mask_mode, choose),
        crop(*history, config.crop_rate),
        reorder(*history, config.reorder_rate),
        (items, length),
    ]
    n_choices = torch.where(length <= config.short_length, SHORT, len(results) - 1)
    drawn = (torch.rand(len(items), dtype=torch.float64, device=items.device) * n_choices).long()
    drawn = torch.where(unchanged, len(results) - 1, drawn)
    views = torch.stack([F.pad(view, (0, 2 * items.shape[1] - view.shape[1])) for view, _ in results])
    row = torch.arange(len(items), device=items.device)
    return views[drawn, row], torch.stack([lengths for _, lengths in results])[drawn, row]


# -- what the operations read of the training events ---------------------------------------------------------------


def most_uniform(histories: TrainHistories, uniform_share: float) -> Tensor:
    """Return the share of users whose gaps have the smallest variance, bool [U], of those with two events or more.

    Simultaneous events count once, so gaps of 0 are left out; fewer than two gaps have variance 0.
    """
    n_events, is_gap = histories.n_events, histories.gaps > 0
    users, gaps = histories.users[is_gap], histories.gaps[is_gap].double()
    n_gaps = torch.bincount(users, minlength=len(n_events)).clamp(min=1)
    mean = torch.zeros(len(n_events), dtype=torch.float64).index_add(0, users, gaps) / n_gaps
    squares = (gaps - mean[users]).square()
    variance = torch.zeros_like(mean).index_add(0, users, squares) / n_gaps
    variance = variance.masked_fill(n_events < 2, float("inf"))
    count = int(uniform_share * int((n_events >= 2).sum()))
    chosen = torch.zeros(len(n_events), dtype=torch.bool)
    chosen[variance.argsort(stable=True)[:count]] = True
    return chosen


def most_similar(rows: Callable[[int, int], Tensor], n_items: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the most similar other item of each item (0 = none), its similarity, and the smallest of all; [N+1].

    rows(start, stop) -> similarities [stop - start, N+1] of these items to all, -inf = not related.
    """
    parts = []
    for start in range(1, n_items + 1, BLOCK):
        block = rows(start, min(start + BLOCK, n_items + 1))
        block[:, 0] = float("-inf")
        block.diagonal(start).fill_(float("-inf"))
        value, item = block.max(1)
        low = block.masked_fill(block == float("-inf"), float("inf")).amin(1)
        parts.append((item.masked_fill(value == float("-inf"), 0), value, low))
    item, value, low = (torch.cat(column) for column in zip(*parts, strict=True))
    return F.pad(item, (1, 0)), F.pad(value, (1, 0), value=float("-inf")), low.min()


class SimilarItems(nn.Module):
    """The most similar item of each item: by common users (offline) and, once updated, by item embeddings (online).

    Where both name an item, the larger of the two min-max normalised similarities decides.
    """

    offline: Tensor
    offline_score: Tensor
    current: Tensor

    def __init__(self, catalog: Catalog) -> None:
        super().__init__()
        self.n_items = catalog.n_items
        item, value, low = most_similar(common_users(catalog), catalog.n_items)
        score = torch.where(item > 0, self.score_offline(value, low, value.max()), 0.0).float()
        for name, tensor in {"offline": item, "offline_score": score, "current": item.clone()}.items():
            self.register_buffer(name, tensor, persistent=False)

    def score_offline(self, value: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return similarities [N+1] rescaled from low..high to 0..1."""
        return (value - low) / (high - low).clamp(min=1e-12)

    def score_online(self, value: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return self.score_offline(value, low, high)

    def update(self, table: Tensor) -> None:
        """Take the online neighbour, by dot products of `table` [N+1, D], where its score is higher."""
        item, value, low = most_similar(lambda start, stop: table[start:stop] @ table.T, self.n_items)
        score = self.score_online(value, low, value.max())
        keep = (self.offline_score >= score) & (self.offline > 0)
        self.current = torch.where(keep, self.offline, item)

    def forward(self, items: Tensor) -> Tensor:
        """Return a similar item for each of items int64 [...], a uniform draw where none is known."""
        known = self.current[items]
        return torch.where(known > 0, known, torch.randint_like(known, 1, self.n_items + 1))


def common_users(catalog: Catalog) -> Callable[[int, int], Tensor]:
    """Return rows of ItemCF-IUF over inputs: over common users the sum of 1 / ln(1 + number of their items), divided
    by sqrt(N_i N_j)."""
    from scipy.sparse import csr_array

    events, size = catalog.histories, catalog.n_items + 1
    is_input = events.has_next
    pair = torch.unique(events.users[is_input] * size + events.items[is_input])
    user, item = pair // size, pair % size
    per_user = (1 + torch.bincount(user)).double().log()[user]
    per_item = torch.bincount(item, minlength=size).double().sqrt()[item]
    shape, where = (catalog.n_users, size), (user.numpy(), item.numpy())
    weighted = csr_array(((1 / per_user / per_item).numpy(), where), shape=shape)
    by_item = csr_array(((1 / per_item).numpy(), where), shape=shape).T.tocsr()

    def rows(start: int, stop: int) -> Tensor:
        similarity = torch.from_numpy((by_item[start:stop] @ weighted).toarray())
        return similarity.masked_fill(similarity == 0, float("-inf"))

    return rows


# -- the model ---------------------------------------------------------------------------------------------------


class TiCoSeRec(Recommender[TiCoSeRecConfig]):
    time_shift = True
    is_uniform: Tensor

    def __init__(self, config: TiCoSeRecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.next_item = NextItem(config.loss, config, catalog)
        dim = config.hidden_dim
        self.item_emb = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)
        self.position_emb = nn.Embedding(catalog.max_len, dim)
        self.norm, self.drop = nn.LayerNorm(dim, eps=1e-12), Dropout(config.dropout)
        self.encoder = config.encoder()
        self.histories = catalog.histories
        self.register_buffer(
            "is_uniform", most_uniform(self.histories, config.uniform_share), persistent=False
        )
        self.similar = self.make_similar(catalog)
        self.epoch = 1
        init_normal(self, std=0.02)  # row 0 too: padding starts at random

    @property
    def choose(self) -> Choose:
        """Return the function that finds the items beside the largest or smallest gaps."""
        return choose_positions

    def make_similar(self, catalog: Catalog) -> SimilarItems:
        return SimilarItems(catalog)

    @classmethod
    def reads(cls, config: TiCoSeRecConfig, modality: str) -> bool:
        return config.contrast_weight > 0

    @property
    def needs(self) -> Needs:
        # Views are as wide as the longest history of a step, which differs between the seeds of a stack.
        is_stackable = not self.config.contrast_weight
        return Needs(
            layout="fixed", samples=("last-window",), stackable=is_stackable, extras=self.next_item.extras
        )

    @torch.no_grad()
    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        if self.config.neighbours != "offline" and epoch > self.config.online_warm_up:
            self.similar.update(self.item_emb.weight)

    def encode(self, item_seq: Tensor, slot: Tensor | None = None) -> Tensor:
        """Return states [R, L, D], or [T, D] at `slot` (flat in [R L]), of LEFT-padded item_seq int64 [R, L]."""
        causal = torch.ones(self.max_len, self.max_len, dtype=torch.bool, device=item_seq.device).tril()
        visible = (item_seq > 0)[:, None, :] & causal
        # Hiding all keys would add the same finite number to all scores, so a row without visible keys sees them all.
        visible = visible | ~visible.any(2, keepdim=True)
        x = self.item_emb(item_seq) + self.position_emb.weight
        return self.encoder(self.drop(self.norm(x)), visible, slot)

    def aligned(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the batch's histories left padded [R, L], and its slots in them [T]."""
        length = batch.mask.sum(1)
        shift = self.max_len - length[batch.slot // self.max_len]
        return left_pad(batch.item_seq, length, self.max_len), batch.slot + shift

    def history(self, user: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the inputs of users [R]: items and the gaps after them, int64 [R, W], right padded by 0; length [R].

        The last input's gap leads to the last target.
        """
        index, real = self.histories.inputs(user)
        items, gaps = self.histories.items[index], self.histories.gaps[index]
        return torch.where(real, items, 0), torch.where(real, gaps, 0), real.sum(1)

    def views(self, batch: TrainBatch) -> Tensor:
        """Return two views of each row's user, left padded [2R, L]."""
        user = batch.user.new_zeros(len(batch.item_seq)).scatter(0, batch.slot // self.max_len, batch.user)
        history, views = self.history(user), []
        for _ in range(2):
            view = augment(
                *history, similar=self.similar(history[0]), unchanged=self.is_uniform[user], config=self.config,
                choose=self.choose,
            )  # fmt: skip
            views.append(left_pad(*view, self.max_len))
        return torch.cat(views)

    def query(self, batch: Batch) -> Tensor:
        return self.encode(*self.aligned(batch))

    def item_table(self) -> Tensor:
        return self.item_emb.weight[1:]

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        config, terms = self.config, {}
        item_seq, slot = self.aligned(batch)
        if self.epoch > config.contrast_warm_up and config.contrast_weight:
            hidden = self.encode(torch.cat([item_seq, self.views(batch)]))
            history, a, b = hidden.flatten(1).chunk(3)  # each [R, L D]
            terms["nce"] = config.contrast_weight * nce(a, b, temperature=config.temperature)
            query = history.reshape(-1, config.hidden_dim).index_select(0, slot)
        else:
            query = self.encode(item_seq, slot)
        return {config.loss: self.next_item(query, self.item_table(), batch), **terms}
