"""Registry of models by name: a recipe and a class, read from the model folders; code is imported when it is needed."""

import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_args

from mmbench.atomic import hash_json
from mmbench.errors import FAILURES, UsageError, suggest
from mmbench.explain import explain
from mmbench.paths import PACKAGE, baselines_dir, split_paths
from mmbench.settings.config import Layer, Origin, TrainConfig, build, check_keys, check_value, defaults_of
from mmbench.settings.recipe import Recipe, Sourced, read_recipe

if TYPE_CHECKING:
    from mmbench.models.base import Recommender


EXTERNAL = "external-"  # begins the names of other programs, whose lists `mmbench score` stored


@dataclass(frozen=True)
class ModelEntry:
    """A registered model, or a variant of it: its recipe and the file beside it."""

    recipe: Recipe
    file: Path  # <name>.py
    variant: str = ""

    @property
    def name(self) -> str:
        """Return the model's name, without a variant."""
        return self.recipe.name

    @property
    def display(self) -> str:
        """Return the name that tables print."""
        return f"{self.recipe.display}:{self.variant}" if self.variant else self.recipe.display

    @property
    def class_name(self) -> str:
        """Return the name of the class that the recipe has for the variant, or else for the model."""
        of_variant = self.recipe.variants[self.variant].model_class if self.variant else ""
        return of_variant or self.recipe.model_class

    def load(self) -> "type[Recommender[Any]]":
        """Import the model file and return its class.

        A class of a variant is in <name>_released.py or in the model's file.
        """
        files = [self.file]
        if self.class_name != self.recipe.model_class:
            released = self.file.with_name(f"{self.file.stem}_released.py")
            files = [released, self.file] if released.is_file() else files
        for file in files:
            module = _import_file(file)
            if hasattr(module, self.class_name):
                return _checked_class(getattr(module, self.class_name), file, self.class_name)
        searched = " or ".join(str(file) for file in files)
        raise UsageError(
            f"{searched}: no class {self.class_name}; write it, or correct `class` in the recipe"
        )

    def own_code(self) -> str:
        """Return a hash of the Python files beside a model of the user's; "" for models that ship with mmbench."""
        if self.file.parent in shipped_dirs():
            return ""
        files = self.file.parent.glob("*.py")
        return hash_json({file.name: sha256(file.read_bytes()).hexdigest() for file in files})[:16]

    def config_class(self) -> type:
        """Return the class of the settings: the annotation of `config` in the model's class, or the type argument of
        `Recommender[...]` in it or in a base."""
        for cls in self.load().__mro__:
            named = [inspect.get_annotations(cls, eval_str=True).get("config")]
            named += [
                argument for base in cls.__dict__.get("__orig_bases__", ()) for argument in get_args(base)
            ]
            for argument in named:
                if isinstance(argument, type) and is_dataclass(argument):
                    return argument
        raise UsageError(
            f"{self.file}: write class {self.class_name}(Recommender[YourConfig]) with a dataclass"
        )

    def own_settings(self) -> list[str]:
        """Return the keys of the model's own settings; those that many models inherit (of losses) come last."""
        cls = self.config_class()
        names = [parameter.name for parameter in fields(cls)]
        declared = inspect.get_annotations(cls)
        return sorted(names, key=lambda name: name not in declared)

    def known_settings(self) -> list[str]:
        """Return the keys that the model takes: its own and those of training, which must not overlap."""
        settings, shared = self.own_settings(), [parameter.name for parameter in fields(TrainConfig)]
        both = set(settings) & set(shared)
        if both:
            raise UsageError(
                f"{self.file}: {sorted(both)} are training settings too; rename them in the model"
            )
        return settings + shared

    def unread_settings(self) -> set[str]:
        """Return the settings of modalities that the recipe's inputs do not name."""
        unread = {"text", "image"} - {*self.recipe.inputs}
        return {f"{modality}_{setting}" for modality in unread for setting in ("encoder", "features")}

    def class_of(self, key: str) -> type:
        """Return the class that has the setting: that of the model's settings, or TrainConfig."""
        return self.config_class() if key in self.own_settings() else TrainConfig

    def values(self, dataset: str) -> dict[str, Any]:
        """Return the value of each setting on a data set, before the protocol's and the user's settings."""
        layers = [Layer(Origin.default, defaults_of(TrainConfig)), *self.layers(dataset)]
        return {key: value for layer in layers for key, value in layer.values.items()}

    def config(self, dataset: str = "", **settings: Any) -> Any:
        """Return the model's configuration on a data set, with some of its own settings replaced."""
        settings_of_model = self.own_settings()
        values = {key: value for key, value in self.values(dataset).items() if key in settings_of_model}
        return build(self.config_class(), values | settings, where=self.name)

    def layers(self, dataset: str) -> list[Layer]:
        """Return the recipe's layers of settings for a data set, weakest first."""
        recipe = self.recipe
        layers = [
            Layer(Origin.default, defaults_of(self.config_class())),
            _sourced(Origin.recipe, recipe.settings),
        ]
        base = dataset.split("@")[0]
        if base in recipe.dataset:
            layers.append(_sourced(Origin.dataset, recipe.dataset[base], base))
        if self.variant:
            layers.append(Layer(Origin.variant, dict(recipe.variants[self.variant].settings), self.variant))
        return layers

    def variants(self) -> list["ModelEntry"]:
        """Return the model without a variant, and each of its variants."""
        return [replace(self, variant=variant) for variant in ("", *self.recipe.variants)]


