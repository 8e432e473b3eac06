"""What some metrics read besides a ranking: how often items occur in training, what users had, what items look like.

Axes: N items, n targets.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Union

import numpy as np

from mmbench.data.views import TargetView, TrainView

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Vectors = Union[np.ndarray, "csr_array"]


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What metrics read of a data set and a split.

    view     the targets of the split, and the histories before them
    vectors  returns an item's vectors of a kind, "text", "image" or "category", float [N + 1, D] with row 0 unused and
             rows of zeros for items that have none; UsageError where the data set has no such vectors
    names    says what made the vectors of a kind, for captions
    """

    train: TrainView
    view: TargetView
    n_items: int
    vectors: Callable[[str], Vectors]
    names: Callable[[str], str] = str

    @cached_property
    def events(self) -> np.ndarray:
        """Return the training events of each item, int64 [N + 1]; row 0 is 0."""
        return np.bincount(self.train.items, minlength=self.n_items + 1)

    @cached_property
    def users(self) -> np.ndarray:
        """Return the training users of each item, int64 [N + 1]; a user who had an item twice counts once."""
        pairs = np.unique(self.train.users * (self.n_items + 1) + self.train.items)
        return np.bincount(pairs % (self.n_items + 1), minlength=self.n_items + 1)

    @cached_property
    def n_users(self) -> int:
        """Return the number of users with a training event."""
        return int(np.count_nonzero(np.diff(self.train.offsets)))
