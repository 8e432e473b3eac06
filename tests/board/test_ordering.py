"""The order of a board: groups by tests that scipy agrees with, both mask rules, models across data sets."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mmbench.board.entries import MAIN, METRICS, Entry, entries_of_results, without_repeats
from mmbench.board.ordering import Board, _letter, boards_of, overall
from mmbench.evaluation.evidence import Ranks
from mmbench.evaluation.power import power_of
from mmbench.runs.store import read_record
from tests.reporting.conftest import N_ITEMS, fake_run, paper_like, skilled_ranks


def entries_in(root: Path) -> list[Entry]:
    return list(entries_of_results(root, on_left_out=lambda each: pytest.fail(each.reason)))


def board_in(root: Path) -> Board:
    (board,) = boards_of(entries_in(root))
    return board


def ranks_at(greater: int, n_users: int = 100) -> Ranks:
    """Everybody's target has the same rank."""
    return Ranks(np.arange(n_users), np.full(n_users, greater), np.zeros(n_users, dtype=np.int64), N_ITEMS)


def test_rows_have_the_values_of_their_records(tmp_path: Path) -> None:
    records = paper_like(tmp_path, seeds=3)
    for entry in entries_in(tmp_path):
        runs = [record for record in records if record.model == entry.record.model]
        expected = [[record.metrics("test", METRICS)[str(metric)] for metric in METRICS] for record in runs]
        assert np.array_equal(entry.values["none"], expected)
        users = np.mean([MAIN.values(record.ranks("test")) for record in runs], axis=0)
        assert entry.per_user["none"] == pytest.approx(users, abs=1e-7)


def test_groups_are_those_of_scipy_s_tests(tmp_path: Path) -> None:
    skills = {"hm4sr": 1.6, "sasrec": 1.59, "gru4rec": 1.2, "caser": 1.18, "lrurec": 0.4}
    for model, skill in skills.items():
        for seed in range(4):
            fake_run(tmp_path, model, seed=seed, skill=skill)
    board = board_in(tmp_path)
    alpha = 0.05 / 4
    head, group = None, -1
    for place in board.places["none"]:
        entry = place.entry
        if head is not None:
            x, y = (each.values["none"][:, 0] for each in (head, entry))
            a, b = (each.per_user["none"].astype(np.float64) for each in (head, entry))
            apart = (
                stats.ttest_rel(a, b).pvalue < alpha and stats.ttest_ind(x, y, equal_var=False).pvalue < alpha
            )
        if head is None or apart:
            head, group = entry, group + 1
        assert place.group == "abcde"[group]
    assert 1 < group + 1 < 5  # the planted skills are in groups, and not all in one


def test_rows_of_a_group_share_its_rank(tmp_path: Path) -> None:
    """Three equal rows, then a worse one: ranks 1, 1, 1, 4."""
    for model in ("hm4sr", "sasrec", "gru4rec"):
        fake_run(tmp_path, model, ranks=skilled_ranks(2.0, seed=1))
    fake_run(tmp_path, "caser", ranks=skilled_ranks(-1.0, seed=1))
    places = board_in(tmp_path).places["none"]
    assert [(place.rank, place.group) for place in places] == [(1, "a"), (1, "a"), (1, "a"), (4, "b")]


def test_one_noisy_training_is_not_told_apart(tmp_path: Path) -> None:
    """Users differ clearly between the means, but seeds vary more than the models do."""
    for seed, (good, bad) in enumerate([(2.0, 0.0), (0.0, 1.9), (2.0, 0.1)]):
        fake_run(tmp_path, "sasrec", seed=seed, skill=good)
        fake_run(tmp_path, "gru4rec", seed=seed, skill=bad)
    first, second = board_in(tmp_path).entries
    users = stats.ttest_rel(*(entry.per_user["none"].astype(np.float64) for entry in (first, second)))
    assert users.pvalue < 0.05
    assert {place.rank for place in board_in(tmp_path).places["none"]} == {1}


def test_the_resolution_is_found_with_power_eight_tenths(tmp_path: Path) -> None:
    paper_like(tmp_path, seeds=3)
    board = board_in(tmp_path)
    best, *others = (place.entry for place in board.places["none"])
    deviation = np.median(
        [np.std(best.per_user["none"] - other.per_user["none"], ddof=1) for other in others]
    )
    assert board.resolution is not None
    assert power_of(board.resolution / float(deviation), best.n_users, alpha=0.05 / 3) == pytest.approx(
        0.8, abs=1e-4
    )


