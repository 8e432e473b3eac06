"""Which rows a table has: runs by data set, model and configuration, with names that tell them apart."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmbench.registry import entries
from mmbench.results import RunRecord


@dataclass(frozen=True)
class Group:
    """All runs of one configuration of one model on one data set, by seed."""

    dataset: str
    model: str
    config_id: str
    records: tuple[RunRecord, ...]

    @property
    def finished(self) -> list[RunRecord]:
        return [one for one in self.records if one.status == "finished"]

    @property
    def failed(self) -> list[RunRecord]:
        return [one for one in self.records if one.status == "failed"]


@dataclass(frozen=True)
class RowKey:
    """Identity of a row across data sets: the model and what its user chose."""

    model: str
    choice: tuple[str, ...] = ()


def is_floor(model: str) -> bool:
    """Whether the model's recipe calls it a floor; results of a model that is no longer there are not."""
    entry = entries().get(model.partition(":")[0])
    return entry is not None and "floor" in entry.recipe.tags


def group_runs(records: Sequence[RunRecord]) -> list[Group]:
    found: dict[tuple[str, str, str], list[RunRecord]] = defaultdict(list)
    for one in records:
        found[one.dataset, one.model, one.config_id].append(one)
    return [Group(*key, records=tuple(sorted(runs, key=lambda one: one.seed))) for key, runs in found.items()]


def row_keys(groups: Sequence[Group]) -> tuple[list[RowKey], dict[RowKey, str]]:
    """The row of each group, and each row's `config` label ("" when the model has one configuration).

    Only settings in which configurations of one model differ on one data set count: a recipe's per-dataset
    values do not split a row. Rows of several data sets meet when their user chose the same values.
    """
    keys: list[RowKey] = [RowKey("")] * len(groups)
    labels: dict[RowKey, str] = {}
    for model in sorted({one.model for one in groups}):
        own = [at for at, one in enumerate(groups) if one.model == model]
        settings = {at: _settings(groups[at]) for at in own}
        names = _differing([groups[at] for at in own], [settings[at] for at in own])
        for explicit in (False, True):
            found = {
                at: tuple(_choice(settings[at].get(name), explicit=explicit) for name in names) for at in own
            }
            if _unique(groups, found):
                break
        else:  # the difference is not in the settings: another version of code or features
            found = {at: (*found[at], groups[at].config_id) for at in own}
        for at in own:
            keys[at] = RowKey(model, found[at])
        for choice in set(found.values()):
            members = [settings[at] for at in own if found[at] == choice]
            labels[RowKey(model, choice)] = _label(names, members, choice[len(names) :])
    return keys, labels


def _settings(group: Group) -> dict[str, tuple[Any, bool]]:
    """Setting -> (value, whether the user chose it); encoders count as settings."""
    record = group.records[0]
    found = {
        key: (one.get("value"), str(one.get("source", "")).startswith("--"))
        for key, one in record.settings.items()
    }
    for modality, feature in record.features.items():
        found[f"{modality} encoder"] = (feature.get("encoder"), False)
    return found


def _differing(groups: Sequence[Group], settings: Sequence[dict[str, tuple[Any, bool]]]) -> list[str]:
    """Names of settings with more than one value among the configurations of one data set."""
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    names = {name for one in settings for name in one}
    for group, one in zip(groups, settings, strict=True):
        for name in names:
            values[group.dataset, name].add(_text(one[name][0]) if name in one else "")
    return sorted({name for (_, name), seen in values.items() if len(seen) > 1})


def _choice(setting: tuple[Any, bool] | None, *, explicit: bool) -> str:
    if setting is None:
        return ""
    value, chosen = setting
    return _text(value) if chosen or explicit else "recipe"


def _unique(groups: Sequence[Group], found: dict[int, tuple[str, ...]]) -> bool:
    places = [(groups[at].dataset, choice) for at, choice in found.items()]
    return len(places) == len(set(places))


def _label(names: Sequence[str], members: Sequence[dict[str, tuple[Any, bool]]], rest: Sequence[str]) -> str:
    """`dropout=0.2, lr=0.001`; a value that the recipe varies between data sets is called `recipe`."""
    parts = []
    for name in names:
        values = {_text(one[name][0]) for one in members if name in one}
        if values:
            parts.append(f"{name}={values.pop() if len(values) == 1 else 'recipe'}")
    return ", ".join([*parts, *(f"config {one}" for one in rest)])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def row_names(records: Sequence[RunRecord]) -> dict[str, str]:
    """Model -> display name, with the variant, unique among these models."""
    found = {}
    for one in records:
        variant = one.model.partition(":")[2]
        display = one.display or one.model
        found[one.model] = f"{display}:{variant}" if variant and variant not in display else display
    shared = {name for name in found.values() if list(found.values()).count(name) > 1}
    return {model: f"{name} ({model})" if name in shared else name for model, name in found.items()}
