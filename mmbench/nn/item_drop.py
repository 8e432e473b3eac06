"""Histories without some of their items, for contrastive pre-training (UniSRec, MISSRec).

No item moves: attention ignores a dropped item, and the positions of the others are counted anew.
Axes: R rows, W width, T slots. Each history of the batch ends in a slot (samples = "prefix").
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmbench.data.batch import Batch

Rule = Literal["first-kept", "last-kept"]


@dataclass(frozen=True, kw_only=True)
class Shortened:
    """The remaining items of a batch's histories."""

    kept: Tensor  # bool [R, W]; padding counts as kept
    position: Tensor  # int64 [R, W], position of a kept item among those of its history
    slot: Tensor  # int64 [T], the last kept item of each slot's history, in the flattened [R W]

    def attention_mask(self, mask: Tensor) -> Tensor:
        """Return the batch's attention mask [R, W, W] without the dropped keys."""
        return mask & self.kept[:, None, :]


def choose_kept(batch: Batch, rate: float, rule: Rule) -> Tensor:
    """Draw which items stay, bool [R, W]; each is dropped with probability `rate`, and no history becomes empty.

    "first-kept": an item stays if its draw says so, and the first of a history always. "last-kept" does what a scatter
    with repeated indices does, where a dropped item overwrites the kept item before it: an item stays if the draw of
    the next item says so, and the last of a history always.
    """
    stays = torch.rand(batch.item_seq.shape, device=batch.item_seq.device) >= rate
    if rule == "first-kept":
        return stays | (batch.position == 0)
    is_last = torch.zeros_like(batch.item_seq).flatten().scatter(0, batch.slot, 1).view_as(batch.item_seq) > 0
    return stays.roll(-1, 1) | is_last | ~batch.mask


def shorten(batch: Batch, kept: Tensor) -> Shortened:
    """Return the histories without the items whose `kept`, bool [R, W], is False; each keeps at least an item."""
    width = kept.shape[1]
    column = torch.arange(width, device=kept.device)
    count = kept.long().cumsum(1)
    first = (column - batch.position).clamp(min=0)  # where the history begins
    before = (count - kept.long()).gather(1, first)
    position = (count - 1 - before).clamp(min=0)
    last = (
        torch.where(kept, column, 0).cummax(1).values
        + width * torch.arange(len(kept), device=kept.device)[:, None]
    )
    return Shortened(kept=kept, position=position, slot=last.flatten().index_select(0, batch.slot))
