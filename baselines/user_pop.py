"""User-pop: the user's own items by how often he took them, then the popular ones. No paper.

What beating it shows: more than re-consumption was learned. With seen items masked it is Pop.

Axes: T histories, W width, N items.
Differences: (1) the history is the newest max_len events, as every sequential model reads it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.models.base import Catalog, Needs, Recommender


@dataclass(frozen=True, kw_only=True)
class UserPopConfig:
    """There is nothing to set."""


class UserPop(Recommender[UserPopConfig]):
    trainable = False
    deterministic = True
    count: Tensor

    def __init__(self, config: UserPopConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.register_buffer("count", torch.bincount(catalog.train_items, minlength=catalog.n_items + 1))

    @property
    def needs(self) -> Needs:
        return Needs(layout="padded", samples=(), causal=False)

    def score(self, batch: Batch) -> Tensor:
        """float64 [T, N]: own count + count / (largest count + 1)."""
        count = self.count.double()
        scores = (count / (count.max() + 1)).repeat(len(batch.user), 1)
        return scores.scatter_add_(1, batch.item_seq, batch.mask.double())[:, 1:]
