"""What installed packages add to mmbench: models, data sets, encoders and trackers, named by their entry points.

    [project.entry-points."mmbench.models"]
    shop = "mmbench_shop.models"                  # a package whose folder holds NAME.py and NAME.toml
    [project.entry-points."mmbench.datasets"]
    shop = "mmbench_shop.data"                    # a package whose folder holds tables (*.toml) and their readers
    [project.entry-points."mmbench.encoders"]
    "text.word-mean" = "mmbench_shop.encoders:WordMean"

Plugins are found without importing anything of theirs. What is wrong with one becomes a line, and the others work.
"""

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from mmbench.errors import FAILURES, UsageError
from mmbench.explain import explain, first_line

if TYPE_CHECKING:
    from importlib.metadata import Distribution

Group = Literal["models", "datasets", "encoders", "trackers"]
_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*)?")
T = TypeVar("T")


@dataclass(frozen=True)
class Plugin:
    """An entry point of an installed package.

    name    of the entry point
    target  "package.module" or "package.module:attribute"
    """

    group: str
    name: str
    target: str
    package: str
    version: str

    @property
    def title(self) -> str:
        """Return the package with its version, as messages call it."""
        return f"{self.package} {self.version}"

    @property
    def module(self) -> str:
        return self.target.partition(":")[0]

    def place(self) -> Path:
        """Return the folder of the target's package or the file of its module, which is not imported.

        UsageError when neither exists.
        """
        if not _TARGET.fullmatch(self.target):
            raise UsageError(
                f"entry point {self.name} = {self.target!r} names no module; see docs/plugins.md"
            )
        top, *rest = self.module.split(".")
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            spec = None
        folders = list(spec.submodule_search_locations or []) if spec is not None else []
        if spec is not None and not rest:
            return Path(folders[0] if folders else str(spec.origin))
        for path in (Path(folder, *rest) for folder in folders):
            for candidate in (path, path.with_name(f"{path.name}.py")):
                if candidate.exists():
                    return candidate
        raise UsageError(f"its module {self.module} does not exist; install {self.package} again")

    def folder(self) -> Path:
        """Return the folder of the target's package; UsageError when the target is anything else."""
        place = self.place()
        if not place.is_dir() or ":" in self.target:
            raise UsageError(
                f"entry point {self.name} = {self.target} is not a package with a folder; see docs/plugins.md"
            )
        return place

    def code_folder(self) -> Path:
        """Return the folder of the target's package, or the one that its module lies in."""
        place = self.place()
        return place if place.is_dir() else place.parent

    def code(self) -> str:
        """Return a hash of the Python files of the target's folder, or of its file where that lies in no package."""
        place, folder = self.place(), self.code_folder()
        alone = place.is_file() and not (folder / "__init__.py").is_file()
        return hash_files([place] if alone else sorted(folder.glob("*.py")))

    def facts(self) -> dict[str, str]:
        """Return what identifies the plugin: package, version, and a hash of its code."""
        return {"package": self.package, "version": self.version, "code": self.code()}

    def load(self) -> Any:
        """Import the target and return it; UsageError in one line for whatever goes wrong."""
        module, _, attribute = self.target.partition(":")
        value = self.import_module(module)
        if attribute and not hasattr(value, attribute):
            raise UsageError(
                f"{self.title}: {module} has no {attribute}; correct the entry point {self.name}"
            )
        return getattr(value, attribute) if attribute else value

    def import_module(self, module: str) -> Any:
        """Import a module of the package; UsageError in one line, with the package, for whatever goes wrong."""
        folder = self.code_folder()
        try:
            return importlib.import_module(module)
        except FAILURES as error:
            reason = explain(error, folders=[folder])
            raise UsageError(f"{self.title}: {module} cannot be imported: {reason}") from error


def hash_files(files: list[Path]) -> str:
    """Return one hash of some files, their names included."""
    digest = sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def installed(group: Group) -> list[Plugin]:
    """Return the plugins of a group, by package and name."""
    return [plugin for plugin in _installed(tuple(sys.path))[0] if plugin.group == f"mmbench.{group}"]


@cache
def _installed(path: tuple[str, ...]) -> tuple[list[Plugin], list[str]]:
    """Return all plugins on a search path, and a line for each package whose entry points cannot be read."""
    plugins, faults, seen = [], [], set()
    for package in _packages():
        name, version = package.metadata["Name"], package.metadata["Version"]
        if name.casefold() in seen:
            continue  # Python imports the first on its path, too
        seen.add(name.casefold())
        try:
            points = [point for point in package.entry_points if point.group.startswith("mmbench.")]
        except Exception as error:
            faults.append(f"{name} {version}: its entry points cannot be read: {first_line(error)}")
            continue
        plugins += [Plugin(point.group, point.name, point.value, name, version) for point in points]
    return sorted(plugins, key=lambda plugin: (plugin.package, plugin.name)), faults


def _packages() -> "Iterator[Distribution]":
    """Yield the installed packages that have a name and entry points of mmbench."""
    from importlib.metadata import distributions

    for package in distributions():
        if "[mmbench." in (package.read_text("entry_points.txt") or "") and package.metadata["Name"]:
            yield package


def places() -> list[Path]:
    """Return the folders that hold the code of installed plugins, as far as they are packages."""
    folders: list[Path] = []
    for plugin in _installed(tuple(sys.path))[0]:
        with suppress(UsageError):
            folder = plugin.code_folder()
            folders += [folder] if (folder / "__init__.py").is_file() else []
    return folders


@dataclass(frozen=True)
class Plugged(Generic[T]):
    """What the plugins of a group offer, by name.

    refused  names that two packages offer, with the line that says so
    faults   a line for everything that is left out
    """

    members: Mapping[str, T]
    refused: Mapping[str, str]
    faults: tuple[str, ...]

    def check(self, name: str) -> None:
        """Raise UsageError for a name that two packages offer."""
        if name in self.refused:
            raise UsageError(self.refused[name])

    def hint(self) -> str:
        """Return what to add to an error about an unknown name: what is left out; "" when nothing is."""
        return f"; left out: {'; '.join(self.faults)}" if self.faults else ""


def merge(
    group: Group, what: str, read: Callable[[Plugin], Mapping[str, T]], known: Mapping[str, str]
) -> Plugged[T]:
    """Return what plugins offer, without what cannot be read and without names that are taken.

    what   how messages call a member: "model"
    known  names that are taken, each with who has it
    """
    offers: dict[str, list[tuple[Plugin, T]]] = {}
    faults = list(_installed(tuple(sys.path))[1])
    for plugin in installed(group):
        try:
            for name, member in read(plugin).items():
                offers.setdefault(name, []).append((plugin, member))
        except FAILURES as error:
            reason = explain(error, folders=[Path(__file__).parent])
            faults.append(f"{plugin.title}: {reason.removeprefix(f'{plugin.title}: ')}")
    refused = {
        name: f"{what} {name!r} is in two packages, {' and '.join(plugin.title for plugin, _ in several)}; "
        "uninstall one of them"
        for name, several in offers.items()
        if len(several) > 1
    }
    taken = {name for name in offers if name in known}
    faults += [
        f"{plugin.title}: {what} {name!r} exists already ({known[name]})"
        for name in taken
        for plugin, _ in offers[name]
    ]
    members = {
        name: several[0][1] for name, several in offers.items() if name not in taken and name not in refused
    }
    return Plugged(members, refused, (*faults, *(refused[name] for name in refused if name not in taken)))
