"""Lists of another program: ranks are those of our own ranking of the same scores, and what ends early says less."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mmbench.atomic import hash_json
from mmbench.board.checks import has_fault
from mmbench.board.external import Entry, ranking_of, score_lists
from mmbench.board.writing import write_bundle
from mmbench.choices import RULES
from mmbench.data.loaded import load_data
from mmbench.data.store import Prepared
from mmbench.data.views import TargetView
from mmbench.errors import DataError, MmbenchError, UsageError
from mmbench.evaluation.evidence import Ranking
from mmbench.evaluation.metrics import Metric
from mmbench.evaluation.ranking import rank_fully
from mmbench.reporting import TableRequest, build_table
from mmbench.runs.plan import comparison_protocol
from mmbench.runs.store import read_all, read_record
from mmbench.settings.config import Origin, Setting
from tests.board.making import checked
from tests.cli.forks import Command, run_all
from tests.scorers import Written


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    """Scores with many ties, float64 [users, items]."""
    return np.random.default_rng(0).integers(0, 40, (120, 60)).astype(np.float64)


@pytest.fixture
def view(toy: Prepared) -> TargetView:
    return load_data(toy.path, toy.hash).targets("test")


def write_lists(path: Path, toy: Prepared, scores: np.ndarray, length: int | Sequence[int] = 60) -> Path:
    """Write each user's best items, ties by smaller id, in a shuffled order."""
    lengths = np.broadcast_to(length, len(scores))
    order = np.argsort(-scores, axis=1, kind="stable")
    rows = [
        (toy.user_ids[user], toy.item_records[item]["id"], scores[user, item])
        for user in range(len(scores))
        for item in order[user, : lengths[user]]
    ]
    frame = pd.DataFrame(rows, columns=["user", "item", "score"]).sample(frac=1, random_state=1)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


def our_ranking(scores: np.ndarray, view: TargetView, lists: int = 20) -> Ranking:
    model = Written(torch.tensor(scores))
    return rank_fully(model, view, name="test", lists=lists)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_whole_lists_give_the_ranks_and_lists_of_our_own_ranking(
    toy: Prepared, view: TargetView, scores: np.ndarray, tmp_path: Path, suffix: str
) -> None:
    file = write_lists(tmp_path / f"lists{suffix}", toy, scores)
    theirs, ours = ranking_of(file, toy, view, "none"), our_ranking(scores, view)
    assert theirs.limits == {}
    assert theirs.n_different(ours) == 0
    for rule in ("none", "input"):
        assert np.array_equal(theirs.top(rule, 20), ours.top(rule, 20))


@pytest.mark.parametrize("length", [8, 20, 45])
def test_lists_that_end_early_give_exact_metrics_up_to_their_limit_and_no_others(
    toy: Prepared, view: TargetView, scores: np.ndarray, tmp_path: Path, length: int
) -> None:
    distinct = scores + np.linspace(0, 0.5, 60)  # a tie across the end of a list is the program's own choice
    lengths = length + np.arange(120) % 5
    theirs = ranking_of(write_lists(tmp_path / "l.csv", toy, distinct, lengths), toy, view, "none")
    ours = our_ranking(distinct, view)
    assert theirs.limits["none"] >= length
    for rule in RULES:
        limit = theirs.limits[rule]
        for name in ("NDCG", "HR", "MRR"):
            for k in {1, limit // 2, limit} - {0}:
                ranks = theirs.ranks(rule), ours.ranks(rule)
                mine, truth = (Metric(name, k).values(of) for of in ranks)
                assert np.array_equal(mine, truth), (rule, name, k)
        for metric in (Metric("NDCG", limit + 1), Metric("MRR"), Metric("AUC")):
            with pytest.raises(UsageError, match=rf"metrics up to @{limit}"):
                metric.values(theirs.ranks(rule))


def test_ranks_of_targets_hold_under_their_rule_only(
    toy: Prepared, view: TargetView, tmp_path: Path, scores: np.ndarray
) -> None:
    file = tmp_path / "ranks.csv"
    rank_of = np.random.default_rng(1).integers(1, 61, len(view))
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["rank", "user"])
        writer.writerows((rank_of[row], toy.user_ids[view.user[row]]) for row in range(len(view)))
    theirs = ranking_of(file, toy, view, "input")
    assert np.array_equal(theirs.ranks("input").greater + 1, rank_of)
    with pytest.raises(UsageError, match="has ranks under mask rule input only"):
        theirs.ranks("none")


