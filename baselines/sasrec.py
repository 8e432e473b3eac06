"""SASRec: Self-Attentive Sequential Recommendation. Kang and McAuley, ICDM 2018, doi 10.1109/ICDM.2018.00035.
Official code: github.com/kang205/SASRec (TensorFlow 1).

A causal Transformer reads the item ids of a history; its last state is compared with the item embeddings. Two networks
go by this name, which the setting `network` tells apart: "bert-style" (default; what toolboxes and the HM4SR table call
SASRec) and "official" (the authors' code).

Axes: R rows, W width, D hidden, T targets, N items.
Follows: paper sec. III-A to C encode(), III-D query()/item_table(), III-E loss().
Differences: (1) trained on all positions of a history in a single pass instead of a sample per prefix; equal in loss
and gradient with dropout off (`samples = "prefix"` is the literal procedure). (2) The padding id is not a class of the
softmax. (3) official: users are shuffled each epoch, not drawn with replacement; histories lie on the left, so the
oldest kept item has position 0 (the authors pad on the left: the newest has the last position). (4) official: attention
rows of padding are not computed, because padding never lies inside a history.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs
from mmbench.models.next_item import Loss, NextItem
from mmbench.models.transformer import TransformerConfig
from mmbench.nn.layers import (
    Dropout,
    PreQueryEncoder,
    init_normal,
    zero_padding,
)
from mmbench.settings.config import NonNegativeFloat, Probability


@dataclass(frozen=True, kw_only=True)
class SASRecConfig(TransformerConfig):
    network: Literal["bert-style", "official"] = "bert-style"
    loss: Loss = "ce"
    attn_dropout: Probability  # the official network uses `dropout` everywhere
    l2_emb: NonNegativeFloat = 0.0  # weighs the squared norms of item and position embeddings


class SASRec(Recommender[SASRecConfig]):
    def __init__(self, config: SASRecConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        dim, is_official = config.hidden_dim, config.network == "official"
        self.item_emb = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)
        self.position_emb = nn.Embedding(catalog.max_len, dim)
        self.drop = Dropout(config.dropout)
        if is_official:
            self.official_encoder = PreQueryEncoder(
                dim=dim, inner_dim=config.inner_dim, n_layers=config.n_layers, n_heads=config.n_heads,
                dropout=config.dropout, project_out=False,
            )  # fmt: skip
        else:
            self.norm = nn.LayerNorm(dim, eps=1e-12)
            self.encoder = config.encoder()
        self.next_item = NextItem(config.loss, config, catalog)
        self._init_weights()

    def _init_weights(self) -> None:
        if self.config.network == "official":
            for parameter in self.parameters():
                if parameter.dim() == 2:
                    nn.init.xavier_uniform_(parameter)
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    nn.init.zeros_(module.bias)
        else:
            init_normal(self, std=0.02)
        zero_padding(self.item_emb)

    @property
    def needs(self) -> Needs:
        return Needs(samples=("all", "prefix", "last-window"), extras=self.next_item.extras)

    def encode(self, batch: Batch, slot: Tensor | None = None) -> Tensor:
        """Return the states of all positions [R, W, D], or only those at `slot` (flat in [R W]), [T, D]."""
        x, mask = self.item_emb(batch.item_seq), batch.attention_mask(causal=True)
        if self.config.network == "official":
            x = self.drop(x * self.config.hidden_dim**0.5 + self.position_emb(batch.position))
            return self.official_encoder(x, mask, batch.mask, slot)
        return self.encoder(self.drop(self.norm(x + self.position_emb(batch.position))), mask, slot)

    def query(self, batch: Batch) -> Tensor:
        return self.encode(batch, batch.slot)

    def item_table(self) -> Tensor:
        return self.item_emb.weight[1:]

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {
            self.config.loss: self.next_item(self.query(batch), self.item_table(), batch)
        }
        if self.config.l2_emb:
            norms = self.item_emb.weight.square().sum() + self.position_emb.weight.square().sum()
            terms["l2"] = self.config.l2_emb * norms
        return terms
