"""The curves of a training, epoch by epoch, read from its log."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbench.training.names import LOG

Point = tuple[int, float]  # epoch, counted through all stages, and a value


@dataclass(frozen=True)
class Curves:
    """The finite values of a training.

    loss    the sum of the loss terms after each epoch
    valid   the value on the validation targets after each evaluation
    metric  which metric that is, "" without an evaluation
    best    the last gain, whose weights are kept; by the run's own rule, and in the last of its stages
    """

    loss: tuple[Point, ...]
    valid: tuple[Point, ...]
    metric: str
    best: Point | None = None


def read_curves(folder: Path) -> Curves:
    """Return the curves of the run in a folder, empty where nothing was trained.

    Lines that cannot be read are left out: a kill may have cut the last short.
    """
    log = folder / LOG
    texts = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    loss: list[Point] = []
    valid: list[Point] = []
    metric, best = "", None
    for epoch, line in enumerate(filter(None, map(_parsed, texts)), start=1):
        if terms := _numbers(line.get("loss")):
            loss.append((epoch, sum(terms.values())))
        for name, value in _numbers(line.get("valid")).items():
            metric = name
            valid.append((epoch, value))
            if line.get("best_epoch") == line.get("epoch"):
                best = epoch, value
    return Curves(_finite(loss), _finite(valid), metric, best)


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def _numbers(values: Any) -> dict[str, float]:
    if not isinstance(values, dict):
        return {}
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def _finite(points: list[Point]) -> tuple[Point, ...]:
    return tuple(point for point in points if math.isfinite(point[1]))
