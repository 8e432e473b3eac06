"""Tables by slices: their parts add up, planted differences are found, what cannot be had is one line.

Run: python -m pytest tests/reporting/test_slices.py
"""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mmbench.cli.slices_together import _heading
from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.evaluation.evidence import MadeBy, Ranking
from mmbench.evaluation.metrics import parse_metric
from mmbench.evaluation.slices import FAMILIES, Labels
from mmbench.reporting.slices import Rows, interaction_p, labels_of, slice_tables
from mmbench.reporting.slices_together import _explain, explain_gains
from mmbench.runs.store import RunRecord, read_record, write_rankings
from tests.prepared import cli, write_toy
from tests.runs.test_rerank import finished

NDCG, HR = parse_metric("NDCG@10"), parse_metric("HR@10")
N_USERS = 480


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    from mmbench.contract.data_set import random_histories

    histories = random_histories(n_users=N_USERS)
    return write_toy(tmp_path_factory.mktemp("data"), histories=histories)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def runs(shop: Prepared, results: Path) -> list[RunRecord]:
    """Pop, and the same run of another model whose repeated targets come first."""
    pop, other = finished(shop, results, "pop"), finished(shop, results, "random")
    labels = labels_of(pop, "repeat", "test", shop.data_dir)
    ranking = pop.ranking("test")
    counts = {
        rule: (np.where(labels.index == 0, 0, greater), np.where(labels.index == 0, 0, equal))
        for rule, (greater, equal) in ranking.counts.items()
    }
    planted = Ranking(
        name="test", user=ranking.user, target=ranking.target, counts=counts, n_items=ranking.n_items,
        made_by=MadeBy(run=other.title),
    )  # fmt: skip
    write_rankings(other.path, [planted])
    return [pop, read_record(other.path)]


@pytest.mark.parametrize("family", FAMILIES)
def test_slices_add_up_to_the_whole(family: str, runs: list[RunRecord], shop: Prepared) -> None:
    (table,) = slice_tables(runs, family, metric=HR, data_dir=shop.data_dir)
    whole = {row.name: row for row in table.rows}
    assert len(whole) == 2
    labels = labels_of(runs[0], family, "test", shop.data_dir)
    values = HR.values(runs[0].ranks("test"))
    assert sum(piece.n for piece in whole["Pop"].slices) == N_USERS
    assert sum(piece.of_hits for piece in whole["Pop"].slices) == pytest.approx(1, abs=1e-12)
    for k, piece in enumerate(whole["Pop"].slices):
        assert piece.n == (labels.index == k).sum()
        if piece.value is not None:
            assert piece.value == pytest.approx(values[labels.index == k].mean(), abs=1e-12)


def test_a_gain_in_one_slice_is_found_there_and_as_interaction(runs: list[RunRecord], shop: Prepared) -> None:
    (table,) = slice_tables(runs, "repeat", metric=NDCG, data_dir=shop.data_dir, compare="random")
    (row,) = [row for row in table.rows if row.gains]
    repeat, new = row.gains
    assert row.name == "Pop"
    assert repeat.gain > 0.3
    assert new.gain == 0
    assert repeat.p < 1e-6
    assert repeat.elsewhere == pytest.approx(repeat.gain, abs=1e-12)
    assert row.interaction is None or row.interaction < 0.05
    (table,) = slice_tables(runs, "history", metric=NDCG, data_dir=shop.data_dir, compare="random")
    (row,) = [row for row in table.rows if row.gains]
    assert row.interaction is not None


def test_a_row_against_itself_in_disguise_has_no_gain(runs: list[RunRecord], shop: Prepared) -> None:
    (table,) = slice_tables(runs[:1], "history", metric=NDCG, data_dir=shop.data_dir, compare="pop")
    assert [row.gains for row in table.rows] == [()]


def test_interaction_is_about_means_of_unequal_variances() -> None:
    rng = np.random.default_rng(0)
    samples = [rng.normal(0, scale, 80) for scale in (1, 3, 5)]
    assert interaction_p(samples) == pytest.approx(stats.alexandergovern(*samples).pvalue)
    assert interaction_p([*samples[:1], samples[1] + 4]) < 1e-6
    assert interaction_p([np.zeros(30), np.zeros(40)]) is None
    rejected = [interaction_p([rng.normal(0, 1, 60), rng.normal(0, 4, 40)]) < 0.05 for _ in range(400)]
    assert 0.02 < np.mean(rejected) < 0.09


def test_within_a_slice_only_its_users_count(runs: list[RunRecord], shop: Prepared) -> None:
    """The slices of `history` within those of `tied` are those of both labels, and add up to the whole."""
    history = labels_of(runs[0], "history", "test", shop.data_dir)
    tied = labels_of(runs[0], "tied", "test", shop.data_dir)
    values, total = NDCG.values(runs[0].ranks("test")), 0
    for k, name in enumerate(tied.names):
        options = {"metric": NDCG, "data_dir": shop.data_dir, "within": f"tied={name}"}
        (table,) = slice_tables(runs[:1], "history", **options)
        (row,) = table.rows
        assert table.within == f"tied={name}"
        for j, piece in enumerate(row.slices):
            both = (history.index == j) & (tied.index == k)
            total += piece.n
            assert piece.n == both.sum()
            assert piece.value is None or piece.value == pytest.approx(values[both].mean(), abs=1e-12)
    assert total == N_USERS
    for within, reason in (("tied", "FAMILY=LABEL"), ("tied=teid", "'tied'"), ("transition", "FAMILY=LABEL")):
        with pytest.raises(UsageError, match=reason):
            slice_tables(runs, "history", metric=NDCG, data_dir=shop.data_dir, within=within)


