"""Slices of held-out targets: a label per user and family. Labels rest on data and split only, never on a model.

    history     number of input events, before they are cut to max_len
    popularity  cold: no training event. Items by their training events, most first (ties: smaller id): head is the
                smallest beginning with a third of all events, mid the further items up to two thirds, tail the rest
    count       training events of the target
    transition  of the newest input item x to the target y: seen next to each other in some training sequence, reached
                in two such steps, or never
    memgen      memorization, generalization, uncategorized (mmbench.evaluation.transitions)
    memgen-...  for each kind of generalization, substitutability, symmetry, transitivity and second-symmetry: the
                smallest window in which the target has it, or memorization, or neither
    cooccur     whether the target shares a training user with some input item
    repeat      whether the target is an input item
    tied        whether it has the time of the newest input event, so that the protocol's tie rule decides the order
    gap         time since the newest input event; lower bounds belong to the label
    text, image whether the target has features of the modality
    history-... for text and image: whether at least half of the input items have features of the modality
    near        largest cosine of text features between target and input items: from .98 duplicate, from .8 similar

Axes: n targets, N items.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mmbench.data.timestamps import TICKS
from mmbench.data.views import TargetView, TrainView
from mmbench.errors import UsageError, suggest
from mmbench.evaluation import transitions

DAY = 86_400
DUPLICATE, SIMILAR = 0.98, 0.8
_CHUNK = 1024  # targets whose inputs are compared with them at once


@dataclass(frozen=True)
class Labels:
    """The labels of a family, in the order in which tables show them, and which of them each target has, int64 [n]."""

    family: str
    names: tuple[str, ...]
    index: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What labels are made from.

    target_times  seconds, int64 [n]; None where events only have an order
    finer_gaps    microseconds to add to the seconds between newest input event and target, int64 [n]; None: none
    present       by modality: bool [N + 1], which items have features of it
    text          float32 [N + 1, D]; None where there are none
    """

    view: TargetView
    train: TrainView
    n_items: int
    target_times: np.ndarray | None = None
    finer_gaps: np.ndarray | None = None
    present: "dict[str, np.ndarray] | None" = None
    text: np.ndarray | None = None

    @property
    def counts(self) -> np.ndarray:
        """Return the training events of each item, int64 [N + 1]."""
        return np.bincount(self.train.items, minlength=self.n_items + 1)

    @property
    def lengths(self) -> np.ndarray:
        """Return the number of input events, int64 [n]."""
        return np.diff(self.view.offsets)

    @property
    def newest(self) -> np.ndarray:
        """Return the newest input item, int64 [n]."""
        return self.view.items[self.view.offsets[1:] - 1]

    @property
    def gaps(self) -> np.ndarray:
        """Return the microseconds from the newest input event to the target, int64 [n]; UsageError without times."""
        if self.target_times is None:
            raise UsageError("slices by time need events with times; these data only have an order")
        seconds = self.target_times - self.view.times[self.view.offsets[1:] - 1]
        return seconds * TICKS + (0 if self.finer_gaps is None else self.finer_gaps)


def label(targets: Targets, family: str) -> Labels:
    """Return the labels of a family; UsageError for an unknown family, or a family that the data cannot have."""
    if family not in FAMILIES:
        raise UsageError(f"--slice: {suggest(family, FAMILIES, what='slice')}")
    names, index = FAMILIES[family](targets)
    return Labels(family, tuple(names), np.asarray(index, dtype=np.int64))


Named = tuple[Sequence[str], np.ndarray]


def _binned(values: np.ndarray, edges: Sequence[float], names: Sequence[str]) -> Named:
    """Return which of the bins from each edge (included) to the next a value lies in."""
    return names, np.searchsorted(np.asarray(edges), values, side="right") - 1


def _history(targets: Targets) -> Named:
    return _binned(targets.lengths, (1, 5, 10, 20, 50), ("1-4", "5-9", "10-19", "20-49", "50+"))


def popularity_of_items(counts: np.ndarray) -> np.ndarray:
    """Return 0 cold, 1 tail, 2 mid, 3 head for each item of training events [N + 1]; row 0 counts as cold."""
    order = np.argsort(-counts[1:], kind="stable") + 1
    before = np.concatenate([[0], np.cumsum(counts[order])[:-1]])  # events of the items in front
    total = counts[1:].sum()
    labels = np.zeros(len(counts), dtype=np.int64)
    labels[order] = np.where(3 * before < total, 3, np.where(3 * before < 2 * total, 2, 1))
    labels[counts == 0] = 0
    labels[0] = 0
    return labels


def _popularity(targets: Targets) -> Named:
    return ("cold", "tail", "mid", "head"), popularity_of_items(targets.counts)[targets.view.target]


