"""The rows of a table: runs by data set, model and configuration, with distinct names."""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from mmbench.errors import counted
from mmbench.models.registry import entries
from mmbench.runs.plan import ENCODERS, FEATURE_CHANGES, RANKING_SETTINGS
from mmbench.runs.store import RunRecord
from mmbench.settings.config import CHOSEN, DELIBERATE, Origin, Setting, TrainConfig

RECIPE = "recipe"  # stands in a label for each data set's value
TUNED = "tuned"  # stands in a label for all values that a search found
MANY = 4  # so many settings that rows share are counted in their labels, "4 settings", and listed in a note


@dataclass(frozen=True)
class Group:
    """All runs of a model's configuration on a data set, by seed."""

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
    """The identity of a row across data sets: the model and its user's choices."""

    model: str
    choice: tuple[str, ...] = ()


class Label(NamedTuple):
    """What the name of a row says of its configuration.

    config  the settings that it is named by: "dropout=0.2, loss=ce, lr=0.001"
    short   what tables print of it: "loss=ce, 5 settings"
    listed  the settings that `short` only counts
    """

    config: str
    short: str
    listed: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: str) -> "Label":
        """Return a label that is printed as it is."""
        return cls(config, config)

    def of_row(self, name: str) -> str:
        """Return the name of a row of the model `name`."""
        return f"{name} [{self.short}]" if self.short else name


UNLABELLED = Label.of("")


def is_floor(model: str) -> bool:
    """Return whether the model's recipe is tagged "floor"; models that are no longer registered are not floors."""
    entry = entries().get(model.partition(":")[0])
    return entry is not None and "floor" in entry.recipe.tags


def group_runs(records: Sequence[RunRecord]) -> tuple[list[Group], list[str]]:
    """Return the groups of these runs, and a line about each repeated run, which counts once."""
    by_configuration: dict[tuple[str, str, str], dict[int, RunRecord]] = defaultdict(dict)
    repeated = []
    for record in records:
        runs = by_configuration[record.dataset, record.model, record.config_id]
        first = runs.setdefault(record.seed, record)
        if first is not record:
            same = f"the same run as {first.path} (seed {record.seed} of the same configuration)"
            repeated.append(f"{record.path} is {same}; it counts once")
    groups = [
        Group(*key, records=tuple(runs[seed] for seed in sorted(runs)))
        for key, runs in by_configuration.items()
    ]
    return groups, repeated


def row_keys(groups: Sequence[Group]) -> tuple[list[RowKey], dict[RowKey, Label]]:
    """Return the row of each group, and each row's label (empty when there is nothing to say).

    A label always has the settings that a user chose, and TUNED for those that a search chose; of what a declared
    experiment chose, it has what its rows differ in. Values of the recipe are in it only where rows differ in nothing
    else. Rows differ in settings in which a model's configurations differ on a data set, and in those that were chosen
    differently on different data sets.
    Values per data set, of a recipe or of searches, do not split a row. Rows of several data sets become a single row
    if their users chose the same values. Searches of a model that ended differently on a data set are told apart by
    their values.
    """
    keys: list[RowKey] = [RowKey("")] * len(groups)
    labels: dict[RowKey, Label] = {}
    for model in sorted({group.model for group in groups}):
        indices = [index for index, group in enumerate(groups) if group.model == model]
        members = [groups[index] for index in indices]
        stored = _settings(members)
        for tells_tuned, explicit in itertools.product((False, True), repeat=2):
            settings = stored if tells_tuned else [_without_tuned(values) for values in stored]
            names = _label_settings(members, settings)
            choices = _choices(names, settings, explicit=explicit)
            if _are_unique(members, choices):
                break
        else:  # the settings are equal: the difference is another version of code or features
            choices = [(*choice, group.config_id) for choice, group in zip(choices, members, strict=True)]
        for index, choice in zip(indices, choices, strict=True):
            keys[index] = RowKey(model, choice)
        labels |= _labels([keys[index] for index in indices], names, settings)
    return keys, labels


