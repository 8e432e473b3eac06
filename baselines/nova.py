"""NOVA: Non-invasive Self-attention for Side Information Fusion in Sequential Recommendation. Liu, Li, Cai, Dong, Zhu,
Shang, AAAI 2021, arXiv:2103.03578.  No official code.

Side information (position, categories) decides where attention looks, but never enters the values: queries and keys
come from a fusion of ids and side information, values and residuals from the ids alone.

Axes: R rows, W width, M streams of a fusion (ids first), D hidden, T targets, N items.
Follows: paper sec. 3.3-3.6: Sides the side information, Fusion the three fusers (add, concat, gate),
NonInvasiveAttention queries and keys from the fusion and values from the ids, encode() the stack of layers,
query()/item_table() the score.
Three differences matter, the recipe lists all: (1) the paper fills in masked items (BERT4Rec's task); here a causal
network predicts the next item, as in the table that this model is compared in. (2) The paper does not say whether each
layer fuses again; here each does, with separate parameters (`fuse_once`). (3) Ids come from a LayerNorm and side
information does not, so it is 50 times smaller at first; `side_norm` brings it to the same size.
"""

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
from mmbench.nn.categories import CategorySets, CategoryTable
from mmbench.nn.grouped import Linear
from mmbench.nn.layers import Attention, Dropout, init_normal, take_slots, zero_padding

EPS = 1e-12


@dataclass(frozen=True, kw_only=True)
class NOVAConfig(TransformerConfig):
    loss: Loss = "ce"
    fusion: Literal["add", "concat", "gate"]
    sides: tuple[Literal["position", "category"], ...]
    pooling: Literal["sum", "mean"]  # combines the vectors of an item's categories
    fuse_once: bool  # True fuses before the first layer, for all of them
    ids_in_fusion: bool
    side_norm: bool  # True puts a LayerNorm on each kind of side information

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sides or len(set(self.sides)) < len(self.sides):
            raise ValueError(f"sides {list(self.sides)} must name position, category, or both, each once")


class Sides(nn.Module):
    """The side information of an event: a vector for its position, the pooled vectors of its item's categories."""

    def __init__(self, config: NOVAConfig, catalog: Catalog) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.names = [name for name in ("position", "category") if name in config.sides]
        if "position" in self.names:
            self.position = nn.Embedding(catalog.max_len, dim)
        if "category" in self.names:
            if not catalog.n_categories:
                raise ValueError(
                    'the data set has no categories; set sides = ["position"] to run without them'
                )
            sets = CategorySets(catalog.category_ids, catalog.category_offsets, catalog.n_categories)
            self.category = CategoryTable(sets, dim, config.pooling)
        norms = (nn.LayerNorm(dim, eps=EPS) for _ in self.names)
        self.norms = nn.ModuleList(norms if config.side_norm else ())

    def forward(self, batch: Batch) -> Tensor:
        """Return the vectors of each kind of side information, [R, W, M - 1, D]."""
        ids = {"position": batch.position, "category": batch.item_seq}
        vectors = [getattr(self, name)(ids[name]) for name in self.names]
        if self.norms:
            vectors = [norm(x) for norm, x in zip(self.norms, vectors, strict=True)]
        return torch.stack(vectors, -2)


