"""The table before rendering: rows, places, footnotes, refusals, comparisons, caption.

Run: python -m pytest tests/report/test_build.py
"""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from mmbench.errors import DataError, ProtocolMismatchError, UsageError
from mmbench.metrics import Metric
from mmbench.report import build_table
from mmbench.report.table import Comparison, Row, Table
from mmbench.results import Ranks, RunRecord, write_ranks
from mmbench.stats import NoVerdict, Verdict
from tests.report.conftest import N_ITEMS, N_USERS, fake_run, paper_like, skilled_ranks

HR10 = Metric("HR", 10)


def row_of(table: Table, label: str) -> Row:
    return next(row for row in table.rows if row.label == label)


def caption_of(table: Table, key: str) -> str:
    return " ".join(text for found, text in table.caption if found == key)


def ranks_with_hits(hits: int, n_users: int = 100) -> Ranks:
    """`hits` users have rank 1, all others the last rank."""
    greater = np.where(np.arange(n_users) < hits, 0, N_ITEMS - 1)
    return Ranks(np.arange(n_users), greater, np.zeros(n_users, dtype=np.int64), N_ITEMS)


def test_cells_hold_unrounded_means_and_deviations_over_seeds(results: Path) -> None:
    records = [
        fake_run(results, seed=seed, ranks=ranks_with_hits(hits))
        for seed, hits in ((1, 30), (2, 33), (5, 39))
    ]
    cell = build_table(records, metrics=[HR10]).rows[0].cells[0]
    assert cell.seeds == (1, 2, 5)
    assert cell.values == (0.30, 0.33, 0.39)
    assert cell.mean == pytest.approx(0.34, abs=1e-15)
    assert cell.std == pytest.approx(np.std([0.30, 0.33, 0.39], ddof=1))


