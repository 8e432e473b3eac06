"""Nearest neighbours of items in stored features: do items that look or read similarly lie near each other?

Rows are compared by cosine; items without the feature are left out.
Axes: N items, D numbers, Q queries, K neighbours.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmbench.data.store import Prepared
from mmbench.features.manifest import FeatureManifest, Modality
from mmbench.features.store import load_features

K = 5
SAMPLE = 1000  # compares the categories of this many items' neighbours, evenly over the catalogue
BLOCK = 64  # queries at a time: [BLOCK, N] cosines


@dataclass(frozen=True)
class Nearest:
    """The neighbours of a few items by one encoder, and two numbers that show whether they make sense.

    A cosine means little without context (all rows of a BERT lie near each other), hence `mean_cosine` of all pairs.
    `same_categories` is the share of the K nearest that have exactly the item's categories, over SAMPLE items
    with categories; `same_by_chance` is the share among all pairs of such items. None if nothing can be compared.
    """

    modality: Modality
    encoder: str
    manifest: FeatureManifest
    shape: tuple[
        int, ...
    ]  # shape of an item's feature: (D,) or (layers, D), of which the last layer is compared
    neighbours: dict[int, list[tuple[int, float]]]  # query -> (item, cosine), nearest first; [] = no feature
    mean_cosine: float | None
    same_categories: float | None
    same_by_chance: float | None


def nearest(
    prepared: Prepared, modality: Modality, encoder: str, queries: np.ndarray, groups: list[Any]
) -> Nearest:
    """Find the neighbours of the items `queries`; raises what load_features raises.

    groups  the categories of item i + 1 at index i, None for items without any
    """
    features = load_features(prepared, modality, encoder)
    values = features.values[:, -1] if features.values.ndim == 3 else features.values
    items, unit = _unit_rows(np.asarray(values, dtype=np.float32), features.present)
    row_of = {int(item): row for row, item in enumerate(items)}
    present = [int(item) for item in queries if int(item) in row_of]
    nearest_rows = _nearest_rows(unit, np.array([row_of[item] for item in present], dtype=np.int64))
    neighbours: dict[int, list[tuple[int, float]]] = {int(item): [] for item in queries}
    for item, (near, cosine) in zip(present, nearest_rows, strict=True):
        neighbours[item] = list(zip(items[near].tolist(), cosine.tolist(), strict=True))
    same, chance = _same_group(unit, [groups[item - 1] for item in items.tolist()])
    return Nearest(
        modality,
        encoder,
        features.manifest,
        tuple(features.values.shape[1:]),
        neighbours,
        mean_cosine(unit),
        same,
        chance,
    )


def _unit_rows(values: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the items with a direction, int64 [n], and their rows scaled to length 1, float32 [n, D]."""
    length = np.linalg.norm(values, axis=1)
    items = np.flatnonzero(present & (length > 0))
    return items, values[items] / length[items, None]


def mean_cosine(unit: np.ndarray) -> float | None:
    """Return the exact mean over all pairs of different rows: |sum of rows|^2 has every pair twice, every row once."""
    n = len(unit)
    if n < 2:
        return None
    total = unit.sum(axis=0, dtype=np.float64)
    squares = float((unit.astype(np.float64) ** 2).sum())
    return (float(total @ total) - squares) / (n * (n - 1))


def _nearest_rows(unit: np.ndarray, queries: np.ndarray, k: int = K) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (row numbers, cosines) of the k rows nearest to each query row, excluding itself; ties by row number."""
    k = min(k, len(unit) - 1)
    if k < 1:
        return [(np.zeros(0, np.int64), np.zeros(0, np.float32)) for _ in queries]
    result = []
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK]
        cosine = unit[block] @ unit.T
        cosine[np.arange(len(block)), block] = -np.inf
        for row in cosine:
            enough = np.flatnonzero(row >= np.partition(row, -k)[-k])
            best = enough[np.argsort(-row[enough], kind="stable")][:k]
            result.append((best, row[best]))
    return result


def _same_group(unit: np.ndarray, groups: list[Any]) -> tuple[float | None, float | None]:
    """Return the share of nearest rows, and of all pairs, with equal groups, among the rows that have a group."""
    known = np.array([group is not None for group in groups], dtype=bool)
    numbers: dict[Any, int] = {}
    label = np.array(
        [numbers.setdefault(group, len(numbers)) for group in groups if group is not None], np.int64
    )
    n = len(label)
    if n < 2 or len(numbers) < 2:
        return None, None
    queries = np.unique(np.linspace(0, n - 1, min(SAMPLE, n)).round().astype(np.int64))
    rows = _nearest_rows(unit[known], queries)
    same = np.concatenate(
        [label[near] == label[query] for query, (near, _) in zip(queries, rows, strict=True)]
    )
    size = np.bincount(label).astype(np.float64)
    return float(same.mean()), float((size * (size - 1)).sum() / (n * (n - 1)))
