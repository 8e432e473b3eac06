"""Repeat-last: ranks the user's own items first, the most recent on top, then popular items. No paper.

A model that beats it has learned more than re-consumption. With seen items masked it equals Pop.

Axes: T histories, N items.
Differences: (1) the history is the newest max_len events, as every sequential model reads it.
"""

import torch
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.models.own_items import OwnItemsFirst


class RepeatLast(OwnItemsFirst):
    def score(self, batch: Batch) -> Tensor:
        """Return float64 [T, N]: 1 + 1 / (1 + events since the item's last occurrence) in the history, else popularity.

        Counting events since then, not distinct items, leaves the order the same.
        """
        age = batch.mask.sum(1, keepdim=True) - 1 - batch.position
        recency = torch.where(batch.mask, 1 + 1 / (1 + age.double()), 0)
        return self.popular(batch).scatter_reduce_(1, batch.item_seq, recency, "amax")[:, 1:]
