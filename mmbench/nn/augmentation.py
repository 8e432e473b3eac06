"""Operations on padded histories that look at the gaps between events: the augmentations of TiCoSeRec.

Axes: R histories, W width. Operations take items int64 [R, W] (oldest first, right padded by 0), gaps int64 [R, W] (the
time from each item to the next) and length int64 [R], and return items and length of the same form.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Choose = Callable[..., Tensor]  # `choose_positions`, or the choice of a released code


def share(rate: float, length: Tensor) -> Tensor:
    """Return int(rate * length), int64 [R]."""
    return (rate * length.double()).long()


def sort_positions(values: Tensor, length: Tensor, *, largest: bool) -> Tensor:
    """Return the positions of each history sorted by values [R, W], padding last; ties go to the older, int64 [R, W].

    The largest values come first, or the smallest.
    """
    position = torch.arange(values.shape[1], device=values.device)
    keys = -values.double() if largest else values.double()
    return keys.masked_fill(position >= length[:, None], float("inf")).argsort(dim=1, stable=True)


def choose_positions(values: Tensor, length: Tensor, count: Tensor, *, largest: bool) -> Tensor:
    """Return the `count` [R] real positions with the largest (smallest) values, bool [R, W]; ties go to the older."""
    order = sort_positions(values, length, largest=largest)
    rank = torch.arange(values.shape[1], device=values.device).expand_as(order)
    return torch.zeros_like(order).scatter(1, order, rank) < count[:, None]


def best_window(gaps: Tensor, length: Tensor, width: Tensor) -> Tensor:
    """Return the start [R] of the window of `width` [R] items with the smallest variance of gaps, the latest of ties.

    The gaps are those between the window's timestamps WITHOUT its last; fewer than two have variance 0. Sums of
    integers are exact, so equal variances are equal numbers (for histories that span less than 96 years).
    """
    n = (width - 2).clamp(min=1)[:, None]
    starts = torch.arange(gaps.shape[1], device=gaps.device).expand_as(gaps)
    end = (starts + n).clamp(max=gaps.shape[1])

    def window_sum(values: Tensor) -> Tensor:
        total = F.pad(values.cumsum(1), (1, 0))
        return total.gather(1, end) - total[:, :-1]

    first, second = window_sum(gaps), window_sum(gaps.square())
    square = first.square()
    variance = (second - square // n).double() - (square % n).double() / n  # times n
    variance = variance.masked_fill((width < 4)[:, None], 0.0)
    variance = variance.masked_fill(starts > (length - width)[:, None], float("inf"))
    return torch.where(variance == variance.amin(1, keepdim=True), starts, -1).amax(1)


def crop(items: Tensor, gaps: Tensor, length: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Ti-Crop: the window of int(rate * length) items with the most even gaps; a random item if it has 2 or fewer."""
    width = share(rate, length)
    is_short = width <= 2
    anywhere = (torch.rand(len(length), dtype=torch.float64, device=items.device) * length).long()
    start = torch.where(is_short, anywhere, best_window(gaps, length, width))
    width = torch.where(is_short, 1, width)
    position = torch.arange(items.shape[1], device=items.device)
    index = (start[:, None] + position).clamp(max=items.shape[1] - 1)
    return items.gather(1, index).masked_fill(position >= width[:, None], 0), width


def reorder(items: Tensor, gaps: Tensor, length: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Ti-Reorder: the window of int(rate * length) items with the most even gaps, shuffled in position."""
    width = share(rate, length)
    start = best_window(gaps, length, width)
    position = torch.arange(items.shape[1], device=items.device).expand_as(items)
    inside = (position >= start[:, None]) & (position < (start + width)[:, None])
    noise = torch.rand(items.shape, dtype=torch.float64, device=items.device)
    keys = torch.where(inside, start[:, None] + noise, position)
    return items.gather(1, keys.argsort(dim=1, stable=True)), length


def mask(
    items: Tensor, gaps: Tensor, length: Tensor, rate: float, mode: str, choose: Choose = choose_positions
) -> tuple[Tensor, Tensor]:
    """Ti-Mask: int(rate * length) items become padding, at random or those before the largest or smallest gaps."""
    count = share(rate, length)
    if mode == "random":
        hidden = choose_positions(torch.rand(items.shape, device=items.device), length, count, largest=False)
    else:
        hidden = choose(gaps, length, count, largest=mode == "maximum")
    return items.masked_fill(hidden, 0), length


def substitute(
    items: Tensor,
    gaps: Tensor,
    length: Tensor,
    rate: float,
    similar: Tensor,
    choose: Choose = choose_positions,
) -> tuple[Tensor, Tensor]:
    """Ti-Substitute: the items before the smallest gaps become `similar` [R, W]; a single item stays."""
    count = share(rate, length).clamp(min=1).masked_fill(length < 2, 0)
    return torch.where(choose(gaps, length, count, largest=False), similar, items), length


def insert(
    items: Tensor,
    gaps: Tensor,
    length: Tensor,
    rate: float,
    similar: Tensor,
    choose: Choose = choose_positions,
) -> tuple[Tensor, Tensor]:
    """Ti-Insert: each item before the largest gaps is followed by its `similar` [R, W] item; items become [R, 2W]."""
    count = share(rate, length).clamp(min=1).minimum(length)
    after = choose(gaps, length, count, largest=True)
    width = items.shape[1]
    position = (
        torch.arange(width, device=items.device) + after.cumsum(1) - after.long()
    )  # of each item in the result
    out = items.new_zeros(len(items), 2 * width + 1).scatter(1, position, items)
    out.scatter_(1, torch.where(after, position + 1, 2 * width), torch.where(after, similar, 0))
    return out[:, :-1], length + count


def left_pad(items: Tensor, length: Tensor, max_len: int) -> Tensor:
    """Return the newest `max_len` items of each history at the right end of [R, max_len]."""
    index = torch.arange(max_len, device=items.device) - max_len + length[:, None]
    return items.gather(1, index.clamp(0, items.shape[1] - 1)).masked_fill(index < 0, 0)
