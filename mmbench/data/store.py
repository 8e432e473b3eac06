"""Prepared data on disk: memory-mapped arrays, the item catalogue, and one manifest that hashes them all.

    data/prepared/<name>/
      manifest.json            what this is, how it was made, counts, statistics, hash of every file
      items.npy    int32  [E]  item of each event, 1..n_items, sorted by user, then by the protocol's order
      times.npy    int64  [E]  unix seconds of each event
      offsets.npy  int64  [U+1]  events of user u are offsets[u]:offsets[u+1]; users are 0..U-1
      items.jsonl              one object per item, line i = item i+1: id, title, brand, categories, text, image
      users.txt                raw user ids, one a line, in internal order
      category_ids.npy int32 / category_offsets.npy int64 [n_items+1] / categories.txt   (0-based, CSR by item)
      features/<modality>/<encoder>/   see mmbench.features.store

`manifest["hash"]` identifies the data: it covers the protocol and every array and text file, not the folder
it lies in, the date, or where the pictures are kept.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.atomic import beside, hash_file, hash_json, write_json
from mmbench.errors import DataError, UsageError, suggest

FORMAT = 1
ARRAYS = {
    "items.npy": "int32",
    "times.npy": "int64",
    "offsets.npy": "int64",
    "category_ids.npy": "int32",
    "category_offsets.npy": "int64",
}
TEXTS = ("items.jsonl", "users.txt", "categories.txt")
KEYS: dict[str, type | tuple[type, ...]] = {
    "name": str, "protocol": dict, "counts": dict, "synthetic": bool, "created": (int, float), "files": dict,
    "items_hash": str, "hash": str,
}  # fmt: skip


@dataclass(frozen=True)
class Prepared:
    """One prepared data set, opened read-only. Arrays are memory maps; opening costs no copy."""

    path: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def hash(self) -> str:
        return str(self.manifest["hash"])

    @property
    def items_hash(self) -> str:
        """Hash of the raw item ids in internal order: what a feature file must have been made for."""
        return str(self.manifest["items_hash"])

    @property
    def protocol(self) -> dict[str, Any]:
        return dict(self.manifest["protocol"])

    @property
    def synthetic(self) -> bool:
        return bool(self.manifest["synthetic"])

    @property
    def n_users(self) -> int:
        return int(self.manifest["counts"]["users"])

    @property
    def n_items(self) -> int:
        return int(self.manifest["counts"]["items"])

    def _array(self, name: str) -> np.ndarray:
        try:
            return np.load(self.path / name, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise self._unreadable(name, error) from error

    def _lines(self, name: str) -> list[str]:
        """Split at \\n only: str.splitlines would also cut an id or a name at U+2028 and its like."""
        try:
            with (self.path / name).open(encoding="utf-8", newline="\n") as file:
                return [line.removesuffix("\n") for line in file]
        except (OSError, ValueError) as error:
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: Exception) -> DataError:
        return DataError(
            f"{self.path / name} cannot be read ({error}); run: mmbench prepare {self.name} --force"
        )

    @cached_property
    def items(self) -> np.ndarray:
        return self._array("items.npy")

    @cached_property
    def times(self) -> np.ndarray:
        return self._array("times.npy")

    @cached_property
    def offsets(self) -> np.ndarray:
        return self._array("offsets.npy")

    @cached_property
    def category_ids(self) -> np.ndarray:
        return self._array("category_ids.npy")

    @cached_property
    def category_offsets(self) -> np.ndarray:
        return self._array("category_offsets.npy")

    @cached_property
    def category_names(self) -> list[str]:
        return self._lines("categories.txt")

    @cached_property
    def item_records(self) -> list[dict[str, Any]]:
        """The catalogue: record i belongs to item i + 1."""
        try:
            return [json.loads(line) for line in self._lines("items.jsonl")]
        except ValueError as error:
            raise self._unreadable("items.jsonl", error) from error

    @cached_property
    def user_ids(self) -> list[str]:
        return self._lines("users.txt")

    @property
    def features_dir(self) -> Path:
        return self.path / "features"

    def verify(self) -> None:
        """Compare every file with its hash in the manifest; raise DataError naming the first that differs."""
        for name, expected in self.manifest["files"].items():
            if not (self.path / name).is_file() or hash_file(self.path / name) != expected:
                raise DataError(
                    f"{self.path / name} is not the file that the manifest describes; "
                    f"run: mmbench prepare {self.name} --force"
                )


def prepared_root(data_dir: Path) -> Path:
    return data_dir / "prepared"


def folder_name(name: str) -> str:
    """`amazon-beauty@random:1` -> a folder name that every file system takes."""
    return name.replace(":", "-")


def list_prepared(data_dir: Path, *, skipped: Callable[[DataError], object] | None = None) -> list[Prepared]:
    """All prepared data sets, the one prepared last first.

    One that cannot be opened raises DataError; with `skipped` it is passed over, and that hears why.
    """
    found = []
    for path in sorted(prepared_root(data_dir).glob("[!.]*/manifest.json")):  # .name... is being written
        try:
            found.append(open_path(path.parent))
        except DataError as error:
            if skipped is None:
                raise
            skipped(error)
    return sorted(found, key=lambda one: (-float(one.manifest["created"]), one.name))


def open_path(path: Path) -> Prepared:
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path / 'manifest.json'} cannot be read ({error}); prepare the data set again"
        ) from error
    if not isinstance(manifest, dict):
        raise DataError(f"{path / 'manifest.json'} is no manifest; prepare the data set again")
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"{path} was prepared by another version of mmbench (format {manifest.get('format')}, "
            f"this one reads {FORMAT}); run: mmbench prepare {manifest.get('name', path.name)} --force"
        )
    missing = [key for key in KEYS if key not in manifest]
    if missing:
        raise DataError(f"{path / 'manifest.json'} lacks {', '.join(missing)}; prepare the data set again")
    wrong = [key for key, kind in KEYS.items() if not isinstance(manifest[key], kind)]
    if wrong:
        raise DataError(
            f"{path / 'manifest.json'}: {wrong[0]} is not of its type (got {json.dumps(manifest[wrong[0]])[:60]}); "
            "prepare the data set again"
        )
    return Prepared(path=path, manifest=manifest)


def is_prepared(name: str, data_dir: Path) -> bool:
    """Whether a data set of this very name lies there, readable or not."""
    path = prepared_root(data_dir) / folder_name(name)
    _finish_swap(path)
    return (path / "manifest.json").is_file()


def open_prepared(name: str, data_dir: Path) -> Prepared:
    """Open the prepared data set `name` (`amazon-beauty`, `amazon-beauty@random:1`)."""
    if not is_prepared(name, data_dir):
        known = [one.name for one in list_prepared(data_dir, skipped=lambda _: None)]
        hint = f"run: mmbench prepare {name}"
        if known:
            near = suggest(name, known, what="prepared data set")
            raise UsageError(f"data set {name!r} is not prepared in {data_dir} ({near}); {hint}")
        raise UsageError(f"data set {name!r} is not prepared in {data_dir}; {hint}")
    return open_path(prepared_root(data_dir) / folder_name(name))


def write_prepared(
    *,
    data_dir: Path,
    manifest: dict[str, Any],
    items: np.ndarray,
    times: np.ndarray,
    offsets: np.ndarray,
    item_records: Sequence[dict[str, Any]],
    user_ids: Sequence[str],
    categories: tuple[Sequence[str], np.ndarray, np.ndarray],
) -> Prepared:
    """Write a prepared data set beside its final place and move it there in one step.

    `manifest` brings name, dataset, title, synthetic, protocol, counts, statistics, printed, raw, images,
    created; this adds format, files, items_hash and hash. `categories` = (names, ids, offsets).
    """
    root = prepared_root(data_dir)
    final = root / folder_name(manifest["name"])
    work = beside(final, what="new")
    names, *category_arrays = categories
    try:
        work.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"cannot write below {root}: {error.strerror}; choose another --data-dir") from error
    try:
        _write_arrays(work, (items, times, offsets, *category_arrays))
        _write_texts(work, item_records, {"users.txt": user_ids, "categories.txt": names})
        write_json(work / "manifest.json", _complete(work, manifest, item_records))
        _flush(work)
        _swap(work, final)
    except OSError as error:
        raise DataError(f"cannot write below {root}: {error.strerror or error}; free some space") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return open_path(final)


def _write_arrays(folder: Path, arrays: Sequence[np.ndarray]) -> None:
    for (name, kind), array in zip(ARRAYS.items(), arrays, strict=True):
        np.save(folder / name, array.astype(kind), allow_pickle=False)


def _write_texts(
    folder: Path, item_records: Sequence[dict[str, Any]], lists: dict[str, Sequence[str]]
) -> None:
    with (folder / "items.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for record in item_records:
            file.write(json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n")
    for name, lines in lists.items():
        with (folder / name).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(line.replace("\n", " ") + "\n" for line in lines)


def _complete(
    folder: Path, manifest: dict[str, Any], item_records: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The manifest with format and hashes; every other file of the folder is written already."""
    files = {name: hash_file(folder / name) for name in (*ARRAYS, *TEXTS)}
    return {
        **manifest,
        "format": FORMAT,
        "files": files,
        "items_hash": hash_json([record["id"] for record in item_records]),
        "hash": hash_json({"files": files, "protocol": manifest["protocol"], "format": FORMAT}),
    }


