"""The Batch: what a model sees of a step. Built by mmbench.data.batcher; padding is decided in mmbench.data.packing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Prefixes:
    """The histories up to each slot as rows of their own, for terms that need every prefix apart.

    Slot t of the batch has history number t here; R2 rows of the same packing as the batch.
    """

    source: Tensor  # int64 [R2, W], index into the batch's flattened places; 0 where there is padding
    segment: Tensor  # int64 [R2, W], 0 = padding
    slot: Tensor  # int64 [T], index of each prefix's last place in the flattened [R2 * W]

    def gather(self, values: Tensor) -> Tensor:
        """values [R, W, ...] of the batch -> [R2, W, ...] of the prefixes."""
        return values.flatten(0, 1)[self.source]

    def attention_mask(self) -> Tensor:
        """bool [R2, W, W], causal, own prefix only (see Batch.attention_mask)."""
        return _attention_mask(self.segment, causal=True)


def _attention_mask(segment: Tensor, *, causal: bool) -> Tensor:
    same = segment[:, :, None] == segment[:, None, :]
    if not causal:
        return same
    width = segment.shape[1]
    return same & torch.ones(width, width, dtype=torch.bool, device=same.device).tril()


@dataclass(frozen=True, kw_only=True)
class Batch:
    """R rows of width W that hold histories side by side ("packed") or one each ("padded", "fixed").

    Padding has item 0, segment 0, time 0, position 0. Slots (`slot`) are the places whose state predicts:
    every one that has a target in training, the last real (or the extra) one of each history at evaluation.
    """

    item_seq: Tensor  # int64 [R, W], 0 = padding (and extra slots, see Needs.extra_slots)
    time_seq: Tensor  # int64 [R, W], unix seconds
    position: Tensor  # int64 [R, W], place inside the own history, 0 = oldest kept item
    segment: Tensor  # int64 [R, W], 0 = padding, else number of the history inside its row, from 1
    slot: Tensor  # int64 [T], index into the flattened [R * W]
    user: Tensor  # int64 [T], user of each slot
    target: Tensor | None = None  # int64 [T], the next item, 1..N; None at evaluation
    negatives: Tensor | None = None  # int64 [T, K], items 1..N
    prefixes: Prefixes | None = None  # when Needs.prefixes asks for them; training only

    @property
    def mask(self) -> Tensor:
        """bool [R, W], True = belongs to a history."""
        return self.segment > 0

    @property
    def interval(self) -> Tensor:
        """int64 [R, W], seconds since the previous event of the same history, 0 for its first and for padding.

        Never negative: histories are sorted by time, and places without a predecessor are set to 0.
        """
        gap = torch.zeros_like(self.time_seq)
        gap[:, 1:] = self.time_seq[:, 1:] - self.time_seq[:, :-1]
        return torch.where(self.mask & (self.position > 0), gap, 0).clamp(min=0)

    def attention_mask(self, *, causal: bool) -> Tensor:
        """bool [R, W, W], True = query place i (axis 1) may look at key place j (axis 2).

        Only places of the same history see each other; padding sees padding, so that no row of the softmax is
        empty - its output is finite and read by nobody.
        """
        return _attention_mask(self.segment, causal=causal)

    def at_slots(self, hidden: Tensor) -> Tensor:
        """hidden [R, W, ...] -> [T, ...], the states that predict."""
        return hidden.flatten(0, 1).index_select(0, self.slot)

    def with_negatives(self, negatives: Tensor) -> "Batch":
        """The same batch with sampled items int64 [T, K]."""
        return replace(self, negatives=negatives)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name; those of the prefixes are named "prefixes.source" and so on."""
        return dict(_named(self))

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> "Batch":
        """Return the batch that has these `tensors()`."""
        inner = {name.removeprefix(INNER): x for name, x in tensors.items() if name.startswith(INNER)}
        outer: dict[str, Any] = {name: x for name, x in tensors.items() if not name.startswith(INNER)}
        return Batch(**outer, prefixes=Prefixes(**inner) if inner else None)


INNER = "prefixes."


def _named(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Prefixes):
            yield from ((INNER + part.name, getattr(value, part.name)) for part in fields(value))
        elif value is not None:
            yield field.name, value
