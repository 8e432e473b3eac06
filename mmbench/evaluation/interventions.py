"""Changes of what a trained model is given, under which it is ranked again: what does it use?

A change of the catalogue is made before the model is built and its weights are loaded; a change of the histories
before batches are laid out, so that it is the same in every layout. The mask rules stay about the histories as they
are, so that all rankings of a run have the same candidates and can be compared user by user.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmbench.choices import SplitName
from mmbench.data.views import TargetView, ranges
from mmbench.errors import UsageError
from mmbench.evaluation.evidence import UNKNOWN, MadeBy, Ranking
from mmbench.evaluation.ranking import rank_fully
from mmbench.models.base import Catalog, Recommender


@dataclass(frozen=True)
class Intervention:
    """A change under which a run is ranked.

    name       as stored, "text=constant"; "" for no change
    catalog    returns what the model is built with instead
    histories  returns what the model reads instead
    model      opens a context in which the model scores otherwise
    """

    name: str
    catalog: Callable[[Catalog], Catalog] | None = None
    histories: Callable[[TargetView], TargetView] | None = None
    model: Callable[[Recommender[Any]], AbstractContextManager[None]] | None = None

    def ranking_name(self, split: SplitName) -> str:
        """Return the name of the ranking of a split: "test~text=constant"."""
        return f"{split}~{self.name}" if self.name else split


AS_TRAINED = Intervention("")


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
            shown=None if intervention.histories is None else intervention.histories(view),
            device=device, made_by=made_by,
        )  # fmt: skip


# -- the interventions ------------------------------------------------------------------------------------


def part(name: str) -> Intervention:
    """Let one of the model's `parts` score alone."""
    return Intervention(f"part={name}", model=lambda model: model.alone(name))


def constant(modality: Literal["text", "image"]) -> Intervention:
    """Give every item the mean vector of the items that have the modality."""
    return Intervention(f"{modality}=constant", catalog=lambda catalog: _with_mean(catalog, modality))


def _with_mean(catalog: Catalog, modality: str) -> Catalog:
    """Return the catalogue with one vector for all items; as it is where no item has the modality."""
    present: Tensor | None = getattr(catalog, f"has_{modality}")
    if present is None or not present.any():
        return catalog
    everywhere = torch.ones_like(present)
    everywhere[0] = False
    changed: dict[str, Any] = {f"has_{modality}": everywhere}
    features: Tensor | None = getattr(catalog, f"{modality}_feat")
    if features is not None:
        changed[f"{modality}_feat"] = _mean_everywhere(features, present)
    if modality in catalog.layer_feat:
        layers = {**catalog.layer_feat, modality: _mean_everywhere(catalog.layer_feat[modality], present)}
        changed["layer_feat"] = layers
    return replace(catalog, **changed)


def _mean_everywhere(features: Tensor, present: Tensor) -> Tensor:
    """Return features [N+1, ...] whose rows 1..N are the mean of the rows that are present."""
    mean = features[present].mean(0, dtype=torch.float64).to(features.dtype)
    changed = mean.expand_as(features).clone()
    changed[0] = 0
    return changed


def history(newest: int) -> Intervention:
    """Let the model read the newest events of each history only; UsageError for none."""
    if newest < 1:
        raise UsageError(f"history={newest}: the newest 1 or more events are read")
    return Intervention(f"history={newest}", histories=lambda view: _newest(view, newest))


def _newest(view: TargetView, n: int) -> TargetView:
    lengths = np.diff(view.offsets)
    kept = np.minimum(lengths, n)
    chosen = ranges(view.offsets[1:] - kept, kept)
    dropped = lengths - kept
    return replace(
        view, items=view.items[chosen], times=view.times[chosen],
        offsets=np.concatenate([[0], np.cumsum(kept)]), train_len=np.maximum(view.train_len - dropped, 0),
    )  # fmt: skip
