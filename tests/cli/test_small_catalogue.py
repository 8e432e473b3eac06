"""Catalogues with fewer than ten items: commands whose default is a metric at 10 take all of the items.

Run: python -m pytest tests/cli/test_small_catalogue.py
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mmbench
from mmbench.data.store import Prepared
from mmbench.evaluation.metrics import Metric, asked_metric
from mmbench.reporting.runs import Runs
from mmbench.runs.store import RunRecord
from tests.prepared import cli, write_toy
from tests.runs.test_rerank import finished

N_ITEMS = 8
COMMANDS = {
    "evaluate": ("evaluate", "A"), "stored": ("evaluate", "A", "--no-rescore"), "power": ("power", "-d", "toy"),
    "why": ("why", "A", "B"), "knockout": ("knockout", "A", "--what", "history=1"), "show": ("runs", "show", "A"),
    "slice": ("report", "--slice", "repeat"), "runs": ("runs",),
    "together": ("report", "--slice", "repeat,history", "--together", "--compare", "pop"),
}  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return write_toy(tmp_path_factory.mktemp("data"), n_items=N_ITEMS)


@pytest.fixture(scope="module")
def runs(shop: Prepared, tmp_path_factory: pytest.TempPathFactory) -> list[RunRecord]:
    results = tmp_path_factory.mktemp("results")
    return [finished(shop, results, model) for model in ("pop", "repeat-last")]


def filled(command: Sequence[str], runs: Sequence[RunRecord]) -> list[str]:
    """A command with the folders of two runs for A and B."""
    folders = {"A": str(runs[0].path), "B": str(runs[1].path)}
    return [folders.get(word, word) for word in command]


def results_of(runs: Sequence[RunRecord]) -> Path:
    return runs[0].path.parents[3]


def ndcg_of_all(run: RunRecord) -> float:
    """NDCG over all items by its definition: the mean of 1/log2(rank + 1), ties by their expectation."""
    ranks = run.ranks("test")
    pairs = zip(ranks.greater.tolist(), ranks.equal.tolist(), strict=True)
    return float(np.mean([np.mean(1 / np.log2(np.arange(g + 1, g + e + 2) + 1)) for g, e in pairs]))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_default_metric_is_of_all_items(name: str, runs: list[RunRecord], shop: Prepared) -> None:
    told = cli(*filled(COMMANDS[name], runs), data=shop.data_dir, results=results_of(runs))
    assert told.returncode == 0, told.stderr
    assert f"NDCG@{N_ITEMS}" in told.stdout
    assert "@10" not in told.stdout
    assert f"HR@{N_ITEMS}" not in told.stdout  # is 1 for every user


@pytest.mark.parametrize("name", ["evaluate", "power", "why", "knockout", "slice"])
def test_a_metric_that_is_asked_for_is_refused(name: str, runs: list[RunRecord], shop: Prepared) -> None:
    command = [*filled(COMMANDS[name], runs), "--metric", "NDCG@10"]
    told = cli(*command, data=shop.data_dir, results=results_of(runs))
    assert told.returncode == 2
    assert told.error_lines == [f"error: NDCG@10: K must be in 1..{N_ITEMS}, the number of items ranked"]


@pytest.mark.parametrize("name", ["power", "why", "knockout"])
def test_an_empty_metric_is_not_the_default(name: str, runs: list[RunRecord], shop: Prepared) -> None:
    command = [*filled(COMMANDS[name], runs), "--metric", ""]
    told = cli(*command, data=shop.data_dir, results=results_of(runs))
    assert told.returncode == 2
    assert told.error_lines == ["error: a metric has no name (write for example NDCG@10)"]


def test_the_same_in_python(runs: list[RunRecord], shop: Prepared) -> None:
    pop, other = runs
    loaded = mmbench.load(results_dir=results_of(runs))
    folders = {"data_dir": shop.data_dir, "results_dir": results_of(runs)}
    expected = [ndcg_of_all(run) for run in runs]
    explained = mmbench.why(pop, other, **folders)
    assert [explained.a, explained.b] == pytest.approx(expected, abs=1e-12)
    (row,) = mmbench.knockout(pop, "history=1", data_dir=shop.data_dir)
    assert row.drops[0].intact == pytest.approx(expected[0], abs=1e-12)
    power = mmbench.power(loaded, "toy", data_dir=shop.data_dir)
    assert power is not None
    assert abs(power.contrasts[0].difference) == pytest.approx(abs(expected[0] - expected[1]), abs=1e-12)
    assert f"test NDCG@{N_ITEMS}" in repr(loaded)
    assert f"{expected[0]:.4f}".removeprefix("0") in repr(loaded)
    assert "test NDCG@5" in loaded.to_frame().columns


def test_a_record_without_the_size_of_its_catalogue_changes_no_default(runs: list[RunRecord]) -> None:
    failed = replace(runs[1], status="failed", reason="no memory", n_items=0)
    frame = Runs([runs[0], failed]).to_frame()
    assert list(frame.columns) == list(Runs(runs[:1]).to_frame().columns)
    assert frame["test NDCG@5"].isna().tolist() == [False, True]
    assert asked_metric(None, [N_ITEMS, 0]) == Metric("NDCG", N_ITEMS)
    for records in ([failed], []):
        assert "test NDCG@10" in repr(Runs(records))
        assert "test NDCG@10" in Runs(records).to_frame().columns
