"""Which rows a table has: runs by data set, model and configuration, with names that tell them apart."""

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

from mmbench.models.registry import entries
from mmbench.runs.plan import ENCODERS, LATER_SETTINGS, RANKING_SETTINGS
from mmbench.runs.store import RunRecord
from mmbench.settings.config import TrainConfig

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

    Two kinds of settings count: those in which configurations of one model differ on one data set, and those
    that the user chose otherwise on one data set than on another. A recipe's per-dataset values do not split a
    row. Rows of several data sets meet when their user chose the same values.
    """
    keys: list[RowKey] = [RowKey("")] * len(groups)
    labels: dict[RowKey, str] = {}
    for model in sorted({one.model for one in groups}):
        own = [at for at, one in enumerate(groups) if one.model == model]
        members = [groups[at] for at in own]
        settings = _settings(members)
        names = _differing(members, settings)
        for explicit in (False, True):
            found = _choices(names, settings, explicit=explicit)
            if _unique(members, found):
                break
        else:  # the difference is not in the settings: another version of code or features
            found = [(*choice, group.config_id) for choice, group in zip(found, members, strict=True)]
        for at, choice in zip(own, found, strict=True):
            keys[at] = RowKey(model, choice)
            labels[keys[at]] = _label(names, choice)
    return keys, labels


@dataclass(frozen=True)
class _Value:
    """A setting's value as text, and whether the user chose it (else recipe, protocol or default did)."""

    text: str
    chosen: bool

    @property
    def choice(self) -> str:
        return self.text if self.chosen else RECIPE


def _settings(groups: Sequence[Group]) -> list[dict[str, _Value]]:
    """Per group of one model: setting -> value, of the settings that decide its result.

    A model that is not trained ignores most of `TrainConfig`, whose values are stored all the same; and an
    encoder counts where its features are read, under the name "text encoder".
    """
    runs = [run for group in groups for run in group.records]
    ignored = set(ENCODERS)
    if any(run.stopped == "closed form" for run in runs):
        ignored |= {one.name for one in fields(TrainConfig)} - set(RANKING_SETTINGS)
    read = sorted({modality for run in runs for modality in run.features})
    return [_of_record(group.records[0], ignored, read) for group in groups]


def _of_record(record: RunRecord, ignored: Collection[str], read: Sequence[str]) -> dict[str, _Value]:
    later = {key: {"value": value} for key, value in LATER_SETTINGS.items()}  # older records lack them
    stored = {
        key: _Value(_text(one.get("value")), str(one.get("source", "")).startswith("--"))
        for key, one in {**later, **record.settings}.items()
    }
    found = {key: one for key, one in stored.items() if key not in ignored}
    for modality in read:
        asked = stored.get(f"{modality}_encoder", _Value("auto", False))
        if modality in record.features:
            name = _text(record.features[modality].get("encoder"))
            found[f"{modality} encoder"] = _Value(name, asked.chosen)
        elif asked == _Value("none", True):
            found[f"{modality} encoder"] = asked
    return found


def _differing(groups: Sequence[Group], settings: Sequence[dict[str, _Value]]) -> list[str]:
    """Names of settings with several values on one data set, or with several values and several choices."""
    found = []
    for name in sorted({name for one in settings for name in one}):
        by_dataset: dict[str, set[str]] = defaultdict(set)
        for group, one in zip(groups, settings, strict=True):
            by_dataset[group.dataset].add(one[name].text if name in one else "")
        choices = {one[name].choice if name in one else RECIPE for one in settings}
        values = set().union(*by_dataset.values())
        if any(len(seen) > 1 for seen in by_dataset.values()) or (len(choices) > 1 and len(values) > 1):
            found.append(name)
    return found


def _choices(
    names: Sequence[str], settings: Sequence[dict[str, _Value]], *, explicit: bool
) -> list[tuple[str, ...]]:
    """Per group the text of each setting; RECIPE stands for values that the recipe varies, unless `explicit`."""
    own: dict[str, set[str]] = {
        name: {one[name].text for one in settings if name in one and not one[name].chosen} for name in names
    }

    def text(name: str, value: _Value | None) -> str:
        if value is None:
            return ""
        return value.text if explicit or len(own[name]) < 2 else value.choice

    return [tuple(text(name, one.get(name)) for name in names) for one in settings]


def _unique(groups: Sequence[Group], found: Sequence[tuple[str, ...]]) -> bool:
    places = [(group.dataset, choice) for group, choice in zip(groups, found, strict=True)]
    return len(places) == len(set(places))


def _label(names: Sequence[str], choice: Sequence[str]) -> str:
    """`dropout=0.2, lr=0.001`; what stands behind the names is the config id."""
    parts = [f"{name}={text}" for name, text in zip(names, choice, strict=False) if text]
    return ", ".join([*parts, *(f"config {one}" for one in choice[len(names) :])])


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
