"""Trials in worker processes of this machine, of a Dask cluster and of Ray: a worker that dies loses no trial."""

from pathlib import Path

import pytest

from mmbench.data.store import open_prepared
from mmbench.runs.workers import Backend, Kind
from mmbench.tuning.ledger import Ledger
from mmbench.tuning.study import Budget, plan_study, run_study
from tests.models.test_registry import OWN, RECIPE, write_own

SCORES = "        return (self"  # the line of OWN's score() before which its process dies
DIES = """        import os
        if self.config.slope == 5.0:
            os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(("kind", "dies"), [("local", True), ("dask", False), ("ray", False)])
def test_trials_are_computed_elsewhere_and_one_that_kills_its_workers_fails_alone(
    kind: Kind, dies: bool, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind != "local":
        pytest.importorskip({"dask": "distributed", "ray": "ray"}[kind])
    models = write_own(tmp_path / "models", code=OWN.replace(SCORES, DIES * dies + SCORES), recipe=RECIPE)
    monkeypatch.setenv("MMBENCH_MODELS", str(models))
    toy, budget = open_prepared("toy", data_dir), Budget(trials=6)
    plan = plan_study(
        toy, "my-line", results_dir=tmp_path, budget=budget, sampler="grid", kind="listed",
        lists={"slope": [1.0, 3.0, 4.0, 5.0, 6.0]},
    )  # fmt: skip
    ledger = Ledger.open(tmp_path / "results", plan)
    trials = run_study(ledger, toy, budget, backend=Backend(kind, None, 2))
    by_slope = {trial.values["slope"]: trial for trial in trials}
    assert sorted(by_slope) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    failed = {slope: trial.reason for slope, trial in by_slope.items() if trial.status == "failed"}
    assert failed == ({5.0: "its worker process died twice; it may have run out of memory"} if dies else {})
    assert all(trial.value is not None for slope, trial in by_slope.items() if slope not in failed)
    assert not list(ledger.path.rglob("begun"))
