"""What a tracker hears: a run that begins, each of its epochs, and how it ends."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

EndStatus = Literal["finished", "failed", "pruned", "cut"]


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A run that begins, or that resumes after an interruption.

    title     its own folder, from the data set on: "demo/sasrec/83a48b2c1d/seed_1"; of a trial, with its study
    folder    where a tracker that writes files puts them
    settings  every setting with its value
    identity  what makes two runs comparable: the fields of the protocol, the data's hash among them, and what made the
              features that are read
    """

    title: str
    folder: Path
    dataset: str
    model: str
    config_id: str
    seed: int
    settings: Mapping[str, Any]
    identity: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrackedEpoch:
    """A finished epoch.

    stage, epoch  number of the stage from 0, and of its epoch from 1
    step          number of the epoch from 1 over all stages; an epoch that is repeated after a kill has it again
    losses        mean of each loss term
    valid         the selection metric on the validation targets; empty where nothing was validated
    """

    stage: int
    epoch: int
    step: int
    seconds: float
    losses: Mapping[str, float]
    valid: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class TrackedEnd:
    """How a run ended.

    valid, test  metrics of the best weights by name; empty for a failed run, and `test` for a trial of a search, which
                 ranks no test target
    """

    status: EndStatus
    reason: str = ""
    best_epoch: int = 0
    n_parameters: int = 0
    valid: Mapping[str, float] = field(default_factory=dict)
    test: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Tracker(Protocol):
    """Hears of one run. Whatever it raises is a warning, and the run goes on without it."""

    def begin(self, run: TrackedRun) -> None: ...
    def epoch(self, report: TrackedEpoch) -> None: ...
    def end(self, end: TrackedEnd) -> None: ...
