"""Nearest neighbours in stored features against the plain way, and features of unusual shapes."""

from pathlib import Path

import numpy as np
import pytest

from mmbench.data.store import Prepared
from mmbench.features.store import write_features
from mmbench.look import nearest as module
from mmbench.look.nearest import mean_cosine, nearest
from tests.looking import write_data
from tests.prepared import MADE

N = 40


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return write_data(tmp_path, [[(item, item) for item in range(1, N + 1)]], n_items=N)


def write(prepared: Prepared, values: np.ndarray, absent: tuple[int, ...] = ()) -> None:
    present = np.ones(len(values), dtype=bool)
    present[list(absent)] = False
    write_features(prepared, "text", "x", values, present, MADE)


def test_neighbours_are_those_of_the_full_table(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 3)
    values = np.random.default_rng(0).normal(size=(N + 1, 6)).astype(np.float32)
    write(prepared, values, absent=(4, 9))
    groups = [frozenset([item % 3]) for item in range(1, N + 1)]
    actual = nearest(prepared, "text", "x", np.array([1, 4, 30, 40]), groups)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    here = [item for item in range(1, N + 1) if item not in (4, 9)]
    for query in (1, 30, 40):
        plain = sorted((-float(unit[query] @ unit[item]), item) for item in here if item != query)[:5]
        assert [item for item, _ in actual.neighbours[query]] == [item for _, item in plain]
        assert [cosine for _, cosine in actual.neighbours[query]] == pytest.approx(
            [-cosine for cosine, _ in plain], abs=1e-5
        )
    assert actual.neighbours[4] == []
    pairs = [(a, b) for a in here for b in here if a != b]
    assert actual.mean_cosine == pytest.approx(np.mean([unit[a] @ unit[b] for a, b in pairs]), abs=1e-6)
    assert actual.same_by_chance == pytest.approx(np.mean([a % 3 == b % 3 for a, b in pairs]))


def test_features_of_the_categories_find_the_categories(prepared: Prepared) -> None:
    groups = [frozenset([item % 4]) for item in range(1, N + 1)]
    values = np.eye(4, dtype=np.float32)[np.arange(N + 1) % 4]
    write(prepared, values)
    actual = nearest(prepared, "text", "x", np.array([1]), groups)
    assert actual.neighbours[1] == [
        (5, 1.0),
        (9, 1.0),
        (13, 1.0),
        (17, 1.0),
        (21, 1.0),
    ]  # equal cosines: by item
    assert actual.same_categories == 1.0
    assert actual.same_by_chance == pytest.approx(9 / 39)


def test_items_without_categories_are_not_compared(prepared: Prepared) -> None:
    write(prepared, np.random.default_rng(0).normal(size=(N + 1, 4)))
    actual = nearest(prepared, "text", "x", np.array([1]), [None] * N)
    assert (actual.same_categories, actual.same_by_chance) == (None, None)
    assert len(actual.neighbours[1]) == 5


def test_of_several_layers_the_last_is_compared(prepared: Prepared) -> None:
    values = np.random.default_rng(0).normal(size=(N + 1, 3, 4)).astype(np.float16)
    write(prepared, values)
    layers = nearest(prepared, "text", "x", np.array([7]), [None] * N)
    write(prepared, values[:, -1])
    assert layers.shape == (3, 4)
    assert layers.neighbours == nearest(prepared, "text", "x", np.array([7]), [None] * N).neighbours


def test_a_single_item_with_a_feature_has_no_neighbour(prepared: Prepared) -> None:
    write(prepared, np.ones((N + 1, 4)), absent=tuple(range(2, N + 1)))
    actual = nearest(prepared, "text", "x", np.array([1, 2]), [None] * N)
    assert (actual.neighbours, actual.mean_cosine) == ({1: [], 2: []}, None)


def test_mean_cosine_of_two_rows() -> None:
    assert mean_cosine(np.array([[1, 0], [0.6, 0.8]], dtype=np.float32)) == pytest.approx(0.6)
