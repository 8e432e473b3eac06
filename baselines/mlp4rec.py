"""MLP4Rec: A Pure MLP Architecture for Sequential Recommendations. Li, Zhao, Lyu, Zhao, Wu, Guo, IJCAI 2022,
arXiv:2204.11510.  Official code: github.com/Li-Muyang/MLP4Rec (RecBole 1.0.1 with another model).

An event of a history has a row for its item's id and a row for each feature. Three residual MLPs mix along time, along
channels and across the rows of an event, the same three in every layer; the id row of the last event is compared with
the id embeddings, so features act through the row mixer only.

Axes: R histories, L positions, K rows of an item (id, then features), D hidden, T targets, N items.
Follows: the official code; rows() builds the stack, MLPEncoder (mmbench/nn/mlp.py) is the mixer and final LayerNorm.
Differences: (1) The padding id has the zero vector and is not a class of the softmax; RecBole initialises it at random
and trains it as a class only. (2) A mean over no values is 0; the official code adds 1e-8 to the divisor.
(3) Text and image rows (`features`, not in the paper) pass a trained linear map each, and are zero for items without
them. (4) Without features there is a single row and no row mixer. (5) After its time mixing the last layer computes the
slots only, because nothing reads the other positions.
The time mixer is dense: states see later items and the padding, so training uses a row per prefix, padded to L.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs
from mmbench.models.next_item import Loss, NextItem, Sampling
from mmbench.nn.features import FeatureTable
from mmbench.nn.layers import init_normal, zero_padding
from mmbench.nn.mlp import EXPANSION, MLPEncoder, shift
from mmbench.nn.parts import in_parts
from mmbench.settings.config import PositiveInt, Probability

Feature = Literal["category", "text", "image"]


@dataclass(frozen=True, kw_only=True)
class MLP4RecConfig(Sampling):
    features: tuple[Feature, ...]
    loss: Loss = "ce"
    hidden_dim: PositiveInt
    n_layers: PositiveInt  # adds depth, no parameters
    dropout: Probability
    mixing: Literal["serial", "parallel"] = "serial"  # parallel: SMLP4Rec, the authors' follow-up
    pad_side: Literal["right", "left"] = "right"  # left: the newest event is always last

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.features)) < len(self.features):
            raise ValueError(f"features {list(self.features)} must name each feature once")


class CategoryTable(nn.Module):
    """Mean embeddings of items' categories, ids [...] -> [..., D]; zero for items without categories."""

    ids: Tensor
    offsets: Tensor

    def __init__(self, catalog: Catalog, dim: int) -> None:
        super().__init__()
        self.register_buffer("ids", catalog.category_ids, persistent=False)
        self.register_buffer("offsets", catalog.category_offsets, persistent=False)
        self.emb = nn.Embedding(catalog.n_categories, dim)

    def forward(self, items: Tensor) -> Tensor:
        means = F.embedding_bag(
            self.ids, self.emb.weight, self.offsets, mode="mean", include_last_offset=True
        )  # [N + 1, D]
        return F.embedding(items, means)


class MLP4Rec(Recommender[MLP4RecConfig]):
    def __init__(self, config: MLP4RecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.item_emb = nn.Embedding(catalog.n_items + 1, config.hidden_dim, padding_idx=0)
        self.features = nn.ModuleDict()
        for name in ("category", "text", "image"):
            if name in config.features:
                self._add_feature(name, catalog)
        self.encoder = MLPEncoder(
            dim=config.hidden_dim, max_len=catalog.max_len, n_rows=1 + len(self.features),
            n_layers=config.n_layers, dropout=config.dropout, mixing=config.mixing,
        )  # fmt: skip
        self.next_item = NextItem(config.loss, config, catalog)
        self._init_weights()

    def _add_feature(self, name: str, catalog: Catalog) -> None:
        """Add a row for a feature if the data set has it."""
        if name == "category":
            if catalog.n_categories:
                self.features[name] = CategoryTable(catalog, self.config.hidden_dim)
            return
        feat, present = getattr(catalog, f"{name}_feat"), getattr(catalog, f"has_{name}")
        if feat is not None:
            self.features[name] = FeatureTable(
                feat, present, self.config.hidden_dim, keep_width=False, unit_norm=False
            )

    def _init_weights(self) -> None:
        """Draw from N(0, 0.02^2), except the mixers along time and rows: they are convolutions in the official code and
        keep torch's initialisation."""
        init_normal(self.item_emb, std=0.02)
        init_normal(self.features, std=0.02)
        for name, mlp in self.encoder.mlps.items():
            if name == "channel" or self.config.mixing == "parallel":
                init_normal(mlp, std=0.02)
        zero_padding(self.item_emb)

    @classmethod
    def reads(cls, config: MLP4RecConfig, modality: str) -> bool:
        return modality in config.features

    @property
    def needs(self) -> Needs:
        extras = self.next_item.extras
        return Needs(layout="fixed", samples=("prefix",), causal=False, extras=extras)

    def extra_state(self) -> dict[str, Any]:
        return {"rows": ["id", *self.features]}

    def rows(self, items: Tensor) -> Tensor:
        """Return the stack M of items [R, L], [R, L, K, D], row 0 = id."""
        return torch.stack(
            [self.item_emb(items), *(table(items) for table in self.features.values())], dim=-2
        )

    def query(self, batch: Batch) -> Tensor:
        """Return u = LN(M_0) at the last event of each history, [T, D]."""
        return in_parts(self.users, batch, (1 + len(self.features)) * EXPANSION * self.config.hidden_dim)

    def users(self, batch: Batch) -> Tensor:
        """Return u of all slots together, [T, D]."""
        items, slot = batch.item_seq, batch.slot
        if self.config.pad_side == "left":
            items = shift(items, (~batch.mask).sum(1))
            slot = slot - slot % self.max_len + self.max_len - 1
        return self.encoder(self.rows(items), slot)

    def item_table(self) -> Tensor:
        return self.item_emb.weight[1:]

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        return {self.config.loss: self.next_item(self.query(batch), self.item_table(), batch)}
