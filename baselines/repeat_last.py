"""Repeat-last: the user's own items, the most recent first, then the popular ones. No paper.

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
class RepeatLastConfig:
    """There is nothing to set."""


class RepeatLast(Recommender[RepeatLastConfig]):
    trainable = False
    deterministic = True
    count: Tensor

    def __init__(self, config: RepeatLastConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.register_buffer("count", torch.bincount(catalog.train_items, minlength=catalog.n_items + 1))

    @property
    def needs(self) -> Needs:
        return Needs(layout="padded", samples=(), causal=False)

    def score(self, batch: Batch) -> Tensor:
        """float64 [T, N]: 1 + 1 / (1 + events since its last occurrence) in the history, count / (max + 1) elsewhere.

        Counting events instead of distinct items since then leaves the order the same.
        """
        count = self.count.double()
        scores = (count / (count.max() + 1)).repeat(len(batch.user), 1)
        age = batch.mask.sum(1, keepdim=True) - 1 - batch.position
        recency = torch.where(batch.mask, 1 + 1 / (1 + age.double()), 0)
        return scores.scatter_reduce_(1, batch.item_seq, recency, "amax")[:, 1:]
