"""Late fusion: scores of independent members, brought to a common scale and summed with weights.

The weights are equal during training. With `fusion_weights = "validation"` the validation ranking chooses them once,
after the training (mmbench.evaluation.fusion), and they are part of the run.

Axes: M members, T targets, N items. `LateFused` builds on the contract of mmbench.models.base.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.models.base import Recommender
from mmbench.nn.score_scales import Scale, rescale, weighted_sum


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    scale: Scale = "zscore"
    # "validation": the weights, in steps of .1, with the best NDCG@10; equal weights below FEWEST_USERS users.
    fusion_weights: Literal["validation", "equal"] = "validation"


F = TypeVar("F", bound=FusionConfig)


class LateFused(Recommender[F]):
    """A model that fuses the scores of its members. A subclass calls `init_fusion` at the end of its constructor."""

    shares: Tensor  # int64 [M], whole numbers in proportion to the weights, so that no precision rounds them
    weights_from: str

    def init_fusion(self, n_members: int) -> None:
        """Weigh the members alike."""
        self.weights_from = "equal"
        self.register_buffer("shares", torch.ones(n_members, dtype=torch.int64))

    def set_shares(self, shares: Sequence[int], source: str) -> None:
        """Weigh the members in proportion to whole numbers from now on; `source` names what decided them."""
        self.shares.copy_(torch.tensor(shares))
        self.weights_from = source

    def member_scores(self, batch: Batch) -> dict[str, Tensor]:
        """Return the scores [T, N] of each active member, by name."""
        raise TypeError(f"{type(self).__name__} does not say how its members score")

    def presence(self) -> Mapping[str, Tensor | None]:
        """Return by member which items it has a vector for, bool [N + 1]; None = all."""
        raise TypeError(f"{type(self).__name__} does not say what its members know")

    def scaled(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return rescaled scores, float64 [M, T, N], and whether a member knows an item of the history, bool [M, T]."""
        presence, scaled, knows = self.presence(), [], []
        for name, scores in self.member_scores(batch).items():
            present = presence[name]
            scaled.append(rescale(scores, self.config.scale, None if present is None else present[1:]))
            knows.append(has_present_item(batch, present))
        return torch.stack(scaled), torch.stack(knows)

    def score(self, batch: Batch) -> Tensor:
        """Return the fused scores [T, N], or those of the only active member."""
        scores = list(self.member_scores(batch).values()) if self.is_alone() else []
        return scores[0] if scores else self._fused(batch)

    def _fused(self, batch: Batch) -> Tensor:
        scaled, knows = self.scaled(batch)
        return weighted_sum(scaled, self.shares, knows)

    def is_alone(self) -> bool:
        """Return whether a single member scores, not the sum."""
        raise TypeError(f"{type(self).__name__} does not say which members are active")

    def fusion_state(self) -> dict[str, Any]:
        """Return the weights in the order of the members, and what decided them, for run.json."""
        weights = (self.shares / self.shares.sum()).tolist()
        return {"weights": weights, "shares": self.shares.tolist(), "weights_from": self.weights_from}


def has_present_item(batch: Batch, present: Tensor | None) -> Tensor:
    """Return whether any item of each slot's history is present, bool [T]; present bool [N + 1], None = all are."""
    if present is None:
        return torch.ones(len(batch.slot), dtype=torch.bool, device=batch.slot.device)
    seen = batch.attention_mask(causal=True) & present[batch.item_seq][:, None, :] & batch.mask[:, None, :]
    return batch.at_slots(seen.any(2))
