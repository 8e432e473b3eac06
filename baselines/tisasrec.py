"""TiSASRec: Time Interval Aware Self-Attention for Sequential Recommendation. Li, Wang and McAuley, WSDM 2020,
doi 10.1145/3336191.3371786.  Official code: github.com/JiachengLi1995/TiSASRec (TensorFlow 1).

Causal self-attention over item ids in which every pair of events also has an interval code: their distance in time in
units of the user's shortest gap, cut at k. Codes and positions have vectors that are added to keys and values.
`network` selects the model: "bert-style" (default: toolbox ports), "official" (the authors' code) or
"paper" (the authors' network with the residuals as printed).

Axes: R rows, W width, H heads, D hidden, K = k + 1 interval codes, T targets, N items.
Follows: paper sec. 3.3 codes(), 3.4 relations(), 3.5 attend() and blocks, 3.6 query()/item_table(), 3.7 loss().
Differences: (1) the vectors of all pairs, [R, W, W, D], are never formed: queries meet the K rows of the table and
the codes pick from the products; weights are summed by code before they meet the value table. The numbers are the
same, but dropout acts on a row's copy of the table, where the code drops entries of each pair's vector. (2) A
user's unit is the shortest gap of all its training events; the code also looks at validation and test events. (3)
Distances are divided and rounded down; the code rounds points in time (`interval_rounding`). (4) Trained on all
positions in a single pass instead of a sample per prefix; equal in loss and gradient with dropout off (`samples =
"prefix"`). (5) Padding is neither a class nor a key and has no vectors: position 0 and code 0 are trained. (6)
official: users are shuffled, not drawn; the oldest kept item has position 0 (the authors pad on the left).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs
from mmbench.models.next_item import Loss, NextItem
from mmbench.models.transformer import TransformerConfig
from mmbench.nn.grouped import Linear
from mmbench.nn.layers import Dropout, dropout, init_normal, take_slots, zero_padding
from mmbench.settings.config import NonNegativeFloat, NonNegativeInt, Probability


@dataclass(frozen=True, kw_only=True)
class TiSASRecConfig(TransformerConfig):
    network: Literal["bert-style", "official", "paper"] = "bert-style"
    loss: Loss = "ce"
    time_span: NonNegativeInt  # k, the largest interval code
    interval_unit: Literal["personal", "second"] = "personal"  # "second": of a port without the personal unit
    interval_rounding: Literal["floor", "points"] = "floor"
    attn_dropout: Probability  # networks official and paper use `dropout` everywhere
    l2_emb: NonNegativeFloat = 0.0  # weighs the norms of all five tables
    l2_norm: Literal["squared", "plain"] = "squared"  # "plain": the PyTorch port's penalty


def personal_unit(catalog: Catalog) -> Tensor:
    """Return r_min, the shortest positive gap between training events of each user, int64 seconds [U], or 1."""
    events, none = catalog.histories, torch.iinfo(torch.int64).max
    counts = events.gaps > 0
    unit = torch.full((catalog.n_users,), none)
    unit.scatter_reduce_(0, events.users[counts], events.gaps[counts], "amin")
    return unit.masked_fill_(unit == none, 1)


def first_time(catalog: Catalog) -> Tensor:
    """Return the time of each user's first training event, int64 seconds [U]."""
    times = torch.full((catalog.n_users,), torch.iinfo(torch.int64).max)
    return times.scatter_reduce_(0, catalog.histories.users, catalog.train_times, "amin")


def users_of_events(batch: Batch) -> Tensor:
    """Return the user of each event, int64 [R, W], as its history's slots tell it; 0 for padding."""
    n_rows, width = batch.segment.shape
    row = torch.arange(n_rows, device=batch.segment.device)[:, None]
    history = row * (width + 1) + batch.segment
    user = batch.user.new_zeros(n_rows * (width + 1))
    user[history.flatten()[batch.slot]] = batch.user
    return user[history]


class Relations(NamedTuple):
    """The terms that a pair of events adds to the attention; layers share them, heads split their channels."""

    mask: Tensor  # bool [R, W, W], True = may look
    codes: Tensor  # int64 [R, W, W], 0..k
    position_key: Tensor  # [R, W, D]
    position_value: Tensor
    time_key: Tensor  # [R, K, D], or [1, K, D] without dropout
    time_value: Tensor


