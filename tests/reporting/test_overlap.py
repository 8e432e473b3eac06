"""Overlap of lists: shares by hand and by sets, which runs are paired, who is left out.

Run: python -m pytest tests/reporting/test_overlap.py
"""

import csv
import io
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmbench
from mmbench.cli.overlap import _print
from mmbench.cli.state import State
from mmbench.console import SafeConsole
from mmbench.errors import UsageError
from mmbench.evaluation.evidence import TopLists
from mmbench.reporting.overlap import OverlapTable, overlap, overlap_tables
from tests.prepared import cli
from tests.reporting.conftest import fake_run, ranks_with_hits

N_USERS = 100
SAME, OTHER, HALF = [1, 2, 3, 4], [5, 6, 7, 8], [4, 3, 9, 10]  # HALF has half of SAME


def run(root: Path, model: str, items: list[int], *, hits: int = 10, seed: int = 1, **fields: Any) -> None:
    lists = np.tile(np.array(items, np.int32), (N_USERS, 1))
    scores = np.tile(np.arange(len(items), 0, -1, dtype=np.float32), (N_USERS, 1))
    top = TopLists(lists, scores)
    fake_run(root, model, seed=seed, ranks=ranks_with_hits(hits), lists={"none": top, "input": top}, **fields)


def test_rows_are_ordered_where_the_catalogue_is_smaller_than_the_cutoff(tmp_path: Path) -> None:
    for model, hits in (("sasrec", 20), ("gru4rec", 30)):
        ranks = replace(
            ranks_with_hits(hits), greater=np.repeat([0, 5], [hits, N_USERS - hits]), n_candidates=6
        )
        lists = np.tile(np.array(SAME, np.int32), (N_USERS, 1))
        top = TopLists(lists, np.zeros(lists.shape, np.float16))
        fake_run(tmp_path, model, ranks=ranks, lists={"none": top, "input": top})
    assert table_of(tmp_path).rows == ("GRU4Rec", "SASRec")


def table_of(root: Path, k: int = 4) -> OverlapTable:
    (table,) = overlap_tables(mmbench.load(results_dir=root), k=k)
    return table


def pair(table: OverlapTable, first: str, second: str) -> float:
    return float(table.shares[table.rows.index(first), table.rows.index(second)])


list_of_four = st.permutations(range(1, 9)).map(lambda items: items[:4])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(list_of_four, list_of_four), min_size=1, max_size=5))
def test_overlap_is_that_of_sets(pairs: list[tuple[list[int], list[int]]]) -> None:
    first, second = (np.array(lists) for lists in zip(*pairs, strict=True))
    assert overlap(first, second) == pytest.approx(np.mean([len({*a} & {*b}) / 4 for a, b in pairs]))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(*[st.lists(st.integers(1, 9), unique=True, max_size=6)] * 2), min_size=1, max_size=5)
)
def test_overlap_of_lists_of_any_length_is_that_of_sets(pairs: list[tuple[list[int], list[int]]]) -> None:
    first, second = (
        np.array([[*items, *[0] * (6 - len(items))] for items in lists]) for lists in zip(*pairs, strict=True)
    )
    expected = [len({*a} & {*b}) / max(len(a), len(b), 1) for a, b in pairs]
    assert overlap(first, second) == pytest.approx(np.mean(expected))


def test_memory_grows_with_the_lists_and_not_with_their_square() -> None:
    n_users, k = 300, 200
    lists = (
        np.argsort(np.random.default_rng(0).random((2, n_users, 500)), axis=2)[:, :, :k].astype(np.int32) + 1
    )
    tracemalloc.start()
    share = overlap(*lists)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert share == pytest.approx(
        np.mean([len({*a} & {*b}) / k for a, b in zip(*lists.tolist(), strict=True)])
    )
    assert peak < 4 * lists.nbytes < n_users * k * k  # the last is what all pairs of items take, a byte each


def test_places_that_lists_do_not_fill_are_not_in_common() -> None:
    assert overlap(np.array([[1, 2, 0, 0]]), np.array([[2, 3, 0, 0]])) == 0.5
    assert overlap(np.array([[1, 0, 0, 0]]), np.array([[1, 2, 3, 4]])) == 0.25
    assert overlap(np.array([[0, 0]]), np.array([[0, 0]])) == 0.0


