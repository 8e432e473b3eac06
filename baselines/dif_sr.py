"""DIF-SR: Decoupled Side Information Fusion for Sequential Recommendation. Xie, Zhou, Kim, SIGIR 2022,
arXiv:2204.11046.  Official code: github.com/AIM-SE/DIF-SR @ b600052 (class SASRecD in a RecBole fork).

Ids, categories and positions each have attention scores of their own, which a fusion combines. Values come from the ids
alone. A second loss predicts the categories of the next item.

Axes: R rows, W width, H heads, Q queries, D hidden, A width of an attribute, C categories, T targets, N items.
Follows: paper sec. 3.3: Streams the inputs of attention, DecoupledAttention the scores of each stream, SumFusion,
ConcatFusion and GateFusion their fusion; sec. 3.4: query()/item_table() the score, loss() cross entropy and
the attribute loss.
Three differences matter, the recipe lists all: (1) The released code never trains the categories' vectors, N(0, 1) at
the start; here they are trained (`attributes`). (2) Concat and gate read whole rows of scores, later events and padding
too, as in the code, so they are trained on a row per prefix; `fusion_input = "masked"` hides those scores, and then
a single pass trains all positions of a history, as with sum. (3) The attribute loss is a mean over categories, as in
the code; the paper's is a sum.
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
from mmbench.nn.categories import CategorySets, CategoryTable
from mmbench.nn.grouped import Linear
from mmbench.nn.layers import Dropout, hide, init_normal, take_slots
from mmbench.nn.losses import wide
from mmbench.nn.parts import in_parts
from mmbench.settings.config import NonNegativeFloat, PositiveInt

EPS = 1e-12


@dataclass(frozen=True, kw_only=True)
class DIFSRConfig(TransformerConfig):
    loss: Loss = "ce"
    attribute_dim: PositiveInt
    fusion: Literal["sum", "concat", "gate"]
    fusion_input: Literal["raw", "masked"]  # selects what concat and gate read
    pooling: Literal["sum", "mean"]  # combines the vectors of an item's categories
    attribute_weight: NonNegativeFloat  # lambda
    attributes: Literal["trained", "frozen"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attribute_dim % self.n_heads:
            raise ValueError(f"attribute_dim {self.attribute_dim} is not divisible by n_heads {self.n_heads}")


class Streams(NamedTuple):
    """The inputs of attention, in the order of the paper's stack. B is R, or 1 if all rows share them."""

    attribute: Tensor  # [R, W, A]
    item: Tensor  # [R, W, D]
    position: Tensor  # [B, W, D]

    def at_slots(self, slot: Tensor) -> "Streams":
        """Return the events at `slot` [T] (flat in [R W]) as separate rows, [T, 1, ..]."""
        width = self.item.shape[1]
        rows = [F.embedding(slot % width, x[0]) if len(x) == 1 else take_slots(x, slot) for x in self]
        return Streams(*(x[:, None] for x in rows))

    def of_rows(self, row: Tensor) -> "Streams":
        """Return the streams of the rows `row` [T], [T, W, ..]."""
        return Streams(*(x if len(x) == 1 else x.index_select(0, row) for x in self))


class SumFusion(nn.Module):
    """S_attribute + S_item + S_position, as a single product of concatenated queries and keys."""

    def forward(self, queries: list[Tensor], keys: list[Tensor], seen: Tensor | None) -> Tensor:
        """Return the scores [R, H, Q, W] of each stream's queries [B, H, Q, ..] and keys [B, H, W, ..]."""

        def side_by_side(parts: list[Tensor]) -> Tensor:
            n_rows = max(len(x) for x in parts)
            return torch.cat([x.expand(n_rows, -1, -1, -1) for x in parts], -1)

        return side_by_side(queries) @ side_by_side(keys).mT


class ConcatFusion(nn.Module):
    """A linear map of the concatenated rows of scores of all streams."""

    def __init__(self, n_positions: int) -> None:
        super().__init__()
        self.concat = nn.Linear(3 * n_positions, n_positions)

    def forward(self, queries: list[Tensor], keys: list[Tensor], seen: Tensor | None) -> Tensor:
        """Return scores as SumFusion does; `seen` [R, 1, Q, W] is 1 for visible keys, or None. W <= `n_positions`."""
        scores = scores_of(queries, keys, seen)
        width, n_positions = scores[0].shape[-1], self.concat.out_features
        maps = self.concat.weight[:width].split(n_positions, 1)
        mapped = [F.linear(s, weight[:, :width]) for s, weight in zip(scores, maps, strict=True)]
        return mapped[0] + mapped[1] + mapped[2] + self.concat.bias[:width]


