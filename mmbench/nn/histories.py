"""The training events of every user as tensors, for models that look up histories outside the batch.

Axes: U users, E events, T users or events to look up, W width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TrainHistories(nn.Module):
    """Training events by user, oldest first. It moves with the model that registers it.

    The buffers are not in checkpoints, because the data set has them.
    """

    items: Tensor  # int64 [E]
    times: Tensor  # int64 [E], unix seconds
    offsets: Tensor  # int64 [U + 1], user u has events offsets[u]:offsets[u + 1]
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
        """Return how many training events each user has, int64 [U]."""
        return self.offsets.diff()

    @property
    def longest_gap(self) -> Tensor:
        """Return the longest gap between successive events of a user in seconds, an int64 scalar; 0 without gaps."""
        return self.gaps.max() if len(self.gaps) else self.gaps.new_zeros(())

    @property
    def has_next(self) -> Tensor:
        """Return which events have a next event of their user, bool [E]; a last event is a target only."""
        return torch.arange(len(self.items), device=self.items.device) + 1 < self.offsets[self.users + 1]

    @property
    def has_previous(self) -> Tensor:
        """Return which events have a previous event of their user, bool [E]; a first event has no history."""
        return torch.arange(len(self.items), device=self.items.device) > self.offsets[self.users]

    def before(self, event: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Return the newest `width` events before each event [T] in the history of its user.

        They are indices of events, int64 [T, width], oldest first, right padded by any index, and bool, True = real.
        """
        length = (event - self.offsets[self.users[event]]).clamp(max=width)
        return _windows(event - length, length, width)

    def inputs(self, user: Tensor) -> tuple[Tensor, Tensor]:
        """Return all events of users [T] but the last, which is a target only; users need at least two events.

        They are indices of events, int64 [T, W], oldest first, right padded by any index, and bool, True = real.
        """
        first = self.offsets[user]
        length = self.offsets[user + 1] - first - 1
        return _windows(first, length, int(length.max()))


def _windows(first: Tensor, length: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return first, first + 1, .. of each row, clamped to first + length - 1, int64 [T, W], and bool, True = real."""
    step = torch.arange(width, device=first.device)
    last = (length[:, None] - 1).clamp(min=0)
    return first[:, None] + torch.minimum(step, last), step < length[:, None]
