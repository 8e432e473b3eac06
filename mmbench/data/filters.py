"""Duplicates, k-core and order of events: pure functions on integer arrays, no files."""

import numpy as np

from mmbench.data.protocol import random_seed


def first_of_duplicates(user: np.ndarray, item: np.ndarray, ticks: np.ndarray) -> np.ndarray:
    """Return bool [E], False for an event that equals an earlier event in user, item and time."""
    # The sort is stable, so that the first of equal events in the file comes first.
    order = np.lexsort((ticks, item, user))
    same = np.ones(max(len(order) - 1, 0), dtype=bool)
    for column in (user, item, ticks):
        same &= np.diff(column[order]) == 0
    keep = np.ones(len(user), dtype=bool)
    keep[order[1:][same]] = False
    return keep


def k_core(
    user: np.ndarray, item: np.ndarray, *, min_user: int, min_item: int, item_counts: str, iterate: bool
) -> tuple[np.ndarray, int]:
    """Return which events stay (bool [E]) and the number of rounds. With `iterate` the k-core: every bound holds.

    A round removes users with fewer than `min_user` events, then, of what is left, items with fewer than `min_item`
    events (`item_counts="users"`: fewer than `min_item` different users).
    """
    keep = np.ones(len(user), dtype=bool)
    rounds = 0
    while True:
        before = int(keep.sum())
        keep &= (np.bincount(user[keep], minlength=_size(user)) >= min_user)[user]
        pairs = (user[keep], item[keep])
        if item_counts == "users":
            pairs = _distinct(*pairs)
        keep &= (np.bincount(pairs[1], minlength=_size(item)) >= min_item)[item]
        rounds += 1
        if not iterate or int(keep.sum()) == before:
            return keep, rounds


def _size(codes: np.ndarray) -> int:
    return int(codes.max()) + 1 if len(codes) else 0


def _distinct(user: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keep = first_of_duplicates(user, item, np.zeros_like(user))
    return user[keep], item[keep]


def event_order(user: np.ndarray, ticks: np.ndarray, ties: str) -> np.ndarray:
    """Return int64 [E], the events sorted by user, then time, then the tie rule.

    `file` keeps the order of the file, `reverse` reverses it, `random:<seed>` draws an order of all events.
    """
    rank = np.arange(len(user), dtype=np.int64)
    seed = random_seed(ties)
    if seed is not None:
        rank = np.random.Generator(np.random.PCG64(seed)).permutation(len(user))
    elif ties == "reverse":
        rank = -rank
    return np.lexsort((rank, ticks, user))
