"""TiCoSeRec: Uniform Sequence Better: Time Interval Aware Data Augmentation for Sequential Recommendation. Dang,
Yang, Guo, Jiang, Wang, Xu, Sun, Liu, AAAI 2023, arXiv:2212.08262.
Official code: github.com/KingGugu/TiCoSeRec@302b295; slips of earlier commits are in ticoserec_released.py.

SASRec with a contrastive term: two views of a user's training history, each changed by one of five operations that look
at the gaps between its events, shall have similar states. Operations crop, reorder, mask, substitute or insert where
that makes the gaps more even. Times act on the views only; encoder and score read item ids.

Axes: R rows (one user each), W width of the histories, L max_len, D hidden, T targets, N items, U users.
Follows: the five operations crop(), reorder(), mask(), substitute() and insert(), one of them drawn in augment();
users with even gaps most_uniform(); similar items SimilarItems(); the network encode(), its two terms loss().
Differences that matter (ticoserec.toml lists all, with their switches):
(1) users that are not augmented: those with the most even gaps, as the paper says; the code compares row numbers of a
    sorted file with user ids.
(2) items beside the largest and smallest gaps: substitute, insert and mask act on them; the code used ranks in the
    sorted list as places until 2023-04-02, and so acted on other items (variant as-released).
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
from mmbench.models.next_item import Loss, NextItem, Sampling
from mmbench.nn.histories import TrainHistories
from mmbench.nn.layers import Dropout, PostNormEncoder, check_heads, init_normal
from mmbench.nn.losses import nce
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
class TiCoSeRecConfig(Sampling):
    loss: Loss = "bce"
    hidden_dim: PositiveInt
    inner_dim: PositiveInt
    n_layers: PositiveInt
    n_heads: PositiveInt
    dropout: Probability
    attn_dropout: Probability
    crop_rate: Fraction
    reorder_rate: Fraction
    mask_rate: Fraction
    substitute_rate: Fraction
    insert_rate: Fraction
    mask_mode: Literal["random", "maximum", "minimum"]
    short_length: NonNegativeInt  # histories up to here are substituted, inserted into or masked only
    uniform_share: Fraction  # users with the most even gaps, whose views are the history itself
    neighbours: Literal["offline", "hybrid"]
    temperature: PositiveFloat
    contrast_weight: NonNegativeFloat
    contrast_warm_up: NonNegativeInt  # epochs without the contrastive term
    online_warm_up: NonNegativeInt  # epochs before item embeddings may name similar items

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.hidden_dim, self.n_heads)


# -- operations: items int64 [R, W] (oldest first, right padded by 0), length int64 [R], gaps int64 [R, W] -----------


def share(rate: float, length: Tensor) -> Tensor:
    """Return int(rate * length), int64 [R]."""
    return (rate * length.double()).long()


def sorted_places(values: Tensor, length: Tensor, *, largest: bool) -> Tensor:
    """Return the places of each history in the order of their values, real ones first, of equal ones the older; [R, W].

    values [R, W], the largest (smallest) first.
    """
    place = torch.arange(values.shape[1], device=values.device)
    keys = -values.double() if largest else values.double()
    return keys.masked_fill(place >= length[:, None], float("inf")).argsort(dim=1, stable=True)


def chosen_places(values: Tensor, length: Tensor, count: Tensor, *, largest: bool) -> Tensor:
    """Return bool [R, W]: the `count` [R] real places with the largest (smallest) values; of equal ones the older."""
    order = sorted_places(values, length, largest=largest)
    rank = torch.arange(values.shape[1], device=values.device).expand_as(order)
    return torch.zeros_like(order).scatter(1, order, rank) < count[:, None]


Choose = Callable[..., Tensor]  # `chosen_places`, or what released code has in its place


def best_window(gaps: Tensor, length: Tensor, width: Tensor) -> Tensor:
    """Return the start [R] of the window of `width` [R] items with the smallest variance of gaps, the latest of equals.

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
    items: Tensor, gaps: Tensor, length: Tensor, rate: float, mode: str, choose: Choose = chosen_places
) -> tuple[Tensor, Tensor]:
    """Ti-Mask: int(rate * length) items become padding: any, or those with the largest or smallest gap after them."""
    count = share(rate, length)
    if mode == "random":
        hidden = chosen_places(torch.rand(items.shape, device=items.device), length, count, largest=False)
    else:
        hidden = choose(gaps, length, count, largest=mode == "maximum")
    return items.masked_fill(hidden, 0), length


