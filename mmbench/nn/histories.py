"""The training events of every user as tensors, for models that look up other histories than those of the batch.

Axes: U users, E events, T asked users or events, W width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TrainHistories(nn.Module):
    """Training events by user, oldest first. A model that registers it takes it along to its device.

    The buffers are in no checkpoint: the data set has them.
    """

    items: Tensor  # int64 [E]
    times: Tensor  # int64 [E], unix seconds
    offsets: Tensor  # int64 [U + 1], user u owns events offsets[u]:offsets[u + 1]
    users: Tensor  # int64 [E], user of each event
    gaps: Tensor  # int64 [E], seconds to the user's next event, never negative; 0 after the last one

    def __init__(self, items: Tensor, times: Tensor, offsets: Tensor) -> None:
        super().__init__()
        users = torch.repeat_interleave(offsets.diff())
        to_next = F.pad(times.diff().clamp(min=0), (0, 1))[: len(times)]
        has_next = F.pad(users.diff() == 0, (0, 1))[: len(users)]
        buffers = {
            "items": items, "times": times, "offsets": offsets, "users": users, "gaps": to_next * has_next,
        }  # fmt: skip
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor, persistent=False)

    @property
    def n_events(self) -> Tensor:
        """int64 [U], training events of each user."""
        return self.offsets.diff()

    @property
    def longest_gap(self) -> Tensor:
        """int64 scalar, the longest time between two successive events of a user, in seconds; 0 without any."""
        return self.gaps.max() if len(self.gaps) else self.gaps.new_zeros(())

    @property
    def has_next(self) -> Tensor:
        """bool [E], False for each user's last event, which is a target only."""
        return torch.arange(len(self.items), device=self.items.device) + 1 < self.offsets[self.users + 1]

    @property
    def has_previous(self) -> Tensor:
        """bool [E], False for each user's first event, which no history leads to."""
        return torch.arange(len(self.items), device=self.items.device) > self.offsets[self.users]

    def before(self, event: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Return the newest `width` events before each event [T] in the history of its user.

        -> numbers of events [T, width], oldest first, right padded (any number there), and bool, True = no padding.
        """
        length = (event - self.offsets[self.users[event]]).clamp(max=width)
        return _windows(event - length, length, width)

    def inputs(self, user: Tensor) -> tuple[Tensor, Tensor]:
        """Return all events but the last, a target only, of users [T] that have two events or more.

        -> numbers of events [T, W], oldest first, right padded (any number there), and bool, True = no padding.
        """
        first = self.offsets[user]
        length = self.offsets[user + 1] - first - 1
        return _windows(first, length, int(length.max()))


def _windows(first: Tensor, length: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return first, first + 1, .. of each row, at most length - 1 further, int64 [T, W], and which places are real."""
    place = torch.arange(width, device=first.device)
    last = (length[:, None] - 1).clamp(min=0)
    return first[:, None] + torch.minimum(place, last), place < length[:, None]