def _flush(folder: Path) -> None:
    """Push the files to the disk, so that a power cut after the swap does not leave empty ones."""
    for file in folder.iterdir():
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())


def _replaced(final: Path) -> Path:
    """Where the old version waits while the new one takes its place."""
    return final.with_name(f".{final.name}.old")


def _swap(work: Path, final: Path) -> None:
    """Put `work` in the place of `final`; features made for the same catalogue stay.

    A folder cannot be replaced in one step, so a kill may fall between the two renames; then `_finish_swap`
    brings the old version back.
    """
    with _swap_lock(final):
        _finish(final)
        if final.exists():
            final.rename(_replaced(final))
        work.rename(final)
        _finish(final)


def _swap_lock(final: Path) -> Any:
    from filelock import FileLock

    return FileLock(final.with_name(".swap.lock"))


def _finish_swap(final: Path) -> None:
    """End what a killed `_swap` began; while one is going on, wait for it."""
    if _replaced(final).exists():
        with _swap_lock(final):
            _finish(final)


def _finish(final: Path) -> None:
    """Bring the old version back when no new one came, else keep its features and remove it."""
    old = _replaced(final)
    if not old.exists():
        return
    if not final.exists():
        old.rename(final)
        return
    if (old / "features").is_dir() and not (final / "features").exists():
        (old / "features").rename(final / "features")
    shutil.rmtree(old, ignore_errors=True)
