"""Late fusion: scores of independent members, brought to a common scale and summed with weights.

The weights are equal during training. The setting `fusion_weights` chooses others once, after the training, on the
validation targets (mmbench.evaluation.fusion); they are part of the run.

Axes: M members, T targets, N items. `LateFused` builds on the contract of mmbench.models.base.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.models.base import Recommender
from mmbench.nn.score_scales import FusionWeights, Scale, equal_weights, rescale


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    scale: Scale = "zscore"
    # "validation": the weights, in steps of .1, with the best NDCG@10. "learned": those of a conditional logit on the
    # validation targets. "gated": learned, by the length of a history and the popularity of its last item. Below
    # FEWEST_USERS users all of them are equal weights.
    fusion_weights: Literal["validation", "equal", "learned", "gated"] = "validation"


F = TypeVar("F", bound=FusionConfig)


class LateFused(Recommender[F]):
    """A model that fuses the scores of its members. A subclass calls `init_fusion` at the end of its constructor."""

    shares: Tensor  # int64 [M], see FusionWeights
    gates: Tensor  # float64 [M, 3], only where weights are gated
    popularity: Tensor  # float64 [N + 1], log(1 + training events) of each item
    weights: FusionWeights

    def init_fusion(self, n_members: int, train_items: Tensor) -> None:
        """Weigh the members equally. The popularity of items is that among these events."""
        self.register_buffer("shares", torch.ones(n_members, dtype=torch.int64))
        counts = torch.bincount(train_items, minlength=self.n_items + 1)
        self.register_buffer("popularity", counts.double().log1p(), persistent=False)
        if self.config.fusion_weights == "gated":
            self.register_buffer("gates", torch.zeros(n_members, 3, dtype=torch.float64))
        self.weights = equal_weights(n_members)

    @property
    def weights_from(self) -> str:
        """What decided the weights."""
        return self.weights.source

    def set_weights(self, weights: FusionWeights) -> None:
        """Weigh the members with these weights from now on."""
        self.weights = weights
        self.shares.copy_(torch.tensor(weights.shares))
        if weights.gates:
            self.gates.copy_(torch.tensor(weights.gates))

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

    def traits(self, batch: Batch) -> Tensor:
        """Return log(1 + length) of each slot's history as it is read, and of its last item's popularity, [T, 2]."""
        last = batch.item_seq.flatten()[batch.slot]
        length = batch.position.flatten()[batch.slot] + 1
        return torch.stack([length.double().log1p(), self.popularity.double()[last]], 1)

    def score(self, batch: Batch) -> Tensor:
        """Return the fused scores [T, N], or those of the only active member."""
        scores = list(self.member_scores(batch).values()) if self.is_alone() else []
        return scores[0] if scores else self._fused(batch)

    def _fused(self, batch: Batch) -> Tensor:
        scaled, knows = self.scaled(batch)
        return self.weights.combine(scaled, knows, self.traits(batch))

    def is_alone(self) -> bool:
        """Return whether a single member scores, not the sum."""
        raise TypeError(f"{type(self).__name__} does not say which members are active")

    def fusion_state(self) -> dict[str, Any]:
        """Return the weights in the order of the members, and what decided them, for run.json."""
        shares = self.weights.shares
        state = {
            "weights": [share / sum(shares) for share in shares], "shares": list(shares),
            "weights_from": self.weights.source,
        }  # fmt: skip
        return (
            {**state, "gates": [list(gate) for gate in self.weights.gates]} if self.weights.gates else state
        )


def has_present_item(batch: Batch, present: Tensor | None) -> Tensor:
    """Return whether any item of each slot's history is present, bool [T]; present bool [N + 1], None = all are."""
    if present is None:
        return torch.ones(len(batch.slot), dtype=torch.bool, device=batch.slot.device)
    seen = batch.attention_mask(causal=True) & present[batch.item_seq][:, None, :] & batch.mask[:, None, :]
    return batch.at_slots(seen.any(2))
