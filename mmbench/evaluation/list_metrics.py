"""Metrics of each user's list of best items, a value per user; NaN where a list has too few items for it.

N items, U training users, c_i training events and u_i training users of item i, K places:

    Novelty              mean of -log2((u_i + 1) / (U + 2)) over the list: self-information, bits
    Popularity           mean of c_i
    Popularity-share     mean of c_i / sum c
    Tail                 share of the list's items that are in the last third of all training events, or have none
                         (tail and cold of mmbench.evaluation.slices)
    Repeats              share of the list's items that the user's history holds
    ILD-text, -image,    mean of 1 - cos(f_i, f_j) over the pairs of a list; items without features are left out, and
    -category            users with fewer than two others too. Categories are sets: f_i is 1 at each of the item's
    Serendipity          mean over places r of max(p_r - q_r, 0) [item r is the target], p_r = (N + 1 - r) / N,
                         q_r = (N + 1 - rank of its popularity) / N, 0 for an item without events; equal counts share a
                         rank and the next count has the next (RecTools 41a5a63, `Serendipity`)
    Serendipity-ordinal  the same with ranks 1..N of popularity, ties by smaller id

Lists are those of mmbench.evaluation.evidence, 0 where a user has fewer candidates. Axes: n users.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from mmbench.errors import DataError, UsageError
from mmbench.evaluation.data_facts import DataFacts, Vectors
from mmbench.evaluation.slices import popularity_of_items

_CHUNK = 2048  # users whose items' vectors are summed at once


@dataclass(frozen=True)
class Listed:
    """Users' lists, their targets and what the metrics read of the data.

    user, target  int64 [n]; targets are 0 where they were left out of what is passed on
    items         int [n, K], best first, 0 = no item
    """

    user: np.ndarray
    target: np.ndarray
    items: np.ndarray
    facts: DataFacts


def _mean_of(values: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return the mean over each list of a value per item [N + 1] or per place [n, K], float64 [n]."""
    is_item = items > 0
    per_place = values[items] if values.ndim == 1 else values
    with np.errstate(invalid="ignore"):
        return np.asarray((per_place * is_item).sum(1) / is_item.sum(1))


def _novelty(listed: Listed) -> np.ndarray:
    facts = listed.facts
    return _mean_of(-np.log2((facts.users + 1) / (facts.n_users + 2)), listed.items)


def _popularity(listed: Listed) -> np.ndarray:
    return _mean_of(listed.facts.events.astype(np.float64), listed.items)


def _popularity_share(listed: Listed) -> np.ndarray:
    return _popularity(listed) / max(listed.facts.events.sum(), 1)


def _tail(listed: Listed) -> np.ndarray:
    return _mean_of((popularity_of_items(listed.facts.events) <= 1).astype(np.float64), listed.items)


def _repeats(listed: Listed) -> np.ndarray:
    view, width = listed.facts.view, listed.facts.n_items + 1
    rows = _rows_of(listed)
    seen = np.repeat(np.arange(len(view)), np.diff(view.offsets)) * width
    seen += view.items[view.offsets[0] : view.offsets[-1]]
    return _mean_of(np.isin(rows[:, None] * width + listed.items, seen).astype(np.float64), listed.items)


def _rows_of(listed: Listed) -> np.ndarray:
    """Return which row of the view each user is; DataError for a user who is none."""
    users = listed.facts.view.user
    order = np.argsort(users)
    rows = order[np.minimum(np.searchsorted(users[order], listed.user), len(users) - 1)]
    if not np.array_equal(users[rows], listed.user):
        raise DataError("a ranking holds users without a target in the prepared data; evaluate the run again")
    return np.asarray(rows)


def _diversity(kind: str, listed: Listed) -> np.ndarray:
    """Return 1 minus the mean cosine over pairs, from the length of the sum of unit vectors.

    |sum f|^2 is the number of vectors plus twice the sum of cosines over pairs.
    """
    from scipy.sparse import csr_array

    vectors = _of_unit_length(listed.facts.vectors(kind))
    has = np.asarray(abs(vectors).sum(1)).ravel() > 0
    has[0] = False
    n_vectors, squares = has[listed.items].sum(1), np.zeros(len(listed.items))
    for first in range(0, len(listed.items), _CHUNK):
        items = listed.items[first : first + _CHUNK]
        rows, columns = np.nonzero(has[items])
        members = csr_array(
            (np.ones(len(rows)), (rows, items[rows, columns])), shape=(len(items), vectors.shape[0])
        )
        total = members @ vectors
        squares[first : first + _CHUNK] = np.asarray((total * total).sum(1)).ravel()
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (squares - n_vectors) / (n_vectors * (n_vectors - 1))
    return np.where(n_vectors >= 2, 1 - cosine, np.nan)


def _of_unit_length(vectors: Vectors) -> Vectors:
    """Return the vectors [N + 1, D] at length 1; those of zeros stay."""
    from scipy.sparse import diags_array

    lengths = np.sqrt(np.asarray((vectors * vectors).sum(1)).ravel().astype(np.float64))
    return diags_array(1 / np.where(lengths > 0, lengths, 1)).tocsr() @ vectors


def _serendipity(listed: Listed, *, is_ordinal: bool) -> np.ndarray:
    if not listed.target.any():
        raise UsageError("the ranking's targets were left out of what was passed on, so hits are not known")
    events, n_items = listed.facts.events, listed.facts.n_items
    if is_ordinal:
        rank = np.zeros(n_items + 1)
        rank[np.argsort(-events[1:], kind="stable") + 1] = np.arange(1, n_items + 1)
    else:
        which = np.unique(-events[1:], return_inverse=True)[1]
        rank = np.concatenate([[0], which + 1])
    expected = np.where(events > 0, (n_items + 1 - rank) / n_items, 0)
    place = (n_items + 1 - np.arange(1, listed.items.shape[1] + 1)) / n_items
    surprise = np.maximum(place - expected[listed.items], 0)
    return _mean_of(surprise * (listed.items == listed.target[:, None]), listed.items)


PER_USER: dict[str, Callable[[Listed], np.ndarray]] = {
    "Novelty": _novelty, "Popularity": _popularity, "Popularity-share": _popularity_share, "Tail": _tail,
    "Repeats": _repeats, "ILD-text": partial(_diversity, "text"), "ILD-image": partial(_diversity, "image"),
    "ILD-category": partial(_diversity, "category"), "Serendipity": partial(_serendipity, is_ordinal=False),
    "Serendipity-ordinal": partial(_serendipity, is_ordinal=True),
}  # fmt: skip
FORMULAS = {
    "Novelty": "mean of -log2((u + 1)/(U + 2)) over the first {k}, u of U training users have the item",
    "Popularity": "mean number of training events of the first {k}",
    "Popularity-share": "mean share of all training events that an item of the first {k} has",
    "Tail": "share of the first {k} that lies in the last third of all training events, or has none",
    "Repeats": "share of the first {k} that the user's history holds",
    "ILD-text": "mean of 1 - cosine of text features over pairs of the first {k}",
    "ILD-image": "mean of 1 - cosine of image features over pairs of the first {k}",
    "ILD-category": "mean of 1 - cosine of category sets over pairs of the first {k}",
    "Serendipity": "mean over the first {k} of how far a hit is less popular than its place",
    "Serendipity-ordinal": "as Serendipity, popularity ranked without ties, first {k}",
}
