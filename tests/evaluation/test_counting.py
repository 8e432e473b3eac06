"""mmbench.evaluation.counting against brute force: rivals above and level with a target, under every mask rule."""

import numpy as np
import pytest
import torch

from mmbench.data.views import TargetView
from mmbench.errors import RunError
from mmbench.evaluation import counting
from mmbench.evaluation.counting import Pairs, Seen, count, without
from mmbench.evaluation.ranking import rank
from tests.evaluation.tables import N, U, random_table
from tests.scorers import Written, random_view


def brute_force(scores: np.ndarray, target: np.ndarray, seen: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """(greater, equal) of each row, one candidate after the other."""
    actual = []
    for row, own in enumerate(target - 1):
        rivals = [j for j in range(scores.shape[1]) if j != own and (row, j) not in seen]
        above = sum(bool(scores[row, j] > scores[row, own]) for j in rivals)
        actual.append((above, sum(bool(scores[row, j] == scores[row, own]) for j in rivals)))
    return actual


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_items", [1, 15, 63, 64, 65, 200])
@pytest.mark.parametrize("compared", [1, 130, 100_000])
def test_counts_agree_with_brute_force(
    monkeypatch: pytest.MonkeyPatch, compared: int, n_items: int, dtype: torch.dtype
) -> None:
    """Few levels, so ties; some rivals at -inf; targets among the seen items; borders of blocks."""
    monkeypatch.setattr(counting, "COMPARED_AT_ONCE", {"cpu": compared})
    rng = np.random.default_rng(compared + n_items)
    for n_rows in (1, 2, 3, 13):
        target = rng.integers(1, n_items + 1, n_rows)
        values = rng.integers(-2, 3, (n_rows, n_items)) * np.float64(0.1)
        gone = rng.random(values.shape) < 0.2
        gone[np.arange(n_rows), target - 1] = False
        values[gone] = -np.inf
        # Padding beyond the catalogue, as in the buffer of a product, that would win every comparison.
        padded = torch.full((n_rows, n_items + 5), float("inf"), dtype=dtype)
        padded[:, :n_items] = torch.from_numpy(values)
        scores = padded[:, :n_items]
        counts = count(scores, torch.from_numpy(target), with_maxima=True)
        plain = brute_force(scores.numpy(), target, set())
        assert list(zip(counts.greater.tolist(), counts.equal.tolist(), strict=True)) == plain
        assert counts.maxima is not None
        for block in range(n_items // counting.BLOCK):
            part = scores[:, block * counting.BLOCK : (block + 1) * counting.BLOCK]
            assert torch.equal(counts.maxima[:, block], part.amax(1))
        flat = np.sort(rng.choice(n_rows * n_items, min(20, n_rows * n_items), replace=False))
        pairs = Pairs(flat // n_items, flat % n_items, rng.random(len(flat)) < 0.5)
        for actual, chosen in zip(
            without(counts, scores, target, pairs), (pairs.is_training, slice(None)), strict=True
        ):
            seen = set(zip(pairs.row[chosen].tolist(), pairs.item[chosen].tolist(), strict=True))
            expected = brute_force(scores.numpy(), target, seen)
            assert list(zip(actual[0].tolist(), actual[1].tolist(), strict=True)) == expected


def test_what_was_seen_is_counted_once_and_for_training_when_any_event_of_it_is() -> None:
    view = TargetView(
        items=np.array([4, 2, 4, 7, 2, 5, 5]), times=np.arange(7), offsets=np.array([0, 4, 4, 7]),
        user=np.array([5, 6, 9]), target=np.array([1, 1, 1]), train_len=np.array([2, 0, 2]),
    )  # fmt: skip
    seen = Seen(view, 9)
    pairs = seen.pairs(np.array([2, 0, 1]))
    assert pairs.row.tolist() == [0, 0, 1, 1, 1]
    assert (pairs.item + 1).tolist() == [2, 5, 2, 4, 7]
    assert pairs.is_training.tolist() == [True, True, True, True, False]


def test_a_nan_in_a_later_block_names_its_own_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "COMPARED_AT_ONCE", {"cpu": 4 * N})
    view, table = random_view(n_users=U, n_items=N), random_table()
    index = np.argsort(np.diff(view.offsets), kind="stable")[-1]  # the last that is ranked
    user = int(view.user[index])
    table[user, int(view.target[index]) % N] = float("nan")
    with pytest.raises(RunError, match=rf"user number {user} "):
        rank(Written(table), view)


@pytest.mark.parametrize(("others", "expected"), [(1.0, "greater"), (0.0, "equal")])
def test_more_rivals_than_float32_can_count_one_by_one(others: float, expected: str) -> None:
    n_items = 2**24 + 4
    scores = torch.full((1, n_items), others)
    scores[0, 6] = 0.0
    counts = count(scores, torch.tensor([7]))
    actual = {"greater": int(counts.greater[0]), "equal": int(counts.equal[0])}
    assert actual == {"greater": 0, "equal": 0, expected: n_items - 1}
