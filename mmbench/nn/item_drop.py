"""Histories without some of their items, for contrastive pre-training (UniSRec, MISSRec).

Nothing is moved: a dropped item is a key of no attention, and the places of the others are counted anew.
Axes: R rows, W width, T slots. Each history of the batch ends at a slot (samples = "prefix").
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmbench.data.batch import Batch

Rule = Literal["first-kept", "last-kept"]


@dataclass(frozen=True, kw_only=True)
class Shortened:
    """What is left of the histories of a batch."""

    kept: Tensor  # bool [R, W]; padding counts as kept
    position: Tensor  # int64 [R, W], place among the kept items of the own history, where one is kept
    slot: Tensor  # int64 [T], the last kept item of each slot's history, in the flat [R W]

    def attention_mask(self, mask: Tensor) -> Tensor:
        """Return the batch's attention mask [R, W, W] without the dropped keys."""
        return mask & self.kept[:, None, :]


def choose_kept(batch: Batch, rate: float, rule: Rule) -> Tensor:
    """Draw which places stay, bool [R, W], so that no history is left empty; each is dropped with probability `rate`.

    "first-kept": a place stays iff its draw says so, the first of a history always. "last-kept" is what a scatter
    with repeated indices does, where a dropped item overwrites the kept one before it: a place stays iff the draw of
    the next place says so, the last of a history always.
    """
    stays = torch.rand(batch.item_seq.shape, device=batch.item_seq.device) >= rate
    if rule == "first-kept":
        return stays | (batch.position == 0)
    is_last = torch.zeros_like(batch.item_seq).flatten().scatter(0, batch.slot, 1).view_as(batch.item_seq) > 0
    return stays.roll(-1, 1) | is_last | ~batch.mask


def shorten(batch: Batch, kept: Tensor) -> Shortened:
    """Return what is left of the histories where `kept` bool [R, W] is True; at least one place of each is."""
    width = kept.shape[1]
    place = torch.arange(width, device=kept.device)
    count = kept.long().cumsum(1)
    first = (place - batch.position).clamp(min=0)  # of the own history
    before = (count - kept.long()).gather(1, first)
    position = (count - 1 - before).clamp(min=0)
    last = (
        torch.where(kept, place, 0).cummax(1).values
        + width * torch.arange(len(kept), device=kept.device)[:, None]
    )
    return Shortened(kept=kept, position=position, slot=last.flatten().index_select(0, batch.slot))
