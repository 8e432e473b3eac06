"""What earlier commands learned of stored runs, so that later commands need not read everything again.

    results/.cache/<kind>/<data set>/<model>/<configuration>.json

A shelf holds entries about the runs of a configuration. Its first line is a hash of the rest and of the code that made
it: a shelf that is torn, damaged or made by other code counts as absent. So shelves are written in place, by several
processes at the same time if need be, and may be removed at any time.
"""

import hashlib
import json
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import GenericAlias
from typing import Any, Generic, TypeVar

import numpy as np

from mmbench import strict
from mmbench.paths import PACKAGE

E = TypeVar("E")
FOLDER = ".cache"  # in a results folder
SETTLED_S = 2.0  # no file system that we know has coarser times
# The code whose results are kept: another state of it finds no shelves.
_CODE = (
    "evaluation/*.py",
    "reporting/gather.py",
    "runs/shelves.py",
    "runs/known_rankings.py",
    "runs/store.py",
    "sealed.py",
    "strict.py",
)


class Shelves(Generic[E]):
    """Entries of a kind about stored runs, by run and name; `save` writes what was added.

    kind   names their folder
    entry  their type, which `mmbench.strict` reads
    """

    def __init__(self, kind: str, entry: type[E]) -> None:
        self._kind = kind
        self._content: Any = GenericAlias(dict, (str, entry))
        self._entries: dict[Path, dict[str, E]] = {}  # by folder of a configuration
        self._changed: set[Path] = set()

    def get(self, run: Path, name: str = "") -> E | None:
        """Return the entry about the run in a folder; None where there is none."""
        return self._shelf(run.parent).get(f"{run.name}/{name}")

    def put(self, run: Path, name: str, entry: E) -> None:
        """Keep an entry about the run in a folder."""
        self._shelf(run.parent)[f"{run.name}/{name}"] = entry
        self._changed.add(run.parent)

    def save(self) -> None:
        """Write the shelves that changed, without runs that are gone; nothing where the folder may only be read."""
        for configuration in self._changed:
            entries = self._entries[configuration]
            seeds = {folder for folder in _seeds(entries) if (configuration / folder).is_dir()}
            kept = {key: entry for key, entry in entries.items() if key.partition("/")[0] in seeds}
            with suppress(OSError):
                _write(self._file(configuration), strict.dump_text(self._content, kept))
        self._changed.clear()

    def _shelf(self, configuration: Path) -> dict[str, E]:
        if configuration not in self._entries:
            self._entries[configuration] = self._read(self._file(configuration))
        return self._entries[configuration]

    def _read(self, file: Path) -> dict[str, E]:
        """Return the entries in a file; none where it is absent or not as it was written."""
        try:
            seal, _, body = file.read_bytes().partition(b"\n")
            if seal != _seal(body):
                return {}
            entries: dict[str, E] = strict.read_text(self._content, body)
        except (OSError, ValueError):
            return {}
        return entries

    def _file(self, configuration: Path) -> Path:
        dataset, model, config_id = configuration.absolute().parts[-3:]
        return configuration.parents[2] / FOLDER / self._kind / dataset / model / f"{config_id}.json"


def _seeds(entries: dict[str, E]) -> set[str]:
    return {key.partition("/")[0] for key in entries}


def _write(file: Path, body: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(_seal(body) + b"\n" + body)


def _seal(body: bytes) -> bytes:
    return hashlib.sha256(_code() + body).hexdigest().encode()


@cache
def _code() -> bytes:
    """Return a hash of the code whose results are kept, and of numpy, which adds them up."""
    total = hashlib.sha256(np.__version__.encode())
    for pattern in _CODE:
        for file in sorted(PACKAGE.glob(pattern)):
            total.update(file.read_bytes())
    return total.digest()


def stamp_of(file: Path) -> str:
    """Return size, times and inode of a file: while they are equal, its content is the same.

    "" for a file that changed so recently that another change may leave the same times.
    """
    status = file.stat()
    if time.time() - max(status.st_mtime, status.st_ctime) < SETTLED_S:
        return ""
    return json.dumps([status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino])
