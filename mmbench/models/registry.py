"""name -> recipe + model class, read from the model folders; code is imported only when a model is built."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from mmbench.atomic import hash_json
from mmbench.errors import UsageError, suggest
from mmbench.paths import PACKAGE, baselines_dir
from mmbench.settings.config import Layer, Origin, TrainConfig, check_keys, defaults_of
from mmbench.settings.recipe import Recipe, Sourced, read_recipe

if TYPE_CHECKING:
    from mmbench.models.base import Recommender


@dataclass(frozen=True)
class ModelEntry:
    """A registered model: its recipe and the file beside it."""

    recipe: Recipe
    file: Path  # <name>.py

    @property
    def name(self) -> str:
        return self.recipe.name

    def load(self) -> "type[Recommender[Any]]":
        """Import the model file and return the class that the recipe names."""
        module = _import_file(self.file)
        try:
            return getattr(module, self.recipe.model_class)
        except AttributeError:
            raise UsageError(f"{self.file}: there is no class {self.recipe.model_class}") from None

    def own_code(self) -> str:
        """Hash of the Python files beside a user's own model; "" for models that ship with mmbench."""
        if self.file.parent in (PACKAGE / "models", baselines_dir()):
            return ""
        parts = {one.name: sha256(one.read_bytes()).hexdigest() for one in self.file.parent.glob("*.py")}
        return hash_json(parts)[:16]

    def config_class(self) -> type:
        """The configuration dataclass: C of the `Recommender[C]` that the model, or what it extends, is written as."""
        bases = [base for one in self.load().__mro__ for base in one.__dict__.get("__orig_bases__", ())]
        found = next((named for base in bases for named in get_args(base) if is_dataclass(named)), None)
        if found is None:
            raise UsageError(
                f"{self.file}: write class {self.recipe.model_class}(Recommender[YourConfig]) with a dataclass"
            )
        return cast(type, found)

    def known_settings(self) -> list[str]:
        """Keys that this model takes: its own and those of training; they must not overlap."""
        own = [one.name for one in fields(self.config_class())]
        shared = [one.name for one in fields(TrainConfig)]
        both = set(own) & set(shared)
        if both:
            raise UsageError(f"{self.file}: settings {sorted(both)} have the name of a training setting")
        return own + shared

    def layers(self, variant: str, dataset: str) -> list[Layer]:
        """Return the recipe's layers of settings for a data set, from weakest to strongest."""
        recipe = self.recipe
        layers = [
            Layer(Origin.default, defaults_of(self.config_class())),
            _sourced(Origin.recipe, recipe.settings),
        ]
        base = dataset.split("@")[0]
        if base in recipe.dataset:
            layers.append(_sourced(Origin.dataset, recipe.dataset[base], base))
        if variant:
            layers.append(Layer(Origin.variant, dict(recipe.variants[variant].settings), variant))
        return layers


def _sourced(origin: Origin, table: Mapping[str, Sourced], note: str = "") -> Layer:
    """Return a table of a recipe as a layer whose notes are the recipe's sources."""
    values = {key: setting.value for key, setting in table.items()}
    return Layer(origin, values, note, {key: setting.source for key, setting in table.items()})


def _import_file(file: Path) -> Any:
    """Import a model file once: as part of the package when it lies there, else under its own name."""
    if file.parent == PACKAGE / "models":
        return importlib.import_module(f"mmbench.models.{file.stem}")
    name = f"mmbench_model_{abs(hash(str(file.resolve())))}_{file.stem}"
    if name in sys.modules:
        return sys.modules[name]
    if not file.is_file():
        raise UsageError(f"{file.with_suffix('.toml')} has no {file.name} beside it")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"{file}: cannot be imported: {type(error).__name__}: {error}") from error
    return module


def model_dirs() -> list[Path]:
    """The package's models, the baselines, then the user's folders (`--models-dir`, `MMBENCH_MODELS`)."""
    own = [Path(part) for part in os.environ.get("MMBENCH_MODELS", "").split(os.pathsep) if part]
    for folder in own:
        if not folder.is_dir():
            raise UsageError(f"model folder {folder} does not exist")
    return [PACKAGE / "models", baselines_dir(), *own]


@cache
def _read_dirs(dirs: tuple[Path, ...]) -> dict[str, ModelEntry]:
    found: dict[str, ModelEntry] = {}
    for file in (file for folder in dirs for file in sorted(folder.glob("*.toml"))):
        entry = ModelEntry(recipe=read_recipe(file), file=file.with_suffix(".py"))
        if entry.name in found:
            raise UsageError(f"{file}: model {entry.name!r} is already defined by {found[entry.name].file}")
        found[entry.name] = entry
    return found


def entries() -> dict[str, ModelEntry]:
    """All registered models by name."""
    return _read_dirs(tuple(model_dirs()))


def all_names(*, variants: bool = True) -> list[str]:
    """Every name that works where a model name does, in registry order."""
    names: list[str] = []
    for name, entry in entries().items():
        names.append(name)
        if variants:
            names += [f"{name}:{variant}" for variant in entry.recipe.variants]
    return names


def find(name: str) -> tuple[ModelEntry, str]:
    """`hm4sr:-tmoe` -> (entry, "-tmoe"); an unknown name fails with the nearest known one."""
    model, colon, variant = name.partition(":")
    known = entries()
    if model not in known:
        raise UsageError(suggest(name, all_names() if variant else known, what="model"))
    entry = known[model]
    if colon and not variant:
        raise UsageError(
            f"{name!r} names no variant; write {model}, or {model}:VARIANT (see: mmbench show {model})"
        )
    if variant and variant not in entry.recipe.variants:
        raise UsageError(suggest(name, [f"{model}:{one}" for one in entry.recipe.variants], what="variant"))
    return entry, variant


def check_recipe(entry: ModelEntry) -> None:
    """Every key in a recipe is a setting of its model."""
    known, recipe = entry.known_settings(), entry.recipe
    tables: Iterable[tuple[str, Iterable[str]]] = [
        ("settings", recipe.settings),
        ("search", recipe.search),
        *((f"dataset.{name}", table) for name, table in recipe.dataset.items()),
        *((f"variants.{name}", variant.settings) for name, variant in recipe.variants.items()),
    ]
    for where, keys in tables:
        check_keys(keys, known, where=f"{entry.file.with_suffix('.toml')} [{where}]")
