"""Runs in MLflow, in the store that MLFLOW_TRACKING_URI names, by default the library's own."""

import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from filelock import FileLock

from mmbench.tracking.base import TrackedEnd, TrackedEpoch, TrackedRun

TITLE = "mmbench.run"  # the tag by which a resumed run is found again
LONGEST = 500  # letters of a parameter that every store takes


class MlflowTracker:
    """Logs a run to an experiment named by its data set; a run that was interrupted goes on as the same one."""

    client: Any
    run_id: str

    def begin(self, run: TrackedRun) -> None:
        from mlflow.tracking import MlflowClient

        with _opening():
            self.client = MlflowClient()
            experiment = _experiment(self.client, f"mmbench {run.dataset}")
        tags = {TITLE: run.title, "mmbench.folder": str(run.folder.absolute())}
        running = self.client.search_runs(
            [experiment],
            " and ".join(f"tags.`{key}` = {_quoted(value)}" for key, value in tags.items())
            + " and attributes.status = 'RUNNING'",
        )
        if running:
            self.run_id = running[0].info.run_id
            return
        self.run_id = self.client.create_run(experiment, tags=tags, run_name=run.title).info.run_id
        parameters = {**run.settings, "model": run.model, "seed": run.seed, "config_id": run.config_id}
        for key, value in parameters.items():
            self.client.log_param(self.run_id, key, str(value)[:LONGEST])
        self.client.log_dict(self.run_id, dict(run.identity), "identity.json")

    def epoch(self, report: TrackedEpoch) -> None:
        self._log("loss", report.losses, report.step)
        self._log("valid", report.valid, report.step)

    def end(self, end: TrackedEnd) -> None:
        self._log("best_valid", end.valid, 0)
        self._log("test", end.test, 0)
        self.client.set_tag(self.run_id, "mmbench.end", f"{end.status} {end.reason}".strip())
        self.client.set_terminated(self.run_id, "FAILED" if end.status == "failed" else "FINISHED")

    def _log(self, prefix: str, values: Mapping[str, float], step: int) -> None:
        """Log metrics; MLflow takes no @ in their names."""
        for name, value in values.items():
            self.client.log_metric(self.run_id, f"{prefix}/{name.replace('@', '_at_')}", value, step=step)


def _opening() -> FileLock:
    """Return a lock that lets a single process of this machine open a store.

    MLflow makes the tables of a new SQLite file when it is opened, and fails where two processes do so at once.
    """
    store = f"{Path.home()} {os.getcwd()} {os.environ.get('MLFLOW_TRACKING_URI', '')}"
    return FileLock(Path(gettempdir()) / f"mmbench-mlflow-{sha256(store.encode()).hexdigest()[:16]}.lock")


def _quoted(value: str) -> str:
    """Return a value as MLflow's filters read it; a folder may have an apostrophe in its name."""
    return f'"{value}"' if "'" in value else f"'{value}'"


def _experiment(client: Any, name: str) -> str:
    """Return the id of the experiment of a name, made if need be."""
    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            return str(client.create_experiment(name))
        except Exception:
            known = client.get_experiment_by_name(name)  # another run may have made it in the meantime
            if known is None:
                raise
    return str(known.experiment_id)