class Fusion(nn.Module):
    """F of sec. 3.5: streams [..., M, D] -> [..., D]."""

    def __init__(self, kind: Literal["add", "concat", "gate"], n_streams: int, dim: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "concat":
            self.concat = nn.Linear(n_streams * dim, dim)
        if kind == "gate":
            self.gate = nn.Linear(dim, 1, bias=False)

    def forward(self, streams: Tensor) -> Tensor:
        if self.kind == "concat":
            fused: Tensor = self.concat(streams.flatten(-2))
            return fused
        if self.kind == "gate":
            streams = self.gate(streams).sigmoid() * streams
        return streams.sum(-2)


class NonInvasiveAttention(Attention):
    """Attention whose queries and keys see side information, and whose values do not."""

    qkv: nn.Linear

    def read(self, ids: Tensor, fused: Tensor, mask: Tensor, slot: Tensor | None = None) -> Tensor:
        """Attend from ids and fused [R, W, D] under mask bool [R, W, W]: [R, W, D], or [T, D] at `slot` [T] only."""
        weight, bias, n = self.qkv.weight, self.qkv.bias, 2 * ids.shape[-1]
        query_key = F.linear(fused, weight[:n], bias[:n])
        value = F.linear(ids, weight[n:], bias[n:])
        mixed: Tensor = self.out(self.mix(torch.cat([query_key, value], -1), mask, slot))
        return mixed


class NonInvasiveBlock(nn.Module):
    """x = LN(x + drop(attention)); x = LN(x + drop(ffn)), where x is the stream of ids."""

    def __init__(self, config: NOVAConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.attention = NonInvasiveAttention(dim, config.n_heads, config.attn_dropout)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=EPS), nn.LayerNorm(dim, eps=EPS)
        self.up, self.down = Linear(dim, config.inner_dim), Linear(config.inner_dim, dim)
        self.drop = Dropout(config.dropout)

    def forward(self, x: Tensor, fused: Tensor, mask: Tensor, slot: Tensor | None = None) -> Tensor:
        """Return the next layer's ids [R, W, D] from x and fused [R, W, D], or [T, D] at `slot` [T] only."""
        x = self.norm1(take_slots(x, slot) + self.drop(self.attention.read(x, fused, mask, slot)))
        return self.norm2(x + self.drop(self.down(F.gelu(self.up(x)))))


class NOVA(Recommender[NOVAConfig]):
    def __init__(self, config: NOVAConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.next_item = NextItem(config.loss, config, catalog)
        dim = config.hidden_dim
        self.item_emb = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)
        self.sides = Sides(config, catalog)
        self.norm, self.drop = nn.LayerNorm(dim, eps=EPS), Dropout(config.dropout)
        n_streams = len(config.sides) + config.ids_in_fusion
        n_fusions = 1 if config.fuse_once else config.n_layers
        self.fusions = nn.ModuleList(Fusion(config.fusion, n_streams, dim) for _ in range(n_fusions))
        self.blocks = nn.ModuleList(NonInvasiveBlock(config) for _ in range(config.n_layers))
        init_normal(self, std=0.02)
        zero_padding(self.item_emb)

    @property
    def needs(self) -> Needs:
        return Needs(samples=("all", "prefix", "last-window"), extras=self.next_item.extras)

    def fuse(self, layer: int, ids: Tensor, sides: Tensor) -> Tensor:
        """Fuse ids [R, W, D] with sides [R, W, M - 1, D] into the input of a layer's queries and keys, [R, W, D]."""
        streams = torch.cat([ids[..., None, :], sides], -2) if self.config.ids_in_fusion else sides
        fused: Tensor = self.fusions[layer](streams)
        return fused

    def encode(self, batch: Batch, slot: Tensor | None = None) -> Tensor:
        """Return the states of all positions [R, W, D], or only those at `slot` (flat in [R W]), [T, D]."""
        x, mask, sides = self.item_emb(batch.item_seq), batch.attention_mask(causal=True), self.sides(batch)
        x = self.drop(self.norm(x))
        fused = self.fuse(0, x, sides)
        for layer, block in enumerate(self.blocks):
            if layer > 0 and not self.config.fuse_once:
                fused = self.fuse(layer, x, sides)
            x = block(x, fused, mask, slot if layer == len(self.blocks) - 1 else None)
        return x

    def query(self, batch: Batch) -> Tensor:
        return self.encode(batch, batch.slot)

    def item_table(self) -> Tensor:
        return self.item_emb.weight[1:]

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        return {self.config.loss: self.next_item(self.query(batch), self.item_table(), batch)}
