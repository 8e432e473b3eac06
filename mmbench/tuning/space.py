"""Which settings of a model a search tries, and which values."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from mmbench.errors import UsageError
from mmbench.explain import read_toml
from mmbench.faults import first_fault, unknown_key
from mmbench.models.entry import ModelEntry
from mmbench.settings.config import check_value
from mmbench.settings.recipe import Searched

_SOURCE = "decision: the same for all trained models"
# So that no model gets a larger space by accident.
SHARED = {
    "lr": Searched(values=(3e-4, 1e-3, 3e-3), source=_SOURCE),
    "dropout": Searched(values=(0.1, 0.3, 0.5), source=_SOURCE),
    "weight_decay": Searched(values=(0.0, 1e-6, 1e-4), source=_SOURCE),
}
USERS_SOURCE = "decision: the user's"
Kind = Literal["shared", "recipe", "listed"]


@dataclass(frozen=True)
class Dimension:
    """A searched setting.

    recipe_value  the value that the recipe gives the setting: the first trial's
    searched      what is tried, `recipe_value` included
    """

    key: str
    recipe_value: Any
    searched: Searched

    @property
    def is_integer(self) -> bool:
        """Return whether a range means its whole numbers only."""
        return isinstance(self.recipe_value, int) and not isinstance(self.recipe_value, bool)


def space_of(entry: ModelEntry, kind: Kind = "shared", *, dataset: str = "") -> dict[str, Dimension]:
    """Return the search space of a model or variant on a data set, by setting.

    "recipe" is the recipe's [search] alone, "listed" is empty: the user lists what is searched. In "shared" the part
    for all trained models replaces the recipe's lists of its keys; a model that has no setting of such a name, or that
    is not trained, goes without. Each dimension holds the recipe's value on the data set, with [dataset.<name>] and the
    variant applied.
    """
    searched = {} if kind == "listed" else dict(entry.recipe.search)
    if kind == "shared" and entry.load().trainable:
        known = entry.known_settings()
        searched |= {key: shared for key, shared in SHARED.items() if key in known}
    values = entry.values(dataset)
    return {
        key: checked_dimension(entry, key, tried, values[key], where=entry.name)
        for key, tried in searched.items()
    }


# -- what the user lists ----------------------------------------------------------------------------------


def as_searched(key: str, content: Any, *, where: str) -> Searched:
    """Return a list of values, or a table as in a recipe's [search], as what a search tries; its source may be absent.

    UsageError for what is neither, and for a list without values or with a value twice.
    """
    if isinstance(content, Searched):
        return content
    table = {"values": list(content)} if isinstance(content, list | tuple) else content
    table = {"source": USERS_SOURCE, **table} if isinstance(table, Mapping) else table
    try:
        return Searched.model_validate(table)
    except ValidationError as error:
        fault = first_fault(error, table)
        if fault.kind == "unknown":
            raise UsageError(f"{where}: {key}.{fault.where}: {unknown_key(fault, Searched)}") from None
        raise UsageError(f"{where}: {fault.sentence(inside=key)}") from None


def checked_dimension(
    entry: ModelEntry, key: str, searched: Searched, recipe_value: Any, *, where: str
) -> Dimension:
    """Return a dimension of values that the setting can have, as JSON holds them; UsageError for others.

    A real setting has 0.0 also where 0 is written, so that the recipe's value is found among those listed.
    """

    def checked(value: Any) -> Any:
        return json.loads(json.dumps(check_value(entry.class_of(key), key, value, where=where)))

    try:
        if searched.values is not None:
            searched = Searched(values=tuple(map(checked, searched.values)), source=searched.source)
        for end in (searched.low, searched.high, searched.step):
            if end is not None:
                checked(end)
        recipe_value = checked(recipe_value)
        return Dimension(key, recipe_value, searched.including(recipe_value))
    except ValidationError as error:
        raise UsageError(f"{where}: {first_fault(error, None).sentence(inside=key)}") from None
    except ValueError as error:
        raise UsageError(f"{where}: {key}: {error}") from None


def read_space_file(file: Path) -> dict[str, Searched]:
    """Return what a file searches, by "KEY" for every model that has the setting and by "MODEL.KEY".

    The file is TOML: a table [search], and a table [model.NAME] for what is searched for a model or variant.
    UsageError for a file that cannot be read, another table, and a table that is not a search.
    """
    where = f"--space {file}"
    content = read_toml(file, called=where)
    models = content.pop("model", {})
    tables = {"": content.pop("search", {}), **(models if isinstance(models, dict) else {"": models})}
    if content or not all(isinstance(table, dict) for table in tables.values()):
        names = ", ".join(content) or "search or model"
        raise UsageError(f"{where}: {names}: a space has the tables [search] and [model.NAME] only")
    searches = {
        f"{model}.{key}" if model else key: as_searched(key, tried, where=where)
        for model, table in tables.items()
        for key, tried in table.items()
    }
    if not searches:
        raise UsageError(f"{where} searches nothing; list settings in [search], such as lr = [0.001, 0.003]")
    return searches
