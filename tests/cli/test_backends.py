"""`--backend`: the same cells on processes of this machine, a real local Dask cluster and a real local Ray.

Workers are killed, too, as the system does it to a process that wants too much memory.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmbench.errors import RunError
from mmbench.runs import workers
from mmbench.runs.store import read_record
from mmbench.runs.workers import Backend, Kind, together
from tests.models.test_registry import OWN, write_own
from tests.prepared import SMALL, cells, cli, environment, same_ranks

# A single worker of Dask: nothing of it may then be computed in the command's process.
BACKENDS = {"local": 2, "dask": 1, "ray": 2}
DIES = "        return (self"  # the line of OWN's score() before which its process dies
ONCE = """        import os; from pathlib import Path
        flag = Path(os.environ["MMBENCH_MODELS"]) / "died"
        if self.config.slope == 2.0 and not flag.exists():
            flag.touch(); os.kill(os.getpid(), 9)
"""
ALWAYS = """        import os
        if self.config.slope == 9.0:  # of my-line:steep
            os.kill(os.getpid(), 9)
"""
TRAINED = ("sasrec", "--dataset", "toy", "--seeds", "2", "--epochs", "2", "--no-floors", *SMALL)


@pytest.fixture(autouse=True)
def installed(request: pytest.FixtureRequest) -> None:
    """Skip a test of a back end whose package is not installed."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    package = {"dask": "distributed", "ray": "ray"}.get(parameters.get("backend", "local"))
    if package:
        pytest.importorskip(package)


@pytest.fixture(scope="module")
def alone(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    assert cli("run", *TRAINED, data=data_dir, results=folder).returncode == 0
    return folder


def told(lines: list[str], seed: int) -> list[str]:
    """Return what a command tells of a run of sasrec, in its order, without numbers that are measured."""
    of_run = [line for line in lines if f"sasrec on toy, seed {seed}" in line]
    return [re.sub(r"\[./.\] |  .*|: 2 epochs, .*", "", line) for line in of_run]


def expected_of(seed: int) -> list[str]:
    name = f"sasrec on toy, seed {seed}"
    return [name, f"{name}: epoch 1/2", f"{name}: epoch 2/2", f"finished {name}"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_outlives_a_worker(backend: str, alone: Path, data_dir: Path, tmp_path: Path) -> None:
    """The first cell kills its worker once and is computed anew; those beside it are as they are alone."""
    models = write_own(tmp_path / "models", code=OWN.replace(DIES, ONCE + DIES))
    out = tmp_path / "out"
    done = cli(
        "run", "my-line", *TRAINED, "--jobs", str(BACKENDS[backend]), "--backend", backend, data=data_dir, results=out,
        env={"MMBENCH_MODELS": str(models), "RAY_worker_niceness": "0"},  # else they wait for all other tests
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (models / "died").exists()
    for seed in (1, 2):
        assert told(done.error_lines, seed) == expected_of(seed)
    records = {(record.model, record.seed): record.status for record in map(read_record, cells(out))}
    assert records == dict.fromkeys([("my-line", 1), ("sasrec", 1), ("sasrec", 2)], "finished")
    assert not list(out.rglob("begun"))
    for cell in cells(alone):
        assert same_ranks(cell, out / cell.relative_to(alone))


def test_a_run_that_kills_all_its_workers_fails_alone(data_dir: Path, tmp_path: Path) -> None:
    models = write_own(tmp_path / "models", code=OWN.replace(DIES, ALWAYS + DIES))
    out = tmp_path / "out"
    done = cli(
        "run", "my-line:steep", "random", "--dataset", "toy", "--no-floors", "--jobs", "2", "--backend", "local",
        data=data_dir, results=out, env={"MMBENCH_MODELS": str(models)},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.error_lines[-1] == "error: 1 of 2 runs failed; the same command tries them again"
    records = {record.model: (record.status, record.reason) for record in map(read_record, cells(out))}
    reason = "its worker process died twice; it may have run out of memory"
    assert records["my-line:steep"] == ("failed", reason)
    assert records["random"][0] == "finished"
    assert not list(out.rglob("begun"))


@pytest.fixture
def scheduler() -> Iterator[str]:
    """A Dask cluster of another process, with a worker that runs a task at a time."""
    code = (
        "import sys, distributed\n"
        "if __name__ == '__main__':\n"
        "    c = distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None)\n"
        "    print(c.scheduler_address, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.stdin.close()
    process.wait(timeout=30)


@pytest.mark.parametrize("backend", ["dask"])
def test_a_running_cluster_is_used(backend: str, scheduler: str, data_dir: Path, tmp_path: Path) -> None:
    done = cli(
        "run", "random", "--seeds", "2", "--no-floors", "--backend", backend, "--address", scheduler,
        "--dataset", "toy", data=data_dir, results=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [read_record(cell).status for cell in cells(tmp_path)] == ["finished", "finished"]


@pytest.mark.parametrize("backend", ["dask"])
def test_two_cells_in_one_process_are_refused(backend: Kind) -> None:
    """They would share torch's random generator."""
    import distributed

    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
        ) as cluster,
        pytest.raises(RunError, match="--nthreads 1"),
    ):
        together(list, Backend(backend, cluster.scheduler_address), 1)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--backend", "dsk"], "did you mean 'dask'?"),
        (["--address", "tcp://127.0.0.1:1"], "--backend dask or --backend ray"),
    ],
)
def test_a_wrong_backend_is_one_line(args: list[str], expected: str, data_dir: Path, tmp_path: Path) -> None:
    done = cli("run", "pop", "--no-floors", "--dataset", "toy", *args, data=data_dir, results=tmp_path)
    assert done.returncode in (1, 2)
    assert expected in done.error_lines[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("backend", ["dask"])
def test_an_address_without_a_scheduler_is_one_line(backend: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "ANSWER_S", 0.1)
    with pytest.raises(RunError, match=r"^no Dask scheduler answers at tcp://127\.0\.0\.1:1: .*$"):
        together(list, Backend(backend, "tcp://127.0.0.1:1"), 1)
