"""Some of the targets of a view, with their histories."""

import numpy as np
import pytest

from mmbench.data.views import TargetView


def ragged(n: int) -> TargetView:
    lengths = np.random.default_rng(n).integers(1, 6, n)
    events = np.arange(lengths.sum())
    return TargetView(
        items=events + 1, times=10 * events, offsets=np.concatenate([[0], lengths.cumsum()]), user=np.arange(n) + 5,
        target=np.arange(n) % 9 + 1, train_len=lengths - 1,
    )  # fmt: skip


def rows(view: TargetView) -> list[tuple[int, ...]]:
    """User, target, training events, and the history's items and times."""
    return [
        (
            *(int(part[row]) for part in (view.user, view.target, view.train_len)),
            *view.items[start:end].tolist(), *view.times[start:end].tolist(),
        )
        for row, (start, end) in enumerate(zip(view.offsets, view.offsets[1:], strict=False))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("n", "expected"), [(1, [0]), (2, [0, 10]), (3, [0, 5, 10]), (11, range(11)), (99, range(11))]
)
def test_targets_are_spread_evenly_and_keep_their_histories(n: int, expected: list[int]) -> None:
    every = rows(ragged(11))
    assert rows(ragged(11).spread(n)) == [every[row] for row in expected]


def test_no_targets_stay_none() -> None:
    assert len(ragged(0).spread(4)) == 0
