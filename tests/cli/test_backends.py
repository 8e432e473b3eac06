"""`--backend`: the same cells on processes of this machine, a real local Dask cluster and a real local Ray.

Workers are killed, too, as the system does it to a process that wants too much memory.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmbench.runs.store import read_record
from tests.models.test_registry import OWN, write_own
from tests.prepared import SMALL, cells, cli, environment, same_ranks

BACKENDS = ("local", "dask", "ray")
DIES = "        return (self"  # the line of OWN's score() before which its process dies
ONCE = """        import os; from pathlib import Path
        flag = Path(os.environ["MMBENCH_MODELS"]) / "died"
        if self.config.slope == 2.0 and not flag.exists():
            flag.touch(); os.kill(os.getpid(), 9)
"""
ALWAYS = """        if self.config.slope == 9.0:  # of my-line:steep
            os.kill(os.getpid(), 9)
"""
TRAINED = ("sasrec", "random", "--dataset", "toy", "--seeds", "2", "--epochs", "2", "--no-floors", *SMALL)


@pytest.fixture(autouse=True)
def installed(request: pytest.FixtureRequest) -> None:
    package = {"dask": "distributed", "ray": "ray"}.get(request.node.callspec.params.get("backend", "local"))
    if package:
        pytest.importorskip(package)


@pytest.fixture(scope="module")
def alone(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    assert cli("run", *TRAINED, data=data_dir, results=folder).returncode == 0
    return folder


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_outlives_its_workers(backend: str, alone: Path, data_dir: Path, tmp_path: Path) -> None:
    """The first cell kills its worker once and is computed anew; the last kills all that take it and fails alone."""
    models = write_own(tmp_path / "models", code=OWN.replace(DIES, ONCE + ALWAYS + DIES))
    out = tmp_path / "out"
    done = cli(
        "run", "my-line", *TRAINED, "my-line:steep", "--jobs", "2", "--backend", backend, data=data_dir, results=out,
        env={"MMBENCH_MODELS": str(models)},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert (models / "died").exists()
    for seed in (1, 2):  # a run elsewhere is told of as one here, in its order
        of_run = [line for line in done.error_lines if f"sasrec on toy, seed {seed}" in line]
        assert [re.sub(r"\[./6\] ", "", line).partition("  ")[0] for line in of_run[:-1]] == [
            f"sasrec on toy, seed {seed}", *(f"sasrec on toy, seed {seed}: epoch {n}/2" for n in (1, 2))
        ]  # fmt: skip
        assert of_run[-1].startswith("finished ")
    assert done.error_lines[-1] == "error: 1 of 6 runs failed; the same command tries them again"
    records = {(record.model, record.seed): record for record in map(read_record, cells(out))}
    failed = records.pop(("my-line:steep", 1))
    assert (failed.status, failed.reason) == (
        "failed", "its worker process died twice; it may have run out of memory",
    )  # fmt: skip
    assert sorted(records) == [("my-line", 1), ("random", 1), ("random", 2), ("sasrec", 1), ("sasrec", 2)]
    assert {record.status for record in records.values()} == {"finished"}
    assert not list(out.rglob("begun"))
    for cell in cells(alone):
        assert same_ranks(cell, out / cell.relative_to(alone))


@pytest.fixture
def scheduler(request: pytest.FixtureRequest) -> Iterator[str]:
    """A Dask cluster of another process; the parameter is the number of threads of its worker."""
    code = (
        "import sys, distributed\n"
        "if __name__ == '__main__':\n"
        f"    c = distributed.LocalCluster(n_workers=1, threads_per_worker={request.param}, dashboard_address=None)\n"
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


@pytest.mark.parametrize(("backend", "scheduler"), [("dask", 1)], indirect=["scheduler"])
def test_a_running_cluster_is_used(backend: str, scheduler: str, data_dir: Path, tmp_path: Path) -> None:
    done = cli(
        "run", "random", "--seeds", "2", "--no-floors", "--backend", backend, "--address", scheduler,
        "--dataset", "toy", data=data_dir, results=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [read_record(cell).status for cell in cells(tmp_path)] == ["finished", "finished"]


@pytest.mark.parametrize(("backend", "scheduler"), [("dask", 2)], indirect=["scheduler"])
def test_two_cells_in_one_process_are_refused(
    backend: str, scheduler: str, data_dir: Path, tmp_path: Path
) -> None:
    """They would share torch's random generator."""
    done = cli(
        "run", "random", "--no-floors", "--backend", backend, "--address", scheduler, "--dataset", "toy",
        data=data_dir, results=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "--nthreads 1" in done.error_lines[-1]


@pytest.mark.parametrize(
    ("backend", "args", "said"),
    [
        ("local", ["--backend", "dsk"], "did you mean 'dask'?"),
        ("local", ["--address", "tcp://127.0.0.1:1"], "--backend dask or --backend ray"),
        ("dask", ["--backend", "dask", "--address", "tcp://127.0.0.1:1"], "no Dask scheduler answers"),
    ],
)
def test_wrong_places(backend: str, args: list[str], said: str, data_dir: Path, tmp_path: Path) -> None:
    done = cli("run", "pop", "--no-floors", "--dataset", "toy", *args, data=data_dir, results=tmp_path)
    assert done.returncode in (1, 2)
    assert said in done.error_lines[-1]
    assert "Traceback" not in done.stderr
