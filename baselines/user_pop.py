"""User-pop: ranks the user's own items by how often they were taken, then popular items. No paper.

A model that beats it has learned more than re-consumption. With seen items masked it equals Pop.

Axes: T histories, N items.
Differences: (1) the history is the newest max_len events, as every sequential model reads it.
"""

from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.models.own_items import OwnItemsFirst


class UserPop(OwnItemsFirst):
    def score(self, batch: Batch) -> Tensor:
        """Return float64 [T, N]: the user's count + count / (largest count + 1)."""
        return self.popular(batch).scatter_add_(1, batch.item_seq, batch.mask.double())[:, 1:]
