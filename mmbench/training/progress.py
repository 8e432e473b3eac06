"""Where a training stands: counters and times, means of loss terms, and their watchers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mmbench.training.learner import Terms

# Steps between two looks at the loss, by device: each look waits for a GPU.
CHECK_EVERY_ON = {"cpu": 1, "cuda": 32}


@dataclass
class Progress:
    """Where a training stands; what resume.safetensors remembers beside the tensors."""

    stage: int = 0
    epoch: int = 0  # finished epochs of the stage
    earlier: int = 0  # epochs of the stages before
    step: int = 0  # optimiser steps of the stage
    best: float = -math.inf
    best_epoch: int = 0
    bad: int = 0  # evaluations since the best
    stopped: str = ""
    curve: list[dict[str, float]] = field(default_factory=list)
    stack: list[int] = field(
        default_factory=list
    )  # seeds that shared an epoch, itself included; [] = none did
    notes: list[str] = field(default_factory=list)  # what else the result depends on, for the record
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "valid": 0.0})
    epoch_seconds: list[float] = field(default_factory=list)

    def note(self, *texts: str) -> None:
        """Keep notes, each once."""
        self.notes = list(dict.fromkeys([*self.notes, *texts]))


def is_gain(value: float, best: float, rule: str) -> bool:
    """Return whether a value beats the best so far: larger ("strict"), or at least equal in four digits ("recbole").

    "strict" compares unrounded values, so the earlier of two equal epochs stays the best.
    """
    return round(value, 4) >= round(best, 4) if rule == "recbole" else value > best


def kept_epoch(values: Mapping[int, float], rule: str) -> int:
    """Return the epoch whose weights a training with these validation values keeps: that of the last gain."""
    best, kept = -math.inf, 0
    for epoch, value in values.items():
        if is_gain(value, best, rule):
            best, kept = value, epoch
    return kept


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """How far a training has come, and how far it can go: early stopping may end it sooner."""

    stage: int = 1  # counts from 1
    n_stages: int = 1
    n_epochs: int  # of the stage, at most
    n_done: int  # finished epochs of all stages
    n_left: int  # epochs of all stages that are left, at most

    @property
    def n_total(self) -> int:
        """Return how many epochs the training has at most."""
        return self.n_done + self.n_left

    @property
    def is_last_stage(self) -> bool:
        return self.stage == self.n_stages


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """A finished epoch of a run, or the means over the runs of a stack."""

    epoch: int  # of the stage
    outlook: Outlook
    seconds: float
    loss: dict[str, float]
    valid: dict[str, float]  # the selection metric; empty when the epoch was not validated
    best: float
    best_epoch: int  # of the first run
    n_runs: int = 1


def report_epoch(
    runs: Sequence[Progress], losses: Sequence[dict[str, float]], metric: str, outlook: Outlook
) -> EpochReport:
    """Sum up the epoch that the runs have just finished."""
    first = runs[0]
    measured = [run.curve[-1] for run in runs if run.curve and run.curve[-1]["epoch"] == first.epoch]
    return EpochReport(
        epoch=first.epoch, outlook=outlook, seconds=sum(run.epoch_seconds[-1] for run in runs), loss=mean_terms(losses),
        valid={metric: fmean(point[metric] for point in measured)} if measured else {},
        best=fmean(run.best for run in runs), best_epoch=first.best_epoch, n_runs=len(runs),
    )  # fmt: skip


def mean_terms(terms: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each loss term over runs."""
    return {name: fmean(run[name] for run in terms) for name in terms[0]}


class Watcher(Protocol):
    """A live view's callbacks about a training. `terms` are the epoch's running means, over all runs."""

    def step(self, epoch: int, step: int, n_steps: int, terms: dict[str, float]) -> None: ...
    def epoch(self, report: EpochReport) -> None: ...
    def note(self, text: str) -> None: ...


class LossSums:
    """Means of the loss terms of an epoch, of S models.

    The terms of a step are kept on the device until they are looked at: reading a number makes the host wait.
    """

    def __init__(self, device: str, n_models: int) -> None:
        self.check_every, self.n_models = CHECK_EVERY_ON[device.partition(":")[0]], n_models
        self.n_steps = 0
        self.totals: dict[str, list[float]] = {}  # of each model
        self.unread: list[Terms] = []

    def add(self, terms: "Terms") -> None:
        self.n_steps += 1
        self.unread.append(terms)

    @property
    def due(self) -> bool:
        return len(self.unread) >= self.check_every

    def look(self) -> tuple[list[dict[str, float]], dict[int, str]]:
        """Return each model's mean terms so far, and for models with a term that is not finite its name and step."""
        import torch

        first, unread = self.n_steps - len(self.unread) + 1, self.unread
        self.unread = []
        values = torch.stack([terms.values.double() for terms in unread]).tolist() if unread else []
        faults: dict[int, str] = {}
        for step, (terms, row) in enumerate(zip(unread, values, strict=True), start=first):
            for name, value in zip(terms.names, row, strict=True):
                self._add(step, name, value if isinstance(value, list) else [value], faults)
        means = [
            {name: total[model] / self.n_steps for name, total in self.totals.items()}
            for model in range(self.n_models)
        ]
        return means, faults

    def _add(self, step: int, name: str, values: list[float], faults: dict[int, str]) -> None:
        total = self.totals.setdefault(name, [0.0] * self.n_models)
        for model, value in enumerate(values):
            total[model] += value
            if not math.isfinite(value):
                faults.setdefault(model, f"batch {step}: loss term {name!r} is {value}")
