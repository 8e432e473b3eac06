"""FEARec: Frequency Enhanced Hybrid Attention Network for Sequential Recommendation. Du, Yuan, Zhao, Qu, Zhuang, Liu,
Sheng, SIGIR 2023, arXiv:2304.09184.  Official code: github.com/sudaada/FEARec (a RecBole fork).

SASRec's network with another attention core. Its first branch finds, by the circular auto-correlation of queries and
keys, the few lags at which a history resembles itself, and sums the values shifted by these lags; its second branch is
ordinary causal attention. Each layer reads a band of frequencies, the first layer the highest. The state of a prefix is
pulled to the state of another prefix with the same target. Not causal: lags wrap around, so events read later events.

Axes: R rows, W width (= max_len), M = W // 2 + 1 frequency bins, D hidden, T targets, N items.
Follows: ramp() the frequency ramp; HybridAttention the two branches and their mix; loss() cross entropy, contrastive
terms and the frequency regulariser.
Differences from the paper (P) and the official code (C):
(1) The regulariser is part of P, off in C's script and here: `freq_weight = 0.1` (variant `regularised`).
(2) P mixes by gamma; as in C, `spatial_ratio` multiplies the TIME branch.
(3) Training takes the lags with the largest mean over the batch, evaluation those of each history (C).
(4) Padding takes part in the frequency branch with its position vectors and a random row of the table (C), so states
    depend on max_len; `zero_padding` keeps it out (variant `zero-padding`).
(5) The padding id is not a class of the softmax, so that row is never trained; in C it is, as a class only.
(6) Two different prefixes are drawn for each target, and the first that is not the prefix itself is used: uniform over
    the others, like C's list, but without a list. A window of the same user with equal items and times is the same
    prefix.
(7) RecBole's default settings leave out the time branch, the ramp and the contrastive term: variant `recbole`.
(8) C fails with a single layer or an odd max_len; here a single layer reads all frequencies.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs
from mmbench.models.next_item import Loss, NextItem
from mmbench.models.transformer import TransformerConfig
from mmbench.nn.layers import (
    Attention,
    Dropout,
    init_normal,
    rows_at,
    take_slots,
)
from mmbench.nn.losses import nce
from mmbench.settings.config import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt

# States that a contrastive term compares: h, its second pass h', the pass h_s of a prefix with the same target.
ENDS = {"un": ("h", "h'"), "su": ("h", "h_s"), "us_x": ("h'", "h_s")}
PAIRS = {"none": (), "un": ("un",), "su": ("su",), "us": ("un", "su"), "us_x": ("us_x",)}


@dataclass(frozen=True, kw_only=True)
class FEARecConfig(TransformerConfig):
    loss: Loss = "ce"
    global_ratio: Fraction  # alpha: share of the frequencies that a layer reads
    topk_factor: PositiveInt  # int(topk_factor ln W) lags are kept
    dual_domain: bool  # False: frequency branch only
    filter_time: bool  # the code's `std`: the time branch reads the layer's band too
    spatial_ratio: Fraction  # weight of the time branch
    contrast: Literal["none", "un", "su", "us", "us_x"]  # pairs: (h, h'), (h, h_s), both, (h', h_s)
    similarity: Literal["dot", "cos"]
    temperature: PositiveFloat
    un_weight: NonNegativeFloat  # lambda of (h, h'); not used by us_x
    su_weight: NonNegativeFloat  # lambda of the pairs with h_s
    freq_weight: NonNegativeFloat
    freq_pairs: Literal["un", "su", "us", "us_x"] = "us_x"
    zero_padding: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freq_weight and self.contrast != "us_x":
            raise ValueError(f"freq_weight belongs to contrast = 'us_x' (got {self.contrast!r})")


def ramp(n_layers: int, n_bins: int, ratio: float) -> list[tuple[int, int]]:
    """Return [left, right) of each layer's frequency bins; layer 0 has the highest, the last layer the lowest."""
    if ratio > 1 / n_layers:
        share, step = ratio, float(math.floor(n_bins * (1 - ratio) / (n_layers - 1)))
    else:
        share, step = 1 / n_layers, n_bins / n_layers
    return [(int(n_bins * (1 - share) - i * step), int(n_bins - i * step)) for i in range(n_layers)]


