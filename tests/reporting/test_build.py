"""The table before rendering: rows, places, footnotes, refusals, comparisons, caption.

Run: python -m pytest tests/reporting/test_build.py
"""

from pathlib import Path

import numpy as np
import pytest

from mmbench.errors import DataError, ProtocolMismatchError, UsageError
from mmbench.evaluation.evidence import Ranks
from mmbench.evaluation.metrics import Metric
from mmbench.evaluation.significance import NoVerdict
from mmbench.features.use import FeatureUse
from mmbench.runs.store import RunRecord
from tests.reporting.conftest import (
    N_ITEMS,
    N_USERS,
    all_records,
    caption_of,
    fake_run,
    headline,
    make_table,
    paper_like,
    ranks_with_hits,
    row_of,
    skilled_ranks,
    store_ranks,
)

HR10 = Metric("HR", 10)


def test_cells_hold_unrounded_means_and_deviations_over_seeds(results: Path) -> None:
    records = [
        fake_run(results, seed=seed, ranks=ranks_with_hits(hits))
        for seed, hits in ((1, 30), (2, 33), (5, 39))
    ]
    cell = make_table(records, metrics=[HR10]).rows[0].cells[0]
    assert cell.seeds == (1, 2, 5)
    assert cell.values == (0.30, 0.33, 0.39)
    assert cell.mean == pytest.approx(0.34, abs=1e-15)
    assert cell.std == pytest.approx(np.std([0.30, 0.33, 0.39], ddof=1))


def test_default_columns_and_order_of_rows(results: Path) -> None:
    table = make_table(paper_like(results))
    assert [str(column.metric) for column in table.columns] == [
        "NDCG@5",
        "NDCG@10",
        "MRR@5",
        "MRR@10",
        "HR@10",
    ]
    assert [row.label for row in table.rows] == ["HM4SR", "SASRec", "GRU4Rec", "Pop"]
    assert [row.floor for row in table.rows] == [False, False, False, True]
    assert [row.cells[0].place for row in table.rows] == [1, 2, 0, 0]


def test_rows_and_columns_come_in_the_order_asked_for(results: Path) -> None:
    records = paper_like(results, seeds=2, datasets=("aa", "bb"))
    table = make_table(
        records, models=["gru4rec", "pop", "hm4sr", "sasrec"], datasets=["bb", "aa"], metrics=[HR10]
    )
    assert [row.label for row in table.rows] == ["GRU4Rec", "HM4SR", "SASRec", "Pop"]  # floors stay last
    assert [column.dataset for column in table.columns] == ["bb", "aa"]


def test_best_and_second_are_decided_on_unrounded_means(results: Path) -> None:
    """41234 and 41235 of a million print alike; they are first and second all the same."""
    rows = []
    for model, extra in (("a", 0), ("b", 1), ("c", 1), ("d", 0)):
        greater = np.full(100_000, N_ITEMS - 1)
        greater[: 4123 + extra] = 0
        ranks = Ranks(np.arange(100_000), greater, np.zeros(100_000, dtype=np.int64), N_ITEMS)
        rows.append(fake_run(results, model, ranks=ranks))
    table = make_table(rows, metrics=[HR10])
    places = {row.model: row.cells[0].place for row in table.rows}
    assert places == {"a": 2, "b": 1, "c": 1, "d": 2}


def test_several_configurations_are_rows_named_by_what_differs(results: Path) -> None:
    records = [
        *[fake_run(results, seed=s, settings={"dropout": 0.5, "hidden_dim": 64}) for s in (1, 2)],
        *[
            fake_run(results, seed=s, settings={"dropout": 0.2, "hidden_dim": 64}, chosen=("dropout",))
            for s in (1, 2)
        ],
    ]
    table = make_table(records, metrics=[HR10])
    assert {row.label for row in table.rows} == {"SASRec", "SASRec [dropout=0.2]"}


def test_the_same_choice_on_two_data_sets_is_a_single_row(results: Path) -> None:
    """The recipe's own per-dataset values do not split a row; what the user chose does."""
    for dataset, recipe in (("aa", 0.5), ("bb", 0.3)):
        fake_run(results, dataset=dataset, settings={"dropout": recipe})
        fake_run(results, dataset=dataset, settings={"dropout": 0.2}, chosen=("dropout",))
    table = make_table(all_records(results), metrics=[HR10])
    assert {row.label for row in table.rows} == {"SASRec", "SASRec [dropout=0.2]"}
    assert all(cell.n == 1 for row in table.rows for cell in row.cells)


