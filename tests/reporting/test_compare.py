"""Comparisons of a table: which test on which pairs, its family, its direction, its words.

Run: python -m pytest tests/reporting/test_compare.py
"""

import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from mmbench.evaluation.metrics import Metric
from mmbench.evaluation.significance import NoVerdict, Verdict
from tests.reporting.conftest import (
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
)

HR10 = Metric("HR", 10)


def test_the_default_test_is_scipys_paired_t_against_the_strongest_other(results: Path) -> None:
    table = make_table(paper_like(results), metrics=[HR10], compare="hm4sr")
    ours, theirs = row_of(table, "HM4SR").cells[0], row_of(table, "SASRec").cells[0]
    actual, oracle = headline(table), scipy_stats.ttest_rel(ours.values, theirs.values)
    assert table.rows[actual.rival].label == "SASRec"
    assert isinstance(actual.outcome, Verdict)
    assert actual.outcome.p == pytest.approx(oracle.pvalue)
    assert actual.interval == pytest.approx(tuple(oracle.confidence_interval()))
    assert actual.outcome.direction == "better"
    assert actual.difference == pytest.approx(np.mean(ours.values) - np.mean(theirs.values))
    assert actual.percent == pytest.approx(100 * actual.difference / np.mean(theirs.values))
    assert isinstance(actual.beside, Verdict)
    assert actual.beside.p >= 2 / 2**5


def test_the_family_is_all_rivals_times_all_columns(results: Path) -> None:
    table = make_table(paper_like(results, datasets=("aa", "bb")), compare="HM4SR")
    assert len(table.comparisons) == table.family == 3 * 10
    raw = [
        comparison.outcome.p for comparison in table.comparisons if isinstance(comparison.outcome, Verdict)
    ]
    order = np.argsort(raw)
    by_hand = np.empty(30)
    running = 0.0
    for position, at in enumerate(order):
        running = max(running, min(1.0, (30 - position) * raw[at]))
        by_hand[at] = running
    np.testing.assert_allclose([comparison.adjusted for comparison in table.comparisons], by_hand)
    for part in (
        "30 comparisons in 10 columns",
        "Holm correction over 30 tests",
        "HM4SR against every other row",
    ):
        assert part in caption_of(table, "Test")


def test_corrections(results: Path) -> None:
    records = paper_like(results)
    plain = make_table(records, correction="none", compare="hm4sr")
    assert all(comparison.adjusted is None for comparison in plain.comparisons)
    bh, holm = (make_table(records, correction=kind, compare="hm4sr") for kind in ("bh", "holm"))
    for loose, strict, raw in zip(bh.comparisons, holm.comparisons, plain.comparisons, strict=True):
        assert (raw.p or 0) <= (loose.adjusted or 0) <= (strict.adjusted or 0)
    assert "Benjamini-Hochberg correction over 15 tests" in caption_of(bh, "Test")


def test_without_compare_the_best_of_each_column_meets_the_second(results: Path) -> None:
    table = make_table(paper_like(results), metrics=[HR10])
    actual = headline(table)
    assert (table.rows[actual.compared].label, table.rows[actual.rival].label) == ("HM4SR", "SASRec")
    assert "chosen on these very numbers" in caption_of(table, "Test")


def test_a_worse_row_is_called_worse(results: Path) -> None:
    """Known answer of the direction: comparing the loser gives a small p AND says worse, and no star."""
    for seed in range(1, 9):
        fake_run(results, "sasrec", seed=seed, ranks=ranks_with_hits(30 + seed % 2))
        fake_run(results, "hm4sr", seed=seed, ranks=ranks_with_hits(60 + seed % 3))
    records = all_records(results)
    lost, won = (make_table(records, metrics=[HR10], compare=name) for name in ("sasrec", "hm4sr"))
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
        actual = headline(make_table(all_records(results), metrics=[HR10], compare=compare))
        assert isinstance(actual.outcome, Verdict)
        assert actual.outcome.test == "one-sample t"
        assert actual.outcome.p == pytest.approx(
            scipy_stats.ttest_1samp([0.30, 0.33, 0.35, 0.31], 0.28).pvalue
        )
        assert np.sign(actual.outcome.difference) == np.sign(actual.difference) == sign


def test_pairs_are_equal_seeds_and_the_rest_is_said(results: Path) -> None:
    for seed, hits in ((1, 30), (2, 34), (3, 33), (4, 39)):
        fake_run(results, "hm4sr", seed=seed, ranks=ranks_with_hits(hits))
    for seed, hits in ((2, 28), (3, 30), (4, 31), (9, 20)):
        fake_run(results, "sasrec", seed=seed, ranks=ranks_with_hits(hits))
    table = make_table(all_records(results), metrics=[HR10], compare="hm4sr")
    outcome = headline(table).outcome
    assert isinstance(outcome, Verdict)
    assert outcome.n == 3
    assert outcome.p == pytest.approx(scipy_stats.ttest_rel([0.34, 0.33, 0.39], [0.28, 0.30, 0.31]).pvalue)
    assert "runs without a partner of equal seed count in the means only" in caption_of(table, "Test")


