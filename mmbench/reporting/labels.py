"""Which rows a table has: runs by data set, model and configuration, with names that tell them apart."""

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

from mmbench.models.registry import entries
from mmbench.runs.plan import ENCODERS, RANKING_SETTINGS
from mmbench.runs.store import RunRecord
from mmbench.settings.config import CHOSEN, DELIBERATE, Setting, TrainConfig

RECIPE = "recipe"  # in a label: each data set's own value


@dataclass(frozen=True)
class Group:
    """All runs of one configuration of one model on one data set, by seed."""

    dataset: str
    model: str
    config_id: str
    records: tuple[RunRecord, ...]

    @property
    def finished(self) -> list[RunRecord]:
        return [record for record in self.records if record.status == "finished"]

    @property
    def failed(self) -> list[RunRecord]:
        return [record for record in self.records if record.status == "failed"]


@dataclass(frozen=True)
class RowKey:
    """Identity of a row across data sets: the model and what its user chose."""

    model: str
    choice: tuple[str, ...] = ()


def is_floor(model: str) -> bool:
    """Return whether the model's recipe calls it a floor; of a model that is no longer registered nothing is known."""
    entry = entries().get(model.partition(":")[0])
    return entry is not None and "floor" in entry.recipe.tags


def group_runs(records: Sequence[RunRecord]) -> tuple[list[Group], list[str]]:
    """Return the groups of these runs, and a text about each run that is given twice: a seed counts once."""
    by_configuration: dict[tuple[str, str, str], dict[int, RunRecord]] = defaultdict(dict)
    twice = []
    for record in records:
        runs = by_configuration[record.dataset, record.model, record.config_id]
        first = runs.setdefault(record.seed, record)
        if first is not record:
            same = f"the same run as {first.path} (seed {record.seed} of one configuration)"
            twice.append(f"{record.path} is {same}; it counts once")
    groups = [
        Group(*key, records=tuple(runs[seed] for seed in sorted(runs)))
        for key, runs in by_configuration.items()
    ]
    return groups, twice


def row_keys(groups: Sequence[Group]) -> tuple[list[RowKey], dict[RowKey, str]]:
    """Return the row of each group, and each row's `config` label ("" when there is nothing to tell).

    Settings that a user or a search chose always stand in the label. Besides them two kinds count: those in which
    configurations of one model differ on one data set, and those that were set otherwise on one data set than on
    another. A recipe's per-dataset values do not split a row. Rows of several data sets meet when their users chose
    the same values.
    """
    keys: list[RowKey] = [RowKey("")] * len(groups)
    labels: dict[RowKey, str] = {}
    for model in sorted({group.model for group in groups}):
        positions = [at for at, group in enumerate(groups) if group.model == model]
        members = [groups[at] for at in positions]
        settings = _settings(members)
        names = _told(members, settings)
        for explicit in (False, True):
            choices = _choices(names, settings, explicit=explicit)
            if _are_unique(members, choices):
                break
        else:  # the difference is not in the settings: another version of code or features
            choices = [(*choice, group.config_id) for choice, group in zip(choices, members, strict=True)]
        for at, choice in zip(positions, choices, strict=True):
            keys[at] = RowKey(model, choice)
            labels[keys[at]] = _label(names, choice)
    return keys, labels


@dataclass(frozen=True)
class _Value:
    """A setting's value as text.

    deliberate  somebody set it for a run (else recipe, protocol or default did)
    chosen      a user or a search did, so that it is always told
    """

    text: str
    deliberate: bool = False
    chosen: bool = False

    @property
    def choice(self) -> str:
        return self.text if self.deliberate else RECIPE


def _settings(groups: Sequence[Group]) -> list[dict[str, _Value]]:
    """Return per group of one model the values of the settings that decide its result.

    A model that is not trained ignores most of `TrainConfig`, whose values are stored all the same; and an
    encoder counts where its features are read, under the name "text encoder".
    """
    runs = [run for group in groups for run in group.records]
    ignored = set(ENCODERS)
    if any(run.stopped == "closed form" for run in runs):
        ignored |= {parameter.name for parameter in fields(TrainConfig)} - set(RANKING_SETTINGS)
    read = sorted({modality for run in runs for modality in run.features})
    return [_of_group(group, ignored, read) for group in groups]


def _of_group(group: Group, ignored: Collection[str], read: Sequence[str]) -> dict[str, _Value]:
    first = group.records[0]
    stored = {key: _value(key, group) for key in first.settings}
    values = {key: value for key, value in stored.items() if key not in ignored}
    for modality in read:
        asked = stored.get(f"{modality}_encoder", _Value("auto"))
        if modality in first.features:
            encoder = first.features[modality].encoder
            values[f"{modality} encoder"] = _Value(encoder, asked.deliberate, asked.chosen)
        elif asked.text == "none" and asked.deliberate:
            values[f"{modality} encoder"] = asked
    return values


def _value(key: str, group: Group) -> _Value:
    """Return a setting of a configuration; its runs have one value, though not always of one origin."""
    settings: list[Setting] = [run.settings[key] for run in group.records if key in run.settings]
    origins = {setting.origin for setting in settings}
    return _Value(_text(settings[0].value), bool(origins & {*DELIBERATE}), bool(origins & {*CHOSEN}))


def _told(groups: Sequence[Group], settings: Sequence[dict[str, _Value]]) -> list[str]:
    """Return the names of settings that labels tell, see `row_keys`."""
    names = []
    for name in sorted({name for values in settings for name in values}):
        by_dataset: dict[str, set[str]] = defaultdict(set)
        for group, values in zip(groups, settings, strict=True):
            by_dataset[group.dataset].add(values[name].text if name in values else "")
        choices = {values[name].choice if name in values else RECIPE for values in settings}
        texts = set().union(*by_dataset.values())
        if (
            any(values[name].chosen for values in settings if name in values)
            or any(len(seen) > 1 for seen in by_dataset.values())
            or (len(choices) > 1 and len(texts) > 1)
        ):
            names.append(name)
    return names


def _choices(
    names: Sequence[str], settings: Sequence[dict[str, _Value]], *, explicit: bool
) -> list[tuple[str, ...]]:
    """Return per group the text of each setting; RECIPE stands for values that the recipe varies, unless `explicit`."""
    of_recipe: dict[str, set[str]] = {
        name: {values[name].text for values in settings if name in values and not values[name].deliberate}
        for name in names
    }

    def text(name: str, value: _Value | None) -> str:
        if value is None:
            return ""
        return value.text if explicit or len(of_recipe[name]) < 2 else value.choice

    return [tuple(text(name, values.get(name)) for name in names) for values in settings]


def _are_unique(groups: Sequence[Group], choices: Sequence[tuple[str, ...]]) -> bool:
    places = [(group.dataset, choice) for group, choice in zip(groups, choices, strict=True)]
    return len(places) == len(set(places))


def _label(names: Sequence[str], choice: Sequence[str]) -> str:
    """Return `dropout=0.2, lr=0.001`; what stands behind the names is the config id."""
    parts = [f"{name}={text}" for name, text in zip(names, choice, strict=False) if text]
    return ", ".join([*parts, *(f"config {config_id}" for config_id in choice[len(names) :])])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def row_names(records: Sequence[RunRecord]) -> dict[str, str]:
    """Return the display name of each model, with the variant, unique among these models."""
    names = {}
    for record in records:
        variant = record.model.partition(":")[2]
        display = record.display or record.model
        names[record.model] = f"{display}:{variant}" if variant and variant not in display else display
    shared = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {model: f"{name} ({model})" if name in shared else name for model, name in names.items()}