def test_a_recipe_that_differs_between_data_sets_makes_one_row(results: Path) -> None:
    for dataset, dropout in (("aa", 0.5), ("bb", 0.3)):
        fake_run(results, dataset=dataset, settings={"dropout": dropout})
    table = make_table(all_records(results), metrics=[HR10])
    assert [row.label for row in table.rows] == ["SASRec"]


def test_other_encoders_make_other_rows(results: Path) -> None:
    for encoder in ("tfidf", "minilm"):
        fake_run(results, "hm4sr", config_id=encoder, features={"text": FeatureUse(encoder, "x")})
    table = make_table(all_records(results), metrics=[HR10])
    assert {row.label for row in table.rows} == {"HM4SR [text encoder=tfidf]", "HM4SR [text encoder=minilm]"}
    assert "text tfidf (HM4SR [text encoder=tfidf])" in caption_of(table, "Features")


def test_configurations_that_differ_in_nothing_named_show_their_id(results: Path) -> None:
    for config_id in ("aaaa", "bbbb"):
        fake_run(results, config_id=config_id)
    labels = {row.label for row in make_table(all_records(results), metrics=[HR10]).rows}
    assert labels == {"SASRec [config aaaa]", "SASRec [config bbbb]"}


def test_failed_cells_are_dashes_with_their_reason(results: Path) -> None:
    fake_run(results, "sasrec", seed=1)
    fake_run(results, "hm4sr", seed=1, reason="loss became nan in epoch 3")
    for seed in (1, 2):
        fake_run(results, "gru4rec", seed=seed)
    fake_run(results, "gru4rec", seed=3, reason="out of memory")
    table = make_table(all_records(results), metrics=[HR10])
    failed, partly = row_of(table, "HM4SR").cells[0], row_of(table, "GRU4Rec").cells[0]
    assert (failed.mean, failed.n) == (None, 0)
    assert table.footnotes[failed.footnotes[0]] == "failed (seed 1): loss became nan in epoch 3"
    assert partly.n == 2
    assert table.footnotes[partly.footnotes[0]] == "1 of 3 runs failed (seed 3): out of memory"


def test_what_was_not_run_is_a_dash_too(results: Path) -> None:
    fake_run(results, "sasrec", dataset="aa")
    fake_run(results, "hm4sr", dataset="bb")
    table = make_table(all_records(results), metrics=[HR10])
    cell = row_of(table, "SASRec").cells[1]
    assert cell.mean is None
    assert table.footnotes[cell.footnotes[0]] == "not run on bb"


def test_only_failures_make_a_table_of_reasons(results: Path) -> None:
    fake_run(results, reason="out of memory")
    table = make_table(all_records(results))
    assert all(cell.mean is None for cell in table.rows[0].cells)
    assert table.headlines() == [None] * 5


def test_deterministic_models_have_one_run_and_no_deviation(results: Path) -> None:
    for seed in (1, 2, 3):
        fake_run(results, "pop", seed=seed, deterministic=True, ranks=ranks_with_hits(10))
    cell = make_table(all_records(results), metrics=[HR10]).rows[0].cells[0]
    assert (cell.n, cell.std) == (1, None)


def test_another_protocol_is_refused_with_the_field_and_the_rows(results: Path) -> None:
    fake_run(results, "sasrec")
    fake_run(results, "hm4sr", protocol={"mask_seen": "train"})
    with pytest.raises(ProtocolMismatchError) as caught:
        make_table(all_records(results))
    said = str(caught.value)
    assert "\n" not in said
    for part in ("toys", "mask_seen is train against none", "hm4sr (", "sasrec (", "--set mask_seen=none"):
        assert part in said
    assert "patience" not in said


def test_other_data_under_the_same_name_is_refused(results: Path) -> None:
    fake_run(results, "sasrec")
    fake_run(results, "hm4sr", data_hash="e1" * 32)
    with pytest.raises(ProtocolMismatchError, match=r"data_hash is e1e1e1e1e1e1\.\.\. against d0d0d0d0d0d0"):
        make_table(all_records(results))


def test_different_protocols_on_different_data_sets_are_fine(results: Path) -> None:
    fake_run(results, dataset="aa")
    fake_run(results, dataset="bb", protocol={"min_user": 10})
    assert len(make_table(all_records(results), metrics=[HR10]).columns) == 2


def test_a_failed_run_of_another_protocol_does_not_stand_in_the_way(results: Path) -> None:
    fake_run(results, "sasrec")
    fake_run(results, "hm4sr", protocol={"mask_seen": "train"}, reason="out of memory")
    assert len(make_table(all_records(results)).rows) == 2


