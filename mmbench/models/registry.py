"""Registry of models by name: recipes from the folders of models and from installed packages."""

import inspect
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from mmbench import plugins
from mmbench.errors import UsageError, nearest, suggest
from mmbench.models.entry import ModelEntry, shipped_dirs, values_of
from mmbench.paths import NEW_MODELS, split_paths
from mmbench.settings.config import TrainConfig, check_keys, check_value, defaults_of
from mmbench.settings.recipe import read_recipe

EXTERNAL = "external-"  # begins the names of other programs, whose lists `mmbench score` stored


def model_dirs() -> list[Path]:
    """Return the folders of models: the package's, the baselines, the user's (`--models-dir`, `MMBENCH_MODELS`)."""
    users = split_paths(os.environ.get("MMBENCH_MODELS", ""))
    for folder in users:
        if not folder.is_dir():
            raise UsageError(f"model folder {folder} does not exist")
    return [*shipped_dirs(), *users]


def entries_with(folder: Path) -> dict[str, ModelEntry]:
    """Return the registered models and those of a folder, read again; folders that do not exist have none."""
    users = [*split_paths(os.environ.get("MMBENCH_MODELS", "")), folder]
    existing = {user.resolve(): user for user in users if user.is_dir()}
    known = _read_dirs.__wrapped__((*shipped_dirs(), *existing.values()))
    return {**known, **_plugged_beside(known).members}


@cache
def _read_dirs(dirs: tuple[Path, ...]) -> dict[str, ModelEntry]:
    """Return the models of some folders by name."""
    known: dict[str, ModelEntry] = {}
    for file in (file for folder in dirs for file in sorted(folder.glob("*.toml"))):
        entry = ModelEntry(recipe=read_recipe(file), file=file.with_suffix(".py"))
        if entry.name in known:
            raise UsageError(f"{file}: model {entry.name!r} is already defined by {known[entry.name].file}")
        known[entry.name] = entry
    return known


@cache
def _plugged(dirs: tuple[Path, ...], search_path: tuple[str, ...]) -> plugins.Plugged[ModelEntry]:
    """Return the models of the packages that are installed on a search path, beside those of some folders."""
    return _plugged_beside(_read_dirs(dirs))


def _plugged_beside(known: Mapping[str, ModelEntry]) -> plugins.Plugged[ModelEntry]:
    """Return the models of installed packages beside known ones, whose names are taken."""
    return plugins.merge("models", "model", _models_of, {name: entry.origin for name, entry in known.items()})


def _models_of(plugin: plugins.Plugin) -> dict[str, ModelEntry]:
    """Return the models of an installed package, from the recipes in its folder."""
    entries = [
        ModelEntry(read_recipe(file), file.with_suffix(".py"), plugin=plugin)
        for file in sorted(plugin.folder().glob("*.toml"))
    ]
    if not entries:
        raise UsageError(f"{plugin.folder()} holds no recipe (NAME.toml); see docs/plugins.md")
    return {entry.name: entry for entry in entries}


def plugged() -> plugins.Plugged[ModelEntry]:
    """Return the models of installed packages, and what of theirs is left out."""
    return _plugged(tuple(model_dirs()), tuple(sys.path))


def entries() -> dict[str, ModelEntry]:
    """Return all registered models by name: those of folders, then those of installed packages."""
    return {**_read_dirs(tuple(model_dirs())), **plugged().members}


def all_names(*, variants: bool = True) -> list[str]:
    """Return every name that a command accepts as a model, in registry order."""
    names: list[str] = []
    for name, entry in entries().items():
        names.append(name)
        if variants:
            names += [f"{name}:{variant}" for variant in entry.recipe.variants]
    return names


def find(name: str) -> ModelEntry:
    """Return the entry of a model or of a variant (`hm4sr:-tmoe`).

    Raises UsageError for an unknown name, with the nearest known name.
    """
    model, colon, variant = name.partition(":")
    known = entries()
    if model not in known and model.startswith(EXTERNAL):
        raise UsageError(
            f"{name} is another program's lists (mmbench score): they can be reported, bundled and compared, but not "
            "ranked or trained again"
        )
    if model not in known:
        plugged().check(model)
        if hint := _own_file(model):
            raise UsageError(f"unknown model {name!r}; {hint}")
        names = all_names() if variant else known
        text = suggest(name, names, what="model") if nearest(name, names) else (
            f"unknown model {name!r}; mmbench models lists all, --models-dir FOLDER adds your own"
        )  # fmt: skip
        raise UsageError(f"{text}{plugged().hint()}")
    entry = known[model]
    if colon and not variant:
        raise UsageError(
            f"{name!r} names no variant; write {model}, or {model}:VARIANT (see: mmbench show {model})"
        )
    if variant and variant not in entry.recipe.variants:
        names = [f"{model}:{known_variant}" for known_variant in entry.recipe.variants]
        raise UsageError(suggest(name, names, what="variant"))
    return replace(entry, variant=variant)