class GateFusion(nn.Module):
    """A weighted mean of the streams' scores; the weights are a softmax of w2 relu(W1 row + b1) + b2."""

    def __init__(self, n_positions: int) -> None:
        super().__init__()
        self.inner, self.energy = nn.Linear(n_positions, n_positions), nn.Linear(n_positions, 1)

    def forward(self, queries: list[Tensor], keys: list[Tensor], seen: Tensor | None) -> Tensor:
        """Return scores as ConcatFusion does."""
        scores = scores_of(queries, keys, seen)
        weight = self.inner.weight[:, : scores[0].shape[-1]]
        energies = [self.energy(F.relu(F.linear(s, weight, self.inner.bias))) for s in scores]
        shares = torch.cat(torch.broadcast_tensors(*energies), -1).softmax(-1)[..., None, :]
        mixed = [s * shares[..., k] for k, s in enumerate(scores)]
        return mixed[0] + mixed[1] + mixed[2]


def scores_of(queries: list[Tensor], keys: list[Tensor], seen: Tensor | None) -> list[Tensor]:
    """Return the scores of each stream, [B, H, Q, W]; 0 where nothing may be `seen`."""
    scores = [q @ k.mT for q, k in zip(queries, keys, strict=True)]
    return scores if seen is None else [s * seen for s in scores]


class DecoupledAttention(nn.Module):
    """softmax(Fuse(scores of attributes, ids, positions) / sqrt(D / H)) over the values of the ids."""

    def __init__(self, config: DIFSRConfig, n_positions: int) -> None:
        super().__init__()
        dim, self.n_heads, self.drop = config.hidden_dim, config.n_heads, Dropout(config.attn_dropout)
        widths = (config.attribute_dim, dim, dim)
        self.query = nn.ModuleList(Linear(n, n) for n in widths)
        self.key = nn.ModuleList(Linear(n, n) for n in widths)
        self.value, self.out = Linear(dim, dim), Linear(dim, dim)
        self.is_masked = config.fusion_input == "masked"
        fusions = {"concat": ConcatFusion, "gate": GateFusion}
        self.fusion = fusions[config.fusion](n_positions) if config.fusion in fusions else SumFusion()

    def heads(self, x: Tensor) -> Tensor:
        """Split x [.., Q, D] into heads, [.., H, Q, D / H]."""
        return x.unflatten(-1, (self.n_heads, -1)).transpose(-2, -3)

    def forward(self, asked: Streams, read: Streams, mask: Tensor) -> Tensor:
        """Return what queries [R, Q, ..] read from keys [R, W, ..] under mask bool [R, Q, W], [R, Q, D]."""
        queries = [self.heads(project(x)) for project, x in zip(self.query, asked, strict=True)]
        keys = [self.heads(project(x)) for project, x in zip(self.key, read, strict=True)]
        value = self.heads(self.value(read.item))
        # Half precision would not do: unscaled scores are large and their gates steep.
        with torch.autocast(value.device.type, enabled=False):
            seen = mask[:, None].to(queries[0].dtype) if self.is_masked else None
            scores = self.fusion([wide(q) for q in queries], [wide(k) for k in keys], seen)
            weights = hide(scores * value.shape[-1] ** -0.5, mask).softmax(-1)
        mixed = self.drop(weights) @ value
        out: Tensor = self.out(mixed.transpose(-2, -3).flatten(-2))
        return out


class DecoupledBlock(nn.Module):
    """x = LN(x + drop(attention)); x = LN(x + drop(ffn)), where x is the stream of ids."""

    def __init__(self, config: DIFSRConfig, n_positions: int) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.attention = DecoupledAttention(config, n_positions)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=EPS), nn.LayerNorm(dim, eps=EPS)
        self.up, self.down = Linear(dim, config.inner_dim), Linear(config.inner_dim, dim)
        self.drop = Dropout(config.dropout)

    def forward(self, streams: Streams, mask: Tensor, slot: Tensor | None = None) -> Tensor:
        """Return the next layer's ids [R, W, D] under mask bool [R, W, W], or [T, D] at `slot` [T] only."""
        if slot is not None and len(slot) <= len(mask):  # then computing the slots only is cheaper
            row, width = slot // mask.shape[2], mask.shape[2]
            asked, read = streams.at_slots(slot), streams.of_rows(row)
            mixed = self.attention(asked, read, mask[row, slot % width][:, None])[:, 0]
        else:
            mixed = take_slots(self.attention(streams, streams, mask), slot)
        x = self.norm1(take_slots(streams.item, slot) + self.drop(mixed))
        return self.norm2(x + self.drop(self.down(F.gelu(self.up(x)))))


