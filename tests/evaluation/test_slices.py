"""Labels of slices, against brute force over lists and sets, and the hand examples of their definitions.

Run: python -m pytest tests/evaluation/test_slices.py
"""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from mmbench.contract.toy import DAY, view_of
from mmbench.data.views import TargetView, TrainView
from mmbench.errors import UsageError
from mmbench.evaluation.slices import FAMILIES, Targets, label, popularity_of_items
from mmbench.evaluation.transitions import RELATIONS
from tests.scorers import random_view

N_ITEMS = 30


def targets_of(histories: list[list[int]], targets: list[int], *, n_items: int = 9, **parts: Any) -> Targets:
    """Targets after whole training histories, a day after the newest event of each."""
    train = view_of(histories)
    lengths = np.diff(train.offsets)
    view = TargetView(
        items=train.items, times=train.times, offsets=train.offsets, user=np.arange(len(histories)),
        target=np.array(targets), train_len=lengths,
    )  # fmt: skip
    times = train.times[train.offsets[1:] - 1] + DAY
    return replace(Targets(view=view, train=train, n_items=n_items, target_times=times), **parts)


def named(targets: Targets, family: str) -> list[str]:
    labels = label(targets, family)
    return [labels.names[k] for k in labels.index]


@pytest.fixture(scope="module")
def random_targets() -> Targets:
    view = random_view(n_users=300, n_items=N_ITEMS, longest=9, seed=3)
    rng = np.random.default_rng(4)
    lengths = rng.integers(1, 8, 40)
    items = rng.integers(1, N_ITEMS - 2, lengths.sum())  # some items are cold
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    train = TrainView(items=items, times=np.arange(len(items)), offsets=offsets)
    times = view.times[view.offsets[1:] - 1] + rng.integers(0, 3, len(view)) * DAY
    text = rng.normal(size=(N_ITEMS + 1, 2)).astype(np.float32)
    text[[0, 5]] = 0
    present = {"text": text.any(1), "image": rng.random(N_ITEMS + 1) > 0.5}
    return Targets(view=view, train=train, n_items=N_ITEMS, target_times=times, present=present, text=text)


def sequences(view: TrainView | TargetView) -> list[list[int]]:
    return [view.items[a:b].tolist() for a, b in zip(view.offsets[:-1], view.offsets[1:], strict=True)]


def test_the_numbers_of_the_definition() -> None:
    """8 items with 9 6 4 2 1 1 0 0 training events."""
    assert popularity_of_items(np.array([0, 9, 6, 4, 2, 1, 1, 0, 0])).tolist() == [0, 3, 2, 2, 1, 1, 1, 0, 0]


def test_seen_two_step_never_by_hand() -> None:
    """Training a b c, a c, c d: from a b and c are seen, d is two steps away; from b c is seen, a is not."""
    a, b, c, d = 1, 2, 3, 4
    train = view_of([[a, b, c], [a, c], [c, d]])
    view = TargetView(
        items=np.array([a, a, a, b, b]), times=np.zeros(5, np.int64), offsets=np.arange(6), user=np.arange(5),
        target=np.array([b, c, d, c, a]), train_len=np.ones(5, np.int64),
    )  # fmt: skip
    targets = Targets(view=view, train=train, n_items=4)
    assert named(targets, "transition") == ["seen", "seen", "two-step", "seen", "never"]


def test_transitions_are_those_of_sets(random_targets: Targets) -> None:
    steps = {pair for row in sequences(random_targets.train) for pair in pairwise(row)}
    expected = []
    for history, y in zip(sequences(random_targets.view), random_targets.view.target, strict=True):
        x = history[-1]
        two = any((x, z) in steps and (z, y) in steps for z in range(1, N_ITEMS + 1))
        expected.append("seen" if (x, y) in steps else "two-step" if two else "never")
    assert named(random_targets, "transition") == expected
    assert len(set(expected)) == 3


