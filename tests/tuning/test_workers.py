"""Trials in worker processes: a worker that dies loses no trial. tests/cli/test_backends.py has the clusters."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mmbench.data.store import open_prepared
from mmbench.runs import workers
from mmbench.runs.workers import Backend, Group
from mmbench.tuning.ledger import Ledger
from mmbench.tuning.records import Trial
from mmbench.tuning.stored import studies_of
from mmbench.tuning.study import Budget, plan_study, run_study
from tests.models.test_registry import OWN, RECIPE, write_own
from tests.prepared import cli

SCORES = "        return (self"  # the line of OWN's score() before which its process dies
DIES = """        import os
        if self.config.slope == 5.0:
            os.kill(os.getpid(), 9)
"""


def search(
    backend: Backend, code: str, data_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[object, Trial]:
    """Search a grid of six slopes with two workers; return the trials by their slopes."""
    monkeypatch.setenv("MMBENCH_MODELS", str(write_own(folder / "models", code=code, recipe=RECIPE)))
    toy, budget = open_prepared("toy", data_dir), Budget(trials=6)
    plan = plan_study(
        toy, "my-line", results_dir=folder, budget=budget, sampler="grid", kind="listed",
        lists={"slope": [1.0, 3.0, 4.0, 5.0, 6.0]},
    )  # fmt: skip
    ledger = Ledger.open(folder / "results", plan)
    return by_slope(ledger, run_study(ledger, toy, budget, backend=backend))


def by_slope(ledger: Ledger, trials: Sequence[Trial]) -> dict[object, Trial]:
    """Return the trials by their slopes; expect each of six, and no mark of a worker."""
    searched = {trial.values["slope"]: trial for trial in trials}
    assert sorted(searched) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert not list(ledger.path.rglob("begun"))
    return searched


def test_a_trial_that_kills_its_workers_fails_alone(data_dir: Path, tmp_path: Path) -> None:
    """In processes of this machine, as the command starts them."""
    models = write_own(tmp_path / "models", code=OWN.replace(SCORES, DIES + SCORES), recipe=RECIPE)
    done = cli(
        "tune", "my-line", "--dataset", "toy", "--sampler", "grid", "--trials", "6", "--jobs", "2",
        "--set", "slope=1.0,3.0,4.0,5.0,6.0", data=data_dir, results=tmp_path, env={"MMBENCH_MODELS": str(models)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (ledger,) = studies_of(tmp_path, "toy", "my-line")
    trials = by_slope(ledger, ledger.trials())
    failed = {slope: trial.reason for slope, trial in trials.items() if trial.status == "failed"}
    assert failed == {5.0: "its worker process died twice; it may have run out of memory"}
    assert all(trial.value is not None for slope, trial in trials.items() if slope not in failed)


@contextmanager
def watched(backend: Backend, work: workers.Work, ended: Callable[..., Any]) -> Iterator[workers.Pool]:
    """Compute in a thread of this process and look for what is stored meanwhile, as with Ray."""

    def pool(groups: Sequence[Group], jobs: int) -> Iterator[Any]:
        cells = [cell for group in groups for cell in group]
        return workers._watched(lambda: [work(group) for group in groups] and None, cells, ended)

    yield pool


def test_trials_are_shared_where_nothing_comes_back_before_the_end(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_ray", watched)
    trials = search(Backend("ray", None, 2), OWN, data_dir, tmp_path, monkeypatch)
    assert all(trial.status == "finished" and trial.value is not None for trial in trials.values())


def test_trials_are_shared_by_the_workers_of_a_dask_cluster(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler and two workers in this process, so that none has to start."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        backend = Backend("dask", cluster.scheduler_address, 2)
        trials = search(backend, OWN, data_dir, tmp_path, monkeypatch)
    assert all(trial.status == "finished" and trial.value is not None for trial in trials.values())
