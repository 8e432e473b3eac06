"""The files of a training: its state after each epoch, its best weights, its log. A kill at any moment is survived.

resume.safetensors     weights, optimiser and progress after the last finished epoch
previous.safetensors   the same of the epoch before, while some seeds of a stack have not saved theirs
candidate.safetensors  weights of a new best, until the resume file knows of it
best.safetensors       weights of the best epoch
train.jsonl            a line for each epoch
"""

import json
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from mmbench.atomic import write_text
from mmbench.errors import RunError
from mmbench.models.base import Recommender
from mmbench.training import checkpoint
from mmbench.training.names import BEST, CANDIDATE, LOG, PREVIOUS, RESUME
from mmbench.training.progress import Progress

START = {"stage": 0, "epoch": 0, "start": True}  # the facts of a state before the first epoch
StageEpoch = tuple[int, int]  # stage, finished epochs of it


class TrainingFiles:
    """The files of a run in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        return self.folder / name

    # -- state after an epoch -----------------------------------------------------------------------------

    def save(self, tensors: dict[str, Tensor], progress: Progress, *, keep_previous: bool = False) -> None:
        """Write the state after an epoch; with `keep_previous`, that of the epoch before stays until `settle`."""
        facts = asdict(progress)
        facts["best"] = progress.best if math.isfinite(progress.best) else -1e300
        if keep_previous and not self.path(PREVIOUS).exists():
            if self.path(RESUME).is_file():
                os.replace(self.path(RESUME), self.path(PREVIOUS))
            else:
                checkpoint.save_tensors(self.path(PREVIOUS), {}, START)
        checkpoint.save_tensors(self.path(RESUME), tensors, facts)

    def load(self) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
        """Return the file of the last finished epoch, its tensors and facts; None when there is none."""
        for name in (RESUME, PREVIOUS):
            if self.path(name).is_file():
                tensors, facts = checkpoint.load_tensors(self.path(name))
                return None if facts == START else (self.path(name), tensors, facts)
        return None

    def stage_epochs(self) -> dict[str, StageEpoch]:
        """Return stage and epoch of the stored states, by file; a damaged file is left to `load`."""
        stored: dict[str, StageEpoch] = {}
        for name in (RESUME, PREVIOUS):
            if self.path(name).is_file():
                with suppress(RunError):
                    stored[name] = _stage_epoch_of(checkpoint.load_facts(self.path(name)))
        return stored

    def go_back(self) -> None:
        """Return to the state before the last epoch, which other seeds of the stack have not finished."""
        if checkpoint.load_facts(self.path(PREVIOUS)) == START:
            self.path(RESUME).unlink(missing_ok=True)
            self.path(PREVIOUS).unlink()
        else:
            os.replace(self.path(PREVIOUS), self.path(RESUME))

    def settle(self) -> None:
        """Make a new best the best, and let the state before go: every seed has saved."""
        if self.path(CANDIDATE).is_file():
            os.replace(self.path(CANDIDATE), self.path(BEST))
        self.path(PREVIOUS).unlink(missing_ok=True)

    # -- weights ------------------------------------------------------------------------------------------

    def save_weights(self, name: str, model: Recommender[Any], stage_epoch: StageEpoch) -> None:
        facts = {"stage": stage_epoch[0], "epoch": stage_epoch[1]}
        checkpoint.save_tensors(self.path(name), checkpoint.model_tensors(model), facts)

    def load_best(self, model: Recommender[Any], epoch: int) -> None:
        """Load the weights of the stage's best epoch; RunError when the file is of another epoch."""
        stored = checkpoint.load_weights(model, self.path(BEST)).get("epoch")
        if stored != epoch:
            raise RunError(
                f"{self.path(BEST)} holds epoch {stored}, but epoch {epoch} is the best; "
                f"remove it and {RESUME} and run the cell again"
            )

    # -- after a kill -------------------------------------------------------------------------------------

    def start_over(self) -> None:
        """Remove what a training left that was killed before its first epoch ended."""
        for name in (CANDIDATE, PREVIOUS):
            self.path(name).unlink(missing_ok=True)
        if self.path(LOG).is_file() and self.path(LOG).stat().st_size:
            write_text(self.path(LOG), "")

    def finish_interrupted(self, progress: Progress) -> None:
        """Finish what a kill cut short after the state was saved, and drop what belongs to an abandoned epoch."""
        candidate = self.path(CANDIDATE)
        if candidate.is_file():
            facts = checkpoint.load_facts(candidate)
            if (facts.get("stage"), facts.get("epoch")) == (progress.stage, progress.best_epoch):
                os.replace(candidate, self.path(BEST))
            else:
                candidate.unlink()
        if self.path(RESUME).is_file():
            self.path(PREVIOUS).unlink(missing_ok=True)
        else:
            os.replace(self.path(PREVIOUS), self.path(RESUME))
        kept = (
            line
            for line in self._log_lines()
            if _logged_stage_epoch(line) <= (progress.stage, progress.epoch)
        )
        if self.path(LOG).is_file():
            write_text(self.path(LOG), "".join(kept))

    # -- log ----------------------------------------------------------------------------------------------

    def log(self, line: dict[str, Any]) -> None:
        with self.path(LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _log_lines(self) -> Iterator[str]:
        """Yield the whole lines; a kill may have cut the last short."""
        if self.path(LOG).is_file():
            for line in (
                self.path(LOG).read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            ):
                if line.endswith("\n"):
                    yield line


def _stage_epoch_of(facts: dict[str, Any]) -> StageEpoch:
    return int(facts.get("stage", 0)), int(facts.get("epoch", 0))


def _logged_stage_epoch(line: str) -> StageEpoch:
    """Return stage and epoch of a log line, later than all for a line that cannot be read."""
    try:
        content = json.loads(line)
        return content["stage"], content["epoch"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 1 << 30, 0