def substitute(
    items: Tensor, gaps: Tensor, length: Tensor, rate: float, similar: Tensor, choose: Choose = chosen_places
) -> tuple[Tensor, Tensor]:
    """Ti-Substitute: the items with the smallest gaps after them become `similar` [R, W]; a single item stays."""
    count = share(rate, length).clamp(min=1).masked_fill(length < 2, 0)
    return torch.where(choose(gaps, length, count, largest=False), similar, items), length


def insert(
    items: Tensor, gaps: Tensor, length: Tensor, rate: float, similar: Tensor, choose: Choose = chosen_places
) -> tuple[Tensor, Tensor]:
    """Ti-Insert: after each of the items with the largest gaps, one `similar` [R, W] item -> items [R, 2W]."""
    count = share(rate, length).clamp(min=1).minimum(length)
    after = choose(gaps, length, count, largest=True)
    width = items.shape[1]
    place = torch.arange(width, device=items.device) + after.cumsum(1) - after.long()  # where each item goes
    out = items.new_zeros(len(items), 2 * width + 1).scatter(1, place, items)
    out.scatter_(1, torch.where(after, place + 1, 2 * width), torch.where(after, similar, 0))
    return out[:, :-1], length + count


def left_pad(items: Tensor, length: Tensor, max_len: int) -> Tensor:
    """Return the newest `max_len` items of each history at the right end of [R, max_len]."""
    index = torch.arange(max_len, device=items.device) - max_len + length[:, None]
    return items.gather(1, index.clamp(0, items.shape[1] - 1)).masked_fill(index < 0, 0)


def augment(
    items: Tensor,
    gaps: Tensor,
    length: Tensor,
    *,
    similar: Tensor,
    alone: Tensor,
    config: TiCoSeRecConfig,
    choose: Choose = chosen_places,
) -> tuple[Tensor, Tensor]:
    """Return one view: each history changed by one operation, drawn for it; `alone` bool [R] stay as they are."""
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
    drawn = torch.where(alone, len(results) - 1, drawn)
    views = torch.stack([F.pad(view, (0, 2 * items.shape[1] - view.shape[1])) for view, _ in results])
    row = torch.arange(len(items), device=items.device)
    return views[drawn, row], torch.stack([lengths for _, lengths in results])[drawn, row]


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
    """The most similar item of each item: by common users (offline) and, once asked, by item embeddings (online).

    Where both name one, the larger of the two min-max normalised similarities decides.
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
        """Return similarities [N+1], the smallest and largest of which are known, on a scale from 0 to 1."""
        return (value - low) / (high - low).clamp(min=1e-12)

    def score_online(self, value: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return self.score_offline(value, low, high)

    def ask(self, table: Tensor) -> None:
        """Take the online neighbour, by dot products of `table` [N+1, D], where its score is higher."""
        item, value, low = most_similar(lambda start, stop: table[start:stop] @ table.T, self.n_items)
        score = self.score_online(value, low, value.max())
        keep = (self.offline_score >= score) & (self.offline > 0)
        self.current = torch.where(keep, self.offline, item)

    def forward(self, items: Tensor) -> Tensor:
        """items int64 [...] -> a similar one of each, uniform over the catalogue where none is known."""
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
        self.encoder = PostNormEncoder(
            dim=dim, inner_dim=config.inner_dim, n_layers=config.n_layers, n_heads=config.n_heads,
            dropout=config.dropout, attn_dropout=config.attn_dropout,
        )  # fmt: skip
        self.histories = catalog.histories
        self.register_buffer(
            "is_uniform", most_uniform(self.histories, config.uniform_share), persistent=False
        )
        self.similar = self.make_similar(catalog)
        self.epoch = 1
        init_normal(self, std=0.02)  # row 0 too: padding starts at random

    @property
    def choose(self) -> Choose:
        """How the items beside the largest or smallest gaps are found."""
        return chosen_places

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
        """Return the batch's histories left padded [R, L], and where its slots lie in them [T]."""
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
                *history, similar=self.similar(history[0]), alone=self.is_uniform[user], config=self.config,
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
            own, a, b = hidden.flatten(1).chunk(3)  # each [R, L D]
            terms["nce"] = config.contrast_weight * nce(a, b, temperature=config.temperature)
            query = own.reshape(-1, config.hidden_dim).index_select(0, slot)
        else:
            query = self.encode(item_seq, slot)
        return {config.loss: self.next_item(query, self.item_table(), batch), **terms}
