"""Cells as jobs, through submitit's executor of this machine: results, workers that are killed, settings.

Run: python -m pytest tests/runs/test_slurm.py
"""

import json
import os
import signal
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmbench.errors import RunError, UsageError
from mmbench.runs import workers
from mmbench.runs.slurm import JobDiedError, Jobs
from mmbench.runs.workers import Backend, find_backend, marked, side_by_side

needs_submitit = pytest.mark.skipif(not find_spec("submitit"), reason="the package submitit is not installed")
LOCAL = {"cluster": "local"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run the test in a folder of its own, in which jobs write what they print."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    if find_spec("submitit"):
        from submitit.core.core import Job

        # Network folders show a result late, for which submitit waits 15 s after a job died; these are local.
        monkeypatch.setattr(Job, "_results_timeout_s", 0)
    return tmp_path


def work_on(number: int) -> list[int]:
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 14:
        raise ValueError("fourteen")
    return [number, -number]


@needs_submitit
def test_every_piece_is_a_job_and_a_killed_one_is_told_after_the_others() -> None:
    heard: list[int] = []
    with pytest.raises(JobDiedError):
        heard.extend(Jobs(LOCAL).compute([13, 2, 3], 2, work=work_on))
    assert sorted(heard) == [-3, -2, 2, 3]


@needs_submitit
def test_what_the_work_raises_is_one_line() -> None:
    with pytest.raises(RunError, match="ValueError: fourteen") as caught:
        list(Jobs(LOCAL).compute([14], 1, work=work_on))
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class FakeCell:
    """What `side_by_side` asks of a cell."""

    path: Path
    title: str


def compute(group: tuple[Any, ...]) -> list[tuple[Any, Any]]:
    """Compute fake cells as a worker does; the one called deadly kills its worker each time."""
    done = []
    for cell in group:
        with marked(cell) as may_go_on:
            if cell.title == "deadly" and may_go_on:
                os.kill(os.getpid(), signal.SIGKILL)
            status = "finished" if may_go_on else "failed"
            (cell.path / "run.json").write_text(json.dumps(status))
            done.append((cell, SimpleNamespace(path=cell.path, status=status)))
    return done


@needs_submitit
def test_a_cell_that_kills_its_jobs_fails_and_the_others_finish(folder: Path) -> None:
    cells = [FakeCell(folder / name, name) for name in ("a", "deadly", "b")]
    for cell in cells:
        cell.path.mkdir()
    backend = Backend("slurm", jobs=2, settings=LOCAL)
    records = side_by_side([(cell,) for cell in cells], compute, backend, ended=lambda cell: None)  # type: ignore[arg-type, misc]
    assert {record.path.name: record.status for record in records} == {
        "a": "finished", "b": "finished", "deadly": "failed",
    }  # fmt: skip
    assert not list(folder.glob(f"*/{workers.BEGUN}"))


@needs_submitit
@pytest.mark.parametrize(
    ("settings", "kind", "why"),
    [
        ({"cluster": "moon"}, UsageError, "--slurm cluster=moon"),
        ({**LOCAL, "timeout_min": "soon"}, UsageError, "--slurm"),
        (
            {**LOCAL, "no_such_thing": 1},
            UsageError,
            "unknown setting 'no_such_thing'; known: account, .*timeout_min",
        ),
        (
            {**LOCAL, "partitoin": "gpu"},
            UsageError,
            r"^--slurm: unknown setting 'partitoin'; did you mean 'partition'\?$",
        ),
        ({**LOCAL, "timeout_minn": 5}, UsageError, "did you mean 'timeout_min'"),
    ],
)
def test_a_wrong_setting_is_one_line(settings: dict[str, Any], kind: type[Exception], why: str) -> None:
    with pytest.raises(kind, match=why) as caught:
        Jobs(settings)
    assert "\n" not in str(caught.value)


@needs_submitit
def test_without_a_slurm_the_line_says_where_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RunError, match="no Slurm answers here"):
        Jobs({})


def test_without_submitit_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UsageError, match=r"pip install 'mmbench\[slurm\]'"):
        Jobs({})


def test_settings_of_slurm_belong_to_slurm() -> None:
    assert find_backend("slurm", None, 2, {"partition": "gpu"}).settings == {"partition": "gpu"}
    with pytest.raises(UsageError, match="--slurm sets jobs of a Slurm cluster; add --backend slurm"):
        find_backend("local", None, 2, {"partition": "gpu"})
    with pytest.raises(UsageError, match="--address"):
        find_backend("slurm", "host:1", 2)