def test_small_slices_have_no_number(runs: list[RunRecord], shop: Prepared) -> None:
    (table,) = slice_tables(runs, "count", metric=HR, data_dir=shop.data_dir)
    for row in table.rows:
        for piece in row.slices:
            assert (piece.value is None) >= (piece.n < 30)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"family": "repeat", "compare": "hm4sr"}, "name any of"),
        ({"family": "popluarity"}, "popularity"),
        ({"family": "repeat", "metric": parse_metric("Gini@10")}, "per user"),
    ],
)
def test_what_cannot_be_had_is_one_line(
    runs: list[RunRecord], shop: Prepared, options: dict, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        slice_tables(runs, **{"metric": NDCG, "data_dir": shop.data_dir, **options})
    assert "\n" not in str(caught.value)


def test_the_command_prints_the_table_and_writes_it(
    runs: list[RunRecord], shop: Prepared, results: Path, tmp_path: Path
) -> None:
    options = ("report", "--slice", "repeat", "--compare", "random")
    shown = cli(*options, data=shop.data_dir, results=results)
    assert shown.returncode == 0
    assert "vs elsewhere" in shown.stdout
    written = cli(*options, "-o", tmp_path / "slices.csv", data=shop.data_dir, results=results)
    assert written.returncode == 0
    lines = (tmp_path / "slices.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 2 * 2
    refused = cli(*options, "--format", "latex", data=shop.data_dir, results=results)
    assert refused.returncode == 2
    assert len(refused.error_lines) == 1


def test_together_a_planted_cause_is_told_from_what_goes_along_with_it(
    runs: list[RunRecord], shop: Prepared
) -> None:
    """Only repeated targets were planted; `cooccur` goes along with them, since a user shares items with itself."""
    options = {"metric": NDCG, "data_dir": shop.data_dir, "compare": "random"}
    (explained,) = explain_gains(runs, ["cooccur", "repeat", "popularity"], **options)
    assert (explained.compared, explained.other) == ("Random", "Pop")
    families = {family.family: family for family in explained.families}
    assert families["repeat"].p < 1e-6
    for name in ("cooccur", "popularity"):
        assert families[name].p is None or families[name].p > 0.05
    (new,) = families["repeat"].labels if families["repeat"].reference == "repeat" else [None]
    effect = new or families["repeat"].labels[0]
    assert abs(effect.difference) > 0.3
    assert effect.interval[0] < effect.difference < effect.interval[1]
    assert explained.n + explained.left_out == N_USERS


@pytest.mark.parametrize(
    ("families", "reason"),
    [
        (["repeat"], "two families"),
        (["repeat", "repeat"], "two families"),
        (["repeat", "reptae"], "'reptae'"),
    ],
)
def test_together_needs_families(
    runs: list[RunRecord], shop: Prepared, families: list[str], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        explain_gains(runs, families, metric=NDCG, data_dir=shop.data_dir, compare="random")


@pytest.mark.parametrize("gain", [0.0, 0.3])
def test_together_rows_whose_difference_does_not_vary_have_no_p(runs: list[RunRecord], gain: float) -> None:
    labels = [
        Labels(name, ("x", "y"), np.random.default_rng(k).integers(0, 2, 200)) for k, name in enumerate("ab")
    ]
    rows = Rows(tuple(runs), NDCG, "none", "test", "", np.ones(200, bool),
                {"A": np.full(200, gain), "B": np.zeros(200)}, "A")  # fmt: skip
    explained = _explain(rows, "B", labels)
    assert explained.gain == pytest.approx(gain)
    for family in explained.families:
        (effect,) = family.labels
        assert (family.p, effect.p, effect.interval) == (None, None, None)
        assert effect.difference == pytest.approx(0, abs=1e-12)
        assert _heading(family).endswith("no test, the gains do not vary")


def test_together_needs_labels_that_differ(runs: list[RunRecord]) -> None:
    labels = [Labels(name, ("x", "y"), np.zeros(200, np.int64)) for name in "ab"]
    values = {"A": np.arange(200.0), "B": np.zeros(200)}
    rows = Rows(tuple(runs), NDCG, "none", "test", "", np.ones(200, bool), values, "A")
    with pytest.raises(UsageError, match=r"too few different labels \(200 observations"):
        _explain(rows, "B", labels)


def test_together_on_the_command_line(
    runs: list[RunRecord], shop: Prepared, results: Path, tmp_path: Path
) -> None:
    options = ("report", "--slice", "repeat,popularity", "--together")
    shown = cli(*options, "--compare", "random", data=shop.data_dir, results=results)
    assert shown.returncode == 0, shown.stderr
    assert "does the gain depend on it?" in shown.stdout
    assert "looked at" in shown.stdout + shown.stderr
    written = cli(
        *options, "--compare", "random", "-o", tmp_path / "t.csv", data=shop.data_dir, results=results
    )
    assert written.returncode == 0
    head, *lines = (tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()
    assert head.startswith("dataset,metric,compared,row,users,gain,family,reference")
    assert len(lines) >= 2
    for wrong, reason in ((options, "--compare MODEL"), (("report", "--together"), "--slice FAMILY")):
        refused = cli(*wrong, data=shop.data_dir, results=results)
        assert refused.returncode == 2
        assert len(refused.error_lines) == 1
        assert reason in refused.error_lines[0]