def test_memgen_is_that_of_sets(random_targets: Targets) -> None:
    rows = sequences(random_targets.train)
    follow: dict[int, dict[int, set[int]]] = {}
    before: dict[int, dict[int, set[int]]] = {}
    for h in range(1, 5):
        follow[h] = {a: set() for a in range(N_ITEMS + 1)}
        before[h] = {a: set() for a in range(N_ITEMS + 1)}
        for row in rows:
            for i, a in enumerate(row):
                for b in row[i + 1 : i + 1 + h]:
                    follow[h][a].add(b)
                    before[h][b].add(a)

    def windows_of(history: list[int], y: int) -> dict[str, int]:
        """The smallest window of each kind of generalization."""
        smallest: dict[str, int] = {}
        for h in range(1, min(4, len(history)) + 1):
            f, b = follow[h], before[h]
            for u in history[-h:]:
                holding = {
                    "substitutability": h >= 2 and y in f[u], "symmetry": u in f[y],
                    "transitivity": bool(f[u] & b[y]),
                    "second-symmetry": bool(f[y] & b[u] or f[y] & f[u] or b[y] & b[u]),
                }  # fmt: skip
                for kind in (kind for kind, holds in holding.items() if holds):
                    smallest.setdefault(kind, h)
        return smallest

    pairs = list(zip(sequences(random_targets.view), random_targets.view.target.tolist(), strict=True))
    memorized = [y in follow[1][history[-1]] for history, y in pairs]
    windows = [windows_of(history, y) for history, y in pairs]
    expected = [
        "memorization" if by_heart else "generalization" if kinds else "uncategorized"
        for by_heart, kinds in zip(memorized, windows, strict=True)
    ]
    assert named(random_targets, "memgen") == expected
    assert len(set(expected)) == 3
    for kind in RELATIONS:
        expected = [
            "memorization" if by_heart else f"window {kinds[kind]}" if kind in kinds else "neither"
            for by_heart, kinds in zip(memorized, windows, strict=True)
        ]
        assert named(random_targets, f"memgen-{kind}") == expected
        assert len(set(expected)) >= 4, kind


def test_the_kinds_of_generalization_by_hand() -> None:
    """Training a b c d; from a: b is memorised, c and d are substitutes in windows 2 and 3; from b, a is symmetric."""
    a, b, c, d, e = 1, 2, 3, 4, 5
    view = TargetView(
        items=np.array([e, e, a, e, e, a, e, e, a, b, a]), times=np.zeros(11, np.int64),
        offsets=np.array([0, 3, 6, 9, 10, 11]), user=np.arange(5), target=np.array([b, c, d, a, c]),
        train_len=np.ones(5, np.int64),
    )  # fmt: skip
    targets = Targets(view=view, train=view_of([[a, b, c, d]]), n_items=5)
    assert named(targets, "memgen-substitutability") == [
        "memorization", "window 2", "window 3", "neither", "neither",
    ], "a history of one item has no window of two"  # fmt: skip
    assert named(targets, "memgen-symmetry") == ["memorization", "neither", "neither", "window 1", "neither"]
    assert named(targets, "memgen-transitivity")[1] == "window 1", "a, b, c"


def test_at_least_half_of_a_history_with_text() -> None:
    flags = np.array([False, True, True, False, False, *[False] * 5])
    histories = [[1, 3], [1, 3, 4], [3, 4], [1, 2, 3], [1]]
    targets = targets_of(histories, [9] * 5, present={"text": flags, "image": ~flags})
    much, little = "half or more", "less than half"
    assert named(targets, "history-text") == [much, little, little, much, much]
    assert named(targets, "history-image") == [much, much, much, little, little]