def test_users_are_matched_by_id_and_not_by_position(results: Path) -> None:
    """The same users in another order are the same measurement, down to the per-user test."""
    ranks, shuffle = skilled_ranks(1.0, seed=3), np.random.default_rng(0).permutation(N_USERS)
    mixed = Ranks(ranks.user[shuffle], ranks.greater[shuffle], ranks.equal[shuffle], N_ITEMS)
    fake_run(results, "sasrec", ranks=ranks)
    fake_run(results, "hm4sr", ranks=mixed)
    table = make_table(all_records(results), metrics=[Metric("NDCG", 10)], test="users")
    outcome = table.comparisons[0].outcome
    assert isinstance(outcome, NoVerdict)
    assert outcome.words == "identical"


def test_other_users_are_refused(results: Path) -> None:
    ranks = skilled_ranks(1.0, seed=3)
    fake_run(results, "sasrec", ranks=ranks)
    other = Ranks(ranks.user + 2, ranks.greater, ranks.equal, N_ITEMS)
    fake_run(results, "hm4sr", ranks=other)
    with pytest.raises(
        ProtocolMismatchError, match=r"different users \(2 only in the first, 2 only in the second\)"
    ):
        make_table(all_records(results))


def test_other_catalogues_are_refused(results: Path) -> None:
    fake_run(results, "sasrec")
    fake_run(results, "hm4sr", ranks=skilled_ranks(1.0, seed=1, n_items=150))
    with pytest.raises(ProtocolMismatchError, match="rank 150 and 200 items"):
        make_table(all_records(results))


def test_leaky_rows_are_marked_and_neither_best_nor_rival(results: Path) -> None:
    records = paper_like(results)
    records += [fake_run(results, "hm4sr:released", seed=s, skill=2.0, leaky=True) for s in range(5)]
    table = make_table(records, metrics=[HR10])
    leaky = row_of(table, "hm4sr:released †")
    assert leaky.cells[0].place == 0
    assert (leaky.cells[0].mean or 0) > max(row.cells[0].mean or 0 for row in table.rows if not row.leaky)
    assert headline(table).p is not None
    assert table.rows[headline(table).rival].label == "SASRec"
    assert "selected on the test item" in caption_of(table, "†")


def test_synthetic_data_is_said(results: Path) -> None:
    fake_run(results, synthetic=True)
    table = make_table(all_records(results))
    assert table.datasets[0].synthetic
    assert "SYNTHETIC" in caption_of(table, "Data")


def test_warnings(results: Path) -> None:
    fake_run(results, "sasrec", best_epoch=91, max_epochs=100)
    fake_run(results, "gru4rec", best_epoch=90, max_epochs=100)
    ranks = skilled_ranks(1.0, seed=1)
    ties = np.where(np.arange(N_USERS) < 5, 1, 0)  # 1.25 % of the users
    fake_run(results, "hm4sr", ranks=Ranks(ranks.user, np.minimum(ranks.greater, N_ITEMS - 2), ties, N_ITEMS))
    said = make_table(all_records(results)).warnings
    assert len(said) == 2
    assert "SASRec on toys: best epoch 91 of at most 100 in 1 of 1 runs" in said[0]
    assert "HM4SR on toys: 1.2 % of users have a tied target" in said[1]


def test_models_notes_and_definitions_are_in_the_caption(results: Path) -> None:
    for seed in (1, 2):
        fake_run(results, "hm4sr", seed=seed, notes=["runs without image: toys has no image features"])
    table = make_table(all_records(results), metrics=[Metric("NDCG", 5), Metric("NDCG", 10), Metric("MRR")])
    assert caption_of(table, "Note") == "HM4SR: runs without image: toys has no image features."
    said = caption_of(table, "Metrics")
    for part in (
        "NDCG@K = 1/log2(r+1) if r <= K",
        "MRR = 1/r",
        "expectation over random tie breaking",
        "no seen item",
    ):
        assert part in said
    assert f"{N_USERS} users ranked over {N_ITEMS} items" in caption_of(table, "Data")


def test_tie_rules_change_the_numbers_and_the_caption(results: Path) -> None:
    constant = Ranks(np.arange(50), np.zeros(50, dtype=int), np.full(50, N_ITEMS - 1), N_ITEMS)
    record = fake_run(results, ranks=constant)
    actual = {
        rule: make_table([record], metrics=[HR10], ties=rule).rows[0].cells[0].mean  # type: ignore[arg-type]
        for rule in ("expected", "optimistic", "pessimistic")
    }
    assert actual == {"expected": pytest.approx(10 / N_ITEMS), "optimistic": 1.0, "pessimistic": 0.0}