@dataclass(frozen=True)
class _Value:
    """A setting's value as text.

    deliberate  somebody set it for a run (and not the recipe, the protocol or a default)
    chosen      a user or a search set it, so that labels always have it
    tuned       a search set it, for all runs or some, and no user
    """

    text: str
    deliberate: bool = False
    chosen: bool = False
    tuned: bool = False

    @property
    def choice(self) -> str:
        return self.text if self.deliberate else RECIPE


def _settings(groups: Sequence[Group]) -> list[dict[str, _Value]]:
    """Return, per group of a model, the settings that decide its result.

    A model that is not trained ignores most of `TrainConfig`, although its values are stored. An encoder counts only
    if its features are read, under the name "text encoder".
    """
    runs = [run for group in groups for run in group.records]
    ignored = {*ENCODERS, *ignored_settings(runs)}
    read = sorted({modality for run in runs for modality in run.features})
    return [_group_settings(group, ignored, read) for group in groups]


def ignored_settings(runs: Iterable[RunRecord]) -> set[str]:
    """Return the settings of training that a model which is not trained ignores, although its runs store them."""
    if not any(run.stopped == "closed form" for run in runs):
        return set()
    return {parameter.name for parameter in fields(TrainConfig)} - {*RANKING_SETTINGS, *FEATURE_CHANGES}


def _group_settings(group: Group, ignored: Collection[str], read: Sequence[str]) -> dict[str, _Value]:
    first = group.records[0]
    stored = {key: _value(key, group) for key in first.settings}
    values = {key: value for key, value in stored.items() if key not in ignored}
    for modality in read:
        requested = stored.get(f"{modality}_encoder", _Value("auto"))
        if modality in first.features:
            encoder = first.features[modality].encoder
            values[f"{modality} encoder"] = _Value(encoder, requested.deliberate, requested.chosen)
        elif requested.text == "none" and requested.deliberate:
            values[f"{modality} encoder"] = requested
    return values


def _value(key: str, group: Group) -> _Value:
    """Return a setting of a configuration, whose runs have the same value, though not always of the same origin."""
    settings: list[Setting] = [run.settings[key] for run in group.records if key in run.settings]
    origins = {setting.origin for setting in settings}
    return _Value(
        _text(settings[0].value),
        deliberate=bool(origins & {*DELIBERATE}),
        chosen=bool(origins & {*CHOSEN}),
        tuned=Origin.tuned in origins and Origin.user not in origins,
    )


def _without_tuned(values: dict[str, _Value]) -> dict[str, _Value]:
    """Return the settings with a single one, TUNED, in place of all that a search chose."""
    others = {name: value for name, value in values.items() if not value.tuned}
    if len(others) == len(values):
        return values
    return {**others, TUNED: _Value(TUNED, deliberate=True, chosen=True)}


def _label_settings(groups: Sequence[Group], settings: Sequence[dict[str, _Value]]) -> list[str]:
    """Return the names of the settings that labels have (see `row_keys`)."""
    names = []
    for name in sorted({name for values in settings for name in values}):
        by_dataset: dict[str, set[str]] = defaultdict(set)
        for group, values in zip(groups, settings, strict=True):
            if name in values or TUNED not in values:
                by_dataset[group.dataset].add(values[name].text if name in values else "")
        choices = {values[name].choice if name in values else RECIPE for values in settings}
        texts = set().union(*by_dataset.values())
        if (
            any(values[name].chosen for values in settings if name in values)
            or any(len(values_seen) > 1 for values_seen in by_dataset.values())
            or (len(choices) > 1 and len(texts) > 1)
        ):
            names.append(name)
    return names


