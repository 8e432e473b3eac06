"""`--backend`: the same cells on processes of this machine, a real local Dask cluster and a real local Ray.

Every test also kills a worker, as the system does it to a process that wants too much memory.
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
        if not flag.exists():
            flag.touch(); os.kill(os.getpid(), 9)
"""
ALWAYS = "        import os; os.kill(os.getpid(), 9)\n"
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
def test_a_worker_is_killed_once_and_everything_is_computed(
    backend: str, alone: Path, data_dir: Path, tmp_path: Path
) -> None:
    models = write_own(tmp_path / "models", code=OWN.replace(DIES, ONCE + DIES))
    done = cli(
        "run", "my-line", *TRAINED, "--jobs", "2", "--backend", backend, data=data_dir, results=tmp_path / "out",
        env={"MMBENCH_MODELS": str(models)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (models / "died").exists()
    for seed in (1, 2):  # a run elsewhere is told of as one here, in its order
        of_run = [line for line in done.error_lines if f"sasrec on toy, seed {seed}" in line]
        assert [re.sub(r"\[./5\] ", "", line).partition("  ")[0] for line in of_run[:-1]] == [
            f"sasrec on toy, seed {seed}", *(f"sasrec on toy, seed {seed}: epoch {n}/2" for n in (1, 2))
        ]  # fmt: skip
        assert of_run[-1].startswith("finished ")
    records = [read_record(cell) for cell in cells(tmp_path / "out")]
    assert [record.model for record in records] == ["my-line", "random", "random", "sasrec", "sasrec"]
    assert {record.status for record in records} == {"finished"}
    assert not list((tmp_path / "out").rglob("begun"))
    for cell in cells(alone):
        assert same_ranks(cell, tmp_path / "out" / cell.relative_to(alone))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cell_that_kills_its_workers_is_a_row_with_its_reason(
    backend: str, data_dir: Path, tmp_path: Path
) -> None:
    models = write_own(tmp_path / "models", code=OWN.replace(DIES, ALWAYS + DIES))
    done = cli(
        "run", "pop", "my-line", "random", "--no-floors", "--jobs", "2", "--backend", backend, "--dataset", "toy",
        data=data_dir, results=tmp_path / "out", env={"MMBENCH_MODELS": str(models)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.error_lines[-1] == "error: 1 of 3 cells failed; the same command tries them again"
    records = {record.model: record for record in map(read_record, cells(tmp_path / "out"))}
    assert {name: record.status for name, record in records.items()} == {
        "my-line": "failed", "pop": "finished", "random": "finished",
    }  # fmt: skip
    assert records["my-line"].reason == "its worker process died twice; it may have run out of memory"


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
