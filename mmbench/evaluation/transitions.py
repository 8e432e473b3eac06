"""Which items follow each other in training sequences, as sparse matrices, and what they say about a target.

The labels of `memgen` are those of Ding et al. (arXiv 2603.19809). With windows of h = 1..4 positions, F[a] the items
that follow a within h positions in some training sequence, B the reverse, x the newest and u any of the newest h
input items:

    memorization    y in F[x] with h = 1
    generalization  for some h and u: y in F[u] (substitutability, h >= 2), u in F[y] (symmetry), F[u] meets B[y]
                    (transitivity), or F[y] meets B[u], F[y] meets F[u] or B[y] meets B[u] (second-order symmetry)
    uncategorized   else

A target may have several of the relations in brackets; each has a smallest window of its own.

Axes: n targets, N items.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mmbench.data.views import TargetView, TrainView

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MEMGEN = ("memorization", "generalization", "uncategorized")
WINDOWS = (1, 2, 3, 4)
_CHUNK = 2048  # targets whose neighbours are compared at once


def follows(train: TrainView, n_items: int, window: int) -> "csr_array":
    """Return F, bool [N + 1, N + 1]: F[a, b] where b follows a within so many positions in some training sequence."""
    items, users = train.items, train.users
    pairs = [np.zeros((2, 0), dtype=np.int64)]
    for distance in range(1, window + 1):
        same = users[distance:] == users[: len(users) - distance]
        pairs.append(np.stack([items[: len(items) - distance][same], items[distance:][same]]))
    return _flags(*np.concatenate(pairs, axis=1), shape=(n_items + 1, n_items + 1))


def _flags(rows: np.ndarray, columns: np.ndarray, *, shape: tuple[int, int]) -> "csr_array":
    """Return a matrix that is 1 at these entries, however often they are listed."""
    from scipy.sparse import csr_array

    matrix = csr_array((np.ones(len(rows), np.int32), (rows, columns)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def holds(matrix: "csr_array", a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return bool [n]: whether the matrix has an entry at each (a, b)."""
    width = matrix.shape[1]
    entries = matrix.tocoo()
    keys = entries.row.astype(np.int64) * width + entries.col
    return np.isin(a * width + b, keys)


def meet(first: "csr_array", a: np.ndarray, second: "csr_array", b: np.ndarray) -> np.ndarray:
    """Return bool [n]: whether row a of the first matrix and row b of the second have an entry in the same column."""
    met = np.zeros(len(a), dtype=bool)
    for start in range(0, len(a), _CHUNK):
        part = slice(start, start + _CHUNK)
        met[part] = np.asarray(first[a[part]].multiply(second[b[part]]).sum(1)).ravel() > 0
    return met


def _substitutes(forward: "csr_array", backward: "csr_array", u: np.ndarray, y: np.ndarray) -> np.ndarray:
    return holds(forward, u, y)


def _is_symmetric(forward: "csr_array", backward: "csr_array", u: np.ndarray, y: np.ndarray) -> np.ndarray:
    return holds(forward, y, u)


def _is_transitive(forward: "csr_array", backward: "csr_array", u: np.ndarray, y: np.ndarray) -> np.ndarray:
    return meet(forward, u, backward, y)


def _is_second_symmetric(
    forward: "csr_array", backward: "csr_array", u: np.ndarray, y: np.ndarray
) -> np.ndarray:
    return meet(forward, y, backward, u) | meet(forward, y, forward, u) | meet(backward, y, backward, u)


# F, B, history items u and targets y, int64 [m] -> whether they are related, bool [m]
RELATIONS: dict[str, Callable[["csr_array", "csr_array", np.ndarray, np.ndarray], np.ndarray]] = {
    "substitutability": _substitutes,
    "symmetry": _is_symmetric,
    "transitivity": _is_transitive,
    "second-symmetry": _is_second_symmetric,
}


def memgen(view: TargetView, train: TrainView, n_items: int) -> np.ndarray:
    """Return which of MEMGEN each target is, int64 [n]. Windows longer than a history are left out."""
    window = smallest_window(view, train, n_items, tuple(RELATIONS))
    return np.where(is_memorized(view, train, n_items), 0, np.where(window > 0, 1, 2))


def is_memorized(view: TargetView, train: TrainView, n_items: int) -> np.ndarray:
    """Return bool [n]: whether the target follows the newest input item directly in some training sequence."""
    return holds(follows(train, n_items, 1), view.items[view.offsets[1:] - 1], view.target)


def smallest_window(
    view: TargetView, train: TrainView, n_items: int, relations: tuple[str, ...]
) -> np.ndarray:
    """Return the smallest window in which a target has any of the relations, int64 [n]; 0 = none, or memorized."""
    lengths, ends = np.diff(view.offsets), view.offsets[1:]
    memorized, smallest = is_memorized(view, train, n_items), np.zeros(len(view), dtype=np.int64)
    for window in WINDOWS:
        forward = follows(train, n_items, window)
        backward = forward.T.tocsr()
        names = [name for name in relations if window > 1 or name != "substitutability"]
        for back in range(window):
            rows = np.flatnonzero((smallest == 0) & ~memorized & (lengths >= window))
            u, y = view.items[ends[rows] - 1 - back], view.target[rows]
            related = np.zeros(len(rows), dtype=bool)
            for name in names:
                related |= RELATIONS[name](forward, backward, u, y)
            smallest[rows[related]] = window
    return smallest


def share_a_user(view: TargetView, train: TrainView, n_items: int) -> np.ndarray:
    """Return bool [n]: whether some training user has the target and an item of its history."""
    has = _flags(train.users, train.items, shape=(len(train.offsets) - 1, n_items + 1))
    had_by = has.T.tocsr()
    lengths = np.diff(view.offsets)
    row = np.repeat(np.arange(len(view)), lengths)
    inputs = _flags(row, view.items[view.offsets[0] : view.offsets[-1]], shape=(len(view), n_items + 1))
    shares = np.zeros(len(view), dtype=bool)
    for start in range(0, len(view), _CHUNK):
        part = slice(start, start + _CHUNK)
        beside = had_by[view.target[part]] @ has  # how many users have the target and each item
        shares[part] = np.asarray(beside.multiply(inputs[part]).sum(1)).ravel() > 0
    return shares
