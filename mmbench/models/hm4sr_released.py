"""HM4SR with the slips of its released code, github.com/SStarCCat/HM4SR @ f1c0a15; the model itself is in hm4sr.py.

Each slip has a setting, so that it can be undone and its effect measured.

Axes: as in hm4sr.py; B samples, L = max_len.
Follows: FrozenTemporalMoE() frozen experts, Float32Angle() the argument in float32, category_term() category scores of
wrong entries, contrast() equal targets that stay in the denominator.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.data.batch import TrainBatch
from mmbench.models.base import Catalog
from mmbench.models.hm4sr import HM4SR, Angle, HM4SRConfig, TemporalMoE, TimeEncoding
from mmbench.nn.losses import info_nce


@dataclass(frozen=True, kw_only=True)
class HM4SRAsReleasedConfig(HM4SRConfig):
    temporal_experts: Literal["frozen", "trained"] = "frozen"
    absolute_time: Literal["float32", "float64"] = "float32"  # precision of eq. 13's phase
    category_entries: Literal["as-released", "intended"] = "as-released"  # intended: as category_loss says
    same_target: Literal["zero-logit", "removed"] = "zero-logit"


class FrozenTemporalMoE(TemporalMoE):
    """Temporal-MoE whose experts are a plain list in the released code: never registered, trained or saved.

    They are saved here, because a checkpoint without them scores differently each time it is loaded.
    """

    def __init__(self, time_width: int, n_scaled: int, n_experts: int) -> None:
        super().__init__(time_width, n_scaled, n_experts)
        experts = self.experts.detach()
        del self.experts
        self.register_buffer("experts", experts)


class Float32Angle(Angle):
    """Angle with the argument of the released code, in float32, where successive seconds are 128 apart."""

    def argument(self, seconds: Tensor) -> Tensor:
        return self.linear(seconds, torch.float32)


class HM4SRAsReleased(HM4SR):
    config: HM4SRAsReleasedConfig

    def make_time(self, catalog: Catalog) -> TimeEncoding:
        angle = Float32Angle if self.config.absolute_time == "float32" else Angle
        return TimeEncoding(self.config, catalog, angle)

    def make_temporal(self, n_scaled: int) -> TemporalMoE:
        kind = FrozenTemporalMoE if self.config.temporal_experts == "frozen" else TemporalMoE
        return kind(self.time.width, n_scaled, self.config.n_temporal_experts)

    def category_term(self, tables: Tensor, items: Tensor, mask: Tensor, batch: TrainBatch) -> Tensor:
        """Return eq. 22 over entries (sample number, position number) of the flattened scores [B L, C].

        The code means to read items and all their classes, but reads row b, class l for sample b and position l.
        """
        if self.config.category_entries == "intended":
            return super().category_term(tables, items, mask, batch)
        n_samples, last = len(batch.slot), batch.position.view(-1)[batch.slot]
        row = torch.arange(n_samples, device=last.device)
        sample, position = row // self.max_len, row % self.max_len
        flat = batch.slot[sample] - last[sample] + position
        is_inside = position <= last[sample]
        item = torch.where(is_inside, batch.item_seq.view(-1)[torch.where(is_inside, flat, 0)], 0)
        logits = self.category_head(F.embedding(item, tables.flatten(1)))  # [B, C]
        entropy = F.binary_cross_entropy_with_logits(logits, self.categories[item], reduction="none")
        is_read = torch.arange(entropy.shape[1], device=last.device)[None] <= last[:, None]
        return (entropy * is_read).sum() / is_read.sum()

    def contrast(self, anchor: Tensor, positive: Tensor, same: Tensor, temperature: float) -> Tensor:
        """Return eq. 23 or 25 with exp(0) in the denominator for each sample that has the same target."""
        logit = 0.0 if self.config.same_target == "zero-logit" else None
        return info_nce(anchor, positive, temperature=temperature, same=same, same_logit=logit)
