"""Lists of best items: always those of a full stable sort, under each mask rule, whatever the blocks."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.choices import MaskRule
from mmbench.data.views import TargetView
from mmbench.errors import UsageError
from mmbench.evaluation.counting import BLOCK, count
from mmbench.evaluation.lists import best, best_by_sorting
from mmbench.evaluation.ranking import rank_fully
from tests.scorers import Written, WrittenAsProduct, random_view


def stable_sort(row: np.ndarray, candidates: np.ndarray, k: int) -> list[int]:
    """The k best of these items (1..N), best first, of equal scores the smaller; none that scores -inf; then zeros."""
    order = [int(item) for item in sorted(candidates, key=lambda item: (-row[item - 1], item))]
    kept = [item for item in order if row[item - 1] > -np.inf][:k]
    return kept + [0] * (k - len(kept))


@st.composite
def score_tables(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Scores [T, N] with ties within and between blocks, runs of equal values, -0.0 beside 0.0, and -inf; and a k."""
    n_rows, n_items = draw(st.integers(1, 4)), draw(st.integers(1, 5 * BLOCK + 3))
    levels = draw(st.sampled_from([1, 2, 5, 40, 10**6]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = rng.integers(0, levels, (n_rows, n_items)).astype(np.float64) / levels - draw(
        st.sampled_from([0, 0.5])
    )
    scores[rng.random(scores.shape) < draw(st.sampled_from([0, 0.1, 0.95]))] = -np.inf
    scores[rng.random(scores.shape) < 0.1] = -0.0
    if draw(st.booleans()):
        scores = np.sort(scores, axis=1)  # the best items are the last ones
    return scores, draw(st.integers(1, n_items))


@settings(max_examples=300, deadline=None)
@given(score_tables(), st.sampled_from([torch.float32, torch.float64]))
def test_the_best_are_those_of_a_full_stable_sort(made: tuple[np.ndarray, int], dtype: torch.dtype) -> None:
    values, k = made
    values[:, 0] = 0.0  # the target of the count must be finite
    scores = torch.from_numpy(values).to(dtype)
    maxima = count(scores, torch.ones(len(scores), dtype=torch.int64), with_maxima=True).maxima
    assert maxima is not None
    expected_values, expected = scores.sort(dim=1, descending=True, stable=True)
    for method in (best, best_by_sorting):  # of a CPU, of a GPU
        items, actual = method(scores, k, maxima)
        assert items.tolist() == expected[:, :k].tolist()
        assert (actual == expected_values[:, :k].numpy()).all()


def candidates_of(view: TargetView, k: int, rule: MaskRule, n_items: int) -> np.ndarray:
    """What user k of a view may be recommended: the target always."""
    history = view.items[view.offsets[k] : view.offsets[k + 1]]
    gone = set(history.tolist()) - {int(view.target[k])} if rule == "input" else set()
    return np.array([item for item in range(1, n_items + 1) if item not in gone])


@pytest.mark.parametrize("kind", [Written, WrittenAsProduct])
@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize(
    ("n_items", "longest", "length"), [(30, 12, 5), (30, 60, 10), (700, 60, 20), (30, 12, 99)]
)
def test_lists_hold_the_best_candidates_of_their_rule(
    kind: type[Written], levels: int | None, n_items: int, longest: int, length: int
) -> None:
    """Also where a history takes nearly all of a longer list away, and where fewer candidates are left than asked."""
    view = random_view(n_users=40, n_items=n_items, longest=longest)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, n_items)) if levels is None else rng.integers(0, levels, (40, n_items))
    for k, user in enumerate(view.user):  # models like what their users know
        values[user, view.items[view.offsets[k] : view.offsets[k + 1]] - 1] += 2
    table = torch.tensor(values, dtype=torch.float32)
    actual = rank_fully(kind(table), view, name="test", lists=length, chunk=7)
    assert actual.list_length == min(length, n_items)
    rules: tuple[MaskRule, ...] = ("none", "input")
    for rule in rules:
        lists = actual.lists[rule]
        assert (lists.items.dtype, lists.scores.dtype) == (np.int32, np.float16)
        for k, user in enumerate(view.user):
            row = table[user].numpy()
            expected = stable_sort(row, candidates_of(view, k, rule, n_items), actual.list_length)
            assert lists.items[k].tolist() == expected
            own = [row[item - 1] if item else -np.inf for item in expected]
            assert lists.scores[k].tolist() == np.float16(own).tolist()
    assert (actual.lists["none"].items != actual.lists["input"].items).any()


def test_a_target_stands_in_its_list_at_its_rank_or_not_at_all() -> None:
    view = random_view(n_users=50, n_items=100, longest=30)
    table = torch.from_numpy(np.random.default_rng(1).permutation(5000).reshape(50, 100).astype(np.float32))
    actual = rank_fully(Written(table), view, name="test", lists=20)
    inside = 0
    for rule in actual.lists:
        for k, (items, greater) in enumerate(
            zip(actual.lists[rule].items, actual.ranks(rule).greater, strict=True)
        ):
            places = np.flatnonzero(items == view.target[k])
            assert places.tolist() == ([greater] if greater < 20 else [])
            inside += len(places)
    assert inside > 10


def test_scores_too_large_for_float16_are_no_infinity() -> None:
    table = torch.full((3, 5), -1e30)
    table[:, 2] = 1e30
    view = random_view(n_users=3, n_items=5)
    lists = rank_fully(Written(table), view, name="test", lists=5).lists["none"]
    assert np.isfinite(lists.scores).all()
    assert lists.items.tolist() == [[3, 1, 2, 4, 5]] * 3


def test_lists_that_were_not_made_are_said() -> None:
    view, table = random_view(n_users=3, n_items=9), torch.rand(3, 9)
    none, short = (rank_fully(Written(table), view, name="test", lists=k) for k in (0, 4))
    cases: list[tuple[Any, MaskRule, int, str]] = [
        (none, "none", 1, "no lists are stored"),
        (short, "none", 5, "the stored lists have 4 items, not 5"),
        (short, "train", 3, "lists are stored under none and input, not under mask rule train"),
    ]
    for ranking, rule, k, said in cases:
        with pytest.raises(UsageError, match=said):
            ranking.top(rule, k)
    assert short.top("input", 3).shape == (3, 3)
