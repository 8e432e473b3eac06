"""ItemKNN-CBF: content-based item neighbourhoods. Form of MMRec's ItemKNNCBF, which is after
Ferrari Dacrema et al., RecSys 2019, doi 10.1145/3298689.3347058.

Items are similar if their texts and pictures are; an item's score is the sum of its similarities to the history's
items.

Axes: N items, B items of a block, D feature width, T histories, W width.
Differences from MMRec: (1) a weighted cosine per modality instead of a cosine of concatenated raw features, in which
the modality with the larger numbers decides (`form = "concatenated"`). (2) An item is not its own neighbour
(`self_sim`). (3) Items without a modality have similarity 0 in it. (4) The history is the evaluation input, weighted
by recency when decay < 1. (5) Neighbours are pruned per candidate (`prune = "source"` for MMRec's rows).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs
from mmbench.nn.neighbours import Neighbours, Prune, recency_weight
from mmbench.settings.config import Fraction, NonNegativeFloat, PositiveInt


@dataclass(frozen=True, kw_only=True)
class ItemKNNCBFConfig:
    k: PositiveInt
    form: Literal["per-modality", "concatenated"]
    image_weight: Fraction  # alpha: alpha * image cosine + (1 - alpha) * text cosine
    shrink: NonNegativeFloat = 0.0  # "concatenated": added to the product of the norms
    prune: Prune = "target"
    self_sim: NonNegativeFloat = 0.0
    decay: Fraction  # lambda: a history item counts lambda^(events after it); 0 = the last item only
    distinct: bool = False  # an item counts once per history

    def __post_init__(self) -> None:
        if self.shrink and self.form == "per-modality":
            raise ValueError(
                "shrink only scales similarities of unit vectors; it needs form = 'concatenated'"
            )


class ItemKNNCBF(Recommender[ItemKNNCBFConfig]):
    trainable = False
    deterministic = True

    def __init__(self, config: ItemKNNCBFConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.neighbours = Neighbours.build(
            self._similarity(catalog),
            n_items=catalog.n_items,
            k=config.k,
            prune=config.prune,
            self_sim=config.self_sim,
        )

    @classmethod
    def reads(cls, config: ItemKNNCBFConfig, modality: str) -> bool:
        if config.form == "concatenated" or modality not in ("text", "image"):
            return True
        weight = config.image_weight if modality == "image" else 1 - config.image_weight
        return weight > 0

    def _similarity(self, catalog: Catalog) -> Callable[[Tensor], Tensor]:
        """Return the function ids [B] -> similarities [B, N+1]. An only modality gets all the weight."""
        text, image = catalog.text_feat, catalog.image_feat
        feats = [feat for feat in (text, image) if feat is not None]
        if not feats:
            raise ValueError("content neighbours need text or image features; run mmbench extract")
        if self.config.form == "concatenated":
            parts = [(1.0, torch.cat(feats, 1))]
        elif text is not None and image is not None:
            parts = [(1 - self.config.image_weight, text), (self.config.image_weight, image)]
        else:
            parts = [(1.0, feats[0])]
        weighted = [(weight, feat, feat.norm(dim=1)) for weight, feat in parts if weight]

        def rows(ids: Tensor) -> Tensor:
            total = torch.zeros(len(ids), catalog.n_items + 1)
            for weight, feat, norm in weighted:
                scale = norm[ids][:, None] * norm + self.config.shrink
                total += torch.where(scale == 0, 0.0, weight * (feat[ids] @ feat.T) / scale)
            return total

        return rows

    @property
    def needs(self) -> Needs:
        return Needs(layout="padded", samples=(), causal=False)

    def score(self, batch: Batch) -> Tensor:
        """Return float64 [T, N]; items without a neighbour in the history tie at 0."""
        weight = recency_weight(
            batch.item_seq, batch.mask, decay=self.config.decay, distinct=self.config.distinct
        )
        return self.neighbours.score(batch.item_seq, weight)
