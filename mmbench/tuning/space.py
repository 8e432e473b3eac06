"""Which settings of a model a search tries, and which values."""

from dataclasses import dataclass
from typing import Any, Literal

from mmbench.models.registry import ModelEntry
from mmbench.settings.config import check_value
from mmbench.settings.recipe import Searched

_SOURCE = "decision: the same for all trained models"
# So that no model gets a larger space by accident.
SHARED = {
    "lr": Searched(values=(3e-4, 1e-3, 3e-3), source=_SOURCE),
    "dropout": Searched(values=(0.1, 0.3, 0.5), source=_SOURCE),
    "weight_decay": Searched(values=(0.0, 1e-6, 1e-4), source=_SOURCE),
}
Kind = Literal["shared", "recipe"]


@dataclass(frozen=True)
class Dimension:
    """One searched setting.

    own       the value that the recipe gives the setting: the first trial's
    searched  what is tried, `own` among it
    """

    key: str
    own: Any
    searched: Searched

    @property
    def is_integer(self) -> bool:
        """True where a range means its whole numbers only."""
        return isinstance(self.own, int) and not isinstance(self.own, bool)


def space_of(entry: ModelEntry, kind: Kind = "shared", *, dataset: str = "") -> dict[str, Dimension]:
    """Return the search space of a model or variant on a data set, by setting.

    "recipe" is the recipe's [search] alone. In "shared" the part for all trained models replaces the recipe's lists
    of its keys; a model that has no setting of such a name, or that is not trained, goes without.
    Each dimension holds the recipe's own value on the data set, that of [dataset.<name>] and of the variant included.
    """
    searched = dict(entry.recipe.search)
    if kind == "shared" and entry.load().trainable:
        known = entry.known_settings()
        searched |= {key: shared for key, shared in SHARED.items() if key in known}
    values = entry.values(dataset)
    own = {key: check_value(entry.class_of(key), key, values[key], where=entry.name) for key in searched}
    return {key: Dimension(key, own[key], tried.including(own[key])) for key, tried in searched.items()}