def test_rows_are_compared_by_equal_seeds_and_a_row_with_itself_by_pairs_of_seeds(results: Path) -> None:
    for seed, hm4sr, sasrec in ((1, SAME, SAME), (2, OTHER, HALF), (3, HALF, HALF)):
        run(results, "hm4sr", hm4sr, hits=50, seed=seed)
        run(results, "sasrec", sasrec, hits=40, seed=seed)
    run(results, "pop", OTHER, hits=3, deterministic=True, seed=0)
    table = table_of(results)
    assert table.rows == ("HM4SR", "SASRec", "Pop")  # by NDCG@10
    assert pair(table, "HM4SR", "HM4SR") == pytest.approx((0 + 0.5 + 0) / 3)
    assert pair(table, "SASRec", "SASRec") == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert pair(table, "HM4SR", "SASRec") == pair(table, "SASRec", "HM4SR") == pytest.approx((1 + 0 + 1) / 3)
    assert pair(table, "HM4SR", "Pop") == pytest.approx(1 / 3)  # no equal seed: all pairs
    assert np.isnan(pair(table, "Pop", "Pop"))
    assert table.chance == pytest.approx(4 / ranks_with_hits(1).n_candidates)


def test_rows_without_lists_of_this_length_are_left_out_and_named(results: Path) -> None:
    run(results, "hm4sr", SAME)
    fake_run(results, "sasrec", ranks=ranks_with_hits(20))
    table = table_of(results)
    assert table.rows == ("HM4SR",)
    assert table.left_out == ("SASRec on toys: no lists are stored",)
    with pytest.raises(UsageError, match=r"--overlap 5: no row has such lists: .*have 4 items, not 5"):
        overlap_tables(mmbench.load(results_dir=results), k=5)
    with pytest.raises(UsageError, match="--overlap 0: lists have at least 1 item"):
        overlap_tables(mmbench.load(results_dir=results), k=0)


def test_the_command_prints_a_triangle(results: Path) -> None:
    run(results, "hm4sr", SAME, hits=50)
    run(results, "sasrec", HALF, hits=40)
    shown = cli("report", "--overlap", "4", results=results).stdout
    assert "Items in common of two lists of 4, toys, mean over users, nothing masked" in shown
    (line,) = [line for line in shown.splitlines() if "SASRec" in line]
    assert line.split() == ["2", "SASRec", ".50", "–"]
    assert "Lists at random: " in shown


def test_csv_has_a_line_for_each_pair(results: Path, tmp_path: Path) -> None:
    run(results, "hm4sr", SAME, hits=50)
    run(results, "sasrec", HALF, hits=40)
    file = tmp_path / "overlap.csv"
    cli("report", "--overlap", "4", "--output", str(file), results=results)
    written = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    assert [(line["row"], line["other_row"], line["share"]) for line in written] == [
        ("HM4SR", "HM4SR", ""), ("SASRec", "HM4SR", "0.5"), ("SASRec", "SASRec", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("n_rows", [1, 7, 8, 25])
def test_a_terminal_gets_blocks_of_columns_with_every_pair_once(n_rows: int, tmp_path: Path) -> None:
    rows = tuple(
        f"model {i} [with, settings, that, are, longer, than, a, third, of, it]" for i in range(n_rows)
    )
    shares = np.add.outer(np.arange(n_rows), np.zeros(n_rows)) / 100
    table = OverlapTable("toys", 10, "none", rows, shares, 0.01, ())
    out = io.StringIO()
    console = SafeConsole(file=out, width=80, force_terminal=True, no_color=True)
    state = State(tmp_path, tmp_path)
    state.out = console
    _print(state, table)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()
    assert max(map(len, lines)) <= 80
    for i in range(n_rows):
        of_row = [line.split() for line in lines if line.split()[:3] == [str(i + 1), "model", str(i)]]
        assert sum(words.count(f".{i:02}") for words in of_row) == i + 1