def test_cooccur_repeat_and_counts_are_those_of_sets(random_targets: Targets) -> None:
    rows, targets = sequences(random_targets.train), random_targets.view.target.tolist()
    histories = sequences(random_targets.view)
    counts = Counter(item for row in rows for item in row)
    shares = ["yes" if any(y in row and set(row) & set(h) for row in rows) else "no"
              for h, y in zip(histories, targets, strict=True)]  # fmt: skip
    assert named(random_targets, "cooccur") == shares
    repeats = ["repeat" if y in h else "new" for h, y in zip(histories, targets, strict=True)]
    assert named(random_targets, "repeat") == repeats
    bins = {0: "0", **dict.fromkeys(range(1, 5), "1-4"), **dict.fromkeys(range(5, 10), "5-9")}
    assert named(random_targets, "count") == [bins.get(counts[y], "10-19") for y in targets]
    assert {"yes", "no"} == set(shares)


def test_near_is_the_largest_cosine(random_targets: Targets) -> None:
    text = random_targets.text
    assert text is not None

    def cosine(a: int, b: int) -> float:
        norm = np.linalg.norm(text[a]) * np.linalg.norm(text[b])
        return float(text[a] @ text[b] / norm) if norm else 0.0

    expected = []
    for history, y in zip(sequences(random_targets.view), random_targets.view.target, strict=True):
        largest = max(cosine(item, y) for item in history)
        expected.append("duplicate" if largest >= 0.98 else "similar" if largest >= 0.8 else "other")
    assert named(random_targets, "near") == expected
    assert len(set(expected)) == 3


def test_bounds_of_lengths_and_gaps_belong_to_the_label_above() -> None:
    lengths = [1, 4, 5, 9, 10, 19, 20, 49, 50]
    targets = targets_of([[1] * n for n in lengths], [2] * 9)
    names = ["1-4", "1-4", "5-9", "5-9", "10-19", "10-19", "20-49", "20-49", "50+"]
    assert named(targets, "history") == names
    gaps = np.array([0, 1, DAY - 1, DAY, 7 * DAY, 30 * DAY, 180 * DAY - 1, 180 * DAY, 999 * DAY])
    newest = targets.view.times[targets.view.offsets[1:] - 1]
    targets = replace(targets, target_times=newest + gaps)
    names = ["0", "<1 d", "<1 d", "1-7 d", "7-30 d", "30-180 d", "30-180 d", ">180 d", ">180 d"]
    assert named(targets, "gap") == names
    assert named(targets, "tied") == ["tied"] + ["later"] * 8


def test_every_user_has_one_label_and_other_numbers_of_items_change_none(random_targets: Targets) -> None:
    """Labels partition the users; new numbers for the items permute nothing but ties in popularity."""
    rng = np.random.default_rng(0)
    new = np.concatenate([[0], rng.permutation(N_ITEMS) + 1])
    train = replace(random_targets.train, items=new[random_targets.train.items])
    view = replace(
        random_targets.view, items=new[random_targets.view.items], target=new[random_targets.view.target]
    )
    old = np.argsort(new)
    moved = replace(
        random_targets, view=view, train=train, text=random_targets.text[old],
        present={key: flags[old] for key, flags in random_targets.present.items()},
    )  # fmt: skip
    for family in FAMILIES:
        labels = label(random_targets, family)
        assert labels.index.shape == (300,)
        assert labels.index.min() >= 0
        assert labels.index.max() < len(labels.names)
        if family != "popularity":  # where ties of counts go by number
            assert named(moved, family) == named(random_targets, family)


def test_labels_do_not_read_other_targets(random_targets: Targets) -> None:
    """A label rests on training, the history and the target; another user's target moves none."""
    other = random_targets.view.target.copy()
    other[1:] = other[1:] % N_ITEMS + 1
    moved = replace(random_targets, view=replace(random_targets.view, target=other))
    for family in FAMILIES:
        assert named(moved, family)[0] == named(random_targets, family)[0]


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("tied", "order"),
        ("gap", "order"),
        ("image", "no image"),
        ("near", "no text"),
        ("reapet", "'repeat'"),
        ("history-image", "no image"),
    ],
)
def test_labels_that_cannot_be_made_have_one_line(family: str, reason: str) -> None:
    targets = replace(targets_of([[1, 2]], [3]), target_times=None)
    with pytest.raises(UsageError, match=reason) as caught:
        label(targets, family)
    assert "\n" not in str(caught.value)
