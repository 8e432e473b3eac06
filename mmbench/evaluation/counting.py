"""How many candidates beat a target, how many tie with it, and what a mask rule takes away from both.

Rows are users (T of a chunk), columns are items 1..N (column i - 1 belongs to item i).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmbench.data.views import TargetView, ranges
from mmbench.errors import RunError

# Scores compared at once: on a CPU so few that the passes over them read the cache, not the memory.
COMPARED_AT_ONCE = {"cpu": 2**19, "cuda": 2**25}
BLOCK = 64  # items whose largest score is kept, see mmbench.evaluation.lists


@dataclass(frozen=True)
class Counts:
    """Of each row: candidates above the target, others that tie with it (int64 [T]), the target's score [T].

    maxima  [T, N // BLOCK], the largest score of each whole block of items; None without `with_maxima`
    """

    greater: np.ndarray
    equal: np.ndarray
    target_score: np.ndarray
    maxima: Tensor | None = None


def count(
    scores: Tensor, target: Tensor, *, user: np.ndarray | None = None, with_maxima: bool = False
) -> Counts:
    """Compare scores [T, N] with those of the targets, int64 [T] in 1..N.

    A NaN compares false with everything and would rank first, so a target score that is not finite and any NaN
    or +inf raise RunError, which names the user; -inf for other candidates is allowed (they are out of the race).
    """
    if scores.dtype not in (torch.float32, torch.float64):
        raise RunError(f"scores are {scores.dtype}: too coarse to rank by; return float32 or float64")
    target_score = scores.gather(1, target[:, None] - 1)
    greater, equal = (np.empty(len(scores), np.int64) for _ in range(2))
    largest = scores.new_empty(len(scores))
    maxima = scores.new_empty(len(scores), scores.shape[1] // BLOCK) if with_maxima else None
    compare = _compare_on_cpu if scores.device.type == "cpu" else _compare_on_gpu
    size = max(1, COMPARED_AT_ONCE[scores.device.type] // scores.shape[1])
    for first in range(0, len(scores), size):
        rows = slice(first, first + size)
        greater[rows], equal[rows] = compare(scores[rows], target_score[rows])
        largest[rows] = _largest(scores[rows], None if maxima is None else maxima[rows])
    _check_finite(target_score[:, 0], largest, user)
    return Counts(greater, equal - 1, target_score[:, 0].cpu().numpy(), maxima)  # the target ties with itself


def _largest(scores: Tensor, maxima: Tensor | None) -> Tensor:
    """Return the largest score of each row, NaN where the row holds NaN; fill in the maxima of its blocks."""
    if maxima is None or not maxima.shape[1]:
        return scores.amax(1)
    whole = maxima.shape[1] * BLOCK
    torch.amax(scores[:, :whole].unflatten(1, (-1, BLOCK)), 2, out=maxima)
    largest = maxima.amax(1)
    rest = scores[:, whole:]
    return torch.maximum(largest, rest.amax(1)) if rest.shape[1] else largest


def _check_finite(target_score: Tensor, largest: Tensor, user: np.ndarray | None) -> None:
    bad = ~torch.isfinite(target_score) | torch.isnan(largest) | torch.isposinf(largest)
    if bad.any():
        first = int(bad.nonzero()[0])
        name = f"user number {user[first]}" if user is not None else f"row {first}"
        raise RunError(
            f"the model's score for {name} is not a finite number; lower the learning rate or check the features"
        )


def _compare_on_cpu(scores: Tensor, target_score: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Count row by row: numpy counts the true values of a row in a tenth of the time of a sum over an axis."""
    values, limits = scores.numpy(), target_score.numpy()
    flags = np.empty(values.shape, bool)
    np.greater(values, limits, out=flags)
    above = [np.count_nonzero(row) for row in flags]
    np.equal(values, limits, out=flags)
    return np.array(above), np.array([np.count_nonzero(row) for row in flags])


def _compare_on_gpu(scores: Tensor, target_score: Tensor) -> tuple[np.ndarray, np.ndarray]:
    above, equal = (scores > target_score).sum(1), (scores == target_score).sum(1)
    return above.cpu().numpy(), equal.cpu().numpy()


# -- mask rules -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """Distinct (row, item - 1) of what some rows' users have seen, sorted by row, then by item."""

    row: np.ndarray
    item: np.ndarray
    is_training: np.ndarray  # bool; False: only the later part of the history holds the item


class Seen:
    """The distinct items of each history of a view."""

    def __init__(self, view: TargetView, n_items: int) -> None:
        lengths = np.diff(view.offsets)
        history = np.repeat(np.arange(len(view)), lengths)
        position = np.arange(len(history)) - np.repeat(view.offsets[:-1] - view.offsets[0], lengths)
        events = view.items[view.offsets[0] : view.offsets[-1]]
        keys, first = np.unique(history * (n_items + 1) + events, return_index=True)
        # The first of equal events: when it is not for training, none is.
        self.is_training = (position < view.train_len[history])[first]
        self.item = keys % (n_items + 1) - 1
        self.length = np.bincount(keys // (n_items + 1), minlength=len(view))
        self.start = np.cumsum(self.length) - self.length

    def pairs(self, index: np.ndarray) -> Pairs:
        """Return what the users of these histories have seen; row k is `index[k]`."""
        flat = ranges(self.start[index], self.length[index])
        row = np.repeat(np.arange(len(index)), self.length[index])
        return Pairs(row, self.item[flat], self.is_training[flat])


def without(
    counts: Counts, scores: Tensor, target: np.ndarray, pairs: Pairs
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return (greater, equal) without the training items, then without any seen item. Targets always stay."""
    row, item = (torch.from_numpy(values).to(scores.device) for values in (pairs.row, pairs.item))
    rival, target_score = scores[row, item].cpu().numpy(), counts.target_score[pairs.row]
    above = rival > target_score
    tied = (rival == target_score) & (pairs.item != target[pairs.row] - 1)

    def left(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n = len(counts.greater)
        return (
            counts.greater - np.bincount(pairs.row[above & chosen], minlength=n),
            counts.equal - np.bincount(pairs.row[tied & chosen], minlength=n),
        )

    whole = left(np.ones(len(pairs.row), bool))
    return (whole if pairs.is_training.all() else left(pairs.is_training)), whole
