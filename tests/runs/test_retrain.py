"""Knock-outs that are trained: which runs they are, what they cost by hand, what cannot be knocked out so.

Run: python -m pytest tests/runs/test_retrain.py
"""

from dataclasses import replace
from pathlib import Path

import pytest

import mmbench
from mmbench.data.store import Prepared
from mmbench.errors import RunError, UsageError
from mmbench.evaluation.metrics import parse_metric
from mmbench.reporting.knockout_drops import Drop, RowOfDrops, as_retrained
from mmbench.reporting.labels import Group
from mmbench.runs.retrain import plan_retraining
from mmbench.runs.store import RunRecord, read_record
from tests.prepared import cli, shown_alike

NDCG = parse_metric("NDCG@10")
SETTINGS = {"ease-text.modalities": ["id", "text"]}


@pytest.fixture(scope="module")
def run(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    folder = tmp_path_factory.mktemp("results")
    return mmbench.run(
        "ease-text", datasets="toy", floors=False, settings=SETTINGS, data_dir=data_dir, results_dir=folder
    )[0]


def test_a_retrained_knock_out_is_the_run_that_the_setting_makes(run: RunRecord, data_dir: Path) -> None:
    planned = plan_retraining(run, ["text", "text=shuffled:7", "image"], data_dir=data_dir)
    cells = {plan.name: plan.cell for plan in planned if plan.cell is not None}
    assert list(cells) == ["text=shuffled:1", "text=random:1", "text=constant", "text=shuffled:7"]
    assert {plan.reason for plan in planned if plan.cell is None} == {"reads no image"}
    assert len({cell.path for cell in cells.values()} | {run.path}) == 5
    (same,) = mmbench.run(
        "ease-text", datasets="toy", floors=False, settings={**SETTINGS, "ease-text.text_features": "shuffled:7"},
        data_dir=data_dir, results_dir=run.path.parents[3], dry_run=False,
    )  # fmt: skip
    assert same.path == cells["text=shuffled:7"].path


def test_the_command_trains_what_is_missing_and_prints_the_difference(run: RunRecord, data_dir: Path) -> None:
    results = run.path.parents[3]
    options = ("knockout", run.path, "--retrain", "--what", "text=shuffled:3")
    shown = cli(*options, data=data_dir, results=results)
    assert shown.returncode == 0, shown.stderr
    (plan,) = plan_retraining(run, ["text=shuffled:3"], data_dir=data_dir)
    other = read_record(plan.cell.path)
    drop = NDCG.value(run.ranking("test"), "none") - NDCG.value(other.ranking("test"), "none")
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("text=shuffled:3")]
    assert f"{drop:.4f}".replace("0.", ".") in line
    assert "worth" in shown.stdout
    written = (plan.cell.path / "run.json").stat().st_mtime_ns
    assert shown_alike(cli(*options, data=data_dir, results=results).stdout, shown.stdout)
    assert (plan.cell.path / "run.json").stat().st_mtime_ns == written, "what is stored is not computed again"


@pytest.mark.parametrize("what", ["time", "text=absent", "text=shufled:1", "text=stored", "order=reversed"])
def test_what_is_no_setting_is_one_line(run: RunRecord, data_dir: Path, what: str) -> None:
    with pytest.raises(UsageError, match="--what") as caught:
        plan_retraining(run, [what], data_dir=data_dir)
    assert "\n" not in str(caught.value)


def test_a_run_whose_configuration_is_no_more_is_refused(
    run: RunRecord, toy: Prepared, data_dir: Path
) -> None:
    changed = replace(run, config_id="0123456789")
    with pytest.raises(RunError, match="run it again: mmbench run ease-text --dataset toy"):
        plan_retraining(changed, ["text"], data_dir=data_dir)


def test_a_drop_under_retraining_is_about_worth() -> None:
    group = Group("toy", "hm4sr", "0", ())
    drops = [Drop("text=constant", 0.1, d, (d - 0.01, d + 0.01), "uses texts") for d in (0.05, 0.0, -0.05)]
    drops.append(Drop("image", 0.1, None, None, "reads no image"))
    sentences = [drop.sentence for drop in as_retrained(RowOfDrops(group, tuple(drops))).drops]
    assert sentences == [
        "texts are worth this much", "within noise: no worth of texts is shown", "better without", "reads no image",
    ]  # fmt: skip
