"""Where a training stands: counters and times, sums of loss terms, and who is told of them."""

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

# Steps between two looks at the loss, by device: each look waits for a GPU.
CHECK_EVERY_ON = {"cpu": 1, "cuda": 32}


class Watcher(Protocol):
    """What a live view hears. `terms` are the epoch's running means."""

    def step(self, epoch: int, step: int, n_steps: int, terms: dict[str, float]) -> None: ...
    def epoch(self, line: dict[str, Any]) -> None: ...
    def note(self, text: str) -> None: ...


class StackWatcher(Protocol):
    """What a live view hears of several runs trained as one; `terms` are means over the runs."""

    def step(self, epoch: int, step: int, n_steps: int, terms: dict[str, float]) -> None: ...
    def epoch(self, runs: "list[Progress]") -> None: ...
    def note(self, text: str) -> None: ...


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


class LossSums:
    """Sums of the loss terms of an epoch, of one model or of S stacked ones.

    They are kept on the device: reading a number makes the host wait for a GPU.
    """

    def __init__(self, device: str) -> None:
        self.check_every, self.n = CHECK_EVERY_ON[device.partition(":")[0]], 0
        self.totals: dict[str, Tensor] = {}
        self.unchecked: list[dict[str, Tensor]] = []

    def add(self, terms: dict[str, Tensor]) -> None:
        """Terms of one step, each [] or [S]."""
        self.n += 1
        self.unchecked.append(terms)
        for name, term in terms.items():
            self.totals[name] = self.totals[name] + term.double() if name in self.totals else term.double()

    @property
    def due(self) -> bool:
        return len(self.unchecked) >= self.check_every

    def look(self) -> tuple[list[dict[str, float]], dict[int, str]]:
        """Of each model: the mean of each term so far; and of those with a term that is no number: which, where."""
        means = {name: (total / self.n).reshape(-1).tolist() for name, total in self.totals.items()}
        by_model = [dict(zip(means, values, strict=True)) for values in zip(*means.values(), strict=True)]
        faults = {
            number: self._first_fault(number)
            for number, found in enumerate(by_model)
            if not all(map(math.isfinite, found.values()))
        }
        self.unchecked.clear()
        return by_model, faults

    def _first_fault(self, model: int) -> str:
        first = self.n - len(self.unchecked) + 1
        for number, terms in enumerate(self.unchecked, start=first):
            for name, term in terms.items():
                value = float(term.reshape(-1)[model])
                if not math.isfinite(value):
                    return f"batch {number}: loss term {name!r} is {value}"
        return "a loss term is no number"  # it was found at an earlier look
