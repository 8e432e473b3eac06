"""Stored rankings: what is written is read, damage is noticed, and what no ranking can be is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmbench import sealed
from mmbench.choices import RULES
from mmbench.errors import DamagedError, OtherVersionError
from mmbench.evaluation.evidence import MadeBy, Ranking, Ranks, file_name, read_ranking, write_ranking
from mmbench.evaluation.ranking import rank_fully
from tests.scorers import Written, random_view

N_USERS, N_ITEMS = 12, 30
MADE_BY = MadeBy(run="toy/sasrec/ab12/seed_1", data="d0", weights="e1", device="cpu", threads=2)


def made(name: str = "test", lists: int = 4) -> Ranking:
    table = torch.from_numpy(np.random.default_rng(0).normal(size=(N_USERS, N_ITEMS)).astype(np.float32))
    view = random_view(n_users=N_USERS, n_items=N_ITEMS)
    return rank_fully(Written(table), view, name=name, lists=lists, with_spread=True, made_by=MADE_BY)


def assert_equal(first: Ranking, second: Ranking) -> None:
    for name in ("name", "n_items", "spread", "made_by", "list_length"):
        assert getattr(first, name) == getattr(second, name)
    assert first.n_different(second) == 0
    for rule, lists in first.lists.items():
        assert np.array_equal(lists.items, second.lists[rule].items)
        assert np.array_equal(lists.scores, second.lists[rule].scores)
    assert first.lists.keys() == second.lists.keys()


@pytest.mark.parametrize("lists", [0, 4])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("valid", "valid.npz"),
        ("test~text=constant", "test~text-constant.npz"),
        ("test~image=shuffled:3", "test~image-shuffled-3.npz"),
        ("test~part=a/../b", "test~part-a-..-b.npz"),
    ],
)
def test_what_is_written_is_read(name: str, file: str, lists: int, tmp_path: Path) -> None:
    ranking = made(name, lists)
    write_ranking(tmp_path / "rankings", ranking)
    assert [path.name for path in (tmp_path / "rankings").iterdir()] == [file]
    actual = read_ranking(tmp_path / "rankings", name, advice="again")
    assert_equal(actual, ranking)
    assert actual.user.dtype == actual.target.dtype == actual.ranks("train").greater.dtype == np.int64
    assert (actual.split, actual.condition) == (name.split("~")[0], name.partition("~")[2])


def test_every_changed_byte_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    ranking = made()
    write_ranking(tmp_path, ranking)
    file = tmp_path / file_name("test")
    good, rng, noticed = file.read_bytes(), np.random.default_rng(0), 0
    for place in rng.choice(len(good), 400, replace=False):
        file.write_bytes(
            good[:place] + bytes([good[place] ^ (1 << int(rng.integers(8)))]) + good[place + 1 :]
        )
        try:
            actual = read_ranking(tmp_path, "test", advice="again")
        except DamagedError as error:
            noticed += 1
            assert str(error).endswith("again")  # noqa: PT017 - either outcome is right
        else:
            assert_equal(actual, ranking)
    assert noticed > 200


def test_a_ranking_under_another_name_is_no_such_ranking(tmp_path: Path) -> None:
    write_ranking(tmp_path, made("valid"))
    (tmp_path / "valid.npz").rename(tmp_path / "test.npz")
    with pytest.raises(DamagedError, match="it holds the ranking valid"):
        read_ranking(tmp_path, "test", advice="again")
    with pytest.raises(FileNotFoundError):
        read_ranking(tmp_path, "valid", advice="again")


def changed(**arrays: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(stored: dict[str, Any], facts: dict[str, Any]) -> None:
        stored.update(arrays)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed(user=np.zeros(N_USERS, np.int32)), "a user appears twice"),
        (changed(target=np.zeros(N_USERS, np.int32)), "a target is not an item of 1..30"),
        (changed(target=np.ones(3, np.int32)), "a target is not an item"),
        (changed(greater_train=np.full(N_USERS, 30, np.int32)), "a count under train is outside 0..29"),
        (changed(equal_none=np.full(N_USERS, -1, np.int32)), "a count under none"),
        (
            changed(greater_input=np.full(N_USERS, 29, np.int32), equal_input=np.ones(N_USERS, np.int32)),
            "a rank under",
        ),
        (changed(equal_input=np.ones(5, np.int32)), "a value per user is needed"),
        (changed(items_none=np.full((N_USERS, 4), 31, np.int32)), "a list holds no item of 1..30"),
        (changed(items_input=np.ones((N_USERS, 2), np.int32)), "lists do not have a row per user"),
        (lambda stored, facts: stored.pop("greater_train"), "greater_train"),
        (lambda stored, facts: facts.pop("made_by"), "made_by"),
        (lambda stored, facts: facts["made_by"].update(host="x"), "host"),
    ],
)
def test_what_no_ranking_can_be_is_refused_though_its_hash_is_right(
    change: Callable[..., Any], said: str, tmp_path: Path
) -> None:
    write_ranking(tmp_path, made())
    stored, facts = sealed.read_arrays(tmp_path / "test.npz", advice="")
    change(stored, facts)
    sealed.write_arrays(tmp_path / "test.npz", stored, facts)
    with pytest.raises(DamagedError, match=rf"test.npz is damaged \(.*{said}.*\); again"):
        read_ranking(tmp_path, "test", advice="again")


def test_another_format_is_another_version(tmp_path: Path) -> None:
    write_ranking(tmp_path, made())
    stored, facts = sealed.read_arrays(tmp_path / "test.npz", advice="")
    sealed.write_arrays(tmp_path / "test.npz", stored, {**facts, "format": 99})
    with pytest.raises(OtherVersionError, match="another version of mmbench; again"):
        read_ranking(tmp_path, "test", advice="again")


def test_users_whose_counts_differ_under_any_rule_are_counted() -> None:
    first = made()
    greater, equal = first.counts["input"]
    moved = np.where(np.arange(N_USERS) < 3, (greater + 1) % N_ITEMS, greater)
    second = replace(first, counts={**first.counts, "input": (moved, equal)})
    assert first.n_different(second) == 3
    assert first.n_different(replace(second, target=first.target % N_ITEMS + 1)) is None
    assert first.n_different(replace(second, n_items=31)) is None
    assert list(first.counts) == list(RULES)


def test_ranks_have_one_value_a_user() -> None:
    with pytest.raises(ValueError, match=r"user \[3\], greater \[4\], equal \[4\]"):
        Ranks(np.arange(3), np.zeros(4, dtype=int), np.zeros(4, dtype=int), 9)
