"""The best items of each user, exactly, with ties by smaller id, at a fraction of the cost of sorting.

The largest score of each block of BLOCK items comes with the counting (mmbench.evaluation.counting). The k best items
of a row lie in the k blocks with the largest maxima, where of equal maxima the block with smaller ids comes first: an
item outside is beaten by the largest of each of these k blocks, or ties with it and has the larger id. Items after
the last whole block are always looked at.
"""

import numpy as np
import torch
from torch import Tensor

from mmbench.evaluation.counting import BLOCK, Pairs


def best(scores: Tensor, k: int, maxima: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best of scores [T, N] in each row: items - 1, int64 [T, k], and their scores.

    maxima  [T, N // BLOCK] of whole blocks; k <= N. No score is NaN.
    """
    if scores.device.type != "cpu":
        return best_by_sorting(scores, k, maxima)
    if maxima.shape[1] <= k:
        values = scores.numpy()
        items = columns = _largest(values, k)
    else:
        blocks = _largest(maxima.cpu().numpy(), k)
        values = _values_of(scores, blocks)
        columns = _largest(values, k)
        items = _items_of(columns, blocks, scores.shape[1])
    chosen = np.take_along_axis(values, columns, axis=1)
    order = np.argsort(-chosen, axis=1, kind="stable")
    return np.take_along_axis(items, order, axis=1), np.take_along_axis(chosen, order, axis=1)


def best_by_sorting(scores: Tensor, k: int, maxima: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return what `best` returns, by stable sorts: what a GPU is good at, and on a CPU is slow."""
    whole = maxima.shape[1] * BLOCK
    items = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    values = scores
    if maxima.shape[1] > k:
        first = maxima.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(dim=1).values
        columns = (first[:, :, None] * BLOCK + torch.arange(BLOCK, device=scores.device)).flatten(1)
        items = torch.cat([columns, items[:, whole:]], 1)
        values = scores.gather(1, items)
    values, order = (part[:, :k] for part in values.sort(dim=1, descending=True, stable=True))
    return items.gather(1, order).cpu().numpy(), values.cpu().numpy()


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the columns of the k largest values of each row, rising, int64 [T, k]; of equal values the first."""
    n = values.shape[1]
    least = np.partition(values, n - k, axis=1)[:, n - k, None]
    chosen = values >= least
    if np.count_nonzero(chosen) > k * len(
        values
    ):  # some row has more values that equal its least than are needed
        rows = np.flatnonzero(chosen.sum(1) > k)
        level = values[rows] == least[rows]
        above = chosen[rows] & ~level
        needed = k - above.sum(1, keepdims=True)
        chosen[rows] = above | (level & (np.cumsum(level, axis=1, dtype=np.int32) <= needed))
    return (np.flatnonzero(chosen) % n).reshape(-1, k)


def _values_of(scores: Tensor, blocks: np.ndarray) -> np.ndarray:
    """Return the scores in these blocks [T, k], then those after the last whole block."""
    n_rows, n_items = scores.shape
    whole, width = n_items // BLOCK * BLOCK, blocks.shape[1] * BLOCK
    rows = np.arange(n_rows)[:, None]
    taken = scores[:, :whole].unflatten(1, (-1, BLOCK)).numpy()[rows, blocks]
    rest = scores[:, whole:].numpy()
    values = np.empty((n_rows, width + n_items - whole), rest.dtype)
    values[:, :width], values[:, width:] = taken.reshape(n_rows, -1), rest
    return values


def _items_of(columns: np.ndarray, blocks: np.ndarray, n_items: int) -> np.ndarray:
    """Return which items (- 1) stand in these columns of `_values_of`."""
    width = blocks.shape[1] * BLOCK
    block = np.take_along_axis(blocks, np.minimum(columns, width - 1) // BLOCK, axis=1)
    return np.where(
        columns < width, block * BLOCK + columns % BLOCK, columns - width + n_items // BLOCK * BLOCK
    )


class Unseen:
    """Takes seen items out of lists. Keeps a flag per row and item, so it is made once for many chunks."""

    def __init__(self, n_items: int) -> None:
        self.n_items = n_items
        self.flags = np.zeros(0, bool)

    def first(
        self, items: np.ndarray, scores: np.ndarray, k: int, pairs: Pairs, target: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the first k of each row [T, L] that its user has not seen, and which rows have fewer, bool [T].

        The target always stays. Rows with fewer are filled with item -1 and score -inf.
        """
        n_rows = len(items)
        if len(self.flags) < n_rows * self.n_items:
            self.flags = np.zeros(n_rows * self.n_items, bool)
        seen = (pairs.row * self.n_items + pairs.item)[pairs.item != target[pairs.row] - 1]
        self.flags[seen] = True
        kept = ~self.flags[np.arange(n_rows)[:, None] * self.n_items + items]
        self.flags[seen] = False
        position = np.cumsum(kept, axis=1) - 1
        is_short = position[:, -1] < k - 1
        kept &= position < k
        left_items = np.full((n_rows, k), -1)
        left_scores = np.full((n_rows, k), -np.inf, scores.dtype)
        row, column = np.nonzero(kept)
        left_items[row, position[row, column]] = items[row, column]
        left_scores[row, position[row, column]] = scores[row, column]
        return left_items, left_scores, is_short
