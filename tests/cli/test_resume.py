"""Real kills: whatever ends a run, the same command finishes it with the results of a run in peace."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmbench.runs.store import read_record
from mmbench.training.checkpoint import load_tensors
from tests.prepared import SMALL, cells, cli, environment, finish, kill_group, same_ranks, start, wait_for

TWO = ("run", "sasrec", "gru4rec", "--no-floors", "--dataset", "toy", *SMALL)
RUN = (*TWO, "--epochs", "15")

# The same in many more steps: seconds long on any machine, so that a signal finds it at work.
LONG = (*TWO, "--epochs", "10", "--set", "batch_size=4")


@pytest.fixture(scope="module")
def long_whole(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the long command without any signal."""
    folder = tmp_path_factory.mktemp("long-whole")
    done = cli(*LONG, data=data_dir, results=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def whole(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the same command without any kill."""
    folder = tmp_path_factory.mktemp("whole")
    done = cli(*RUN, data=data_dir, results=folder)
    assert done.returncode == 0, done.stderr
    return folder


def assert_same(found: Path, whole: Path) -> None:
    """Equal cells: ranks, best weights, curve and log, and no file that a kill left."""
    assert [cell.relative_to(found) for cell in cells(found)] == [
        cell.relative_to(whole) for cell in cells(whole)
    ]
    for cell, other in zip(cells(found), cells(whole), strict=True):
        assert same_ranks(cell, other), cell
        a, b = read_record(cell), read_record(other)
        assert (a.status, a.curve, a.best_epoch, a.n_epochs) == (
            "finished",
            b.curve,
            b.best_epoch,
            b.n_epochs,
        )
        assert (cell / "train.jsonl").read_text().count("\n") == a.n_epochs
        assert load_tensors(cell / "best.safetensors")[1]["epoch"] == a.best_epoch
        assert {file.name for file in cell.iterdir()} == {file.name for file in other.iterdir()}


def epochs_logged(results: Path) -> int:
    return sum(file.read_text().count("\n") for file in results.rglob("train.jsonl"))


def test_kills_at_random_moments(long_whole: Path, data_dir: Path, tmp_path: Path) -> None:
    """Each kill falls up to half a second after the run began to write, so inside an epoch or a checkpoint."""
    rng, hits = random.Random(20), []
    for _ in range(4):
        before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
        process = start(*LONG, data=data_dir, results=tmp_path)

        def has_written(process: subprocess.Popen[str] = process, before: dict = before) -> bool:
            now = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("train.jsonl")}
            return process.poll() is not None or any(before.get(f) != t for f, t in now.items())

        wait_for(has_written)
        time.sleep(rng.uniform(0, 0.5))
        kill_group(process)
        hits.append(process.wait())
        process.communicate()
    assert hits.count(-signal.SIGKILL) >= 2, f"the run is too short to be killed: {hits}"
    done = cli(*LONG, data=data_dir, results=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path, long_whole)


KILLED_AT = """
import os, signal, sys
name, left = sys.argv.pop(1), [int(sys.argv.pop(1))]
inner = getattr(os, name)
def counting(*args, **kwargs):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(*args, **kwargs)
setattr(os, name, counting)
from mmbench.cli import main
main()
"""


def test_kills_inside_writes(whole: Path, data_dir: Path, tmp_path: Path) -> None:
    """A real SIGKILL just before the n-th flush or rename: of weights, resume state, ranks and record."""
    world = environment(data=data_dir, results=tmp_path)
    for name, number in (("fsync", 1), ("replace", 9), ("fsync", 22)):
        done = subprocess.run(
            [sys.executable, "-c", KILLED_AT, name, str(number), *RUN],
            env=world,
            capture_output=True,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
    progress = epochs_logged(tmp_path)
    assert progress > 3
    done = cli(*RUN, data=data_dir, results=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path, whole)


def start_and_wait(data: Path, results: Path, jobs: int) -> "subprocess.Popen[str]":
    """Start the long command and return it at work; start it anew where it was over before this process looked."""
    for _ in range(3):
        shutil.rmtree(results, ignore_errors=True)
        process = start(*LONG, "--jobs", str(jobs), data=data, results=results)
        wait_for(lambda process=process: process.poll() is not None or epochs_logged(results) >= 3)  # type: ignore[misc]
        if process.poll() is None:
            return process
        finish(process)
    raise AssertionError("the long command is too short for this machine")


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_stops_with_one_line_and_the_same_command_goes_on(
    jobs: int, long_whole: Path, data_dir: Path, tmp_path: Path
) -> None:
    """As a terminal does it: the signal goes to the whole group of processes."""
    process = start_and_wait(data_dir, tmp_path / "results", jobs)
    kill_group(process, signal.SIGINT)
    stopped = finish(process, timeout=30)
    assert stopped.returncode == 130, stopped.stderr
    assert stopped.error_lines.count("stopped; the same command resumes from here") == 1
    assert "Traceback" not in stopped.stderr
    assert stopped.stdout == ""
    wait_for(lambda: not group_lives(process.pid), seconds=10)
    done = cli(*LONG, data=data_dir, results=tmp_path / "results")
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "results", long_whole)


def test_sigterm_ends_the_workers_too(data_dir: Path, tmp_path: Path) -> None:
    """`kill` and schedulers send it to the one process that they know."""
    process = start_and_wait(data_dir, tmp_path / "results", 2)
    process.send_signal(signal.SIGTERM)
    stopped = finish(process, timeout=30)
    assert stopped.returncode == 130, stopped.stderr
    assert stopped.error_lines.count("stopped; the same command resumes from here") == 1
    wait_for(lambda: not group_lives(process.pid), seconds=10)


def group_lives(group: int) -> bool:
    """Whether a process of the group, a worker for instance, is still there."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_run_takes_over_from_one_that_dies(long_whole: Path, data_dir: Path, tmp_path: Path) -> None:
    """Two runs at once; one is killed. The lock goes with it, and the other finishes its cell."""
    first = start(*LONG, data=data_dir, results=tmp_path)
    wait_for(lambda: first.poll() is not None or epochs_logged(tmp_path) >= 1)
    os.killpg(first.pid, signal.SIGSTOP)  # it holds the lock of its cell and does nothing
    assert len(cells(tmp_path)) < 2, "the first run was over before it could be stopped"
    second = start(*LONG, data=data_dir, results=tmp_path)
    wait_for(lambda: second.poll() is not None or len(list(tmp_path.rglob("run.json"))) >= 1)
    assert second.poll() is None, "the second must wait for the cell that the first holds"
    kill_group(first)
    first.communicate()
    done = finish(second)
    assert done.returncode == 0, done.stderr
    assert "another run is computing sasrec on toy, seed 1; waiting for it" in done.stderr
    assert_same(tmp_path, long_whole)


FULL = """
import errno, os, resource, sys
limit = int(sys.argv.pop(1))
from mmbench.cli import main
import torch, mmbench.training.trainer
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
main()
"""


def test_a_full_disk_ends_with_one_line_and_the_same_command_goes_on(
    whole: Path, data_dir: Path, tmp_path: Path
) -> None:
    """The operating system cuts every file off at `limit` bytes: first none fits, then weights do not."""
    for limit in (0, 4000):
        done = subprocess.run(
            [sys.executable, "-c", FULL, str(limit), "--quiet", *RUN],
            env=environment(data=data_dir, results=tmp_path), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "cannot write" in done.stderr
    done = cli(*RUN, data=data_dir, results=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path, whole)
