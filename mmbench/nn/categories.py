"""Vectors and labels of items from their categories. Axes: N items, C categories, S sets of them, D hidden width.

Many items have the same set of categories (that of their path in the shop), so a single product sums the vectors of the
S different sets, and items look up the sums.
"""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CategorySets(nn.Module):
    """The different sets of categories that items have.

    ids, offsets  the catalogue's `category_ids` and `category_offsets`; raises ValueError without categories
    """

    set_of: Tensor  # int64 [N + 1], number of each item's set; padding has the empty set
    members: Tensor  # float [S, C], 1 = the category is in the set

    def __init__(self, ids: Tensor | None, offsets: Tensor | None, n_categories: int) -> None:
        super().__init__()
        if ids is None or offsets is None or not n_categories:
            raise ValueError(
                "the model reads categories of items and the data set has none; choose another data set"
            )
        categories, ends = ids.tolist(), offsets.tolist()
        sets = [tuple(sorted(set(categories[a:b]))) for a, b in pairwise(ends)]
        number = {members: k for k, members in enumerate(dict.fromkeys(sets))}
        matrix = torch.zeros(len(number), n_categories)
        for members, k in number.items():
            matrix[k, list(members)] = 1.0
        # Not in checkpoints: the data set has them.
        self.register_buffer("set_of", torch.tensor([number[members] for members in sets]), persistent=False)
        self.register_buffer("members", matrix, persistent=False)

    def labels(self, items: Tensor) -> Tensor:
        """Return which categories items [...] have, multi-hot float [..., C]."""
        return F.embedding(self.set_of[items], self.members)


class CategoryTable(nn.Module):
    """Vectors of items: the sum or mean of their categories' vectors; zero for padding and items without categories."""

    def __init__(self, sets: CategorySets, dim: int, pooling: Literal["sum", "mean"]) -> None:
        super().__init__()
        self.sets, self.pooling = sets, pooling
        self.emb = nn.Embedding(sets.members.shape[1], dim)

    def forward(self, items: Tensor) -> Tensor:
        weights = self.sets.members
        if self.pooling == "mean":
            weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
        return F.embedding(self.sets.set_of[items], weights @ self.emb.weight)
