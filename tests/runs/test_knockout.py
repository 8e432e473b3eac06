"""Knock-outs of finished runs: what is ranked, what is not, and what is ranked again."""

from dataclasses import replace
from pathlib import Path

import pytest

from mmbench.data.store import Prepared
from mmbench.errors import RunError
from mmbench.evaluation.evidence import write_ranking
from mmbench.evaluation.knockout_kinds import knockout, parse_knockouts
from mmbench.evaluation.metrics import Metric
from mmbench.evaluation.significance import t_interval
from mmbench.reporting.knockout_drops import rows_of_drops
from mmbench.reporting.labels import group_runs
from mmbench.runs.knockout import knock_out
from mmbench.runs.store import RANKINGS, RunRecord
from mmbench.runs.workers import claim
from tests.models.test_registry import write_own
from tests.prepared import cli
from tests.runs.test_rerank import BY_TEXT, RECIPE, finished

NDCG = Metric("NDCG", 10)


@pytest.fixture
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    own = write_own(tmp_path / "own", code=BY_TEXT, recipe=RECIPE, stem="by_text")
    monkeypatch.setenv("MMBENCH_MODELS", str(own))
    return own


@pytest.fixture
def by_text(toy: Prepared, tmp_path: Path, own_models: Path) -> RunRecord:
    return finished(toy, tmp_path / "results", "by-text")


def files(record: RunRecord) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in (record.path / RANKINGS).iterdir()}


def test_what_is_not_read_is_said_and_nothing_is_stored(by_text: RunRecord, data_dir: Path) -> None:
    before = files(by_text)
    results = knock_out(by_text, parse_knockouts(["image", "time"]), data_dir=data_dir, device="cpu")
    assert {result.reason for result in results} == {"reads no image", "reads no time"}
    assert not any(result.rankings for result in results)
    assert files(by_text) == before


def test_a_second_call_ranks_nothing(by_text: RunRecord, data_dir: Path) -> None:
    chosen = parse_knockouts(["text=constant", "history=1"])
    knock_out(by_text, chosen, data_dir=data_dir, device="cpu")
    stored = files(by_text)
    assert {"test~text-constant.npz", "valid~text-constant.npz", "test~history-1.npz"} <= set(stored)
    said: list[str] = []
    knock_out(by_text, chosen, data_dir=data_dir, device="cpu", say=said.append)
    assert (files(by_text), said) == (stored, [])


def test_a_ranking_of_other_weights_is_not_taken_for_this_run_s(by_text: RunRecord, data_dir: Path) -> None:
    """A run that was trained again leaves the rankings of its old weights behind."""
    chosen = [knockout("history=1")]
    knock_out(by_text, chosen, data_dir=data_dir, device="cpu")
    for name in ("valid~history=1", "test~history=1"):
        old = by_text.ranking(name)
        stale = replace(
            old, made_by=replace(old.made_by, weights="0" * 16),
            counts={rule: (greater * 0, equal * 0) for rule, (greater, equal) in old.counts.items()},
        )  # fmt: skip
        write_ranking(by_text.path / RANKINGS, stale)
    (result,) = knock_out(by_text, chosen, data_dir=data_dir, device="cpu")
    assert result.rankings["test"].n_different(by_text.ranking("test")) == 0
    assert by_text.ranking("test~history=1").made_by == by_text.ranking("test").made_by


def test_rankings_under_changed_features_name_the_trained_weights(by_text: RunRecord, data_dir: Path) -> None:
    knock_out(by_text, [knockout("text=absent")], data_dir=data_dir, device="cpu")
    assert by_text.ranking("test~text=absent").made_by.weights == by_text.ranking("test").made_by.weights


def test_a_run_that_is_being_computed_is_left_alone(by_text: RunRecord, data_dir: Path) -> None:
    lock = claim(by_text.path, wait=False)
    assert lock is not None
    with lock:
        done = cli(
            "knockout", by_text.path, "--what", "history=1", data=data_dir, results=by_text.path.parents[3]
        )
    assert done.returncode != 0
    assert "is being computed by another run" in done.error_lines[-1]
    assert "test~history-1.npz" not in files(by_text)


def test_drops_are_means_over_users_with_intervals_that_hold_together(
    by_text: RunRecord, data_dir: Path
) -> None:
    chosen = parse_knockouts(["text=constant", "text=shuffled", "history=1", "image"])
    results = {by_text.title: knock_out(by_text, chosen, data_dir=data_dir, device="cpu")}
    groups, _ = group_runs([by_text])
    (row,) = rows_of_drops(groups, results, metric=NDCG)
    constant, shuffled, newest, image = row.drops  # one line for all that is not read
    intact = NDCG.values(by_text.ranking("test").ranks("none"))
    for drop in (constant, shuffled):
        differences = intact - NDCG.values(by_text.ranking(f"test~{drop.name}").ranks("none"))
        assert drop.drop == pytest.approx(differences.mean())
        assert drop.interval == pytest.approx(t_interval(differences, level=1 - 0.05 / 2))
    assert (newest.drop, newest.interval) == (0, None)
    assert newest.sentence == "no rank changes: the newest event suffices"
    assert (image.name, image.drop, image.sentence) == ("image", None, "reads no image")


def test_a_run_whose_weights_were_exchanged_is_refused(
    by_text: RunRecord, toy: Prepared, data_dir: Path, tmp_path: Path
) -> None:
    other = finished(toy, tmp_path / "results", "by-text", scale=1.2)
    (by_text.path / "best.safetensors").write_bytes((other.path / "best.safetensors").read_bytes())
    with pytest.raises(RunError, match=r"other weights than those that were ranked; run: mmbench evaluate"):
        knock_out(by_text, [knockout("history=1")], data_dir=data_dir, device="cpu")


def test_the_command_prints_drops_and_says_what_is_not_read(
    by_text: RunRecord, data_dir: Path, own_models: Path
) -> None:
    env = {"MMBENCH_MODELS": str(own_models), "COLUMNS": "80"}
    done = cli("knockout", by_text.path, data=data_dir, results=by_text.path.parents[3], env=env)
    assert done.returncode == 0, done.stderr
    assert "reads no image" in done.stdout
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert lines["history=1"].endswith("no rank changes: the newest event suffices")
    assert "[" in lines["text=shuffled:1"]
    wrong = cli(
        "knockout", by_text.path, "--what", "pictures", data=data_dir, results=by_text.path.parents[3]
    )
    assert (wrong.returncode, len(wrong.error_lines)) == (2, 1)
    assert "unknown knock-out 'pictures'" in wrong.stderr
