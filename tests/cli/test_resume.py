"""Real kills: whatever ends a run, the same command finishes it with the results of a run that nothing ended."""

import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from mmbench.runs.store import read_record
from mmbench.training.checkpoint import load_tensors
from tests.cli.interrupted import NAME, at, n_at_work, write_model
from tests.forkserver import Forked, server
from tests.prepared import ROOT, cells, cli, environment, finish, kill_group, same_ranks, start, wait_for

N_EPOCHS, N_STEPS = 8, 10  # of a seed; steps of an epoch
RUN = ("run", NAME, "--no-floors", "--dataset", "toy", "--seeds", "2", "--epochs", str(N_EPOCHS))


@pytest.fixture(scope="module")
def whole(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return results of the command without any kill."""
    folder = tmp_path_factory.mktemp("whole")
    done = cli(*RUN, data=data_dir, results=folder, env=at(write_model(folder / "models")))
    assert done.returncode == 0, done.stderr
    assert [read_record(cell).n_epochs for cell in cells(folder)] == [N_EPOCHS, N_EPOCHS]
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return write_model(tmp_path / "models")


def assert_same(results: Path, whole: Path) -> None:
    """Expect equal cells: ranks, best weights, curve and log, and no file that a kill left."""
    assert [cell.parent.name for cell in cells(results)] == [cell.parent.name for cell in cells(whole)]
    for cell, other in zip(cells(results), cells(whole), strict=True):
        assert cell.name == other.name
        assert same_ranks(cell, other), cell
        a, b = read_record(cell), read_record(other)
        assert (a.status, a.curve, a.best_epoch, a.n_epochs) == (
            "finished", b.curve, b.best_epoch, b.n_epochs,
        )  # fmt: skip
        assert (cell / "train.jsonl").read_text(encoding="utf-8").count("\n") == a.n_epochs
        assert load_tensors(cell / "best.safetensors")[1]["epoch"] == a.best_epoch
        assert {file.name for file in cell.iterdir()} == {file.name for file in other.iterdir()}


def finish_and_compare(models: Path, data: Path, results: Path, whole: Path) -> None:
    done = cli(*RUN, data=data, results=results, env=at(models))
    assert done.returncode == 0, done.stderr
    assert_same(results, whole)


def test_kills_inside_epochs_and_writes(whole: Path, models: Path, data_dir: Path, tmp_path: Path) -> None:
    """A real SIGKILL before a random step, and before the n-th flush or rename: of weights, resume state, record."""
    rng = random.Random(20)
    results = tmp_path / "results"
    steps = [f"step:{rng.randint(1, 2 * N_STEPS)}" for _ in range(4)]
    for moment in (steps[0], "fsync:1", steps[1], "replace:9", steps[2], "fsync:22", steps[3]):
        done = cli(*RUN, data=data_dir, results=results, env=at(models, moment))
        assert done.returncode == -signal.SIGKILL, (moment, done)
    n_logged = sum(file.read_text(encoding="utf-8").count("\n") for file in results.rglob("train.jsonl"))
    assert 3 < n_logged < 2 * N_EPOCHS
    finish_and_compare(models, data_dir, results, whole)


def start_and_wait(models: Path, data: Path, results: Path, *, jobs: int) -> "subprocess.Popen[str] | Forked":
    """Start the command; return it when each of its jobs is in the middle of its third epoch."""
    env = at(models, f"step:{2 * N_STEPS + 5}", waits=True)
    process = start(*RUN, "--jobs", str(jobs), data=data, results=results, env=env)
    wait_for(lambda: n_at_work(models) == jobs or process.poll() is not None)
    assert process.poll() is None, finish(process)
    return process


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_stops_with_one_line_and_the_same_command_resumes(
    jobs: int, whole: Path, models: Path, data_dir: Path, tmp_path: Path
) -> None:
    """As a terminal does it: the signal goes to the whole group of processes."""
    process = start_and_wait(models, data_dir, tmp_path / "results", jobs=jobs)
    kill_group(process, signal.SIGINT)
    stopped = finish(process)
    assert stopped.returncode == 130, stopped.stderr
    assert stopped.error_lines.count("stopped; the same command resumes from here") == 1
    assert "Traceback" not in stopped.stderr
    assert stopped.stdout == ""
    wait_for(lambda: not group_lives(process.pid))
    finish_and_compare(models, data_dir, tmp_path / "results", whole)


def test_sigterm_ends_the_workers_too(models: Path, data_dir: Path, tmp_path: Path) -> None:
    """`kill` and schedulers send it to the one process that they know."""
    process = start_and_wait(models, data_dir, tmp_path / "results", jobs=2)
    process.send_signal(signal.SIGTERM)
    stopped = finish(process)
    assert stopped.returncode == 130, stopped.stderr
    assert stopped.error_lines.count("stopped; the same command resumes from here") == 1
    wait_for(lambda: not group_lives(process.pid))


def group_lives(group: int) -> bool:
    """Return whether a process of the group, a worker for instance, is still there."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_run_takes_over_from_one_that_dies(
    whole: Path, models: Path, data_dir: Path, tmp_path: Path
) -> None:
    """Two runs at once; one is killed. The lock goes with it, and the other finishes its cell."""
    results = tmp_path / "results"
    first = start_and_wait(models, data_dir, results, jobs=1)  # it holds the lock of its cell
    assert not cells(results)
    second = start(*RUN, data=data_dir, results=results, env=at(models))
    wait_for(lambda: second.poll() is not None or cells(results))
    assert second.poll() is None, "the second must wait for the cell that the first holds"
    kill_group(first)
    first.communicate()
    done = finish(second)
    assert done.returncode == 0, done.stderr
    assert f"another run is computing {NAME} on toy, seed 1; waiting for it" in done.stderr
    assert_same(results, whole)


def test_a_full_disk_ends_with_one_line_and_the_same_command_resumes(
    whole: Path, models: Path, data_dir: Path, tmp_path: Path
) -> None:
    """The operating system cuts every file off at `limit` bytes: first none fits, then weights do not."""
    results = tmp_path / "results"
    env = environment(data=data_dir, results=results, env=at(models))
    for limit in (0, 4000):
        code, _, err = server(env, ROOT).run(
            [str(limit), "--quiet", *RUN], module="tests.cli.full_disk", env=env, cwd=ROOT, timeout=600
        )
        assert code == 1
        assert len(err.splitlines()) == 1, err
        assert "cannot write" in err
    finish_and_compare(models, data_dir, results, whole)