def test_rows_whose_order_changes_under_the_other_rule_are_marked(tmp_path: Path) -> None:
    fake_run(tmp_path, "hm4sr", ranks=ranks_at(2), under={"input": ranks_at(2)})
    fake_run(tmp_path, "sasrec", ranks=ranks_at(5), under={"input": ranks_at(0)})
    fake_run(tmp_path, "gru4rec", ranks=ranks_at(7), under={"input": ranks_at(7)})
    places = board_in(tmp_path).places
    moves = {rule: {place.entry.record.model: place.moved for place in places[rule]} for rule in places}
    assert moves == {
        "none": {"hm4sr": -1, "sasrec": 1, "gru4rec": 0},
        "input": {"hm4sr": 1, "sasrec": -1, "gru4rec": 0},
    }


def test_a_row_that_was_selected_on_the_test_item_is_not_ranked(tmp_path: Path) -> None:
    fake_run(tmp_path, "hm4sr", skill=3.0, leaky=True)
    fake_run(tmp_path, "sasrec", skill=1.0)
    places = board_in(tmp_path).places["none"]
    assert [(place.entry.record.model, place.rank) for place in places] == [("sasrec", 1), ("hm4sr", 0)]


def test_other_protocols_and_other_users_have_boards_of_their_own(tmp_path: Path) -> None:
    fake_run(tmp_path, "sasrec")
    fake_run(tmp_path, "gru4rec", protocol={"min_user": 3})
    fake_run(tmp_path, "hm4sr", ranks=skilled_ranks(1.0, seed=1, n_users=399))
    fake_run(tmp_path, "sasrec", dataset="other")
    assert sorted(len(board.entries) for board in boards_of(entries_in(tmp_path))) == [1, 1, 1, 1]


def test_models_across_data_sets(tmp_path: Path) -> None:
    """Ranks 1, 2, 3 on one data set and 2, 1, 3 on the other; a model on one board only does not count."""
    for dataset, places in (("a", (0, 2, 9)), ("b", (2, 0, 9))):
        for model, greater in zip(("hm4sr", "sasrec", "gru4rec"), places, strict=True):
            fake_run(tmp_path, model, dataset=dataset, ranks=ranks_at(greater))
    fake_run(tmp_path, "pop", dataset="a", ranks=ranks_at(0))
    rows = overall(boards_of(entries_in(tmp_path)))
    assert [(row.model, row.rank, row.wins) for row in rows] == [
        ("hm4sr", 1.5, 0.75), ("sasrec", 1.5, 0.75), ("gru4rec", 3.0, 0.0),
    ]  # fmt: skip
    assert rows[0].rank_interval == (1.0, 2.0)
    assert rows[2].rank_interval == (3.0, 3.0)
    elo = [row.elo for row in rows]
    assert elo[0] == pytest.approx(elo[1], abs=1e-6), "each is better once"
    assert elo[2] < 1000 < elo[0]
    assert sum(elo) == pytest.approx(3000)
    assert all(row.elo_interval[0] <= row.elo <= row.elo_interval[1] for row in rows)
    values = {greater: 1 / np.log2(greater + 2) for greater in (0, 2, 9)}
    assert [row.behind for row in rows] == pytest.approx(
        [(1 - values[2]) / 2, (1 - values[2]) / 2, 1 - values[9]], abs=1e-6
    )


def test_one_board_has_no_overall(tmp_path: Path) -> None:
    paper_like(tmp_path, seeds=1)
    assert overall(boards_of(entries_in(tmp_path))) == []


def test_letters() -> None:
    assert [_letter(k) for k in (0, 1, 25, 26, 51, 52, 701, 702)] == [
        "a",
        "b",
        "z",
        "aa",
        "az",
        "ba",
        "zz",
        "aaa",
    ]


def test_the_strongest_of_equal_configurations_stays(tmp_path: Path) -> None:
    fake_run(tmp_path, "sasrec")
    (entry,) = entries_in(tmp_path)
    from dataclasses import replace

    verified = replace(entry, level="re-scored", bundle=tmp_path / "a.mmb.zip")
    longer = replace(entry, seeds=(0, 1, 2), bundle=tmp_path / "b.mmb.zip")
    left_out: list[str] = []
    kept = without_repeats([longer, entry, verified], on_left_out=lambda each: left_out.append(each.name))
    assert (kept, left_out) == ([verified], ["b.mmb.zip"])


def test_settings_of_training_are_no_choice_where_nothing_is_trained(tmp_path: Path) -> None:
    record = fake_run(tmp_path, "pop", chosen=("max_epochs",), stopped="closed form")
    assert read_record(record.path).settings["max_epochs"].origin == "user"
    fake_run(tmp_path, "sasrec", chosen=("max_epochs",))
    budgets = {entry.record.model: entry.budget for entry in entries_in(tmp_path)}
    assert budgets == {"pop": "recipe", "sasrec": "set by hand"}