class _Circulant(torch.autograd.Function):
    """Matrices [R, W, W] whose entry (t, s) is that of values [R, W] at the lag from t to s, around the circle.

    `_LagSums` is its adjoint: each is the other's derivative. lag and ahead are the buffers of `HybridAttention`.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, lag: Tensor, ahead: Tensor) -> Tensor:
        n_rows, width = values.shape
        return values.index_select(1, lag).view(n_rows, width, width)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return _LagSums.apply(grads[0], *ctx.saved_tensors), None, None


class _LagSums(torch.autograd.Function):
    """Sums [R, W] of matrices [R, W, W] over the entries (t, s) of each lag."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrices: Tensor, lag: Tensor, ahead: Tensor) -> Tensor:
        return matrices.flatten(1).index_select(1, ahead).view(matrices.shape).sum(2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return _Circulant.apply(grads[0], *ctx.saved_tensors), None, None


class HybridAttention(Attention):
    """Auto-correlation (frequency branch) and attention (time branch) over a band of frequencies."""

    band: Tensor
    lag: Tensor
    ahead: Tensor

    def __init__(self, config: FEARecConfig, *, width: int, bins: tuple[int, int]) -> None:
        super().__init__(config.hidden_dim, config.n_heads, config.attn_dropout)
        self.config = config
        self.n_lags = min(max(int(config.topk_factor * math.log(width)), 1), width)
        band = torch.zeros(width // 2 + 1)
        band[slice(*bins)] = 1.0
        time = torch.arange(width)
        self.register_buffer("band", band, persistent=False)  # [M]
        # lag[t, s] is the tau with t + tau = s around the circle; ahead[tau, t] the flat index of (t, t + tau).
        self.register_buffer("lag", ((time - time[:, None]) % width).flatten(), persistent=False)
        ahead = time * width + (time + time[:, None]) % width
        self.register_buffer("ahead", ahead.flatten(), persistent=False)

    def forward(self, x: Tensor, mask: Tensor, slot: Tensor | None = None) -> Tensor:
        """Mix x [R, W, D] under mask bool [R, W, W]: [R, W, D], or [T, D] at `slot` [T] (flat in [R W])."""
        config, dim = self.config, x.shape[2]
        qkv = self.qkv(x)
        if config.zero_padding:  # real items see themselves, padding does not
            qkv = qkv * mask.diagonal(dim1=1, dim2=2)[..., None]
        query, key, value = qkv.split(dim, dim=2)
        project = self.projection()
        mixed = self.by_lag(self.correlation(query, key) @ project, value, slot)
        if config.dual_domain:
            time = self.by_time(qkv, mask, slot, project if config.filter_time else None)
            mixed = (1 - config.spatial_ratio) * mixed + config.spatial_ratio * time
        return self.out(mixed)

    def projection(self) -> Tensor:
        """Return the symmetric [W, W] that maps a signal to the layer's band, irfft(band * rfft(signal))."""
        width = math.isqrt(len(self.lag))
        unit = torch.eye(width, dtype=self.band.dtype, device=self.band.device)
        return torch.fft.irfft(self.band[:, None] * torch.fft.rfft(unit, dim=0), n=width, dim=0)

    def correlation(self, query: Tensor, key: Tensor) -> Tensor:
        """Return r [R, W] of query, key [R, W, D]: the channel mean of sum_t query[t + tau] key[t], around the circle.

        It equals irfft(mean(rfft(query) * conj(rfft(key)))), without the complex arrays. Its band is the correlation of
        the bands.
        """
        sums: Tensor = _LagSums.apply(key @ query.transpose(1, 2), self.lag, self.ahead)
        return sums / query.shape[2]

    def by_time(self, qkv: Tensor, mask: Tensor, slot: Tensor | None, project: Tensor | None) -> Tensor:
        """Return ordinary attention; `project`, if given, first maps queries, keys and values to the layer's band."""
        if project is None:
            return self.mix(qkv, mask, slot)
        if slot is None or len(slot) > len(qkv):
            return self.mix(project @ qkv, mask, slot)
        width, dim = qkv.shape[1], qkv.shape[2] // 3
        query, key_value = qkv.split((dim, 2 * dim), dim=2)
        at_slots = project[slot % width][:, None] @ rows_at(query, slot // width)  # [T, 1, D]
        return self.attend_once(at_slots.squeeze(1), key_value, mask, slot, project)

    def by_lag(self, r: Tensor, value: Tensor, slot: Tensor | None = None) -> Tensor:
        """Return the sum over the chosen lags of softmax(r) * value shifted left by the lag.

        r [R, W], value [R, W, D] -> [R, W, D], or [T, D] at `slot` only.
        """
        ranked = r.mean(0, keepdim=True) if self.training else r
        chosen = ranked.topk(self.n_lags, dim=1).indices.expand(len(r), -1)
        weight = torch.zeros_like(r).scatter(1, chosen, r.gather(1, chosen).softmax(1))  # [R, W], by lag
        n_rows, width = r.shape
        if slot is None or len(slot) > n_rows:
            return take_slots(_Circulant.apply(weight, self.lag, self.ahead) @ value, slot)
        row, column = slot // width, slot % width
        lag = self.lag.view(width, width)[column]  # [T, W]
        return (rows_at(weight, row).gather(1, lag)[:, None] @ rows_at(value, row)).squeeze(1)


class SameTarget(nn.Module):
    """Draws, for training prefixes, other training prefixes that have the same target."""

    pool: Tensor  # int64, every event that is a target, sorted by its item
    offsets: Tensor  # int64 [N + 2], item i is the target of events pool[offsets[i]:offsets[i + 1]]

    def __init__(self, catalog: Catalog) -> None:
        super().__init__()
        self.histories = catalog.histories
        items, targets = catalog.train_items, self.histories.has_previous.nonzero()[:, 0]
        count = torch.bincount(items[targets], minlength=catalog.n_items + 1)
        pool = targets[items[targets].argsort(stable=True)]
        self.register_buffer("pool", pool, persistent=False)
        self.register_buffer("offsets", torch.cat([count.new_zeros(1), count.cumsum(0)]), persistent=False)

    def window(self, event: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the prefixes before events [T]: items and times [T, W], right padded by 0, and the last column [T]."""
        index, real = self.histories.before(event, width)
        items, times = self.histories.items[index], self.histories.times[index]
        return torch.where(real, items, 0), torch.where(real, times, 0), real.sum(1) - 1

    def draw(self, batch: TrainBatch) -> tuple[Tensor, Tensor]:
        """Draw a prefix for each slot: items int64 [T, W] and last column [T]; the slot's prefix if no other exists."""
        width = batch.item_seq.shape[1]
        row, last = batch.slot // width, batch.slot % width
        start = self.offsets[batch.target]
        count = self.offsets[batch.target + 1] - start
        uniform = torch.rand(2, len(count), dtype=torch.float64, device=count.device)
        first = (uniform[0] * count).long()
        second = (first + 1 + (uniform[1] * (count - 1)).long()) % count.clamp(min=1)
        has_other = count > 1
        event = torch.where(has_other, self.pool[torch.where(has_other, start + first, 0)], self.pool[0])
        items, times, _ = self.window(event, width)
        same = (items == batch.item_seq[row]) & (times == batch.time_seq[row])
        is_itself = (self.histories.users[event] == batch.user) & same.all(1)
        event = torch.where(
            is_itself & has_other, self.pool[torch.where(has_other, start + second, 0)], event
        )
        items, _, drawn_last = self.window(event, width)
        items = torch.where(has_other[:, None], items, batch.item_seq[row])
        return items, torch.where(has_other, drawn_last, last)


def spectral_gap(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean modulus of the difference of the spectra over FEATURES of a and b [T, D], a scalar."""
    return torch.fft.rfft(a - b, dim=1, norm="ortho").abs().mean()


class FEARec(Recommender[FEARecConfig]):
    def __init__(self, config: FEARecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.next_item = NextItem(config.loss, config, catalog)
        dim, width = config.hidden_dim, catalog.max_len
        self.item_emb = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)
        self.position_emb = nn.Embedding(width, dim)
        self.norm, self.drop = nn.LayerNorm(dim, eps=1e-12), Dropout(config.dropout)
        self.encoder = config.encoder()
        bands = ramp(config.n_layers, width // 2 + 1, config.global_ratio)
        for block, bins in zip(self.encoder.blocks, bands, strict=True):
            block.attention = HybridAttention(config, width=width, bins=bins)
        if config.contrast in ("su", "us", "us_x"):
            self.same_target = SameTarget(catalog)
        init_normal(self, std=0.02)  # row 0 too: padding is random and never trained

    @property
    def needs(self) -> Needs:
        return Needs(layout="fixed", samples=("prefix",), causal=False, extras=self.next_item.extras)

    def encode(self, item_seq: Tensor, slot: Tensor | None = None) -> Tensor:
        """Return states [R, W, D], or [T, D] at `slot` (flat in [R W]), of right-padded item_seq int64 [R, W]."""
        real = item_seq > 0
        causal = torch.ones(self.max_len, self.max_len, dtype=torch.bool, device=real.device).tril()
        x = self.item_emb(item_seq) + self.position_emb.weight
        return self.encoder(self.drop(self.norm(x)), real[:, None, :] & causal, slot)

    def query(self, batch: Batch) -> Tensor:
        return self.encode(batch.item_seq, batch.slot)

    def item_table(self) -> Tensor:
        return self.item_emb.weight[1:]

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        config, h = self.config, self.query(batch)
        terms: dict[str, Tensor] = {config.loss: self.next_item(h, self.item_table(), batch)}
        state = {"h": h}
        if config.contrast in ("un", "us", "us_x"):
            state["h'"] = self.query(batch)  # other dropout
        if config.contrast in ("su", "us", "us_x"):
            items, last = self.same_target.draw(batch)
            first = torch.arange(len(items), device=items.device) * items.shape[1]
            state["h_s"] = self.encode(items, first + last)
        weight = {"un": config.un_weight, "su": config.su_weight, "us_x": config.su_weight}
        for kind in PAIRS[config.contrast]:
            a, b = (state[name] for name in ENDS[kind])
            value = nce(a, b, temperature=config.temperature, similarity=config.similarity)
            terms[kind] = weight[kind] * value
        if config.freq_weight:
            gaps = [spectral_gap(*(state[name] for name in ENDS[kind])) for kind in PAIRS[config.freq_pairs]]
            terms["freq"] = config.freq_weight * torch.stack(gaps).sum()
        return terms
