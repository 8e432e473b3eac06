"""An optimiser step of a model."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmbench.data.batch import TrainBatch
from mmbench.errors import RunError
from mmbench.models.base import Recommender
from mmbench.settings.config import TrainConfig
from mmbench.training.optim import make_optimizer, set_rate
from mmbench.training.precision import autocast, compiled


class Terms(NamedTuple):
    """The loss terms of a step; their numbers stay on the device, where nobody waits for them."""

    names: tuple[str, ...]
    values: Tensor  # [n_terms], or [n_terms, S] for a stack of S models


def check_terms(terms: Any, model: Recommender[Any]) -> None:
    """Raise RunError for a loss that is not a dictionary of scalar tensors."""
    name = f"{type(model).__name__}.loss()"
    if not isinstance(terms, dict) or not terms:
        what = "an empty dictionary" if terms == {} else f"a {type(terms).__name__}"
        raise RunError(f"{name} must return scalar tensors by name, such as {{'ce': ...}}, not {what}")
    for key, value in terms.items():
        if not isinstance(value, Tensor):
            raise RunError(f"{name}: the term {key!r} must be a scalar tensor, not a {type(value).__name__}")
        if value.ndim:
            raise RunError(
                f"{name}: the term {key!r} must be a scalar tensor, not of shape {list(value.shape)}; take its mean"
            )


def check_depends(values: Tensor, model: Recommender[Any]) -> None:
    """Raise RunError for loss terms that depend on no parameter. (Inside vmap no tensor says whether it does.)"""
    if not values.requires_grad:
        raise RunError(
            f"{type(model).__name__}.loss(): no term depends on a parameter, so there is nothing to train"
        )


class Learner:
    """A model and its optimiser. `config` has the settings of a stage."""

    def __init__(self, model: Recommender[Any], config: TrainConfig, device: str) -> None:
        self.model, self.config, self.device = model, config, device
        self.optimizer, self.rate = make_optimizer(model, config), math.nan
        self.loss = compiled(model.loss) if config.compile else model.loss
        self.parameters = dict(model.named_parameters())

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the steps to come."""
        if rate != self.rate:
            set_rate(self.optimizer, rate)
            self.rate = rate

    def gradients(self, batch: TrainBatch) -> Terms:
        """Return the step's loss terms; leave the gradients of their sum in the parameters."""
        with autocast(self.config.matmul, self.device):
            terms = self.loss(batch)
        check_terms(terms, self.model)
        values = torch.stack(list(terms.values()))
        check_depends(values, self.model)
        self.optimizer.zero_grad(set_to_none=True)
        values.sum().backward()
        return Terms(tuple(terms), values.detach())

    def update(self) -> None:
        """Move the parameters along their gradients, and back to where the model wants them to lie."""
        if self.config.grad_clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        with torch.no_grad():
            self.model.constrain(self.parameters)

    def step(self, batch: TrainBatch) -> Terms:
        """Take an optimiser step and return its loss terms."""
        terms = self.gradients(batch)
        self.update()
        return terms

    def forget_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
