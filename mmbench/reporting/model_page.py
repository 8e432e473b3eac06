"""What a reader needs about a model, from its recipe and its classes; `mmbench show` prints it."""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from mmbench.models.entry import ModelEntry
from mmbench.paths import PACKAGE
from mmbench.settings.config import Layer, Origin, Setting, TrainConfig, defaults_of, resolve
from mmbench.settings.describe import legal_values
from mmbench.settings.recipe import Deviation, Paper, Searched
from mmbench.tuning.space import Kind, space_of


@dataclass(frozen=True)
class SettingRow:
    """A setting with its value. `of_model`: the model's, not of training; `may_be`: its legal values."""

    key: str
    of_model: bool
    setting: Setting
    may_be: str


@dataclass(frozen=True)
class VariantRow:
    """A variant: settings that differ from the model's as (before, after), None before an added setting."""

    name: str
    summary: str
    source: str
    model_class: str
    changes: dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class SearchRow:
    """What a search tries for a setting, and in which of the two spaces: of all trained models, of the recipe."""

    key: str
    searched: Searched
    spaces: tuple[Kind, ...]


@dataclass(frozen=True)
class ModelPage:
    """Everything that is known about a model or a variant. `dataset`: whose settings these are, "" for none.

    A variant's page lists no variants, and no published results: those are the model's.
    """

    name: str
    display: str
    summary: str
    dataset: str
    paper: Paper | None
    origin: str
    file: str
    model_class: str
    inputs: tuple[str, ...]
    tags: tuple[str, ...]
    is_trained: bool
    settings: tuple[SettingRow, ...]
    variants: tuple[VariantRow, ...]
    deviations: tuple[Deviation, ...]
    search: tuple[SearchRow, ...]
    reported: dict[str, dict[str, float]]
    reported_source: str
    commands: tuple[str, ...]


def page_of(entry: ModelEntry, *, dataset: str = "", protocol: Layer | None = None) -> ModelPage:
    """Return the page of a model or variant. `protocol` holds what the data set's protocol sets."""
    recipe, name = entry.recipe, f"{entry.name}:{entry.variant}" if entry.variant else entry.name
    variant = recipe.variants.get(entry.variant)
    return ModelPage(
        name=name,
        display=entry.display,
        summary=f"{recipe.summary}; {variant.summary}" if variant else recipe.summary,
        dataset=dataset,
        paper=recipe.paper,
        origin=entry.origin,
        file=_file_of(entry),
        model_class=entry.class_name,
        inputs=recipe.inputs,
        tags=recipe.tags,
        is_trained=entry.load().trainable,
        settings=tuple(_setting_rows(entry, dataset, protocol)),
        variants=tuple(_variant_rows(entry, dataset)),
        deviations=recipe.deviations,
        search=tuple(_search_rows(entry, dataset)),
        reported={} if variant else recipe.reported,
        reported_source="" if variant else recipe.reported_source,
        commands=tuple(_commands(entry, name, dataset or "demo")),
    )


def to_json(page: ModelPage) -> dict[str, Any]:
    """Return the page as JSON content."""
    return {
        **{key: value for key, value in vars(page).items() if isinstance(value, (str, bool, dict))},
        **{key: list(getattr(page, key)) for key in ("inputs", "tags", "commands")},
        "paper": page.paper.model_dump() if page.paper else None,
        "settings": [
            {"key": row.key, "of": "model" if row.of_model else "training", "may_be": row.may_be}
            | row.setting.to_json()
            for row in page.settings
        ],
        "variants": [
            {"name": row.name, "summary": row.summary, "source": row.source, "class": row.model_class}
            | {"changes": {key: {"from": old, "to": new} for key, (old, new) in row.changes.items()}}
            for row in page.variants
        ],
        "deviations": [deviation.model_dump() for deviation in page.deviations],
        "search": [
            {"key": row.key, "spaces": list(row.spaces)} | row.searched.model_dump(exclude_defaults=True)
            for row in page.search
        ],
    }


def _file_of(entry: ModelEntry) -> str:
    """Return the file of the model's class, relative to the project for models that ship with mmbench."""
    file = Path(inspect.getfile(entry.load())).resolve()
    return str(file.relative_to(PACKAGE.parent)) if file.is_relative_to(PACKAGE.parent) else str(file)


def _setting_rows(entry: ModelEntry, dataset: str, protocol: Layer | None) -> Iterable[SettingRow]:
    """Yield all settings, the model's first, each as a run on the data set would have it."""
    layers = [Layer(Origin.default, defaults_of(TrainConfig)), *([protocol] if protocol else [])]
    settings = resolve([*layers, *entry.layers(dataset)], known=entry.known_settings(), where=entry.name)
    of_model = entry.own_settings()
    for key in entry.known_settings():
        yield SettingRow(key, key in of_model, settings[key], legal_values(entry.class_of(key), key))


def _variant_rows(entry: ModelEntry, dataset: str) -> Iterable[VariantRow]:
    """Yield the variants of the model with what each changes; a page of a variant has none."""
    model, *variants = entry.variants()
    if entry.variant:
        return
    before = model.values(dataset)
    for variant in variants:
        recipe, after = entry.recipe.variants[variant.variant], variant.values(dataset)
        changes = {
            key: (before.get(key), value)
            for key, value in after.items()
            if key not in before or before[key] != value
        }
        name = f"{entry.name}:{variant.variant}"
        yield VariantRow(name, recipe.summary, recipe.source, recipe.model_class, changes)


def _search_rows(entry: ModelEntry, dataset: str) -> Iterable[SearchRow]:
    """Yield what the search spaces hold; a setting that both search in the same way has a single row."""
    spaces = {kind: space_of(entry, kind, dataset=dataset) for kind in get_args(Kind)}
    for key in dict.fromkeys(key for space in spaces.values() for key in space):
        searched = {kind: space[key].searched for kind, space in spaces.items() if key in space}
        if len(searched) == len(spaces) and len({str(tried) for tried in searched.values()}) == 1:
            yield SearchRow(key, searched["recipe"], tuple(searched))
        else:
            yield from (SearchRow(key, tried, (kind,)) for kind, tried in searched.items())


def _commands(entry: ModelEntry, name: str, dataset: str) -> Iterable[str]:
    """Yield the commands that lead to a run of the model."""
    yield f"mmbench prepare {dataset}"
    if entry.load().reads_layers:
        yield (
            f"mmbench extract {dataset} --text bert-base-uncased+layers --image vit-base-patch16-224+layers"
        )
    elif {"text", "image"} & set(entry.recipe.inputs):
        yield f"mmbench extract {dataset}"
    yield f"mmbench run {name} --dataset {dataset}" + (" --seeds 3" if not entry.load().deterministic else "")
