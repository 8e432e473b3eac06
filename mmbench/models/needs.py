"""What a model needs of the engine: the layout of histories, and anything besides histories and their targets.

A paper that needs something new adds a subclass of `Extra`, not a flag.
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
        """Return [T, ...] for users and targets int64 [T]; only `generator` supplies randomness."""
        ...


class StepDrawer(ABC):
    """Draws something once for all targets of a step."""

    @abstractmethod
    def draw_steps(self, n_steps: int, generator: torch.Generator) -> Tensor:
        """Return [n_steps, ...]; only `generator` supplies randomness."""


class Extra:
    """Something that a model needs besides histories and their targets.

    The engine calls the same methods of every extra of a model; a subclass overrides those that concern it.
    """

    name: ClassVar[str] = ""  # is the key of its draws in `TrainBatch.drawn`

    @property
    def slots_after(self) -> int:
        """Return how many empty slots a ranking leaves after each history; max_len counts them."""
        return 0

    def misfit(self, config: TrainConfig) -> str:
        """Return what is wrong with the training settings and how to mend it; empty when they fit."""
        return ""

    def drawer(self, view: TrainView, n_items: int, device: torch.device | str) -> Drawer | StepDrawer | None:
        """Return the drawer for the targets of a training on these events; None when nothing is drawn."""
        return None


@dataclass(frozen=True)
class SlotAfter(Extra):
    """n empty slots after each history in a ranking, the last of which predicts: room for a [MASK]."""

    n: int = 1

    @property
    def slots_after(self) -> int:
        return self.n


@dataclass(frozen=True)
class WholeRows(Extra):
    """All targets of a history in the same step, because a loss compares them.

    Without it, steps that count targets cut a history where they are full.
    """

    def misfit(self, config: TrainConfig) -> str:
        if config.batch_unit == "rows":
            return ""
        return "whole histories in a step; set batch_unit = rows (batch_size then counts histories)"


@dataclass(frozen=True)
class Prefixes(Extra):
    """`batch.prefixes`: the history of each target as a separate row, beside the rows of the batch."""


def whole_history(view: TrainView) -> Pairs:
    """Return all training items of each user."""
    return view.users, view.items


def nothing(view: TrainView) -> Pairs:
    """Return no pairs: every item may be a negative of every user."""
    return view.users[:0], view.items[:0]


@dataclass(frozen=True, kw_only=True)
class Negatives(Extra):
    """`batch.negatives`: k items for each target, none of them excluded for its user.

    exclude          returns, from the training events, the (user, item) pairs that are never drawn
    excludes_target  excludes the target itself and nothing else, so `exclude` must be `nothing`
    distribution     decides how often each item is drawn
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
        sampler = make_sampler(view, self.exclude, self.distribution, n_items, device)
        return _TargetDrawer(sampler, self.k, self.excludes_target)


@dataclass(frozen=True, kw_only=True)
class SharedNegatives(Extra):
    """`batch.drawn[SHARED]`: k items for all targets of a step; a target, or an item of its user, may be among them."""

    name: ClassVar[str] = SHARED
    k: int
    distribution: Distribution = UNIFORM

    def drawer(self, view: TrainView, n_items: int, device: torch.device | str) -> StepDrawer:
        return _StepDrawer(make_sampler(view, nothing, self.distribution, n_items, device), self.k)


def make_sampler(
    view: TrainView,
    exclude: Callable[[TrainView], Pairs],
    distribution: Distribution,
    n_items: int,
    device: torch.device | str,
) -> NegativeSampler:
    """Return a sampler of items that excludes the pairs that `exclude` finds in the training events."""
    users, items = exclude(view)
    q = distribution.of(view.items, n_items) if distribution.share else None
    return NegativeSampler(users, items, n_users=len(view.offsets) - 1, n_items=n_items, device=device, q=q)


@dataclass(frozen=True)
class _TargetDrawer:
    """Draws k items of a sampler for each target."""

    sampler: NegativeSampler
    k: int
    excludes_target: bool

    def draw(self, user: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        if self.excludes_target:
            return self.sampler.draw_others(target, self.k, generator)
        return self.sampler.draw(user, self.k, generator)


@dataclass(frozen=True)
class _StepDrawer(StepDrawer):
    """Draws k items of a sampler for each step."""

    sampler: NegativeSampler
    k: int

    def draw_steps(self, n_steps: int, generator: torch.Generator) -> Tensor:
        return self.sampler.draw_any(n_steps, self.k, generator)


E = TypeVar("E", bound=Extra)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """How the engine must feed a model.

    layout     "packed": several histories side by side in a row, distinguished by `batch.segment`;
               "padded": a history per row, right padded to the longest of the batch;
               "fixed":  a history per row, right padded to max_len.
    samples    kinds of training samples that fit, the default first; see mmbench.data.samples.
    causal     True if a later item never changes an earlier state (samples = "all" and "last-window" need it).
    stackable  True if loss() runs under torch.func.vmap, so that several seeds can train together
               (mmbench.training.stack); False where shapes depend on values, and with torch's recurrent layers.
    extras     lists what else the model needs, each kind at most once.
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
                raise ValueError(f"{kind} occurs twice among the extras of a model's needs; keep it once")

    def get(self, kind: type[E]) -> E | None:
        """Return the extra of this kind; None when the model does not need it."""
        return next((extra for extra in self.extras if isinstance(extra, kind)), None)

    def has(self, kind: type[Extra]) -> bool:
        return self.get(kind) is not None

    @property
    def slots_after(self) -> int:
        """Return how many empty slots a ranking leaves after each history."""
        return sum(extra.slots_after for extra in self.extras)
