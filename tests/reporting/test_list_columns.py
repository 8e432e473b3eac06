"""Metrics that read the data set as columns of tables: values, tests, layouts, and one line where something is missing.

Run: python -m pytest tests/reporting/test_list_columns.py
"""

import json
from pathlib import Path

import numpy as np
import pytest

import mmbench
from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.evaluation.metrics import parse_metric
from mmbench.runs.facts import data_facts
from mmbench.runs.store import RunRecord
from tests.prepared import cli, write_toy
from tests.reporting.conftest import caption_of, row_of
from tests.runs.test_rerank import finished

NAMES = ["Novelty@5", "Tail@5", "ILD-text@5", "ILD-category@5", "Repeats@5", "HR-debiased@10", "NDCG@10"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return write_toy(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def runs(shop: Prepared, results: Path) -> list[RunRecord]:
    return [finished(shop, results, "pop"), finished(shop, results, "itemknn")]


def test_columns_hold_what_loops_over_the_lists_give(runs: list[RunRecord], shop: Prepared) -> None:
    table = mmbench.report(runs, metrics=NAMES, data_dir=shop.data_dir).table
    ranking = runs[0].ranking("test")
    items = np.asarray(shop.items)
    had = [items[a:b].tolist() for a, b in zip(shop.offsets[:-1], shop.offsets[1:], strict=True)]
    training = [history[:-2] for history in had]
    users = {item: sum(item in history for history in training) for item in range(1, shop.n_items + 1)}
    lists = ranking.top("none", 5).tolist()
    novelty = [np.mean([-np.log2((users[item] + 1) / (shop.n_users + 2)) for item in row]) for row in lists]
    repeats = [
        np.mean([item in had[user][:-1] for item in row])
        for user, row in zip(ranking.user.tolist(), lists, strict=True)
    ]
    cells = dict(zip(NAMES, row_of(table, "Pop").cells, strict=True))
    assert cells["Novelty@5"].mean == pytest.approx(np.mean(novelty), abs=1e-12)
    assert cells["Repeats@5"].mean == pytest.approx(np.mean(repeats), abs=1e-12)
    assert cells["Tail@5"].mean == 0, "the five most popular items are no tail"
    owned = [{i % 6, (i * i) % 6} if i % 10 != 3 else set() for i in range(shop.n_items)]
    pairs = [
        np.mean([
            1 - len(a & b) / (len(a) * len(b)) ** 0.5
            for n, a in enumerate(kinds) for b in kinds[n + 1 :]
        ])
        for row in lists if len(kinds := [owned[item - 1] for item in row if owned[item - 1]]) > 1
    ]  # fmt: skip
    assert cells["ILD-category@5"].mean == pytest.approx(np.mean(pairs), abs=1e-12)
    text = " ".join(text for _, text in table.caption)
    assert "debiased keeps" in text
    assert "text features toy, categories" in text
    assert "larger is not always better" in caption_of(table, "Lists")


def test_tests_over_users_take_them_like_others(runs: list[RunRecord], shop: Prepared) -> None:
    """Pop lists the same items for all, so the difference of novelty has the deviation of the other row."""
    table = mmbench.report(runs, metrics=NAMES, test="users", compare="itemknn", data_dir=shop.data_dir).table
    facts = data_facts(runs[0], "test", shop.data_dir)
    values = [parse_metric("Novelty@5").per_user(run.ranking("test"), "none", facts=facts) for run in runs]
    comparison = table.comparisons[0]
    assert comparison.difference == pytest.approx((values[1] - values[0]).mean(), abs=1e-12)
    assert comparison.p is not None
    assert comparison.p < 0.01
    assert len({comparison.column for comparison in table.comparisons}) == len(NAMES)


def test_the_commands_print_them(runs: list[RunRecord], shop: Prepared, results: Path) -> None:
    """As a transposed table, and of single runs; the same value in both and in JSON."""
    options = ("--metric", "novelty@5", "--metric", "hr-macro@10")
    turned = cli("report", "--transpose", *options, data=shop.data_dir, results=results)
    assert turned.returncode == 0, turned.stderr
    shown = json.loads(cli("report", "-f", "json", *options, data=shop.data_dir, results=results).stdout)
    mean = {row["name"]: row["cells"][0]["mean"] for row in shown["rows"]}["Pop"]
    line = next(line for line in turned.stdout.splitlines() if "Novelty@5" in line)
    assert f"{mean:.4f}"[:6] in line
    single = cli("evaluate", runs[0].path, "--no-rescore", *options, data=shop.data_dir, results=results)
    valid, test = (row.split("\t") for row in single.stdout.splitlines()[1:])
    assert valid[2] == "n/a"
    assert (test[2], float(valid[3]) >= 0) == (f"{mean:.6f}", True)


def test_what_is_missing_is_one_line(
    runs: list[RunRecord], shop: Prepared, results: Path, tmp_path: Path
) -> None:
    def error_of(*args: str, data: Path = shop.data_dir) -> str:
        done = cli("report", *args, data=data, results=results)
        assert (done.returncode != 0, len(done.error_lines)) == (True, 1), done.stderr
        return done.stderr

    longer = error_of("--metric", "novelty@40")
    assert longer.rstrip().endswith("--lists 40")
    assert f"run: mmbench evaluate {results}" in longer
    assert "not for valid" in error_of("--metric", "novelty@5", "--split", "valid")
    assert "not under mask rule train" in error_of("--metric", "novelty@5", "--mask-seen", "train")
    assert "--slice: Novelty@5 is made from the lists" in error_of(
        "--slice", "repeat", "--metric", "novelty@5"
    )
    assert "'toy' is not prepared in" in error_of("--metric", "novelty@5", data=tmp_path)
    bare = write_toy(tmp_path / "bare", features=False)
    run = finished(bare, tmp_path / "results", "pop")
    with pytest.raises(
        UsageError, match=r"ILD-image: toy has no image features; run: mmbench extract toy --image"
    ):
        mmbench.report([run], metrics="ILD-image@5", data_dir=bare.data_dir)


def test_a_run_closes_with_the_columns_that_were_asked_for(shop: Prepared, tmp_path: Path) -> None:
    run = ("run", "pop", "--no-floors", "--dataset", "toy")
    done = cli(*run, "--metric", "tail@5,NDCG@10", data=shop.data_dir, results=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Tail@5" in done.stdout
    (file,) = tmp_path.glob("experiments/*/experiment.toml")
    assert 'metrics = ["Tail@5", "NDCG@10"]' in file.read_text(encoding="utf-8")
    again = cli("run", file, "--metric", "HR@10", data=shop.data_dir, results=tmp_path)
    assert (again.returncode, "--metric" in again.stderr) == (2, True)
    early = cli(*run, "--metric", "tial@5", data=shop.data_dir, results=tmp_path)
    assert (early.returncode, "did you mean 'Tail'" in early.stderr) == (2, True)
