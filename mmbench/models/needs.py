"""What a model needs of the engine: how histories reach it, and what besides histories and their targets.

A paper that needs something new adds a subclass of `Extra`, no flag.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from mmbench.data.batch import NEGATIVES
from mmbench.data.negatives import Distribution, NegativeSampler
from mmbench.data.packing import Layout
from mmbench.data.views import TrainView
from mmbench.settings.config import TrainConfig

Samples = Literal["all", "prefix", "last-window", "sequence", "sequence-prefix", "pairs"]
Pairs = tuple[np.ndarray, np.ndarray]  # users and items, int64 [n] each
SHARED = "shared_negatives"
UNIFORM = Distribution()


class Drawer(Protocol):
    """Draws something for the targets of a step."""

    def draw(self, user: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        """Return [T, ...] for users and targets int64 [T], with no other randomness than the generator's."""
        ...


class StepDrawer(ABC):
    """Draws something once for all targets of a step."""

    @abstractmethod
    def draw_steps(self, n_steps: int, generator: torch.Generator) -> Tensor:
        """Return [n_steps, ...], with no other randomness than the generator's."""


class Extra:
    """Something that a model needs besides histories and their targets.

    The engine asks every extra of a model the same questions; a subclass answers those that concern it.
    """

    name: ClassVar[str] = ""  # under which what is drawn stands in `TrainBatch.drawn`

    @property
    def places_after(self) -> int:
        """Empty places that a ranking leaves after each history; max_len counts them."""
        return 0

    def misfit(self, config: TrainConfig) -> str:
        """Return what the settings of a training must be instead; empty when they fit."""
        return ""

    def drawer(self, view: TrainView, n_items: int, device: torch.device | str) -> Drawer | StepDrawer | None:
        """Return what draws for the targets of a training on these events; None when nothing is drawn."""
        return None


@dataclass(frozen=True)
class SlotAfter(Extra):
    """n empty places after each history in a ranking, the last of which predicts: room for a [MASK]."""

    n: int = 1

    @property
    def places_after(self) -> int:
        return self.n


@dataclass(frozen=True)
class WholeRows(Extra):
    """All targets of a history in one step, because a loss looks from one of them to another.

    Steps that count targets cut a history where they are full.
    """

    def misfit(self, config: TrainConfig) -> str:
        if config.batch_unit == "rows":
            return ""
        return "whole histories in a step; set batch_unit = rows (batch_size then counts histories)"


@dataclass(frozen=True)
class Prefixes(Extra):
    """`batch.prefixes`: the history of each target as a row of its own, beside the rows of the batch."""


def whole_history(view: TrainView) -> Pairs:
    """Return all training items of each user."""
    return view.users, view.items


def nothing(view: TrainView) -> Pairs:
    """Return no pairs: every user may be given every item."""
    return view.users[:0], view.items[:0]


@dataclass(frozen=True, kw_only=True)
class Negatives(Extra):
    """`batch.negatives`: k items for each target, of those that are not excluded for its user.

    exclude          gives, from the training events, the (user, item) pairs that are never drawn
    excludes_target  the target is never drawn for itself, all else may be, so that `exclude` must be `nothing`
    distribution     how often each item is drawn
    """

    name: ClassVar[str] = NEGATIVES
    k: int = 1
    exclude: Callable[[TrainView], Pairs] = whole_history
    excludes_target: bool = False
    distribution: Distribution = UNIFORM

    def __post_init__(self) -> None:
        if self.excludes_target and self.exclude is not nothing:
            raise ValueError("excludes_target excludes nothing else; set exclude = nothing")

    def drawer(self, view: TrainView, n_items: int, device: torch.device | str) -> Drawer:
        sampler = sampler_of(view, self.exclude, self.distribution, n_items, device)
        return _OfTargets(sampler, self.k, self.excludes_target)


@dataclass(frozen=True, kw_only=True)
class SharedNegatives(Extra):
    """`batch.drawn[SHARED]`: k items for all targets of a step, of which some may be a target or its user's."""

    name: ClassVar[str] = SHARED
    k: int
    distribution: Distribution = UNIFORM

    def drawer(self, view: TrainView, n_items: int, device: torch.device | str) -> StepDrawer:
        return _OfSteps(sampler_of(view, nothing, self.distribution, n_items, device), self.k)


def sampler_of(
    view: TrainView,
    exclude: Callable[[TrainView], Pairs],
    distribution: Distribution,
    n_items: int,
    device: torch.device | str,
) -> NegativeSampler:
    """Return what draws from these training events' items."""
    users, items = exclude(view)
    q = distribution.of(view.items, n_items) if distribution.share else None
    return NegativeSampler(users, items, n_users=len(view.offsets) - 1, n_items=n_items, device=device, q=q)


@dataclass(frozen=True)
class _OfTargets:
    """Draws k items of a sampler for each target."""

    sampler: NegativeSampler
    k: int
    excludes_target: bool

    def draw(self, user: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        if self.excludes_target:
            return self.sampler.draw_others(target, self.k, generator)
        return self.sampler.draw(user, self.k, generator)


@dataclass(frozen=True)
class _OfSteps(StepDrawer):
    """Draws k items of a sampler for each step."""

    sampler: NegativeSampler
    k: int

    def draw_steps(self, n_steps: int, generator: torch.Generator) -> Tensor:
        return self.sampler.draw_any(n_steps, self.k, generator)


E = TypeVar("E", bound=Extra)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """How the engine must feed a model.

    layout     "packed": several histories side by side in one row, told apart by `batch.segment`;
               "padded": one history a row, right padded to the longest of the batch;
               "fixed":  one history a row, right padded to max_len.
    samples    what may be trained on, first = default; see mmbench.data.samples.
    causal     a later item never changes an earlier state (needed for samples = "all" and "last-window").
    stackable  loss() runs under torch.func.vmap, so that several seeds can be trained as one
               (mmbench.training.stack); not so where shapes depend on values, nor with torch's recurrent layers.
    extras     what else the model needs, each kind at most once.
    """

    layout: Layout = "packed"
    samples: tuple[Samples, ...] = ("all", "prefix")
    causal: bool = True
    stackable: bool = True
    extras: tuple[Extra, ...] = ()

    def __post_init__(self) -> None:
        kinds = [extra.name or type(extra).__name__ for extra in self.extras]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise ValueError(f"{kind} stands twice among the extras of a model's needs")

    def get(self, kind: type[E]) -> E | None:
        """Return the extra of this kind; None when the model does not need it."""
        return next((extra for extra in self.extras if isinstance(extra, kind)), None)

    def has(self, kind: type[Extra]) -> bool:
        return self.get(kind) is not None

    @property
    def places_after(self) -> int:
        """Empty places that a ranking leaves after each history."""
        return sum(extra.places_after for extra in self.extras)