def test_default_columns_and_order_of_rows(results: Path) -> None:
    table = build_table(paper_like(results))
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
    table = build_table(
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
    table = build_table(rows, metrics=[HR10])
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
    table = build_table(records, metrics=[HR10])
    assert {row.label for row in table.rows} == {"SASRec [dropout=0.5]", "SASRec [dropout=0.2]"}


def test_one_choice_on_two_data_sets_is_one_row(results: Path) -> None:
    """The recipe's own per-dataset values do not split a row; what the user chose does."""
    for dataset, recipe in (("aa", 0.5), ("bb", 0.3)):
        fake_run(results, dataset=dataset, settings={"dropout": recipe})
        fake_run(results, dataset=dataset, settings={"dropout": 0.2}, chosen=("dropout",))
    table = build_table(all_records(results), metrics=[HR10])
    assert {row.label for row in table.rows} == {"SASRec [dropout=recipe]", "SASRec [dropout=0.2]"}
    assert all(cell.n == 1 for row in table.rows for cell in row.cells)


def test_a_recipe_that_differs_between_data_sets_makes_one_row(results: Path) -> None:
    for dataset, dropout in (("aa", 0.5), ("bb", 0.3)):
        fake_run(results, dataset=dataset, settings={"dropout": dropout})
    table = build_table(all_records(results), metrics=[HR10])
    assert [row.label for row in table.rows] == ["SASRec"]


def test_other_encoders_make_other_rows(results: Path) -> None:
    for encoder in ("tfidf", "minilm"):
        fake_run(results, "hm4sr", config_id=encoder, features={"text": {"encoder": encoder, "hash": "x"}})
    table = build_table(all_records(results), metrics=[HR10])
    assert {row.label for row in table.rows} == {"HM4SR [text encoder=tfidf]", "HM4SR [text encoder=minilm]"}
    assert "text tfidf (HM4SR [text encoder=tfidf])" in caption_of(table, "Features")


def test_configurations_that_differ_in_nothing_named_show_their_id(results: Path) -> None:
    for config_id in ("aaaa", "bbbb"):
        fake_run(results, config_id=config_id)
    labels = {row.label for row in build_table(all_records(results), metrics=[HR10]).rows}
    assert labels == {"SASRec [config aaaa]", "SASRec [config bbbb]"}


def test_failed_cells_are_dashes_with_their_reason(results: Path) -> None:
    fake_run(results, "sasrec", seed=1)
    fake_run(results, "hm4sr", seed=1, reason="loss became nan in epoch 3")
    for seed in (1, 2):
        fake_run(results, "gru4rec", seed=seed)
    fake_run(results, "gru4rec", seed=3, reason="out of memory")
    table = build_table(all_records(results), metrics=[HR10])
    failed, partly = row_of(table, "HM4SR").cells[0], row_of(table, "GRU4Rec").cells[0]
    assert (failed.mean, failed.n) == (None, 0)
    assert table.footnotes[failed.footnotes[0]] == "failed (seed 1): loss became nan in epoch 3"
    assert partly.n == 2
    assert table.footnotes[partly.footnotes[0]] == "1 of 3 runs failed (seed 3): out of memory"


def test_what_was_not_run_is_a_dash_too(results: Path) -> None:
    fake_run(results, "sasrec", dataset="aa")
    fake_run(results, "hm4sr", dataset="bb")
    table = build_table(all_records(results), metrics=[HR10])
    cell = row_of(table, "SASRec").cells[1]
    assert cell.mean is None
    assert table.footnotes[cell.footnotes[0]] == "not run on bb"


def test_only_failures_make_a_table_of_reasons(results: Path) -> None:
    fake_run(results, reason="out of memory")
    table = build_table(all_records(results))
    assert all(cell.mean is None for cell in table.rows[0].cells)
    assert table.headlines() == [None] * 5


def test_deterministic_models_have_one_run_and_no_deviation(results: Path) -> None:
    for seed in (1, 2, 3):
        fake_run(results, "pop", seed=seed, deterministic=True, ranks=ranks_with_hits(10))
    cell = build_table(all_records(results), metrics=[HR10]).rows[0].cells[0]
    assert (cell.n, cell.std) == (1, None)


def test_another_protocol_is_refused_with_the_field_and_the_rows(results: Path) -> None:
    fake_run(results, "sasrec")
    fake_run(results, "hm4sr", protocol={"mask_seen": "train"})
    with pytest.raises(ProtocolMismatchError) as caught:
        build_table(all_records(results))
    said = str(caught.value)
    assert "\n" not in said
    for part in ("toys", "mask_seen is train against none", "hm4sr (", "sasrec (", "--model"):
        assert part in said
    assert "patience" not in said


def test_other_data_under_the_same_name_is_refused(results: Path) -> None:
    fake_run(results, "sasrec")
    fake_run(results, "hm4sr", data_hash="e1" * 32)
    with pytest.raises(ProtocolMismatchError, match=r"data_hash is e1e1e1e1e1e1\.\.\. against d0d0d0d0d0d0"):
        build_table(all_records(results))


def test_a_changed_fingerprint_is_refused(results: Path) -> None:
    one, other = fake_run(results, "sasrec"), fake_run(results, "hm4sr")
    with pytest.raises(ProtocolMismatchError, match="changed by hand"):
        build_table([one, replace(other, fingerprint="0000")])


def test_different_protocols_on_different_data_sets_are_fine(results: Path) -> None:
    fake_run(results, dataset="aa")
    fake_run(results, dataset="bb", protocol={"min_user": 10})
    assert len(build_table(all_records(results), metrics=[HR10]).columns) == 2


def test_a_failed_run_of_another_protocol_does_not_stand_in_the_way(results: Path) -> None:
    fake_run(results, "sasrec")
    fake_run(results, "hm4sr", protocol={"mask_seen": "train"}, reason="out of memory")
    assert len(build_table(all_records(results)).rows) == 2


def test_users_are_matched_by_id_and_not_by_position(results: Path) -> None:
    """The same users in another order are the same measurement, down to the per-user test."""
    ranks, shuffle = skilled_ranks(1.0, seed=3), np.random.default_rng(0).permutation(N_USERS)
    mixed = Ranks(ranks.user[shuffle], ranks.greater[shuffle], ranks.equal[shuffle], N_ITEMS)
    fake_run(results, "sasrec", ranks=ranks)
    fake_run(results, "hm4sr", ranks=mixed)
    table = build_table(all_records(results), metrics=[Metric("NDCG", 10)], test="users")
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
        build_table(all_records(results))
    write_ranks(
        results_path := all_records(results)[0].path, valid=ranks, test=replace(ranks, user=ranks.user * 0)
    )
    with pytest.raises(DataError, match="a user twice"):
        build_table(all_records(results))
    assert results_path.exists()


def test_other_catalogues_are_refused(results: Path) -> None:
    fake_run(results, "sasrec")
    fake_run(results, "hm4sr", ranks=skilled_ranks(1.0, seed=1, n_items=150))
    with pytest.raises(ProtocolMismatchError, match="rank 150 and 200 items"):
        build_table(all_records(results))


def all_records(root: Path) -> list[RunRecord]:
    from mmbench.results import read_all

    return list(read_all(root))


def headline(table: Table, column: int = 0) -> Comparison:
    found = table.headlines()[column]
    assert found is not None
    return found


def test_the_default_test_is_scipys_paired_t_against_the_strongest_other(results: Path) -> None:
    table = build_table(paper_like(results), metrics=[HR10], compare="hm4sr")
    ours, theirs = row_of(table, "HM4SR").cells[0], row_of(table, "SASRec").cells[0]
    found, oracle = headline(table), scipy_stats.ttest_rel(ours.values, theirs.values)
    assert table.rows[found.rival].label == "SASRec"
    assert isinstance(found.outcome, Verdict)
    assert found.outcome.p == pytest.approx(oracle.pvalue)
    assert found.interval == pytest.approx(tuple(oracle.confidence_interval()))
    assert found.outcome.direction == "better"
    assert found.difference == pytest.approx(np.mean(ours.values) - np.mean(theirs.values))
    assert found.percent == pytest.approx(100 * found.difference / np.mean(theirs.values))
    assert isinstance(found.beside, Verdict)
    assert found.beside.p >= 2 / 2**5


def test_the_family_is_all_rivals_times_all_columns(results: Path) -> None:
    table = build_table(paper_like(results, datasets=("aa", "bb")), compare="HM4SR")
    assert len(table.comparisons) == table.family == 3 * 10
    raw = [one.outcome.p for one in table.comparisons if isinstance(one.outcome, Verdict)]
    order = np.argsort(raw)
    by_hand = np.empty(30)
    running = 0.0
    for position, at in enumerate(order):
        running = max(running, min(1.0, (30 - position) * raw[at]))
        by_hand[at] = running
    np.testing.assert_allclose([one.adjusted for one in table.comparisons], by_hand)
    for part in (
        "30 comparisons in 10 columns",
        "Holm correction over 30 tests",
        "HM4SR against every other row",
    ):
        assert part in caption_of(table, "Test")


def test_corrections(results: Path) -> None:
    records = paper_like(results)
    plain = build_table(records, correction="none", compare="hm4sr")
    assert all(one.adjusted is None for one in plain.comparisons)
    bh, holm = (build_table(records, correction=kind, compare="hm4sr") for kind in ("bh", "holm"))
    for loose, strict, raw in zip(bh.comparisons, holm.comparisons, plain.comparisons, strict=True):
        assert (raw.p or 0) <= (loose.adjusted or 0) <= (strict.adjusted or 0)
    assert "Benjamini-Hochberg correction over 15 tests" in caption_of(bh, "Test")


def test_without_compare_the_best_of_each_column_meets_the_second(results: Path) -> None:
    table = build_table(paper_like(results), metrics=[HR10])
    found = headline(table)
    assert (table.rows[found.compared].label, table.rows[found.rival].label) == ("HM4SR", "SASRec")
    assert "chosen on these very numbers" in caption_of(table, "Test")


def test_a_worse_row_is_called_worse(results: Path) -> None:
    """Known answer of the direction: comparing the loser gives a small p AND says worse, and no star."""
    for seed in range(1, 9):
        fake_run(results, "sasrec", seed=seed, ranks=ranks_with_hits(30 + seed % 2))
        fake_run(results, "hm4sr", seed=seed, ranks=ranks_with_hits(60 + seed % 3))
    records = all_records(results)
    lost, won = (build_table(records, metrics=[HR10], compare=name) for name in ("sasrec", "hm4sr"))
    assert headline(lost).outcome.direction == "worse"
    assert headline(won).outcome.direction == "better"
    assert headline(lost).p == pytest.approx(headline(won).p)
    assert (headline(lost).p or 1) < 1e-6
    assert not any(row.cells[0].star for row in lost.rows)
    assert row_of(won, "HM4SR").cells[0].star


def test_against_a_deterministic_row_the_t_test_has_one_sample(results: Path) -> None:
    for seed, hits in enumerate((30, 33, 35, 31), start=1):
        fake_run(results, "sasrec", seed=seed, ranks=ranks_with_hits(hits))
    fake_run(results, "pop", seed=1, deterministic=True, ranks=ranks_with_hits(28))
    for compare, sign in (("sasrec", 1), ("pop", -1)):
        found = headline(build_table(all_records(results), metrics=[HR10], compare=compare))
        assert isinstance(found.outcome, Verdict)
        assert found.outcome.test == "one-sample t"
        assert found.outcome.p == pytest.approx(
            scipy_stats.ttest_1samp([0.30, 0.33, 0.35, 0.31], 0.28).pvalue
        )
        assert np.sign(found.outcome.difference) == np.sign(found.difference) == sign


def test_pairs_are_equal_seeds_and_the_rest_is_said(results: Path) -> None:
    for seed, hits in ((1, 30), (2, 34), (3, 33), (4, 39)):
        fake_run(results, "hm4sr", seed=seed, ranks=ranks_with_hits(hits))
    for seed, hits in ((2, 28), (3, 30), (4, 31), (9, 20)):
        fake_run(results, "sasrec", seed=seed, ranks=ranks_with_hits(hits))
    table = build_table(all_records(results), metrics=[HR10], compare="hm4sr")
    outcome = headline(table).outcome
    assert isinstance(outcome, Verdict)
    assert outcome.n == 3
    assert outcome.p == pytest.approx(scipy_stats.ttest_rel([0.34, 0.33, 0.39], [0.28, 0.30, 0.31]).pvalue)
    assert "runs without a partner of equal seed count in the means only" in caption_of(table, "Test")


def test_runs_that_share_no_seed_take_welchs_test(results: Path) -> None:
    for seed, hits in ((1, 30), (2, 34), (3, 33)):
        fake_run(results, "hm4sr", seed=seed, ranks=ranks_with_hits(hits))
        fake_run(results, "sasrec", seed=seed + 10, ranks=ranks_with_hits(hits - 8))
    table = build_table(all_records(results), metrics=[HR10], compare="hm4sr")
    outcome = headline(table).outcome
    assert isinstance(outcome, Verdict)
    assert outcome.test == "Welch t"
    assert "Welch t" in caption_of(table, "Test")
    for test in ("wilcoxon", "sign-flip"):
        without = headline(build_table(all_records(results), metrics=[HR10], test=test)).outcome  # type: ignore[arg-type]
        assert isinstance(without, NoVerdict)
        assert without.words == "unpaired"


def test_one_run_gives_words_and_no_p(results: Path) -> None:
    fake_run(results, "hm4sr", ranks=ranks_with_hits(50))
    fake_run(results, "sasrec", ranks=ranks_with_hits(40))
    fake_run(results, "pop", ranks=ranks_with_hits(10), deterministic=True)
    fake_run(results, "itemknn", ranks=ranks_with_hits(20), deterministic=True)
    table = build_table(all_records(results), metrics=[HR10])
    assert [one.p for one in table.comparisons] == [None, None, None]
    assert headline(table).percent == pytest.approx(25.0)  # the size is known, only the test is not
    assert table.family == 0
    assert "one run" in caption_of(table, "No p")
    assert "one run per row, so no deviation is known" in caption_of(table, "Numbers")
    floors = build_table(all_records(results), metrics=[HR10], compare="itemknn")
    words = {floors.rows[one.rival].model: one.outcome for one in floors.comparisons}
    pop = words["pop"]
    assert isinstance(pop, NoVerdict)
    assert pop.words == "constants"


def test_identical_runs_give_words_and_no_p(results: Path) -> None:
    for seed, hits in ((1, 30), (2, 34), (3, 33)):
        for model in ("hm4sr", "sasrec"):
            fake_run(results, model, seed=seed, ranks=ranks_with_hits(hits))
    table = build_table(all_records(results), metrics=[HR10])
    outcome = headline(table).outcome
    assert isinstance(outcome, NoVerdict)
    assert outcome.words == "identical"
    assert [row.cells[0].place for row in table.rows] == [1, 1]


def test_users_test_is_mcnemar_for_hits_and_randomisation_for_the_rest(results: Path) -> None:
    for model, skill in (("hm4sr", 1.3), ("sasrec", 1.1)):
        fake_run(results, model, skill=skill)
    table = build_table(
        all_records(results), metrics=[HR10, Metric("NDCG", 10)], test="users", compare="hm4sr"
    )
    hits, gains = table.comparisons
    ours, theirs = (
        one.ranks("test").greater < 10 for one in sorted(all_records(results), key=lambda r: r.model)
    )
    won, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    assert isinstance(hits.outcome, Verdict)
    assert (hits.won, hits.lost) == (won, lost)
    assert hits.outcome.p == pytest.approx(scipy_stats.binomtest(won, won + lost).pvalue)
    assert isinstance(gains.outcome, Verdict)
    assert gains.outcome.test == "sign flip (10,000 draws)"
    assert gains.outcome.n == N_USERS
    assert "unit user" in caption_of(table, "Test")


def test_users_test_does_not_grow_with_the_number_of_seeds(results: Path) -> None:
    """The unit stays the user: five copies of each run change neither n nor p (no pseudo-replication)."""
    ranks = {"hm4sr": skilled_ranks(1.25, seed=1), "sasrec": skilled_ranks(1.1, seed=2)}
    found = []
    for seeds in (1, 5):
        root = results / str(seeds)
        for model, seed in itertools.product(ranks, range(seeds)):
            fake_run(root, model, seed=seed, ranks=ranks[model])
        table = build_table(all_records(root), metrics=[Metric("NDCG", 10)], test="users")
        found.append((headline(table).outcome.n, headline(table).p))
    assert found[0] == pytest.approx(found[1])
    assert found[0][0] == N_USERS


def test_hits_averaged_over_runs_take_the_randomisation_test(results: Path) -> None:
    table = build_table(paper_like(results, seeds=3), metrics=[HR10], test="users", compare="hm4sr")
    assert {one.outcome.test for one in table.comparisons} == {"sign flip (10,000 draws)"}


def test_wilcoxon_and_sign_flip_say_what_they_cannot_reach(results: Path) -> None:
    records = paper_like(results, seeds=5)
    for test in ("wilcoxon", "sign-flip"):
        table = build_table(records, test=test, compare="hm4sr")  # type: ignore[arg-type]
        assert "cannot fall below .0625 with n = 5" in caption_of(table, "Test")
        assert any("no claim is possible: Holm over 15 tests" in one for one in table.warnings)
    assert not build_table(records, compare="hm4sr").warnings


def test_leaky_rows_are_marked_and_neither_best_nor_rival(results: Path) -> None:
    records = paper_like(results)
    records += [fake_run(results, "hm4sr:released", seed=s, skill=2.0, leaky=True) for s in range(5)]
    table = build_table(records, metrics=[HR10])
    leaky = row_of(table, "hm4sr:released †")
    assert leaky.cells[0].place == 0
    assert (leaky.cells[0].mean or 0) > max(row.cells[0].mean or 0 for row in table.rows if not row.leaky)
    assert headline(table).p is not None
    assert table.rows[headline(table).rival].label == "SASRec"
    assert "selected on the test item" in caption_of(table, "†")


def test_synthetic_data_is_said(results: Path) -> None:
    fake_run(results, synthetic=True)
    table = build_table(all_records(results))
    assert table.datasets[0].synthetic
    assert "SYNTHETIC" in caption_of(table, "Data")


def test_warnings(results: Path) -> None:
    fake_run(results, "sasrec", best_epoch=91, max_epochs=100)
    fake_run(results, "gru4rec", best_epoch=90, max_epochs=100)
    ranks = skilled_ranks(1.0, seed=1)
    ties = np.where(np.arange(N_USERS) < 5, 1, 0)  # 1.25 % of the users
    fake_run(results, "hm4sr", ranks=Ranks(ranks.user, np.minimum(ranks.greater, N_ITEMS - 2), ties, N_ITEMS))
    said = build_table(all_records(results)).warnings
    assert len(said) == 2
    assert "SASRec on toys: best epoch 91 of at most 100 in 1 of 1 runs" in said[0]
    assert "HM4SR on toys: 1.2 % of users have a tied target" in said[1]


def test_models_notes_and_definitions_are_in_the_caption(results: Path) -> None:
    for seed in (1, 2):
        fake_run(results, "hm4sr", seed=seed, notes=["runs without image: toys has no image features"])
    table = build_table(all_records(results), metrics=[Metric("NDCG", 5), Metric("NDCG", 10), Metric("MRR")])
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
    found = {
        rule: build_table([record], metrics=[HR10], ties=rule).rows[0].cells[0].mean  # type: ignore[arg-type]
        for rule in ("expected", "optimistic", "pessimistic")
    }
    assert found == {"expected": pytest.approx(10 / N_ITEMS), "optimistic": 1.0, "pessimistic": 0.0}


def test_valid_targets_can_be_reported(results: Path) -> None:
    record = fake_run(results)
    write_ranks(record.path, valid=ranks_with_hits(12), test=ranks_with_hits(50))
    assert build_table([record], metrics=[HR10], split="valid").rows[0].cells[0].mean == pytest.approx(0.12)
    assert "Validation targets" in caption_of(build_table([record], split="valid"), "Numbers")


def test_one_more_hit_moves_the_table_by_one_over_the_users(results: Path) -> None:
    records = [fake_run(results / str(hits), ranks=ranks_with_hits(hits, 273)) for hits in (101, 102)]
    less, more = (build_table([one], metrics=[HR10]).rows[0].cells[0].mean or 0 for one in records)
    assert more - less == pytest.approx(1 / 273, abs=1e-15)


def test_usage_errors(results: Path) -> None:
    with pytest.raises(UsageError, match="no results to report; run for example"):
        build_table([])
    records = paper_like(results, seeds=1)
    with pytest.raises(UsageError, match=r"--compare: unknown row 'hm4r'; did you mean 'hm4sr'"):
        build_table(records, compare="hm4r")
    with pytest.raises(UsageError, match=r"NDCG@500: K must be in 1..200"):
        build_table(records, metrics=[Metric("NDCG", 500)])
    for dropout in (0.2, 0.3):
        fake_run(results, "gru4rec", settings={"dropout": dropout}, chosen=("dropout",))
    with pytest.raises(
        UsageError, match=r"--compare gru4rec is 2 rows; name one by its label: .*dropout=0.2"
    ):
        build_table([one for one in all_records(results) if "dropout" in one.settings], compare="gru4rec")
    chosen = build_table(all_records(results), compare="gru4rec [dropout=0.2]")
    assert chosen.compare == "GRU4Rec [dropout=0.2]"


def test_auc_is_refused_where_masking_changes_the_candidates(results: Path) -> None:
    fake_run(results, protocol={"mask_seen": "train"})
    with pytest.raises(UsageError, match="AUC needs a fixed number of candidates"):
        build_table(all_records(results), metrics=[Metric("AUC")])


def test_a_damaged_rank_file_is_one_line(results: Path) -> None:
    record = fake_run(results)
    (record.path / "ranks.npz").write_bytes(b"PK garbage")
    with pytest.raises(DataError, match=r"ranks\.npz cannot be read"):
        build_table([record])
