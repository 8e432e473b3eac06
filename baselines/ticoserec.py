"""TiCoSeRec: Uniform Sequence Better: Time Interval Aware Data Augmentation for Sequential Recommendation. Dang,
Yang, Guo, Jiang, Wang, Xu, Sun, Liu, AAAI 2023, arXiv:2212.08262.  Official code: github.com/KingGugu/TiCoSeRec.

SASRec with a contrastive term: two views of a user's training history, each changed by one of five operations that look
at the gaps between its events, shall have similar states. Operations crop, reorder, mask, substitute or insert where
that makes the gaps more even. Times act on the views only; encoder and score read item ids.

Axes: R rows (one user each), W width of the histories, L max_len, D hidden, T targets, N items, U users.
Follows: the five operations crop() .. insert(); Histories (gaps, uniform users); SimilarItems; encode(), loss().
Differences from the paper (P) and the official code (C):
(1) The most uniform users are left alone as P says; C compares row numbers of a sorted file with user ids.
(2) Substitute, insert and mask act on the items with the largest (smallest) gaps (P); C uses ranks in the sorted list
    as places, and so acts on other items: `gap_choice = "as-released"`.
(3) With `neighbours = "hybrid"` the larger of two min-max normalised similarities decides (P); C turns the offline one
    around and scales the online one by limits that stay -1 and 100: `neighbours = "hybrid-as-released"`.
(4) Crop to two items or fewer takes one item at random of all; C of all but the newest int(rate * length).
(5) Warm-ups count epochs; C counts drawn samples, and first asks the online similarity one epoch later.
(6) Negatives are none of the user's training items; C excludes the validation and test items too.
(7) Users are ranked by training events; C's ranking was made from whole histories.
(8) The table has no row for the mask id, which C never reads. Ties between similar items: the smaller id; between
    gaps: the older event.
(9) As in C, padding sees everything and its states are part of a view; its row of the table is random at first, no
    loss reaches it, and the L2 in Adam (weight_decay) takes it to zero within some hundred steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs, Negatives
from mmbench.nn.histories import TrainHistories
from mmbench.nn.layers import Dropout, PostNormEncoder, check_heads, init_normal
from mmbench.nn.losses import nce, next_item
from mmbench.settings.config import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
)

BLOCK = 1024  # items whose similarities to all others are held at once
SHORT = 3  # the first three of the operations in `augment` are for short histories too


@dataclass(frozen=True, kw_only=True)
class TiCoSeRecConfig:  # defaults: official code, but for the width
    hidden_dim: PositiveInt = 64  # printed runs; official 128
    inner_dim: PositiveInt = 256
    n_layers: PositiveInt = 2
    n_heads: PositiveInt = 2
    dropout: Probability = 0.5
    attn_dropout: Probability = 0.2
    crop_rate: Fraction = 0.7
    reorder_rate: Fraction = 0.2
    mask_rate: Fraction = 0.5
    substitute_rate: Fraction = 0.1
    insert_rate: Fraction = 0.5
    mask_mode: Literal["random", "maximum", "minimum"] = "random"
    short_length: NonNegativeInt = 12  # histories up to here are substituted, inserted into or masked only
    uniform_share: Fraction = 0.15  # users with the most even gaps, whose views are the history itself
    neighbours: Literal["offline", "hybrid", "hybrid-as-released"] = "hybrid"
    gap_choice: Literal["ranked", "as-released"] = "ranked"
    temperature: PositiveFloat = 1.0
    contrast_weight: NonNegativeFloat = 0.1
    contrast_warm_up: NonNegativeInt = 40  # epochs without the contrastive term
    online_warm_up: NonNegativeInt = 80  # epochs before the item embeddings are asked for similar items

    def __post_init__(self) -> None:
        check_heads(self.hidden_dim, self.n_heads)


# -- operations: items int64 [R, W] (oldest first, right padded by 0), length int64 [R], gaps int64 [R, W] -----------


def share(rate: float, length: Tensor) -> Tensor:
    """int(rate * length), int64 [R]."""
    return (rate * length.double()).long()


def chosen_places(values: Tensor, length: Tensor, count: Tensor, *, largest: bool, rule: str) -> Tensor:
    """bool [R, W]: the `count` [R] real places with the largest (smallest) values; of equal ones the older.

    rule "as-released" takes the places whose entry in the sorted list of places is below `count`.
    """
    place = torch.arange(values.shape[1], device=values.device)
    is_real, keys = place < length[:, None], -values.double() if largest else values.double()
    order = keys.masked_fill(~is_real, float("inf")).argsort(dim=1, stable=True)
    if rule == "as-released":
        return (order < count[:, None]) & is_real
    return torch.zeros_like(order).scatter(1, order, place.expand_as(order)) < count[:, None]


def best_window(gaps: Tensor, length: Tensor, width: Tensor) -> Tensor:
    """Start [R] of the window of `width` [R] items with the smallest variance of gaps, the latest of equal ones.

    The gaps are those between the window's timestamps WITHOUT its last; fewer than two have variance 0. Sums of
    integers are exact, so equal variances are equal numbers (for histories that span less than 96 years).
    """
    n = (width - 2).clamp(min=1)[:, None]
    starts = torch.arange(gaps.shape[1], device=gaps.device).expand_as(gaps)
    end = (starts + n).clamp(max=gaps.shape[1])

    def window_sum(values: Tensor) -> Tensor:
        total = F.pad(values.cumsum(1), (1, 0))
        return total.gather(1, end) - total[:, :-1]

    first, second = window_sum(gaps), window_sum(gaps.square())
    square = first.square()
    variance = (second - square // n).double() - (square % n).double() / n  # times n
    variance = variance.masked_fill((width < 4)[:, None], 0.0)
    variance = variance.masked_fill(starts > (length - width)[:, None], float("inf"))
    return torch.where(variance == variance.amin(1, keepdim=True), starts, -1).amax(1)


def crop(items: Tensor, gaps: Tensor, length: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Ti-Crop: the window of int(rate * length) items with the most even gaps; one random item if that is 2 or less."""
    width = share(rate, length)
    is_short = width <= 2
    anywhere = (torch.rand(len(length), dtype=torch.float64, device=items.device) * length).long()
    start = torch.where(is_short, anywhere, best_window(gaps, length, width))
    width = torch.where(is_short, 1, width)
    place = torch.arange(items.shape[1], device=items.device)
    index = (start[:, None] + place).clamp(max=items.shape[1] - 1)
    return items.gather(1, index).masked_fill(place >= width[:, None], 0), width


