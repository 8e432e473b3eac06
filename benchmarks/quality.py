"""Time to the same quality: when each contestant's validation NDCG@10 first reaches a share of mmbench's best.

Contestants train epoch by epoch and write the lists of best items of all users after each; the same code of mmbench
ranks the targets in all lists. Only the training counts as time.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.turns import Worker
from mmbench.board.external import ranking_of_lists
from mmbench.board.lists_file import read_lists
from mmbench.data.split import make_split
from mmbench.data.store import Prepared
from mmbench.data.views import target_view
from mmbench.evaluation.metrics import Metric

METRIC = Metric("NDCG", 10)
SHARE = 0.95  # of mmbench's best value
PATIENCE = 10  # epochs of mmbench without a new best, after which its best is known


@dataclass(frozen=True)
class Epoch:
    """Where a training stands after an epoch: the seconds of all epochs so far, and the value."""

    seconds: float
    cpu: float
    value: float


@dataclass(frozen=True)
class Course:
    """The epochs of a contestant, and the first that reaches the goal, from 1; 0 when none did."""

    epochs: tuple[Epoch, ...]
    reached: int

    @property
    def best(self) -> float:
        return max(epoch.value for epoch in self.epochs)

    @property
    def cpu(self) -> float:
        """Return the processor seconds to the goal; without it, those of all epochs."""
        return self.epochs[self.reached - 1].cpu

    def scaled(self, seconds: float, cpu: float) -> "Course":
        """Return the course of a contestant that computes the same, but takes other multiples of the time."""
        epochs = (Epoch(epoch.seconds * seconds, epoch.cpu * cpu, epoch.value) for epoch in self.epochs)
        return Course(tuple(epochs), self.reached)

    def to_json(self) -> dict[str, Any]:
        return {"epochs": [asdict(epoch) for epoch in self.epochs], "reached": self.reached}


class Scorer:
    """The validation value of a contestant's lists of best items."""

    def __init__(self, prepared: Prepared, file: Path) -> None:
        split = make_split(prepared.protocol, np.asarray(prepared.times), np.asarray(prepared.offsets))
        self.view, self.file, self.n_items = target_view(prepared, split, "valid"), file, prepared.n_items
        self.users = {name: number for number, name in enumerate(prepared.user_ids)}
        self.items = {record["id"]: number for number, record in enumerate(prepared.item_records, start=1)}

    def value(self, worker: Worker) -> float:
        worker.ask("lists", file=str(self.file))
        lists = read_lists(self.file, self.users, self.items)
        return METRIC.value(ranking_of_lists(lists, self.view, self.n_items, file=self.file), "none")


def courses(workers: Mapping[str, Worker], scorer: Scorer, ours: str, most_epochs: int) -> dict[str, Course]:
    """Return the course of each contestant; mmbench trains first, until its best is `PATIENCE` epochs old."""
    own = _train(ours, workers[ours], scorer, goal=None, most_epochs=most_epochs)
    goal = SHARE * max(epoch.value for epoch in own)
    results = {}
    for name, worker in workers.items():
        epochs = own if name == ours else _train(name, worker, scorer, goal=goal, most_epochs=most_epochs)
        reached = next((number for number, epoch in enumerate(epochs, start=1) if epoch.value >= goal), 0)
        results[name] = Course(tuple(epochs), reached)
    return results


def _train(name: str, worker: Worker, scorer: Scorer, *, goal: float | None, most_epochs: int) -> list[Epoch]:
    """Train a contestant until the goal is reached; without a goal, until the best epoch is `PATIENCE` epochs old."""
    epochs: list[Epoch] = []
    seconds = cpu = 0.0
    while len(epochs) < most_epochs:
        answer = worker.ask("train", steps=worker.facts["steps_per_epoch"], seconds=0)
        seconds, cpu = seconds + answer["seconds"], cpu + answer["cpu"]
        epochs.append(Epoch(seconds, cpu, scorer.value(worker)))
        print(f"{name}, epoch {len(epochs)}: {METRIC} {epochs[-1].value:.4f}", flush=True)
        values = [epoch.value for epoch in epochs]
        if values[-1] >= goal if goal is not None else len(values) - 1 - int(np.argmax(values)) >= PATIENCE:
            break
    return epochs
