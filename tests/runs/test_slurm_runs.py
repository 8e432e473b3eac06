"""A real run as a job of submitit's executor of this machine: it is killed, tried again, and resumes.

Run: python -m pytest tests/runs/test_slurm_runs.py
"""

import json
from pathlib import Path

import pytest

import mmbench
from mmbench.data.store import Prepared
from tests.cli.interrupted import RECIPE
from tests.models.test_registry import write_own
from tests.prepared import ROOT, same_ranks

EPOCHS, STEPS = 4, 11  # STEPS: of an epoch
DIES_AT = 2 * STEPS + 3  # in the third epoch
CODE = f'''
"""SASRec whose first process is killed at step {DIES_AT}."""
import os, signal
from pathlib import Path
from mmbench.models import registry

SASRec = registry.find("sasrec").load()

class MySASRec(SASRec):
    def loss(self, batch):
        steps = Path(__file__).with_name("steps")
        with steps.open("a") as file:
            file.write("x")
        if "SUBMITIT_LOCAL_JOB_ID" in os.environ and steps.stat().st_size == {DIES_AT}:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(batch)
'''


@pytest.mark.slow
def test_a_killed_job_is_tried_again_and_resumes(
    toy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="the package submitit is not installed")
    models = write_own(tmp_path / "models", code=CODE, recipe=RECIPE, stem="my_sasrec")
    monkeypatch.setenv("MMBENCH_MODELS", str(models))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)

    def run(results: str, **options: object) -> Path:
        (record,) = mmbench.run(
            "my-sasrec", datasets=toy, epochs=EPOCHS, floors=False, data_dir=toy.data_dir, results_dir=results,
            **options,  # type: ignore[arg-type]
        )  # fmt: skip
        assert record.status == "finished", record.reason
        return record.path.absolute()

    as_job = run("jobs", backend="slurm", slurm={"cluster": "local"})
    n_steps = (models / "steps").stat().st_size
    assert (
        n_steps == DIES_AT + (EPOCHS - 2) * STEPS
    )  # the two epochs that were finished are not trained again
    here = run("here")
    assert (models / "steps").stat().st_size == n_steps + EPOCHS * STEPS
    assert same_ranks(as_job, here)
    lines = [json.loads(line) for line in (as_job / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert not (as_job / "begun").exists()
    assert len(list((tmp_path / "slurm").glob("*/*.out"))) == 2  # of two jobs
