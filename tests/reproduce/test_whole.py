"""A whole paper before it is run: cells once, what is missing, and what earlier runs say about the time."""

from pathlib import Path

import pytest

import mmbench
from mmbench.data.store import open_prepared
from mmbench.reproduce.plan import Plan, Target, make_plan
from mmbench.reproduce.spec import find_experiment
from mmbench.reproduce.whole import cells_once, experiments_of, outlook
from mmbench.runs.overrides import Overrides
from tests.prepared import cli


@pytest.fixture(autouse=True)
def tiny(papers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMBENCH_PAPERS", str(papers))


def planned(name: str, data_dir: Path, results: Path) -> Plan:
    targets = [Target("toy", open_prepared("toy", data_dir))]
    return make_plan(
        find_experiment(name), results_dir=results, targets=targets, seeds=[1, 2], overrides=Overrides()
    )


def test_cells_that_experiments_share_count_once_and_time_comes_from_earlier_runs(
    data_dir: Path, tmp_path: Path
) -> None:
    """The two figures share the two seeds of random, and have pop and itemknn, which have one; the table has SASRec."""
    both = [planned(name, data_dir, tmp_path) for name in ("tiny/fig2", "tiny/fig5")]
    assert [len(plan.cells) for plan in both] == [3, 3]
    cells, table = cells_once(both), planned("tiny/table1", data_dir, tmp_path).cells
    assert len(cells) == 4
    empty = outlook(cells)
    assert (empty.n_cells, empty.n_finished, empty.seconds, empty.rough, empty.unknown) == (4, 0, 0, 0, 4)
    (run,) = mmbench.run("random", datasets=["toy"], floors=False, data_dir=data_dir, results_dir=tmp_path)
    spent = sum(seconds for key, seconds in run.seconds.items() if key != "epoch")
    seen = outlook(cells)
    assert (seen.n_finished, seen.n_missing, seen.unknown) == (1, 3, 0)
    assert seen.seconds == pytest.approx(spent)  # the second seed of the same configuration
    assert seen.rough == pytest.approx(2 * spent)  # pop and itemknn, which are not trained either
    seen = outlook(table)
    assert seen.seconds == pytest.approx(2 * spent)  # random with the table's length: the same model
    assert seen.rough == pytest.approx(spent)  # pop
    assert seen.unknown == 2  # SASRec is trained, and no trained model has run


def test_the_command_prints_every_experiment_and_the_whole(
    data_dir: Path, papers: Path, tmp_path: Path
) -> None:
    env = {"MMBENCH_PAPERS": str(papers)}
    done = cli(
        "reproduce", "tiny", "--all", "--dry-run", "--seeds", "2", data=data_dir, results=tmp_path, env=env
    )
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.startswith("tiny/")}
    assert set(lines) == {experiment.name for experiment in experiments_of("tiny")}
    assert lines["tiny/table1"][1:3] == ["5", "0"]
    assert "amazon-home," in lines["tiny/table1"]
    assert "Future," in lines["tiny/table1"]
    assert lines["tiny/fig3"][1:] == ["amazon-home"]
    assert "different runs" in done.stdout
    for arguments, message in (
        (("tini", "--all", "--dry-run"), "did you mean 'tiny'?"),
        (("tiny", "--all"), "add --dry-run"),
        (("--all", "--dry-run"), "--all needs a paper"),
    ):
        wrong = cli("reproduce", *arguments, data=data_dir, results=tmp_path, env=env)
        assert wrong.returncode == 2
        assert message in wrong.error_lines[-1]