def test_valid_targets_can_be_reported(results: Path) -> None:
    record = fake_run(results)
    store_ranks(record, valid=ranks_with_hits(12), test=ranks_with_hits(50))
    assert make_table([record], metrics=[HR10], split="valid").rows[0].cells[0].mean == pytest.approx(0.12)
    assert "Validation targets" in caption_of(make_table([record], split="valid"), "Numbers")


def test_one_more_hit_moves_the_table_by_one_over_the_users(results: Path) -> None:
    records = [fake_run(results / str(hits), ranks=ranks_with_hits(hits, 273)) for hits in (101, 102)]
    less, more = (make_table([record], metrics=[HR10]).rows[0].cells[0].mean or 0 for record in records)
    assert more - less == pytest.approx(1 / 273, abs=1e-15)


def test_usage_errors(results: Path) -> None:
    with pytest.raises(UsageError, match="no results to report; run, for example"):
        make_table([])
    records = paper_like(results, seeds=1)
    with pytest.raises(UsageError, match=r"--compare: unknown row 'hm4r'; did you mean 'hm4sr'"):
        make_table(records, compare="hm4r")
    with pytest.raises(UsageError, match=r"NDCG@500: K must be in 1..200"):
        make_table(records, metrics=[Metric("NDCG", 500)])
    for dropout in (0.2, 0.3):
        fake_run(results, "gru4rec", settings={"dropout": dropout}, chosen=("dropout",))
    with pytest.raises(
        UsageError, match=r"--compare gru4rec matches 2 rows; name a single row by its label: .*dropout=0.2"
    ):
        make_table(
            [record for record in all_records(results) if "dropout" in record.settings], compare="gru4rec"
        )
    chosen = make_table(all_records(results), compare="gru4rec [dropout=0.2]")
    assert chosen.compare == "GRU4Rec [dropout=0.2]"


def test_auc_is_refused_where_masking_changes_the_candidates(results: Path) -> None:
    fake_run(results, protocol={"mask_seen": "train"})
    with pytest.raises(UsageError, match="AUC needs a fixed number of candidates"):
        make_table(all_records(results), metrics=[Metric("AUC")])


def damage(record: RunRecord, name: str = "test") -> None:
    (record.path / "rankings" / f"{name}.npz").write_bytes(b"PK garbage")


def test_only_damaged_rankings_are_one_line(results: Path) -> None:
    record = fake_run(results)
    damage(record)
    with pytest.raises(DataError, match=r"rankings/test\.npz is damaged .*; run: mmbench evaluate "):
        make_table([record])


def test_a_run_with_damaged_rankings_is_left_out_and_named(results: Path) -> None:
    runs = [fake_run(results, seed=s, ranks=ranks_with_hits(h)) for s, h in ((1, 10), (2, 20), (3, 60))]
    fake_run(results, "hm4sr", ranks=ranks_with_hits(5))
    damage(runs[2])
    table = make_table(all_records(results), metrics=[HR10])
    cell = row_of(table, "SASRec").cells[0]
    assert (cell.seeds, cell.mean) == ((1, 2), pytest.approx(0.15))
    note = table.footnotes[cell.footnotes[0]]
    assert note.startswith(f"1 of 3 runs left out (seed 3): {runs[2].path}/rankings/test.npz is damaged (")
    assert [text.partition(" is damaged")[0] for text in table.left_out] == [
        f"{runs[2].path}/rankings/test.npz"
    ]
    assert row_of(table, "HM4SR").cells[0].n == 1
    (runs[1].path / "rankings" / "test.npz").unlink()
    damage(runs[0])
    bare = make_table(all_records(results), metrics=[HR10])
    assert row_of(bare, "SASRec").cells[0].mean is None
    assert len(bare.left_out) == 3


def test_the_same_run_from_two_folders_counts_once_and_both_are_named(results: Path) -> None:
    here = [fake_run(results / "a", seed=s, ranks=ranks_with_hits(h)) for s, h in ((1, 10), (2, 20))]
    there = fake_run(results / "b", seed=1, ranks=ranks_with_hits(90))
    table = make_table([*here, there], metrics=[HR10])
    assert table.rows[0].cells[0].values == (0.1, 0.2)
    (text,) = table.left_out
    assert text.startswith(f"{there.path} is the same run as {here[0].path} (seed 1 ")
