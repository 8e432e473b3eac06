"""Runs in TensorBoard: `tensorboard --logdir results` shows them, since their event files lie in the runs' folders."""

import json
from typing import Any

from mmbench.tracking.base import TrackedEnd, TrackedEpoch, TrackedRun

FOLDER = "tensorboard"  # in the folder of a run


class TensorBoardTracker:
    """Writes losses, validation and test metrics as scalars, settings as text and as hyperparameters."""

    writer: Any
    run: TrackedRun

    def begin(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run, self.last = run, 0
        self.writer = SummaryWriter(str(run.folder / FOLDER))
        content = json.dumps(
            {"title": run.title, "identity": run.identity, "settings": run.settings}, indent=1
        )
        self.writer.add_text("run", f"```json\n{content}\n```", 0)

    def epoch(self, report: TrackedEpoch) -> None:
        self.last = report.step
        for name, value in report.losses.items():
            self.writer.add_scalar(f"loss/{name}", value, report.step)
        for name, value in report.valid.items():
            self.writer.add_scalar(f"valid/{name}", value, report.step)
        self.writer.flush()

    def end(self, end: TrackedEnd) -> None:
        """Write the metrics of the best weights, at the last epoch, and close the file."""
        scores = {f"best valid/{name}": value for name, value in end.valid.items()}
        scores |= {f"test/{name}": value for name, value in end.test.items()}
        for name, value in scores.items():
            self.writer.add_scalar(name, value, self.last)
        self.writer.add_text("end", f"{end.status} {end.reason}".strip(), self.last)
        self.writer.close()
