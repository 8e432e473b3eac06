"""Changes of what a trained model is given, under which it is ranked again: what does it use?

A change of the catalogue is made before the model is built and its weights are loaded; a change of the histories
before batches are laid out, so that it is the same in every layout. The mask rules stay about the histories as they
are, so that all rankings of a run have the same candidates and can be compared user by user.

`mmbench.evaluation.knockout_kinds` has the changes that take something away.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmbench.choices import SplitName
from mmbench.data.views import TargetView, ranges
from mmbench.evaluation.evidence import UNKNOWN, MadeBy, Ranking
from mmbench.evaluation.ranking import rank_fully
from mmbench.models.base import Catalog, Recommender


@dataclass(frozen=True)
class Intervention:
    """A change under which a run is ranked.

    name       as stored, "text=constant"; "" for no change
    catalog    returns what the model is built with instead
    histories  returns what the model reads instead, given the events that it would read
    model      opens a context in which the model scores otherwise
    """

    name: str
    catalog: Callable[[Catalog], Catalog] | None = None
    histories: Callable[[TargetView], TargetView] | None = None
    model: Callable[[Recommender[Any]], AbstractContextManager[None]] | None = None

    @property
    def kind(self) -> str:
        """Return what is changed: "text" of "text=constant"."""
        return self.name.partition("=")[0]

    def ranking_name(self, split: SplitName) -> str:
        """Return the name of the ranking of a split: "test~text=constant"."""
        return f"{split}~{self.name}" if self.name else split


AS_TRAINED = Intervention("")


def part(name: str) -> Intervention:
    """Let a single part of the model's `parts` score alone."""
    return Intervention(f"part={name}", model=lambda model: model.alone(name))


def rank_under(
    intervention: Intervention,
    model: Recommender[Any],
    view: TargetView,
    split: SplitName,
    *,
    lists: int = 0,
    with_spread: bool = False,
    device: str = "cpu",
    made_by: MadeBy = UNKNOWN,
) -> Ranking:
    """Rank a view under an intervention, whose change of the catalogue is in the model already."""
    context = nullcontext() if intervention.model is None else intervention.model(model)
    with context:
        return rank_fully(
            model, view, name=intervention.ranking_name(split), lists=lists, with_spread=with_spread,
            shown=_shown(intervention, model, view), device=device, made_by=made_by,
        )  # fmt: skip


def _shown(intervention: Intervention, model: Recommender[Any], view: TargetView) -> TargetView | None:
    """Return what the model reads instead; None for the view itself.

    Events that the model would cut off are gone before the change: a reversed history has the same events as before.
    """
    if intervention.histories is None:
        return None
    return intervention.histories(newest_events(view, model.max_len - model.needs.slots_after))


def newest_events(view: TargetView, n: int) -> TargetView:
    """Return a view whose histories hold their newest n events."""
    lengths = np.diff(view.offsets)
    kept = np.minimum(lengths, n)
    chosen = ranges(view.offsets[1:] - kept, kept)
    dropped = lengths - kept
    return replace(
        view, items=view.items[chosen], times=view.times[chosen],
        offsets=np.concatenate([[0], np.cumsum(kept)]), train_len=np.maximum(view.train_len - dropped, 0),
    )  # fmt: skip