def _choices(
    names: Sequence[str], settings: Sequence[dict[str, _Value]], *, explicit: bool
) -> list[tuple[str, ...]]:
    """Return each group's texts of the settings; values that the recipe varies become RECIPE, unless `explicit`."""
    recipe_values: dict[str, set[str]] = {
        name: {values[name].text for values in settings if name in values and not values[name].deliberate}
        for name in names
    }

    def text(name: str, value: _Value | None) -> str:
        if value is None:
            return ""
        return value.text if explicit or len(recipe_values[name]) < 2 else value.choice

    return [tuple(text(name, values.get(name)) for name in names) for values in settings]


def _are_unique(groups: Sequence[Group], choices: Sequence[tuple[str, ...]]) -> bool:
    identities = [(group.dataset, choice) for group, choice in zip(groups, choices, strict=True)]
    return len(identities) == len(set(identities))


def _labels(
    keys: Sequence[RowKey], names: Sequence[str], settings: Sequence[dict[str, _Value]]
) -> dict[RowKey, Label]:
    """Return the label of each row of a model, of the key and the settings of each group.

    Values that nobody set for a run are left out, but where rows would then have the same label.
    """
    deliberate: dict[RowKey, set[str]] = defaultdict(set)
    for key, stored in zip(keys, settings, strict=True):
        deliberate[key] |= {name for name, value in stored.items() if value.deliberate}
    complete = {key: dict(zip(names, key.choice, strict=False)) for key in deliberate}
    told = {
        key: {name: text for name, text in complete[key].items() if text and name in names_told}
        for key, names_told in deliberate.items()
    }
    is_shared = Counter(_label(values) for values in told.values())
    together = _set_together(list(told.values()))
    labels = {}
    for key, values in told.items():
        config_ids = [f"config {config_id}" for config_id in key.choice[len(names) :]]
        if config_ids or is_shared[_label(values)] > 1:
            labels[key] = Label.of(_label(complete[key], config_ids))
        else:
            labels[key] = _counting(values, [name for name in together if name in values])
    return labels


def _counting(values: Mapping[str, str], names: Collection[str]) -> Label:
    """Return the label of a row's settings, of which some are only counted."""
    label = _label(values)
    if not names:
        return Label.of(label)
    others = {name: text for name, text in values.items() if name not in names}
    listed = tuple(f"{name}={values[name]}" for name in names)
    return Label(label, _label(others, [counted(len(names), "setting")]), listed)


def _set_together(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the names of the settings, MANY at least, that the same rows have, each with one value in all of them."""
    together: dict[tuple[bool, ...], list[str]] = defaultdict(list)
    for name in sorted({name for row in rows for name in row} - {TUNED}):
        if len({row[name] for row in rows if name in row}) == 1:
            together[tuple(name in row for row in rows)].append(name)
    most = max(together.values(), key=len, default=[])
    return most if len(most) >= MANY else []


def _label(values: Mapping[str, str], further: Sequence[str] = ()) -> str:
    """Return `tuned, dropout=0.2, lr=0.001` and what else is to be said, such as config ids."""
    shown = {name: text for name, text in values.items() if text}
    tuned = [TUNED] if shown.pop(TUNED, "") else []
    return ", ".join([*tuned, *(f"{name}={text}" for name, text in shown.items()), *further])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def row_names(records: Sequence[RunRecord]) -> dict[str, str]:
    """Return the display name of each model, including the variant, unique among these models."""
    names = {}
    for record in records:
        variant = record.model.partition(":")[2]
        display = record.display or record.model
        names[record.model] = f"{display}:{variant}" if variant and variant not in display else display
    shared = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {model: f"{name} ({model})" if name in shared else name for model, name in names.items()}


def names_of(groups: Sequence[Group]) -> list[str]:
    """Return the name of the row of each group as tables have it, with its settings."""
    keys, labels = row_keys(groups)
    names = row_names([record for group in groups for record in group.records])
    return [labels[key].of_row(names[key.model]) for key in keys]