def _own_file(model: str) -> str:
    """Return where files of the user's hold a model of this name, and what is missing; "" where none does."""
    stem = model.replace("-", "_")
    for folder in model_dirs():
        code, recipe = folder / f"{stem}.py", folder / f"{stem}.toml"
        if folder not in shipped_dirs() and code.is_file() and not recipe.is_file():
            return f"{code} has no recipe {recipe.name} beside it"
    recipe = NEW_MODELS / f"{stem}.toml"
    return f"{recipe} may be it: add --models-dir {NEW_MODELS}" if recipe.is_file() else ""


def canonical(name: str) -> str:
    """Return the registered name of a model that is written in other case or as tables call it: `SASRec` -> `sasrec`.

    UsageError for an unknown name, as `find`.
    """
    model, colon, variant = name.partition(":")
    known = entries()
    if model not in known:
        folded = {entry.recipe.display.casefold(): key for key, entry in known.items()}
        folded |= {key.casefold(): key for key in known}
        model = folded.get(model.casefold(), model)
    entry = known.get(model)
    if entry is not None and variant and variant not in entry.recipe.variants:
        same = [key for key in entry.recipe.variants if key.casefold() == variant.casefold()]
        variant = same[0] if len(same) == 1 else variant
    find(f"{model}{colon}{variant}" if entry is not None else name)
    return f"{model}{colon}{variant}"


def check_recipe(entry: ModelEntry) -> None:
    """Raise UsageError for a recipe that does not fit its model.

    It must not have a key that is not a setting, nor a value that its setting refuses, and every setting must have its
    value either in the recipe or in the class of the settings.
    """
    recipe, file = entry.recipe, entry.file.with_suffix(".toml")
    _check_table(entry, values_of(recipe.settings), where=f"{file} [settings]")
    _check_stated_once(entry, where=f"{file} [settings]")
    for name, table in recipe.dataset.items():
        _check_table(entry, values_of(table), where=f"{file} [dataset.{name}]")
    for variant in entry.variants():
        if variant.variant:
            settings = recipe.variants[variant.variant].settings
            _check_table(variant, settings, where=f"{file} [variants.{variant.variant}]")
    _check_search(entry, where=f"{file} [search]")


def _check_table(entry: ModelEntry, values: Mapping[str, Any], *, where: str) -> None:
    check_keys(values, entry.known_settings(), where=where)
    settings, settings_class = entry.own_settings(), entry.config_class()
    for key, value in values.items():
        check_value(settings_class if key in settings else TrainConfig, key, value, where=where)


def _check_stated_once(entry: ModelEntry, *, where: str) -> None:
    """Raise UsageError for a setting of the model whose value is stated twice or never.

    A default that the class inherits from mmbench serves many models (`mmbench.models.next_item.Sampling`), so a recipe
    may repeat it with its source.
    """
    for variant in entry.variants():
        cls, stated = variant.config_class(), variant.values("")
        defaults = defaults_of(cls)
        declared = {
            key
            for base in cls.__mro__
            if base.__module__ == cls.__module__
            for key in inspect.get_annotations(base)
        }
        for key in variant.own_settings():
            if key in defaults and key in declared and key in entry.recipe.settings:
                raise UsageError(f"{where}: {key} has a value in {cls.__name__} too; remove it here or there")
            if key not in stated:
                raise UsageError(
                    f"{where}: {key} has no value; state it here, or as the default in {cls.__name__}"
                )


def _check_search(entry: ModelEntry, *, where: str) -> None:
    """Raise UsageError unless the search covers legal values of known settings, the recipe's values among them."""
    stated = entry.values("")
    check_keys(entry.recipe.search, entry.known_settings(), where=where)
    for key, searched in entry.recipe.search.items():
        ends = [value for value in (searched.low, searched.high, searched.step) if value is not None]
        for value in searched.points or ends:
            check_value(entry.class_of(key), key, value, where=where)
        try:
            if key in stated:
                searched.including(stated[key])
        except (ValueError, TypeError) as error:
            raise UsageError(f"{where}: {key}: {error}") from None
