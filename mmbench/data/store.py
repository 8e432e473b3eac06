"""Prepared data on disk: memory-mapped arrays, the item catalogue, and a manifest that hashes them all.

    data/prepared/<name>/
      manifest.json            what this is and how it was made, see mmbench.data.manifest; carries its own hash
      items.npy    int32  [E]  item of each event, 1..n_items, sorted by user, then by the protocol's order
      times.npy    int64  [E]  unix seconds of each event; its position in the history where only an order is known
      fractions.npy  int32  [E]  microseconds after that second; only where the raw files have finer times
      offsets.npy  int64  [U+1]  events of user u are offsets[u]:offsets[u+1]; users are 0..U-1
      items.jsonl              an object per item, line i = item i+1: id, title, brand, categories, text, image
      users.txt                raw user ids, an id per line, in internal order
      category_ids.npy int32 / category_offsets.npy int64 [n_items+1] / categories.txt   (0-based, CSR by item)
      features/<modality>/<encoder>/   see mmbench.features.store

Every file is compared with its hash in the manifest when it is first read, so that a changed byte is an error and
never another number.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.atomic import finish_swaps, hash_file, hash_json
from mmbench.data.manifest import (
    ARRAYS,
    FILE,
    FRACTIONS,
    TEXTS,
    Manifest,
    advice_for,
    folder_name,
    name_of,
    read_manifest,
)
from mmbench.data.protocol import Protocol
from mmbench.data.timestamps import TICKS
from mmbench.errors import DamagedError, DataError, UsageError, nearest
from mmbench.sealed import damaged

FEATURES = "features"  # this sub-folder stays when a data set is prepared again
DATA_DIR = "--data-dir"  # the option that chooses another folder, for messages


@dataclass(frozen=True)
class Prepared:
    """A prepared data set, opened read-only. Arrays are memory maps, so opening copies nothing."""

    path: Path
    manifest: Manifest

    def __repr__(self) -> str:
        kind = "synthetic data set" if self.synthetic else "data set"
        counts = f"{self.n_users:,} users, {self.n_items:,} items, {self.n_events:,} interactions"
        return f"<{kind} {self.name}: {counts}; {self.path}>"

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def data_dir(self) -> Path:
        return self.path.parent.parent

    @property
    def hash(self) -> str:
        return self.manifest.hash

    @property
    def items_hash(self) -> str:
        """Return the hash of the raw item ids in internal order, which a feature file must have, too."""
        return self.manifest.items_hash

    @property
    def protocol(self) -> Protocol:
        return self.manifest.protocol

    @property
    def synthetic(self) -> bool:
        return self.manifest.synthetic

    @property
    def has_times(self) -> bool:
        """Return whether events have times; if not, they only have an order, and `times` are positions."""
        return self.manifest.has_times

    @property
    def n_users(self) -> int:
        return self.manifest.counts.users

    @property
    def n_items(self) -> int:
        return self.manifest.counts.items

    @property
    def n_events(self) -> int:
        return self.manifest.counts.interactions

    @property
    def features_dir(self) -> Path:
        return self.path / FEATURES

    @cached_property
    def items(self) -> np.ndarray:
        array = self._array("items.npy", self.n_events)
        self._check("items.npy", _within(array, 1, self.n_items), "an item is outside the catalogue")
        return array

    @cached_property
    def times(self) -> np.ndarray:
        return self._array("times.npy", self.n_events)

    @cached_property
    def fractions(self) -> np.ndarray | None:
        """Return microseconds after `times`, int32 [E] in 0..999,999; None where all times are whole seconds."""
        if FRACTIONS not in self.manifest.files:
            return None
        array = self._array(FRACTIONS, self.n_events)
        self._check(FRACTIONS, _within(array, 0, 999_999), "a fraction is not below a second")
        return array

    @cached_property
    def lacks_fractions(self) -> bool:
        """Return whether the raw files have finer times than these data, which an older mmbench prepared."""
        if self.fractions is not None or not self.has_times:
            return False
        is_first = np.zeros(self.n_events + 1, dtype=bool)
        is_first[self.offsets] = True
        is_tied = (np.diff(self.times) == 0)[~is_first[1:-1]]
        return bool(len(is_tied)) and float(is_tied.mean()) != self.manifest.statistics.tied_neighbours

    @property
    def exact_times(self) -> np.ndarray:
        """Return `times` with their fractions: float64 [E], exact to the microsecond, or int64 where there are none."""
        fractions = self.fractions
        return self.times if fractions is None else self.times + fractions / TICKS

    def finer_gaps(self, events: np.ndarray) -> np.ndarray:
        """Return the microseconds to add to the seconds between events and the events before them, int64.

        No event may be a user's first.
        """
        fractions = self.fractions
        if fractions is None:
            return np.zeros(len(events), dtype=np.int64)
        return fractions[events].astype(np.int64) - fractions[events - 1]

    @cached_property
    def offsets(self) -> np.ndarray:
        array = self._array("offsets.npy", self.n_users + 1)
        self._check(
            "offsets.npy", _are_offsets(array, self.n_events), "it does not divide the events among the users"
        )
        return array

    @cached_property
    def category_ids(self) -> np.ndarray:
        array = self._array("category_ids.npy", int(self.category_offsets[-1]))
        n_names = len(self.category_names)
        self._check("category_ids.npy", _within(array, 0, n_names - 1), "a category has no name")
        return array

    @cached_property
    def category_offsets(self) -> np.ndarray:
        array = self._array("category_offsets.npy", self.n_items + 1)
        is_whole = _are_offsets(array, int(array[-1]))
        self._check("category_offsets.npy", is_whole, "it does not divide the categories among the items")
        return array

    @cached_property
    def category_names(self) -> list[str]:
        return self._lines("categories.txt")

    @cached_property
    def item_records(self) -> list[dict[str, Any]]:
        """Return the catalogue: record i belongs to item i + 1."""
        try:
            records = [json.loads(line) for line in self._lines("items.jsonl", self.n_items)]
            ids_hash = hash_json([record["id"] for record in records])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._damaged("items.jsonl", error) from error
        self._check("items.jsonl", ids_hash == self.items_hash, "its ids are not those of the manifest")
        return records

    @cached_property
    def user_ids(self) -> list[str]:
        return self._lines("users.txt", self.n_users)

    def verify(self) -> None:
        """Compare every file with its hash in the manifest; DamagedError names the first that differs."""
        for name in self.manifest.files:
            self._verified(name)

    def _array(self, name: str, length: int) -> np.ndarray:
        file = self._verified(name)
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(name, error) from error
        kind = ARRAYS.get(name, "int32")
        fits = array.shape == (length,) and array.dtype == kind
        self._check(name, fits, f"{array.shape} {array.dtype} instead of {length} {kind}")
        return array

    def _lines(self, name: str, number: int | None = None) -> list[str]:
        """Return the lines, split at \\n only: str.splitlines would also split an id or a name at U+2028."""
        try:
            with self._verified(name).open(encoding="utf-8", newline="\n") as file:
                lines = [line.removesuffix("\n") for line in file]
        except (OSError, ValueError) as error:
            raise self._damaged(name, error) from error
        self._check(name, number in (None, len(lines)), f"{len(lines)} lines instead of {number}")
        return lines

    @cached_property
    def _compared(self) -> set[str]:
        return set()

    def _verified(self, name: str) -> Path:
        """Return the path of a file after comparing it with its hash in the manifest."""
        file = self.path / name
        if name in self._compared:
            return file
        try:
            sha256 = hash_file(file)
        except OSError as error:
            reason = "it is missing" if isinstance(error, FileNotFoundError) else error.strerror or error
            raise self._damaged(name, reason) from error
        self._check(
            name, sha256 == self.manifest.files[name], "it is not the file that the manifest describes"
        )
        self._compared.add(name)
        return file

    def _check(self, name: str, fits: bool, reason: str) -> None:
        if not fits:
            raise self._damaged(name, reason)

    def _damaged(self, name: str, reason: object) -> DamagedError:
        return damaged(self.path / name, reason, advice_for(self.name))


def _within(array: np.ndarray, low: int, high: int) -> bool:
    return not len(array) or bool(array.min() >= low and array.max() <= high)


def _are_offsets(array: np.ndarray, end: int) -> bool:
    """Return whether an array begins with 0, never falls and ends at `end`."""
    return bool(array[0] == 0 and array[-1] == end and (np.diff(array) >= 0).all())


# -- finding and opening ----------------------------------------------------------------------------------


def prepared_root(data_dir: Path) -> Path:
    """Return the folder of all prepared data sets."""
    return data_dir / "prepared"


def prepared_path(name: str, data_dir: Path) -> Path:
    """Return the folder of the prepared data set `name`."""
    return prepared_root(data_dir) / folder_name(name)


def list_prepared(data_dir: Path, *, on_error: Callable[[DataError], object] | None = None) -> list[Prepared]:
    """Return all prepared data sets, the newest first.

    Raise DataError for an unreadable data set or, if `on_error` is given, call it with the error and leave that
    data set out.
    """
    root = prepared_root(data_dir)
    finish_swaps(root, option=DATA_DIR)
    data_sets = []
    for path in sorted(root.glob("[!.]*")):  # a hidden folder is still being written
        if not _holds_data(path):
            continue
        try:
            data_sets.append(_open(path))
        except DataError as error:
            if on_error is None:
                raise
            on_error(error)
    return sorted(data_sets, key=lambda prepared: (-prepared.manifest.created, prepared.name))


def open_path(path: Path) -> Prepared:
    """Open the prepared data in a folder; DataError when they are missing, damaged or of another version."""
    finish_swaps(path.parent, option=DATA_DIR)
    return _open(path)


def _open(path: Path) -> Prepared:
    try:
        return Prepared(path=path, manifest=read_manifest(path))
    except FileNotFoundError as error:
        raise damaged(path / FILE, "it is missing", advice_for(name_of(path))) from error


def _holds_data(path: Path) -> bool:
    """Return whether a folder holds prepared data, or what is left of them."""
    try:
        return any((path / name).is_file() for name in (FILE, *ARRAYS, *TEXTS))
    except OSError:  # opening it will say that the permission is missing
        return True


def is_prepared(name: str, data_dir: Path) -> bool:
    """Return whether the data set of exactly this name exists, readable or not."""
    finish_swaps(prepared_root(data_dir), option=DATA_DIR)
    return _holds_data(prepared_path(name, data_dir))


def open_prepared(name: str, data_dir: Path) -> Prepared:
    """Open the prepared data set `name`, such as `amazon-beauty` or `amazon-beauty@random:1`."""
    if is_prepared(name, data_dir):
        return _open(prepared_path(name, data_dir))
    known = [prepared.name for prepared in list_prepared(data_dir, on_error=lambda error: None)]
    near = nearest(name, known)
    advice = f"did you mean {near[0]!r}?" if len(near) == 1 else f"run: mmbench prepare {name}"
    raise UsageError(f"data set {name!r} is not prepared in {data_dir}; {advice}")
