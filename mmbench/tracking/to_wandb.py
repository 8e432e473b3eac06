"""Runs in Weights & Biases. WANDB_MODE, WANDB_PROJECT, WANDB_DIR and the like are those of its library."""

import os
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from mmbench.tracking.base import TrackedEnd, TrackedEpoch, TrackedRun


class WandbTracker:
    """Logs losses and metrics of a run under an id that a resumed run has again."""

    session: Any

    def begin(self, run: TrackedRun) -> None:
        import wandb

        run.folder.mkdir(parents=True, exist_ok=True)
        self.session = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "mmbench"),
            id=sha256(f"{run.folder.absolute()}/{run.title}".encode()).hexdigest()[:16],
            name=run.title,
            group=f"{run.dataset}/{run.model}",
            config={**run.settings, "seed": run.seed, "config_id": run.config_id, "identity": run.identity},
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            resume="allow",
            reinit="create_new",
        )

    def epoch(self, report: TrackedEpoch) -> None:
        self.session.log(
            {**_prefixed("loss", report.losses), **_prefixed("valid", report.valid)}, step=report.step
        )

    def end(self, end: TrackedEnd) -> None:
        summary = {**_prefixed("best valid", end.valid), **_prefixed("test", end.test), "status": end.status}
        self.session.summary.update({**summary, "reason": end.reason, "best_epoch": end.best_epoch})
        self.session.finish(exit_code=int(end.status == "failed"))


def _prefixed(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in values.items()}
