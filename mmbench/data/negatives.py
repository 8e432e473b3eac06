"""Items that a user does not have, drawn for losses that compare a target with other items."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmbench.errors import DataError

RESOLUTION = 2**40  # to which the weights of all items sum, about: draws are exact in integers


@dataclass(frozen=True)
class Distribution:
    """How often each item is drawn: q_i = share * p_i + (1 - share) / N, where p_i ~ (count_i + 1)^power.

    The counts are those of the training events; the added 1 leaves no item undrawn. share 0 = uniform.
    """

    power: float = 1.0
    share: float = 0.0

    def of(self, items: np.ndarray, n_items: int) -> np.ndarray:
        """Return q of items 1..N from the training events int64 [E], float64 [N]."""
        popular = (np.bincount(items, minlength=n_items + 1)[1:] + 1.0) ** self.power
        q: np.ndarray = self.share * popular / popular.sum() + (1 - self.share) / n_items
        return q


class NegativeSampler:
    """Negatives outside each user's items, exact and without rejection.

    Every item has an integer weight, 1 where draws are uniform, and takes so many numbers of 0..W-1, item after
    item. With a user's items sorted, h_1 < .. < h_m, let b_k be the weight of all other items below h_k. The x-th
    number of the user's other items is then x plus the weights of those h_k with b_k <= x, a binary search per draw.

    users, items  the pairs that are never drawn, int64 [P]
    q             with which probability items 1..N are drawn, float64 [N]; None = uniform
    """

    def __init__(
        self,
        users: np.ndarray,
        items: np.ndarray,
        *,
        n_users: int,
        n_items: int,
        device: torch.device | str,
        q: np.ndarray | None = None,
    ) -> None:
        pairs = np.unique(users * (n_items + 1) + items)  # sorted by user, then item; repeats removed
        user, item = np.divmod(pairs, n_items + 1)
        count = np.bincount(user, minlength=n_users)
        if len(count) and count.max() >= n_items:
            raise DataError(
                f"user number {int(count.argmax())} has all {n_items} items, so no negative is left; drop this user"
            )
        weight = np.ones(n_items, np.int64) if q is None else _integers(q)
        start = np.cumsum(weight) - weight  # of each item's numbers
        first, taken = np.cumsum(count) - count, np.concatenate([[0], np.cumsum(weight[item - 1])])
        below = start[item - 1] - (taken[:-1] - taken[first[user]])
        self.total, self.is_uniform = int(weight.sum()), q is None

        def on_device(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(device)

        self.keys, self.first, self.taken = (
            on_device(user * self.total + below),
            on_device(first),
            on_device(taken),
        )
        self.n_free = on_device(self.total - (taken[first + count] - taken[first]))
        # Where draws are uniform, item i has the single number i - 1.
        self.start, self.weight = (on_device(x[:0] if self.is_uniform else x) for x in (start, weight))

    def draw(self, user: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Draw n items for each user, int64 [T] -> int64 [T, n], each in 1..N and not the user's."""
        number = _numbers(self.n_free[user][:, None], n, generator)
        first = self.first[user][:, None]
        end = torch.searchsorted(self.keys, user[:, None] * self.total + number, side="right")
        return self._item(number + self.taken[end] - self.taken[first])

    def draw_others(self, item: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Draw n items beside each item, whoever has them, int64 [T] -> int64 [T, n], each in 1..N and not the item."""
        if self.is_uniform:
            start, weight = item[:, None] - 1, torch.ones_like(item[:, None])
        else:
            start, weight = self.start[item - 1][:, None], self.weight[item - 1][:, None]
        number = _numbers(self.total - weight, n, generator)
        return self._item(number + weight * (number >= start))

    def draw_any(self, n_rows: int, n: int, generator: torch.Generator) -> Tensor:
        """Draw n of all items for each row, whoever has them, int64 [n_rows, n]."""
        return self._item(_numbers(self.start.new_full((n_rows, 1), self.total), n, generator))

    def _item(self, number: Tensor) -> Tensor:
        """Return the item whose number it is, 1..N."""
        if self.is_uniform:
            return number + 1
        return torch.searchsorted(self.start, number, side="right")


def _integers(q: np.ndarray) -> np.ndarray:
    """Return weights in proportion to q, int64, at least 1."""
    return np.maximum((q / q.sum() * RESOLUTION).round().astype(np.int64), 1)


def _numbers(end: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Draw n numbers of 0..end-1 for each row of int64 [T, 1] -> int64 [T, n]."""
    uniform = torch.rand(len(end), n, generator=generator, dtype=torch.float64, device=end.device)
    return (uniform * end).long()
