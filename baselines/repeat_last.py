"""Repeat-last: the user's own items, the most recent first, then the popular ones. No paper.

What beating it shows: more than re-consumption was learned. With seen items masked it is Pop.

Axes: T histories, N items.
Differences: (1) the history is the newest max_len events, as every sequential model reads it.
"""

import torch
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.models.own_items import OwnItemsFirst


class RepeatLast(OwnItemsFirst):
    def score(self, batch: Batch) -> Tensor:
        """float64 [T, N]: 1 + 1 / (1 + events since its last occurrence) in the history, popularity elsewhere.

        Counting events instead of distinct items since then leaves the order the same.
        """
        age = batch.mask.sum(1, keepdim=True) - 1 - batch.position
        recency = torch.where(batch.mask, 1 + 1 / (1 + age.double()), 0)
        return self.popular(batch).scatter_reduce_(1, batch.item_seq, recency, "amax")[:, 1:]