def reorder(items: Tensor, gaps: Tensor, length: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Ti-Reorder: the window of int(rate * length) items with the most even gaps, shuffled in place."""
    width = share(rate, length)
    start = best_window(gaps, length, width)
    place = torch.arange(items.shape[1], device=items.device).expand_as(items)
    inside = (place >= start[:, None]) & (place < (start + width)[:, None])
    noise = torch.rand(items.shape, dtype=torch.float64, device=items.device)
    keys = torch.where(inside, start[:, None] + noise, place)
    return items.gather(1, keys.argsort(dim=1, stable=True)), length


def mask(
    items: Tensor, gaps: Tensor, length: Tensor, rate: float, mode: str, rule: str
) -> tuple[Tensor, Tensor]:
    """Ti-Mask: int(rate * length) items become padding: any, or those with the largest or smallest gap after them."""
    values = torch.rand(items.shape, device=items.device) if mode == "random" else gaps
    rule = "ranked" if mode == "random" else rule
    hidden = chosen_places(values, length, share(rate, length), largest=mode == "maximum", rule=rule)
    return items.masked_fill(hidden, 0), length


def substitute(
    items: Tensor, gaps: Tensor, length: Tensor, rate: float, similar: Tensor, rule: str
) -> tuple[Tensor, Tensor]:
    """Ti-Substitute: the items with the smallest gaps after them become `similar` [R, W]; a single item stays."""
    count = share(rate, length).clamp(min=1).masked_fill(length < 2, 0)
    return torch.where(chosen_places(gaps, length, count, largest=False, rule=rule), similar, items), length


def insert(
    items: Tensor, gaps: Tensor, length: Tensor, rate: float, similar: Tensor, rule: str
) -> tuple[Tensor, Tensor]:
    """Ti-Insert: after each of the items with the largest gaps, one `similar` [R, W] item -> items [R, 2W]."""
    count = share(rate, length).clamp(min=1).minimum(length)
    after = chosen_places(gaps, length, count, largest=True, rule=rule)
    width = items.shape[1]
    place = torch.arange(width, device=items.device) + after.cumsum(1) - after.long()  # where each item goes
    out = items.new_zeros(len(items), 2 * width + 1).scatter(1, place, items)
    out.scatter_(1, torch.where(after, place + 1, 2 * width), torch.where(after, similar, 0))
    return out[:, :-1], length + count


def left_pad(items: Tensor, length: Tensor, max_len: int) -> Tensor:
    """The newest `max_len` items of each history at the right end of [R, max_len]."""
    index = torch.arange(max_len, device=items.device) - max_len + length[:, None]
    return items.gather(1, index.clamp(0, items.shape[1] - 1)).masked_fill(index < 0, 0)


def augment(
    items: Tensor, gaps: Tensor, length: Tensor, *, similar: Tensor, alone: Tensor, config: TiCoSeRecConfig
) -> tuple[Tensor, Tensor]:
    """One view: each history changed by one operation, drawn for it; `alone` bool [R] stay as they are."""
    rule, history = config.gap_choice, (items, gaps, length)
    results = [
        substitute(*history, config.substitute_rate, similar, rule),
        insert(*history, config.insert_rate, similar, rule),
        mask(*history, config.mask_rate, config.mask_mode, rule),
        crop(*history, config.crop_rate),
        reorder(*history, config.reorder_rate),
        (items, length),
    ]
    n_choices = torch.where(length <= config.short_length, SHORT, len(results) - 1)
    drawn = (torch.rand(len(items), dtype=torch.float64, device=items.device) * n_choices).long()
    drawn = torch.where(alone, len(results) - 1, drawn)
    wide = torch.stack([F.pad(one, (0, 2 * items.shape[1] - one.shape[1])) for one, _ in results])
    row = torch.arange(len(items), device=items.device)
    return wide[drawn, row], torch.stack([one for _, one in results])[drawn, row]


# -- what the operations read of the training events ---------------------------------------------------------------


def most_uniform(histories: TrainHistories, uniform_share: float) -> Tensor:
    """Return bool [U]: the share of users (of those with two events or more) whose gaps have the smallest variance.

    Events at the same time count as one, so gaps of 0 are left out; fewer than two gaps have variance 0.
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
    """The most similar other item of each item (0 = none), its similarity, and the smallest one of its row; [N+1].

    rows(start, stop) -> similarities [stop - start, N+1] of these items to all, -inf = not related.
    """
    parts = []
    for start in range(1, n_items + 1, BLOCK):
        found = rows(start, min(start + BLOCK, n_items + 1))
        found[:, 0] = float("-inf")
        found.diagonal(start).fill_(float("-inf"))
        value, item = found.max(1)
        low = found.masked_fill(found == float("-inf"), float("inf")).amin(1)
        parts.append((item.masked_fill(value == float("-inf"), 0), value, low))
    item, value, low = (torch.cat(column) for column in zip(*parts, strict=True))
    return F.pad(item, (1, 0)), F.pad(value, (1, 0), value=float("-inf")), low.min()


class SimilarItems(nn.Module):
    """The most similar item of each item: by common users (offline) and, once asked, by item embeddings (online)."""

    offline: Tensor
    offline_score: Tensor
    current: Tensor

    def __init__(self, catalog: Catalog, mode: str) -> None:
        super().__init__()
        self.n_items, self.is_released = catalog.n_items, mode == "hybrid-as-released"
        item, value, low = most_similar(common_users(catalog), catalog.n_items)
        high = value.max()
        score = (high - value if self.is_released else value - low) / (high - low).clamp(min=1e-12)
        score = torch.where(item > 0, score, 0.0).float()
        for name, tensor in {"offline": item, "offline_score": score, "current": item.clone()}.items():
            self.register_buffer(name, tensor, persistent=False)

    def ask(self, table: Tensor) -> None:
        """Take the online neighbour, by dot products of `table` [N+1, D], where its score is higher."""
        item, value, low = most_similar(lambda start, stop: table[start:stop] @ table.T, self.n_items)
        span = (value.max() - low).clamp(min=1e-12)
        score = (1 + value) / 101 if self.is_released else (value - low) / span
        keep = (self.offline_score >= score) & (self.offline > 0)
        self.current = torch.where(keep, self.offline, item)

    def forward(self, items: Tensor) -> Tensor:
        """items int64 [...] -> a similar one of each, uniform over the catalogue where none is known."""
        found = self.current[items]
        return torch.where(found > 0, found, torch.randint_like(found, 1, self.n_items + 1))


def common_users(catalog: Catalog) -> Callable[[int, int], Tensor]:
    """ItemCF-IUF over inputs: sum over common users of 1 / ln(1 + number of their items), over sqrt(N_i N_j)."""
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
        found = torch.from_numpy((by_item[start:stop] @ weighted).toarray())
        return found.masked_fill(found == 0, float("-inf"))

    return rows


# -- the model ---------------------------------------------------------------------------------------------------


class TiCoSeRec(Recommender[TiCoSeRecConfig]):
    def __init__(self, config: TiCoSeRecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        dim = config.hidden_dim
        self.item_emb = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)
        self.position_emb = nn.Embedding(catalog.max_len, dim)
        self.norm, self.drop = nn.LayerNorm(dim, eps=1e-12), Dropout(config.dropout)
        self.encoder = PostNormEncoder(
            dim=dim, inner_dim=config.inner_dim, n_layers=config.n_layers, n_heads=config.n_heads,
            dropout=config.dropout, attn_dropout=config.attn_dropout,
        )  # fmt: skip
        self.histories = catalog.histories
        self.register_buffer(
            "is_uniform", most_uniform(self.histories, config.uniform_share), persistent=False
        )
        self.is_uniform: Tensor
        self.similar = SimilarItems(catalog, config.neighbours)
        self.epoch = 1
        init_normal(self, std=0.02)  # row 0 too: padding starts at random

    @property
    def needs(self) -> Needs:
        # Views are as wide as the longest history of a step, which differs between the seeds of a stack.
        is_stackable = not self.config.contrast_weight
        return Needs(layout="fixed", samples=("last-window",), stackable=is_stackable, extras=(Negatives(),))

    @torch.no_grad()
    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        if self.config.neighbours != "offline" and epoch > self.config.online_warm_up:
            self.similar.ask(self.item_emb.weight)

    def encode(self, item_seq: Tensor, slot: Tensor | None = None) -> Tensor:
        """item_seq int64 [R, L], LEFT padded -> states [R, L, D], or [T, D] at the places `slot` of the flat [R L]."""
        causal = torch.ones(self.max_len, self.max_len, dtype=torch.bool, device=item_seq.device).tril()
        visible = (item_seq > 0)[:, None, :] & causal
        # One finite number added to all scores of a row changes nothing: without a visible key all are visible.
        visible = visible | ~visible.any(2, keepdim=True)
        x = self.item_emb(item_seq) + self.position_emb.weight
        return self.encoder(self.drop(self.norm(x)), visible, slot)

    def aligned(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The batch's histories left padded [R, L], and where its slots lie in them [T]."""
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
        """Two views of each row's user, left padded [2R, L]."""
        user = batch.user.new_zeros(len(batch.item_seq)).scatter(0, batch.slot // self.max_len, batch.user)
        items, gaps, length = self.history(user)
        alone, found = self.is_uniform[user], []
        for _ in range(2):
            view = augment(items, gaps, length, similar=self.similar(items), alone=alone, config=self.config)
            found.append(left_pad(*view, self.max_len))
        return torch.cat(found)

    def query(self, batch: Batch) -> Tensor:
        return self.encode(*self.aligned(batch))

    def item_table(self) -> Tensor:
        return self.item_emb.weight[1:]

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        config, terms = self.config, {}
        item_seq, slot = self.aligned(batch)
        if self.epoch > config.contrast_warm_up and config.contrast_weight:
            hidden = self.encode(torch.cat([item_seq, self.views(batch)]))
            own, a, b = hidden.flatten(1).chunk(3)  # each [R, L D]
            terms["nce"] = config.contrast_weight * nce(a, b, temperature=config.temperature)
            query = own.reshape(-1, config.hidden_dim).index_select(0, slot)
        else:
            query = self.encode(item_seq, slot)
        own_term = next_item("bce", query, self.item_table(), batch)
        return {"bce": own_term, **terms}