def freeze(table: nn.Embedding) -> None:
    """Replace a table's weights by stored draws from N(0, 1) that are never trained."""
    vectors = torch.randn(table.weight.shape)
    del table.weight
    table.register_buffer("weight", vectors)


class DIFSR(Recommender[DIFSRConfig]):
    def __init__(self, config: DIFSRConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.next_item = NextItem(config.loss, config, catalog)
        dim = config.hidden_dim
        self.item_emb = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)
        self.position_emb = nn.Embedding(catalog.max_len, dim)
        self.categories = CategorySets(catalog.category_ids, catalog.category_offsets, catalog.n_categories)
        self.attribute_table = CategoryTable(self.categories, config.attribute_dim, config.pooling)
        self.norm, self.drop = nn.LayerNorm(dim, eps=EPS), Dropout(config.dropout)
        self.blocks = nn.ModuleList(DecoupledBlock(config, catalog.max_len) for _ in range(config.n_layers))
        if config.attribute_weight:
            self.attribute_head = nn.Linear(dim, catalog.n_categories)
        init_normal(self, std=0.02)
        if config.attributes == "frozen":
            freeze(self.attribute_table.emb)

    @property
    def reads_padding(self) -> bool:
        """Return whether the fusion reads scores of later events and padding: states then depend on whole rows."""
        return self.config.fusion != "sum" and self.config.fusion_input == "raw"

    @property
    def needs(self) -> Needs:
        extras = self.next_item.extras
        if self.reads_padding:
            return Needs(layout="fixed", samples=("prefix",), causal=False, extras=extras)
        if self.config.fusion == "sum":
            return Needs(samples=("all", "prefix", "last-window"), extras=extras)
        # A row holds a single history, so that a row of scores begins at the history's first event.
        return Needs(layout="padded", samples=("all", "prefix", "last-window"), extras=extras)

    def streams(self, batch: Batch) -> Streams:
        """Return the inputs of the first layer; rows with a single history share their positions."""
        position = batch.position
        if self.config.fusion != "sum":
            position = torch.arange(position.shape[1], device=position.device)[None]
        x = self.drop(self.norm(self.item_emb(batch.item_seq)))
        return Streams(self.attribute_table(batch.item_seq), x, self.position_emb(position))

    def attention_mask(self, batch: Batch) -> Tensor:
        """Return bool [R, W, W], True = query i (axis 1) may look at key j (axis 2)."""
        if not self.reads_padding:
            return batch.attention_mask(causal=True)
        # Padding looks at the history before it, because the fusion of the next layer reads the scores of padding.
        width = batch.mask.shape[1]
        causal = torch.ones(width, width, dtype=torch.bool, device=batch.mask.device).tril()
        return batch.mask[:, None] & causal

    def encode(self, batch: Batch, slot: Tensor | None = None) -> Tensor:
        """Return the states of all positions [R, W, D], or only those at `slot` (flat in [R W]), [T, D]."""
        streams, mask = self.streams(batch), self.attention_mask(batch)
        for block in self.blocks[:-1]:
            streams = streams._replace(item=block(streams, mask))
        state: Tensor = self.blocks[-1](streams, mask, slot)
        return state

    def query(self, batch: Batch) -> Tensor:
        if self.reads_padding:  # then each row has a single slot
            return in_parts(lambda part: self.encode(part, part.slot), batch, self.config.inner_dim)
        return self.encode(batch, batch.slot)

    def item_table(self) -> Tensor:
        return self.item_emb.weight[1:]

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        query = self.query(batch)
        terms: dict[str, Tensor] = {self.config.loss: self.next_item(query, self.item_table(), batch)}
        if self.config.attribute_weight:
            logits, labels = self.attribute_head(query), self.categories.labels(batch.target)
            attribute = F.binary_cross_entropy_with_logits(logits, labels)
            terms["attribute"] = self.config.attribute_weight * attribute
        return terms
