"""User-item matrices and sums over groups, for closed-form models (neighbourhoods, walks, autoencoders)."""

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Values = Literal["binary", "count"]


def user_item_matrix(
    users: Tensor, items: Tensor, *, n_users: int, n_items: int, values: Values
) -> "csr_array":
    """Return the training events as a matrix, float64 [U, N+1], column = item id.

    users, items  int64 [E], users from 0 and items 1..N of the events, in any order
    values        "binary": 1 for every item that a user took; "count": how often
    """
    from scipy.sparse import csr_array

    ones = np.ones(len(users), dtype=np.float64)
    matrix = csr_array((ones, (users.numpy(), items.numpy())), shape=(n_users, n_items + 1))
    matrix.sum_duplicates()
    if values == "binary":
        matrix.data[:] = 1.0
    return matrix


def members(offsets: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return all members of some groups: the index of the group in `groups`, and the index of the member; int64 [M].

    offsets  int64 [G+1], group g has the members offsets[g]:offsets[g+1]
    groups   int64 [n], with or without repeats
    """
    count = offsets[groups + 1] - offsets[groups]
    group = torch.repeat_interleave(count)
    first = offsets[groups] - (count.cumsum(0) - count)
    return group, torch.arange(len(group), device=group.device) + first[group]


def sum_rows(table: Tensor, index: Tensor, weight: Tensor, first: Tensor) -> Tensor:
    """Return sums of weight * table[index] over consecutive groups, [G, D], without a copy of the rows.

    table [M, D], index and weight [n], first int64 [G], where each group begins; it ends where the next begins.
    """
    values = weight.to(table.dtype)
    return F.embedding_bag(index, table, first, per_sample_weights=values, mode="sum")
