"""What a model sees of a step: `Batch` when it ranks, `TrainBatch` when it is trained.

Both are built by mmbench.data.batcher; mmbench.data.packing decides where padding lies.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PrefixRows:
    """The histories up to each slot, each as a row, for terms that need every prefix separately.

    History number t belongs to slot t of the batch; the R2 rows are packed like the batch.
    """

    source: Tensor  # int64 [R2, W], index into the batch's flattened places; 0 where there is padding
    segment: Tensor  # int64 [R2, W], 0 = padding
    slot: Tensor  # int64 [T], index of each prefix's last place in the flattened [R2 * W]

    def gather(self, values: Tensor) -> Tensor:
        """Return values [R, W, ...] of the batch at the places of the prefixes, [R2, W, ...]."""
        return values.flatten(0, 1)[self.source]

    def attention_mask(self) -> Tensor:
        """Return bool [R2, W, W], causal, within each prefix (see Batch.attention_mask)."""
        return _attention_mask(self.segment, causal=True)


def _attention_mask(segment: Tensor, *, causal: bool) -> Tensor:
    same = segment[:, :, None] == segment[:, None, :]
    return same.tril() if causal else same


@dataclass(frozen=True, kw_only=True)
class Batch:
    """R rows of width W that hold histories side by side ("packed") or a single history each ("padded", "fixed").

    Padding has item 0, segment 0, time 0, position 0. A slot (`slot`) is a place whose state predicts: in training
    every place that has a target, in a ranking the last real (or the extra) place of each history.
    """

    item_seq: Tensor  # int64 [R, W], 0 = padding (and extra places, see mmbench.models.needs.SlotAfter)
    time_seq: Tensor  # int64 [R, W], unix seconds
    position: Tensor  # int64 [R, W], index inside the history, 0 = oldest kept item
    segment: Tensor  # int64 [R, W], 0 = padding, else the number of the history inside its row, from 1
    slot: Tensor  # int64 [T], index into the flattened [R * W]
    user: Tensor  # int64 [T], user of each slot

    @property
    def mask(self) -> Tensor:
        """Return bool [R, W], True where a place belongs to a history."""
        return self.segment > 0

    @property
    def interval(self) -> Tensor:
        """Return int64 [R, W], seconds since the previous event of the history, 0 for its first and for padding.

        Never negative: histories are sorted by time, and places without a predecessor are set to 0.
        """
        gap = self.time_seq.diff(prepend=self.time_seq[:, :1])
        return gap.clamp(min=0) * (self.position > 0)

    def attention_mask(self, *, causal: bool) -> Tensor:
        """Return bool [R, W, W], True = query place i (axis 1) may look at key place j (axis 2).

        Only places of the same history see each other. Padding sees padding, so that no row of the softmax is
        empty: its output is finite, and nobody reads it.
        """
        return _attention_mask(self.segment, causal=causal)

    def at_slots(self, hidden: Tensor) -> Tensor:
        """Return the states at the slots: hidden [R, W, ...] -> [T, ...]."""
        return hidden.flatten(0, 1).index_select(0, self.slot)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name; nested tensors have names such as "prefix_rows.source"."""
        return dict(_named(self))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return the batch whose `tensors()` these are."""
        return cls(**_nested(tensors))


@dataclass(frozen=True, kw_only=True)
class TrainBatch(Batch):
    """A batch whose slots have targets, with whatever else the model's `needs` ask for."""

    target: (
        Tensor  # int64 [T], the next item, 1..N, of each slot, or of each user where there are no histories
    )
    drawn: Mapping[str, Tensor] = field(default_factory=dict)  # samples drawn for each target, [T, ...]
    prefix_rows: PrefixRows | None = None
    last_places: Tensor | None = None  # see `ends`

    @property
    def ends(self) -> Tensor:
        """Return the last place of each history, int64 [n], indices into the flattened [R * W].

        Only rows whose targets the model chooses itself ("sequence", "sequence-prefix") have them.
        """
        if self.last_places is None:
            raise KeyError("this batch has targets, and its slots are their places; it has no ends")
        return self.last_places

    @property
    def negatives(self) -> Tensor:
        """Return int64 [T, K], items 1..N drawn for each target; the model's needs must name `Negatives`."""
        if NEGATIVES not in self.drawn:
            raise KeyError("this batch has no negatives; name Negatives() in the model's needs")
        return self.drawn[NEGATIVES]

    @property
    def prefixes(self) -> PrefixRows:
        """Return the history of each target as a row; the model's needs must name `Prefixes`."""
        if self.prefix_rows is None:
            raise KeyError("this batch has no rows for the prefixes; name Prefixes() in the model's needs")
        return self.prefix_rows

    def with_drawn(self, **drawn: Tensor) -> "TrainBatch":
        """Return the batch with further tensors drawn for its targets."""
        return replace(self, drawn={**self.drawn, **drawn})


NEGATIVES = "negatives"


def _named(part: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a batch or of a nested part, the latter as "part.name"."""
    names = part if isinstance(part, Mapping) else [entry.name for entry in fields(part)]
    for name in names:
        value = part[name] if isinstance(part, Mapping) else getattr(part, name)
        if isinstance(value, Tensor):
            yield name, value
        elif value is not None:
            yield from ((f"{name}.{inner}", tensor) for inner, tensor in _named(value))


def _nested(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the fields of a batch from its named tensors."""
    parts: dict[str, Any] = {}
    for name, tensor in tensors.items():
        outer, _, inner = name.partition(".")
        if inner:
            parts.setdefault(outer, {})[inner] = tensor
        else:
            parts[outer] = tensor
    if "prefix_rows" in parts:
        parts["prefix_rows"] = PrefixRows(**parts["prefix_rows"])
    return parts
