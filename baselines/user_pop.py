"""User-pop: the user's own items by how often he took them, then the popular ones. No paper.

What beating it shows: more than re-consumption was learned. With seen items masked it is Pop.

Axes: T histories, N items.
Differences: (1) the history is the newest max_len events, as every sequential model reads it.
"""

from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.models.own_items import OwnItemsFirst


class UserPop(OwnItemsFirst):
    def score(self, batch: Batch) -> Tensor:
        """float64 [T, N]: own count + count / (largest count + 1)."""
        return self.popular(batch).scatter_add_(1, batch.item_seq, batch.mask.double())[:, 1:]
