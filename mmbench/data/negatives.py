"""Items that a user does not have, drawn for losses that compare a target with other items."""

import numpy as np
import torch
from torch import Tensor

from mmbench.errors import DataError


class NegativeSampler:
    """Draws uniform negatives outside each user's items, exactly and without rejection.

    Let a user's sorted items be h_1 < .. < h_m. There are h_k - k other items below h_k. The x-th of the N - m other
    items (x = 1..N-m) is therefore x + #{k: h_k - k < x}, which takes one binary search per draw.
    """

    def __init__(
        self, users: np.ndarray, items: np.ndarray, *, n_users: int, n_items: int, device: torch.device | str
    ) -> None:
        self.n_items = n_items
        pairs = np.unique(users * (n_items + 1) + items)  # sorted by user, then item; repeats removed
        user, item = np.divmod(pairs, n_items + 1)
        count = np.bincount(user, minlength=n_users)
        if len(count) and count.max() >= n_items:
            raise DataError(
                f"user number {int(count.argmax())} has all {n_items} items, so no negative is left; drop this user"
            )
        first = np.cumsum(count) - count
        below = item - (np.arange(len(item)) - first[user] + 1)
        self.keys = torch.from_numpy(user * (n_items + 1) + below).to(device)
        self.first = torch.from_numpy(first).to(device)
        self.n_others = torch.from_numpy(n_items - count).to(device)

    def draw(self, user: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Draw n items for each user, int64 [T] -> int64 [T, n], each in 1..N and none of them the user's."""
        uniform = torch.rand(len(user), n, generator=generator, dtype=torch.float64, device=user.device)
        x = (uniform * self.n_others[user][:, None]).long() + 1
        smaller = torch.searchsorted(self.keys, user[:, None] * (self.n_items + 1) + x, side="left")
        return x + smaller - self.first[user][:, None]
