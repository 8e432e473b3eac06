"""Prepared data written to disk, for mmbench.data.store to read."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.atomic import beside, hash_file, hash_json, swap_folder
from mmbench.data.inputs import read_inputs
from mmbench.data.manifest import (
    ARRAYS,
    FRACTIONS,
    TEXTS,
    Counts,
    Facts,
    Manifest,
    data_hash,
    folder_name,
    write_manifest,
)
from mmbench.data.store import DATA_DIR, FEATURES, Prepared, open_path, prepared_root
from mmbench.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a prepared data set holds besides its manifest; arrays are as in the files.

    fractions  microseconds after `times`, [E]; None where all times are whole seconds
    """

    items: np.ndarray  # [E]
    times: np.ndarray  # [E]
    offsets: np.ndarray  # [U + 1]
    item_records: Sequence[dict[str, Any]]
    user_ids: Sequence[str]
    category_names: Sequence[str]
    category_ids: np.ndarray
    category_offsets: np.ndarray  # [n_items + 1]
    fractions: np.ndarray | None = None


def write_prepared(data_dir: Path, facts: Facts, content: Content) -> Prepared:
    """Write a prepared data set beside its final folder and move it there atomically; its features stay.

    Raises DataError when it cannot be written.
    """
    root = prepared_root(data_dir)
    final = root / folder_name(facts.name)
    work = beside(final, what="new")
    try:
        work.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"cannot write below {root}: {error.strerror}; choose another {DATA_DIR}") from error
    try:
        _write_arrays(work, content)
        _write_texts(work, content)
        write_manifest(work, _complete_manifest(work, facts, content))
        swap_folder(work, final, keep=[FEATURES], option=DATA_DIR)
    except OSError as error:
        raise DataError(f"cannot write below {root}: {error.strerror or error}; free some space") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return open_path(final)


def _write_arrays(folder: Path, content: Content) -> None:
    for name, kind in ARRAYS.items():
        values = getattr(content, name.removesuffix(".npy"))
        np.save(folder / name, values.astype(kind), allow_pickle=False)
    if content.fractions is not None:
        np.save(folder / FRACTIONS, content.fractions.astype(np.int32), allow_pickle=False)


def _write_texts(folder: Path, content: Content) -> None:
    with (folder / "items.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for record in content.item_records:
            file.write(json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n")
    for name, lines in (("users.txt", content.user_ids), ("categories.txt", content.category_names)):
        with (folder / name).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(line.replace("\n", " ") + "\n" for line in lines)


def _complete_manifest(folder: Path, facts: Facts, content: Content) -> Manifest:
    """Return the whole manifest; all other files of the folder must exist already."""
    names = (*ARRAYS, *TEXTS, *([FRACTIONS] if content.fractions is not None else []))
    files = {name: hash_file(folder / name) for name in names}
    counts = Counts(
        users=len(content.user_ids), items=len(content.item_records), interactions=len(content.items)
    )
    return Manifest(
        **vars(facts),
        counts=counts,
        files=files,
        items_hash=hash_json([record["id"] for record in content.item_records]),
        inputs=read_inputs(content.item_records, facts.images, facts.name),
        hash=data_hash(files, facts.protocol),
    )