def _sourced(origin: Origin, table: Mapping[str, Sourced], note: str = "") -> Layer:
    """Return a table of a recipe as a layer whose notes are the recipe's sources."""
    return Layer(origin, _values(table), note, {key: setting.source for key, setting in table.items()})


def _checked_class(value: Any, file: Path, name: str) -> "type[Recommender[Any]]":
    """Return what a model file calls by a class's name, if it is a model; UsageError for anything else."""
    from mmbench.models.base import Recommender

    if isinstance(value, type) and issubclass(value, Recommender):
        return value
    what = (
        "a class of something else"
        if isinstance(value, type)
        else f"of type {type(value).__name__}, not a class"
    )
    raise UsageError(f"{file}: {name} is {what}; write class {name}(Recommender[YourConfig])")


def _import_file(file: Path) -> Any:
    """Import a model file once, as part of mmbench if it lies there, else as part of a package made of its folder.

    Thus a model file can import its neighbours: `from .other import Other`.
    """
    if file.parent == PACKAGE / "models":
        return importlib.import_module(f"mmbench.models.{file.stem}")
    if not file.is_file():
        raise UsageError(
            f"{file.with_suffix('.toml')} has no {file.name} beside it; write it, or move the recipe"
        )
    try:
        return importlib.import_module(f"{_package_of(file.parent.resolve())}.{file.stem}")
    except FAILURES as error:
        raise UsageError(f"{file}: cannot be imported: {explain(error, folders=[file.parent])}") from error


def _package_of(folder: Path) -> str:
    """Return the name of the package whose modules are the files of a folder; register it if it is new."""
    name = f"mmbench_models_{sha256(str(folder).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    importlib.invalidate_caches()  # a file may be new
    return name


def shipped_dirs() -> list[Path]:
    """Return the folders of the models that come with mmbench."""
    return [PACKAGE / "models", baselines_dir()]


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
    return _read_dirs.__wrapped__((*shipped_dirs(), *existing.values()))


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


def entries() -> dict[str, ModelEntry]:
    """Return all registered models by name."""
    return _read_dirs(tuple(model_dirs()))


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
        raise UsageError(suggest(name, all_names() if variant else known, what="model"))
    entry = known[model]
    if colon and not variant:
        raise UsageError(
            f"{name!r} names no variant; write {model}, or {model}:VARIANT (see: mmbench show {model})"
        )
    if variant and variant not in entry.recipe.variants:
        names = [f"{model}:{known_variant}" for known_variant in entry.recipe.variants]
        raise UsageError(suggest(name, names, what="variant"))
    return replace(entry, variant=variant)


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
    _check_table(entry, _values(recipe.settings), where=f"{file} [settings]")
    _check_stated_once(entry, where=f"{file} [settings]")
    for name, table in recipe.dataset.items():
        _check_table(entry, _values(table), where=f"{file} [dataset.{name}]")
    for variant in entry.variants():
        if variant.variant:
            settings = recipe.variants[variant.variant].settings
            _check_table(variant, settings, where=f"{file} [variants.{variant.variant}]")
    _check_search(entry, where=f"{file} [search]")


def _values(table: Mapping[str, Sourced]) -> dict[str, Any]:
    return {key: setting.value for key, setting in table.items()}


def _check_table(entry: ModelEntry, values: Mapping[str, Any], *, where: str) -> None:
    check_keys(values, entry.known_settings(), where=where)
    for key, value in values.items():
        check_value(entry.class_of(key), key, value, where=where)


def _check_stated_once(entry: ModelEntry, *, where: str) -> None:
    """Raise UsageError for a setting of the model whose value is stated twice or never.

    A default that the class inherits from mmbench serves many models (`mmbench.models.next_item.Sampling`), so a recipe
    may repeat it with its source.
    """
    for variant in entry.variants():
        cls = variant.config_class()
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
            if key not in variant.values(""):
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