def stored(toy: Prepared, data_dir: Path, results: Path, file: Path, **entry: object) -> None:
    score_lists(
        file, Entry(**{"name": "Their model", **entry}), dataset="toy", data_dir=data_dir, results_dir=results
    )


def test_a_table_treats_lists_like_runs(
    toy: Prepared, view: TargetView, data_dir: Path, scores: np.ndarray, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    stored(toy, data_dir, results, write_lists(tmp_path / "whole.csv", toy, scores), name="Whole")
    stored(toy, data_dir, results, write_lists(tmp_path / "cut.csv", toy, scores, 12), name="Cut")
    records = list(read_all(results))
    table = build_table(records, TableRequest(metrics=(Metric("NDCG", 5), Metric("HR", 10))))
    expected = Metric("HR", 10).values(our_ranking(scores, view).ranks("none")).mean()
    assert {row.name: row.cells[1].mean for row in table.rows}["Whole"] == pytest.approx(expected)
    long = build_table(records, TableRequest(metrics=(Metric("HR", 20),)))
    means = {row.name: row.cells[0].mean for row in long.rows}
    assert means["Cut"] is None
    assert means["Whole"] is not None
    assert "its lists give metrics up to @12, so no HR@20" in " ".join(long.footnotes)
    assert any("metrics up to @12" in text for _, text in table.caption)


def test_ranks_under_another_rule_are_left_out_with_a_line(
    toy: Prepared, view: TargetView, data_dir: Path, scores: np.ndarray, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    stored(toy, data_dir, results, write_lists(tmp_path / "whole.csv", toy, scores), name="Whole")
    ranks = tmp_path / "ranks.csv"
    ranks.write_text("user,rank\n" + "".join(f"{toy.user_ids[user]},3\n" for user in view.user))
    stored(toy, data_dir, results, ranks, name="Ranks")
    records = list(read_all(results))
    assert build_table(records, TableRequest(metrics=(Metric("NDCG", 5),))).rows[0].name == "Ranks"
    table = build_table(records, TableRequest(metrics=(Metric("NDCG", 5),), mask_seen="input"))
    assert {row.name: row.cells[0].mean is None for row in table.rows} == {"Whole": False, "Ranks": True}
    assert "ranks under mask rule none only, not under input" in " ".join(table.footnotes)


def test_lists_are_bundled_and_verified(
    toy: Prepared, data_dir: Path, scores: np.ndarray, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    for seed in (1, 2):
        file = write_lists(tmp_path / f"{seed}.csv", toy, scores + seed * np.eye(120, 60), 30)
        stored(toy, data_dir, results, file, seed=seed)
    folder = next(results.glob("toy/external-their-model/*"))
    write_bundle(folder, tmp_path / "theirs.mmb.zip", with_weights=True)
    _, checks = checked(tmp_path / "theirs.mmb.zip")
    assert not has_fault(list(checks.values())), checks
    assert checks["lists"].status == checks["metrics"].status == "ok"


def test_other_lists_of_one_name_are_not_replaced_unasked(
    toy: Prepared, data_dir: Path, scores: np.ndarray, tmp_path: Path
) -> None:
    results, entry = tmp_path / "results", Entry(name="Their model")
    first, second = (write_lists(tmp_path / f"{n}.csv", toy, scores, n) for n in (20, 30))
    arguments = {"dataset": "toy", "data_dir": data_dir, "results_dir": results}
    record = score_lists(first, entry, **arguments)
    assert score_lists(first, entry, **arguments).extra == record.extra
    with pytest.raises(UsageError, match="holds other lists than"):
        score_lists(second, entry, **arguments)
    score_lists(second, entry, replaces=True, **arguments)
    assert read_record(record.path).extra != record.extra


# -- files that are none ----------------------------------------------------------------------------------

Edit = Callable[[pd.DataFrame], pd.DataFrame]


def at(row: int, column: str, value: object) -> Edit:
    def edit(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.astype({column: object})
        frame.loc[row, column] = value
        return frame

    return edit


FAULTS: dict[str, tuple[Edit, str]] = {
    "unknown user": (at(3, "user", "u99999"), "line 5: unknown user 'u99999'"),
    "near item": (at(3, "item", "i0000"), "line 5: unknown item 'i0000'; did you mean"),
    "empty item": (at(3, "item", ""), "line 5: item is empty"),
    "no score": (at(3, "score", ""), "line 5: score '' is not finite"),
    "word": (at(3, "score", "high"), "line 5: score 'high' is not finite"),
    "NaN": (at(3, "score", "nan"), "line 5: score 'nan' is not finite"),
    "infinite": (at(3, "score", "inf"), "line 5: score 'inf' is not finite"),
    "escape": (at(3, "score", "\x1b[2J"), "is not finite"),
    "twice": (lambda frame: pd.concat([frame, frame[4:5]]), "names an item that the list of its user has"),
    "a user without list": (lambda frame: frame[frame.user != frame.user[0]], "1 of 120 users with a test target"),
    "no rows": (lambda frame: frame[:0], "is empty|holds no list"),
    "other columns": (lambda frame: frame.rename(columns={"item": "thing"}), "it needs user,item,score"),
    "no columns": (lambda frame: frame[[]], "it needs user,item,score|is empty"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_a_faulty_list_is_one_line_that_names_the_row(
    toy: Prepared, view: TargetView, scores: np.ndarray, tmp_path: Path, kind: str
) -> None:
    edit, words = FAULTS[kind]
    file = write_lists(tmp_path / "lists.csv", toy, scores, 5)
    edit(pd.read_csv(file, dtype=str).reset_index(drop=True)).to_csv(file, index=False)
    with pytest.raises(MmbenchError) as caught:
        ranking_of(file, toy, view, "none")
    text = str(caught.value)
    assert any(word in text for word in words.split("|")), text
    assert "\n" not in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("rank_text", "words"),
    [("0", "none of 1..60"), ("61", "none of 1..60"), ("2.5", "none of"), ("", "none of"), ("-1", "none of")],
)
def test_ranks_that_nobody_has_are_refused(
    toy: Prepared, view: TargetView, tmp_path: Path, rank_text: str, words: str
) -> None:
    file = tmp_path / "ranks.csv"
    file.write_text(f"user,rank\nu00001,1\nu00002,{rank_text}\n")
    with pytest.raises(DataError, match=words):
        ranking_of(file, toy, view, "none")
    file.write_text("user,rank\nu00001,1\nu00001,2\n")
    with pytest.raises(DataError, match="a user has two ranks"):
        ranking_of(file, toy, view, "none")


def test_lists_of_masked_items_alone_are_refused(toy: Prepared, view: TargetView, tmp_path: Path) -> None:
    """Every list holds one item of the user's own history."""
    file = tmp_path / "lists.csv"
    lines = [
        f"{toy.user_ids[user]},{toy.item_records[view.items[start] - 1]['id']},1\n"
        for user, start, target in zip(view.user, view.offsets[:-1], view.target, strict=True)
    ]
    file.write_text("user,item,score\n" + "".join(lines))
    with pytest.raises(DataError, match="nothing but items that mask rule train takes away"):
        ranking_of(file, toy, view, "none")


def external_id(toy: Prepared) -> str:
    """Return the configuration of "Their model" under the protocol's own mask rule."""
    setting = Setting(toy.protocol.mask_seen, Origin.protocol)
    return hash_json(
        {"external": "Their model", "protocol": comparison_protocol(toy, {"mask_seen": setting})}
    )[:10]


def test_the_command(toy: Prepared, data_dir: Path, scores: np.ndarray, tmp_path: Path) -> None:
    file = write_lists(tmp_path / "lists.csv", toy, scores, 12)
    results = tmp_path / "results"
    commands = [
        ["score", file, "--dataset", "toy", "--name", "Their model"],
        ["score", file, "--dataset", "toi", "--name", "x"],
        ["score", tmp_path / "none.csv", "--dataset", "toy", "--name", "x"],
        ["score", file, "--dataset", "toy", "--name", "***"],
        ["evaluate", results / "toy" / "external-their-model"],
        ["report", "--dataset", "toy"],
    ]
    commands[4][1] = commands[4][1] / external_id(toy) / "seed_1"
    done, *failed, report = run_all([Command(arguments, data_dir, results) for arguments in commands])
    assert "metrics up to @12" in done.stdout, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == [
        "NDCG@5", "NDCG@10", "MRR@5", "MRR@10", "HR@10",
    ]  # fmt: skip
    for outcome in failed:
        assert (outcome.returncode in (1, 2), len(outcome.error_lines)) == (True, 1), outcome.stderr
    assert "another program's lists (mmbench score)" in failed[-1].stderr
    assert "Their model" in report.stdout