def _count(targets: Targets) -> Named:
    names = ("0", "1-4", "5-9", "10-19", "20-49", "50+")
    return _binned(targets.counts[targets.view.target], (0, 1, 5, 10, 20, 50), names)


def _transition(targets: Targets) -> Named:
    steps = transitions.follows(targets.train, targets.n_items, 1)
    x, y = targets.newest, targets.view.target
    seen, two = transitions.holds(steps, x, y), transitions.meet(steps, x, steps.T.tocsr(), y)
    return ("seen", "two-step", "never"), np.where(seen, 0, np.where(two, 1, 2))


def _memgen(targets: Targets) -> Named:
    return transitions.MEMGEN, transitions.memgen(targets.view, targets.train, targets.n_items)


def _memgen_kind(relation: str) -> Callable[[Targets], Named]:
    def label_of(targets: Targets) -> Named:
        data = targets.view, targets.train, targets.n_items
        window = transitions.smallest_window(*data, (relation,))
        names = ("memorization", *(f"window {h}" for h in transitions.WINDOWS), "neither")
        memorized = transitions.is_memorized(*data)
        return names, np.where(memorized, 0, np.where(window > 0, window, len(names) - 1))

    return label_of


def _cooccur(targets: Targets) -> Named:
    shares = transitions.share_a_user(targets.view, targets.train, targets.n_items)
    return ("yes", "no"), np.where(shares, 0, 1)


def is_repeated(view: TargetView) -> np.ndarray:
    """Return whether each target is an item of the history before it, bool [n]."""
    row = np.repeat(np.arange(len(view)), np.diff(view.offsets))
    repeated = np.zeros(len(view), dtype=bool)
    repeated[row[view.items[view.offsets[0] : view.offsets[-1]] == view.target[row]]] = True
    return repeated


def _repeat(targets: Targets) -> Named:
    return ("repeat", "new"), np.where(is_repeated(targets.view), 0, 1)


def _tied(targets: Targets) -> Named:
    return ("tied", "later"), np.where(targets.gaps == 0, 0, 1)


def _gap(targets: Targets) -> Named:
    edges = (0, 1, *(days * DAY * TICKS for days in (1, 7, 30, 180)))
    return _binned(targets.gaps, edges, ("0", "<1 d", "1-7 d", "7-30 d", "30-180 d", ">180 d"))


def _present(targets: Targets, family: str, modality: str) -> np.ndarray:
    """Return which items have features of a modality, bool [N + 1]; UsageError for data without any."""
    flags = (targets.present or {}).get(modality)
    if flags is None:
        raise UsageError(f"--slice {family}: the data set has no {modality} features; run: mmbench extract")
    return flags


def _modality(modality: str) -> Callable[[Targets], Named]:
    def label_of(targets: Targets) -> Named:
        return ("has", "lacks"), np.where(_present(targets, modality, modality)[targets.view.target], 0, 1)

    return label_of


def _history_with(modality: str) -> Callable[[Targets], Named]:
    def label_of(targets: Targets) -> Named:
        view, flags = targets.view, _present(targets, f"history-{modality}", modality)
        row = np.repeat(np.arange(len(view)), targets.lengths)
        has = flags[view.items[view.offsets[0] : view.offsets[-1]]]
        n_with = np.bincount(row[has], minlength=len(view))
        return ("half or more", "less than half"), np.where(2 * n_with >= targets.lengths, 0, 1)

    return label_of


def _near(targets: Targets) -> Named:
    if targets.text is None:
        raise UsageError("--slice near: the data set has no text features; run: mmbench extract")
    values = targets.text / np.maximum(np.linalg.norm(targets.text, axis=1, keepdims=True), 1e-12)
    view, largest = targets.view, np.full(len(targets.view), -1.0)
    for first in range(0, len(view), _CHUNK):
        ends = view.offsets[first : first + _CHUNK + 1]
        row = np.repeat(np.arange(first, first + len(ends) - 1), np.diff(ends))
        cosine = (values[view.items[ends[0] : ends[-1]]] * values[view.target[row]]).sum(1)
        np.maximum.at(largest, row, cosine)
    return ("duplicate", "similar", "other"), np.where(
        largest >= DUPLICATE, 0, np.where(largest >= SIMILAR, 1, 2)
    )


FAMILIES: dict[str, Callable[[Targets], Named]] = {
    "history": _history, "popularity": _popularity, "count": _count, "transition": _transition, "memgen": _memgen,
    "cooccur": _cooccur, "repeat": _repeat, "tied": _tied, "gap": _gap, "text": _modality("text"),
    "image": _modality("image"), "near": _near, "history-text": _history_with("text"),
    "history-image": _history_with("image"),
    **{f"memgen-{name}": _memgen_kind(name) for name in transitions.RELATIONS},
}  # fmt: skip
