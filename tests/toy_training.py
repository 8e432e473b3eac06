"""A small training: a model of two tables on 30 users and 20 items, and what a test asks of it."""

import json
import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmbench.models.base import Recommender, Stage
from mmbench.settings.config import TrainConfig
from mmbench.training.files import LOG
from mmbench.training.progress import Progress
from mmbench.training.trainer import Trainer
from tests.scorers import Bilinear, train_view

N_ITEMS, N_USERS = 20, 30
VIEW = train_view(
    [np.random.default_rng(u).integers(1, N_ITEMS + 1, 2 + u % 9).tolist() for u in range(N_USERS)]
)
CONFIG = TrainConfig(batch_size=32, max_epochs=6, patience=100, weight_decay=0.01, lr=0.02, warmup_steps=5)


def by_weights(model: Recommender[Any]) -> float:
    """A validation value that follows the weights and goes up and down."""
    return float(sum(parameter.detach().double().sum() for parameter in model.parameters()).sin())


def scripted(values: Iterable[float]) -> Callable[[Recommender[Any]], float]:
    left = iter(values)
    return lambda model: next(left)


def make(
    folder: Path,
    *,
    config: TrainConfig = CONFIG,
    validate: Callable[[Recommender[Any]], float] = by_weights,
    model: Recommender[Any] | None = None,
    watcher: Any = None,
    **settings: Any,
) -> Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    if model is None:
        torch.manual_seed(0)
        model = Bilinear(n_items=N_ITEMS, n_users=N_USERS, **settings)
    torch.manual_seed(random.getrandbits(30))  # the loop must not depend on the generator's state
    return Trainer(model, VIEW, validate, config, seed=3, folder=folder, watcher=watcher)


def log_of(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def without_times(progress: Progress) -> dict[str, Any]:
    return {key: value for key, value in vars(progress).items() if "seconds" not in key}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class KilledError(BaseException):
    """What stands for a kill inside one process; no handler of errors may catch it."""


class KillAt:
    """Raises at the given call of a method of a trainer or of one of its parts ("files.log"), once."""

    def __init__(self, trainer: Trainer, method: str, call: int) -> None:
        part, _, name = method.rpartition(".")
        owner = getattr(trainer, part) if part else trainer
        self.inner, self.left = getattr(owner, name), call
        setattr(owner, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise KilledError
        return self.inner(*args, **kwargs)


class DiskKilled:
    """Counts flushes and renames together, and kills before the given one of them."""

    def __init__(self, patch: pytest.MonkeyPatch, call: int) -> None:
        self.left = call
        for name in ("fsync", "replace"):
            patch.setattr(os, name, self._counting(getattr(os, name)))

    def _counting(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise KilledError
            return inner(*given)

        return call


STAGES = (Stage(name="pretrain", epochs=2, samples="prefix", settings={"lr": 0.05}), Stage(name="finetune"))


def new_bias(model: Bilinear, name: str) -> None:
    """A second stage that freezes one table and draws new values for another parameter."""
    if name == "finetune":
        model.left.weight.requires_grad_(False)
        torch.nn.init.normal_(model.bias)
