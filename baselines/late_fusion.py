"""Late fusion of independently trained members: SASRecs over ids, texts and pictures, whose scores are rescaled and
summed with weights from validation. A control of multi-modal models: their own fusion is worth what they gain over it.
After Collins et al., arXiv 2512.17820 (EnsRec, which sums cosines with equal weights); no official code read.

A member over texts or pictures has no ids: its inputs and outputs are features through a trained linear map. Its
settings give the other controls: `modalities = ["id"]` is the backbone, `["text"]` content alone, `["id", "id", "id"]`
an ensemble without content.

Axes: R rows, W width, D hidden, T targets, N items.
Follows: LateFusionMember = the network of sasrec ("bert-style") with a choice of items; loss() = its cross entropy;
mmbench.nn.score_scales holds the scales, mmbench.evaluation.fusion the choice of the weights.
Differences: (1) Scores are standardised per user over the catalogue, not bounded by cosines. (2) Weights come from
validation. (3) An item without a modality has that member's mean score; a user without an item of the modality is
scored by the other members.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog
from mmbench.models.ensemble import MembersConfig, SeparateEnsemble
from mmbench.models.late_fusion import FusionConfig, LateFused
from mmbench.models.needs import Needs
from mmbench.models.transformer import TransformerSizes
from mmbench.nn.features import FeatureTable
from mmbench.nn.layers import Dropout, init_normal, zero_padding
from mmbench.nn.losses import cross_entropy


@dataclass(frozen=True, kw_only=True)
class LateFusionConfig(MembersConfig, FusionConfig, TransformerSizes):
    def __post_init__(self) -> None:
        MembersConfig.__post_init__(self)
        TransformerSizes.__post_init__(self)


class LateFusionMember(nn.Module):
    """A SASRec over the item vectors of a modality."""

    def __init__(self, config: LateFusionConfig, catalog: Catalog, modality: str) -> None:
        super().__init__()
        dim, self.n_items = config.hidden_dim, catalog.n_items
        if modality == "id":
            self.items: nn.Module = nn.Embedding(catalog.n_items + 1, dim, padding_idx=0)
        else:
            feat, present = getattr(catalog, f"{modality}_feat"), getattr(catalog, f"has_{modality}")
            self.items = FeatureTable(feat, present, dim, keep_width=False, unit_norm=True)
        self.position_emb = nn.Embedding(catalog.max_len, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.drop = Dropout(config.dropout)
        self.encoder = config.encoder()

    def restart(self) -> None:
        """Draw all weights again."""
        init_normal(self, std=0.02)
        if isinstance(self.items, nn.Embedding):
            zero_padding(self.items)

    def forward(self, batch: Batch) -> Tensor:
        """Return states at the slots of the batch, [T, D]."""
        x = self.drop(self.norm(self.items(batch.item_seq) + self.position_emb(batch.position)))
        return self.encoder(x, batch.attention_mask(causal=True), batch.slot)

    def table(self) -> Tensor:
        """Return the vectors of items 1..N, [N, D]."""
        return self.items(torch.arange(1, self.n_items + 1, device=self.position_emb.weight.device))


class LateFusion(LateFused[LateFusionConfig], SeparateEnsemble[LateFusionConfig]):
    def __init__(self, config: LateFusionConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog, LateFusionMember)
        for _, member in self.members.active():
            member.restart()
        self.init_fusion(len(self.members), catalog.train_items)

    @property
    def needs(self) -> Needs:
        return Needs(samples=("all", "prefix", "last-window"))

    @property
    def is_dot_product(self) -> bool:
        return self.is_alone()

    def query(self, batch: Batch) -> Tensor:
        return torch.cat([member(batch) for _, member in self.members.active()], dim=-1)

    def item_table(self) -> Tensor:
        return torch.cat([member.table() for _, member in self.members.active()], dim=-1)

    def score_cost(self, n_items: int) -> int:
        return (2 * len(self.members) + 2) * n_items  # float64 scores of all members, and their sum

    def is_alone(self) -> bool:
        return self.members.alone is not None or len(self.members) == 1

    def member_scores(self, batch: Batch) -> dict[str, Tensor]:
        return {name: member(batch) @ member.table().T for name, member in self.members.active()}

    def presence(self) -> Mapping[str, Tensor | None]:
        return {name: getattr(member.items, "present", None) for name, member in self.members.active()}

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Return the cross entropy of each active member."""
        return {
            f"ce_{name}": cross_entropy(member(batch), member.table(), batch.target)
            for name, member in self.members.active()
        }

    def extra_state(self) -> dict[str, object]:
        return {**super().extra_state(), **self.fusion_state()}