def test_runs_that_share_no_seed_take_welchs_test(results: Path) -> None:
    for seed, hits in ((1, 30), (2, 34), (3, 33)):
        fake_run(results, "hm4sr", seed=seed, ranks=ranks_with_hits(hits))
        fake_run(results, "sasrec", seed=seed + 10, ranks=ranks_with_hits(hits - 8))
    table = make_table(all_records(results), metrics=[HR10], compare="hm4sr")
    outcome = headline(table).outcome
    assert isinstance(outcome, Verdict)
    assert outcome.test == "Welch t"
    assert "Welch t" in caption_of(table, "Test")
    for test in ("wilcoxon", "sign-flip"):
        without = headline(make_table(all_records(results), metrics=[HR10], test=test)).outcome  # type: ignore[arg-type]
        assert isinstance(without, NoVerdict)
        assert without.words == "unpaired"


def test_one_run_gives_words_and_no_p(results: Path) -> None:
    fake_run(results, "hm4sr", ranks=ranks_with_hits(50))
    fake_run(results, "sasrec", ranks=ranks_with_hits(40))
    fake_run(results, "pop", ranks=ranks_with_hits(10), deterministic=True)
    fake_run(results, "itemknn", ranks=ranks_with_hits(20), deterministic=True)
    table = make_table(all_records(results), metrics=[HR10])
    assert [comparison.p for comparison in table.comparisons] == [None, None, None]
    assert headline(table).percent == pytest.approx(25.0)  # the size is known, only the test is not
    assert table.family == 0
    assert "one run" in caption_of(table, "No p")
    assert "a single run per row, so no deviation is known" in caption_of(table, "Numbers")
    floors = make_table(all_records(results), metrics=[HR10], compare="itemknn")
    words = {floors.rows[comparison.rival].model: comparison.outcome for comparison in floors.comparisons}
    pop = words["pop"]
    assert isinstance(pop, NoVerdict)
    assert pop.words == "constants"


def test_identical_runs_give_words_and_no_p(results: Path) -> None:
    for seed, hits in ((1, 30), (2, 34), (3, 33)):
        for model in ("hm4sr", "sasrec"):
            fake_run(results, model, seed=seed, ranks=ranks_with_hits(hits))
    table = make_table(all_records(results), metrics=[HR10])
    outcome = headline(table).outcome
    assert isinstance(outcome, NoVerdict)
    assert outcome.words == "identical"
    assert [row.cells[0].place for row in table.rows] == [1, 1]


def test_users_test_is_mcnemar_for_hits_and_randomisation_for_the_rest(results: Path) -> None:
    for model, skill in (("hm4sr", 1.3), ("sasrec", 1.1)):
        fake_run(results, model, skill=skill)
    table = make_table(
        all_records(results), metrics=[HR10, Metric("NDCG", 10)], test="users", compare="hm4sr"
    )
    hits, gains = table.comparisons
    ours, theirs = (
        record.ranks("test").greater < 10 for record in sorted(all_records(results), key=lambda r: r.model)
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
    actual = []
    for seeds in (1, 5):
        root = results / str(seeds)
        for model, seed in itertools.product(ranks, range(seeds)):
            fake_run(root, model, seed=seed, ranks=ranks[model])
        table = make_table(all_records(root), metrics=[Metric("NDCG", 10)], test="users")
        actual.append((headline(table).outcome.n, headline(table).p))
    assert actual[0] == pytest.approx(actual[1])
    assert actual[0][0] == N_USERS


def test_hits_averaged_over_runs_take_the_randomisation_test(results: Path) -> None:
    table = make_table(paper_like(results, seeds=3), metrics=[HR10], test="users", compare="hm4sr")
    assert {comparison.outcome.test for comparison in table.comparisons} == {"sign flip (10,000 draws)"}


def test_wilcoxon_and_sign_flip_say_what_they_cannot_reach(results: Path) -> None:
    records = paper_like(results, seeds=5)
    for test in ("wilcoxon", "sign-flip"):
        table = make_table(records, test=test, compare="hm4sr")  # type: ignore[arg-type]
        assert "cannot fall below .0625 with n = 5" in caption_of(table, "Test")
        assert any("no claim is possible: Holm over 15 tests" in warning for warning in table.warnings)
    assert not make_table(records, compare="hm4sr").warnings
