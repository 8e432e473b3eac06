"""A registered model: its recipe, and the code beside it, which is imported when it is needed."""

import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_args

from mmbench.errors import FAILURES, UsageError
from mmbench.explain import explain
from mmbench.paths import PACKAGE, baselines_dir
from mmbench.plugins import Plugin, hash_files
from mmbench.settings.config import Layer, Origin, TrainConfig, build, defaults_of
from mmbench.settings.recipe import Recipe, Sourced

if TYPE_CHECKING:
    from mmbench.models.base import Recommender


SHIPPED = "mmbench"  # the origin of its own models


def shipped_dirs() -> list[Path]:
    """Return the folders of the models that come with mmbench."""
    return [PACKAGE / "models", baselines_dir()]


@dataclass(frozen=True)
class ModelEntry:
    """A registered model, or a variant of it: its recipe and the file beside it (<name>.py).

    plugin  the installed package that it comes from, None for models of mmbench and of the user's folders
    """

    recipe: Recipe
    file: Path
    variant: str = ""
    plugin: Plugin | None = None

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
            module = self._import(file)
            if hasattr(module, self.class_name):
                return _checked_class(getattr(module, self.class_name), file, self.class_name)
        searched = " or ".join(str(file) for file in files)
        raise UsageError(
            f"{searched}: no class {self.class_name}; write it, or correct `class` in the recipe"
        )

    def _import(self, file: Path) -> Any:
        """Import a file of the model: as a module of its package where a plugin brings it."""
        if self.plugin is None or not file.is_file():
            return _import_file(file)
        return self.plugin.import_module(f"{self.plugin.module}.{file.stem}")

    @property
    def origin(self) -> str:
        """Return where the model comes from: "mmbench", an installed package with its version, or a folder."""
        if self.plugin is not None:
            return self.plugin.title
        return SHIPPED if self.file.parent in shipped_dirs() else str(self.file.parent)

    def own_code(self) -> str:
        """Return a hash of the Python files beside a model that does not ship with mmbench; "" for one that does."""
        if self.file.parent in shipped_dirs():
            return ""
        return hash_files(sorted(self.file.parent.glob("*.py")))

    def plugin_facts(self) -> dict[str, str]:
        """Return package, version and hash of the code of a model from an installed package; {} for any other."""
        if self.plugin is None:
            return {}
        return {"package": self.plugin.package, "version": self.plugin.version, "code": self.own_code()}

    def code_facts(self) -> dict[str, Any]:
        """Return what a record says about code that does not ship with mmbench."""
        facts = {"own_model": self.own_code(), "plugin": self.plugin_facts()}
        return {key: value for key, value in facts.items() if value}

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
        return _merged([_TRAINING, *self.layers(dataset)])

    def stated_values(self, dataset: str) -> dict[str, Any]:
        """Return the value of each setting that need not be read from the model's class; its file is not imported."""
        return _merged([_TRAINING, *self._stated_layers(dataset)])

    def config(self, dataset: str = "", **settings: Any) -> Any:
        """Return the model's configuration on a data set, with some of its own settings replaced."""
        settings_of_model = self.own_settings()
        values = {key: value for key, value in self.values(dataset).items() if key in settings_of_model}
        return build(self.config_class(), values | settings, where=self.name)

    def layers(self, dataset: str) -> list[Layer]:
        """Return the model's layers of settings for a data set, weakest first."""
        return [Layer(Origin.default, defaults_of(self.config_class())), *self._stated_layers(dataset)]

    def _stated_layers(self, dataset: str) -> list[Layer]:
        """Return the layers of the recipe."""
        recipe = self.recipe
        layers = [_sourced(Origin.recipe, recipe.settings)]
        base = dataset.split("@")[0]
        if base in recipe.dataset:
            layers.append(_sourced(Origin.dataset, recipe.dataset[base], base))
        if self.variant:
            layers.append(Layer(Origin.variant, dict(recipe.variants[self.variant].settings), self.variant))
        return layers

    def variants(self) -> list["ModelEntry"]:
        """Return the model without a variant, and each of its variants."""
        return [replace(self, variant=variant) for variant in ("", *self.recipe.variants)]


_TRAINING = Layer(Origin.default, defaults_of(TrainConfig))


def _merged(layers: Sequence[Layer]) -> dict[str, Any]:
    """Return the value of each setting of some layers, weakest first."""
    return {key: value for layer in layers for key, value in layer.values.items()}


def _sourced(origin: Origin, table: Mapping[str, Sourced], note: str = "") -> Layer:
    """Return a table of a recipe as a layer whose notes are the recipe's sources."""
    return Layer(origin, values_of(table), note, {key: setting.source for key, setting in table.items()})


def values_of(table: Mapping[str, Sourced]) -> dict[str, Any]:
    """Return the values of a recipe's table without their sources."""
    return {key: setting.value for key, setting in table.items()}


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
    module = f"{_package_of(file.parent.resolve())}.{file.stem}"
    if module not in sys.modules:
        importlib.invalidate_caches()  # the file may be new
    try:
        return importlib.import_module(module)
    except FAILURES as error:
        raise UsageError(f"{file}: cannot be imported: {explain(error, folders=[file.parent])}") from error


def _package_of(folder: Path) -> str:
    """Return the name of the package whose modules are the files of a folder; register it if it is new."""
    name = f"mmbench_models_{sha256(str(folder).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    return name