def attend(
    query: Tensor, key: Tensor, value: Tensor, relations: Relations, *, n_heads: int, drop: Dropout
) -> Tensor:
    """Return softmax_j(q_i . (k_j + P_K[j] + T_K[R_ij]) / sqrt(D/H)) (v_j + P_V[j] + T_V[R_ij]), all [R, W, D]."""
    n_rows, width, dim = query.shape

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)  # [R, H, W or K, D/H]

    q = heads(query) * (dim // n_heads) ** -0.5
    k, v = heads(key + relations.position_key), heads(value + relations.position_value)
    time_key, time_value = heads(relations.time_key), heads(relations.time_value)
    codes = relations.codes[:, None].expand(-1, n_heads, -1, -1)
    logits = q @ k.transpose(-1, -2) + (q @ time_key.transpose(-1, -2)).gather(-1, codes)
    weights = drop(logits.masked_fill(~relations.mask[:, None], -1e9).softmax(-1))  # [R, H, W, W]
    by_code = weights.new_zeros(n_rows, n_heads, width, time_value.shape[2])
    by_code = by_code.scatter_add(-1, codes, weights)  # [R, H, W, K]
    return (weights @ v + by_code @ time_value).transpose(1, 2).reshape(n_rows, width, dim)


class TimeAttention(nn.Module):
    """`mmbench.nn.layers.Attention` with relations; the parameters are the same."""

    def __init__(self, config: TiSASRecConfig) -> None:
        super().__init__()
        self.n_heads, self.drop = config.n_heads, Dropout(config.attn_dropout)
        self.qkv = Linear(config.hidden_dim, 3 * config.hidden_dim)
        self.out = Linear(config.hidden_dim, config.hidden_dim)

    def forward(self, x: Tensor, relations: Relations, slot: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        mixed: Tensor = self.out(
            take_slots(attend(q, k, v, relations, n_heads=self.n_heads, drop=self.drop), slot)
        )
        return mixed


class PostNormTimeBlock(nn.Module):
    """x = LN(x + drop(attention)); x = LN(x + drop(ffn)), as SASRec's default."""

    def __init__(self, config: TiSASRecConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.attention, self.drop = TimeAttention(config), Dropout(config.dropout)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-12), nn.LayerNorm(dim, eps=1e-12)
        self.up, self.down = Linear(dim, config.inner_dim), Linear(config.inner_dim, dim)

    def forward(self, x: Tensor, relations: Relations, slot: Tensor | None = None) -> Tensor:
        """Return the next layer's x [R, W, D], or [T, D] at `slot` [T] only."""
        x = self.norm1(take_slots(x, slot) + self.drop(self.attention(x, relations, slot)))
        return self.norm2(x + self.drop(self.down(F.gelu(self.up(x)))))


class PreNormTimeBlock(nn.Module):
    """The authors' block, without an output map.

    official: q = LN(x);  y = LN(q + attention(q, x, x));  y + drop(ffn(y))
    paper:    q = LN(x);  y = x + drop(attention(q, q, q));  y + drop(ffn(LN(y)))
    """

    def __init__(self, config: TiSASRecConfig) -> None:
        super().__init__()
        dim, self.n_heads, self.is_paper = config.hidden_dim, config.n_heads, config.network == "paper"
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-8), nn.LayerNorm(dim, eps=1e-8)
        self.query, self.key, self.value = Linear(dim, dim), Linear(dim, dim), Linear(dim, dim)
        self.up, self.down = Linear(dim, config.inner_dim), Linear(config.inner_dim, dim)
        self.drop = Dropout(config.dropout)

    def forward(self, x: Tensor, relations: Relations, slot: Tensor | None = None) -> Tensor:
        """Return the next layer's x [R, W, D], or [T, D] at `slot` [T] only."""
        normed = self.norm1(x)
        read, base = (normed, x) if self.is_paper else (x, normed)
        q, k, v = self.query(normed), self.key(read), self.value(read)
        mixed = take_slots(attend(q, k, v, relations, n_heads=self.n_heads, drop=self.drop), slot)
        y = take_slots(base, slot) + (self.drop(mixed) if self.is_paper else mixed)
        z = self.norm2(y)
        return (y if self.is_paper else z) + self.drop(self.down(self.drop(F.relu(self.up(z)))))


class TiSASRec(Recommender[TiSASRecConfig]):
    time_shift = True
    unit: Tensor
    first_time: Tensor

    def __init__(self, config: TiSASRecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        dim, self.is_bert_style = config.hidden_dim, config.network == "bert-style"
        self.item_emb = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)
        self.position_key, self.position_value = (nn.Embedding(catalog.max_len, dim) for _ in range(2))
        self.time_key, self.time_value = (nn.Embedding(config.time_span + 1, dim) for _ in range(2))
        self.drop = Dropout(config.dropout)
        # Normalises the input in the bert style, else the output.
        self.norm = nn.LayerNorm(dim, eps=1e-12 if self.is_bert_style else 1e-8)
        block = PostNormTimeBlock if self.is_bert_style else PreNormTimeBlock
        self.blocks = nn.ModuleList(block(config) for _ in range(config.n_layers))
        if config.interval_unit == "personal":
            self.register_buffer("unit", personal_unit(catalog))
        if config.interval_rounding == "points":
            self.register_buffer("first_time", first_time(catalog))
        self.next_item = NextItem(config.loss, config, catalog)
        self._init_weights()

    def _init_weights(self) -> None:
        init_normal(self, std=0.02)
        if not self.is_bert_style:
            for parameter in self.parameters():
                if parameter.dim() == 2:
                    nn.init.xavier_uniform_(parameter)
        zero_padding(self.item_emb)

    @property
    def needs(self) -> Needs:
        return Needs(samples=("all", "prefix", "last-window"), extras=self.next_item.extras)

    def codes(self, batch: Batch) -> Tensor:
        """Return R_ij = min(floor(|t_i - t_j| / r_min), k), int64 [R, W, W]; arbitrary between different histories."""
        config, times, user = self.config, batch.time_seq, users_of_events(batch)
        unit = self.unit[user] if config.interval_unit == "personal" else torch.ones_like(times)
        if config.interval_rounding == "points":  # float64 holds seconds exactly
            times = ((times - self.first_time[user]).double() / unit).round().long()
            unit = torch.ones_like(times)
        distance = (times[:, :, None] - times[:, None, :]).abs()
        return (distance // unit[:, :, None]).clamp(max=config.time_span)

    def relations(self, batch: Batch) -> Relations:
        def row_tables(table: nn.Embedding) -> Tensor:
            """Return a copy of the table for each row of the batch, with separate dropout, [R or 1, K, D]."""
            n_copies = len(batch.item_seq) if self.training and self.config.dropout else 1
            return dropout(table.weight.expand(n_copies, -1, -1), self.config.dropout, self.training)

        return Relations(
            mask=batch.attention_mask(causal=True),
            codes=self.codes(batch),
            position_key=self.drop(self.position_key(batch.position)),
            position_value=self.drop(self.position_value(batch.position)),
            time_key=row_tables(self.time_key),
            time_value=row_tables(self.time_value),
        )

    def encode(self, batch: Batch, slot: Tensor | None = None) -> Tensor:
        """Return the states of all positions [R, W, D], or only those at `slot` (flat in [R W]), [T, D]."""
        x, relations = self.item_emb(batch.item_seq), self.relations(batch)
        x = self.drop(self.norm(x) if self.is_bert_style else x * self.config.hidden_dim**0.5)
        for block in self.blocks[:-1]:
            x = block(x, relations)
        x = self.blocks[-1](x, relations, slot)
        return x if self.is_bert_style else self.norm(x)

    def query(self, batch: Batch) -> Tensor:
        return self.encode(batch, batch.slot)

    def item_table(self) -> Tensor:
        return self.item_emb.weight[1:]

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {
            self.config.loss: self.next_item(self.query(batch), self.item_table(), batch)
        }
        if self.config.l2_emb:
            tables = (self.item_emb, self.position_key, self.position_value, self.time_key, self.time_value)
            norms = torch.stack([table.weight.square().sum() for table in tables])
            penalty = (norms if self.config.l2_norm == "squared" else norms.sqrt()).sum()
            terms["l2"] = self.config.l2_emb * penalty
        return terms
