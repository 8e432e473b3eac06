"""Ready-made feature arrays: `.npy`, `.npz` or `.pt` plus a file that says which item each row belongs to.

The id map is explicit, because rows in an unknown order are the commonest way to feed a model the wrong
pictures:

    .txt    one raw item id a line, line i = row i of the array
    .json   a list of raw item ids, or an object {raw item id: row number from 0}
    .csv    two columns, raw item id and row number from 0; a header line may stand above

Nothing that could run code is read: no pickled `.npy`, `.pt` with weights only.
"""

import csv
import io
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.atomic import hash_file, hash_json
from mmbench.data.store import Prepared
from mmbench.errors import DataError, UsageError
from mmbench.features.encoders import ENCODERS
from mmbench.features.extract import ExtractReport, store_report, stored_report
from mmbench.features.store import check_encoder_name, check_modality


def import_features(
    prepared: Prepared, modality: str, name: str, array_file: Path, ids_file: Path
) -> ExtractReport:
    """Store ready-made features under `name`.

    Items that the map lacks, or whose row is all zeros, are absent and counted; ids that are no item are
    counted. Everything else that does not fit (ids given twice, rows and ids that do not match, NaN, wrong
    shape) raises DataError; the name of a built-in encoder raises UsageError. The same files
    again -> nothing is done.
    """
    started = time.perf_counter()
    known = check_modality(modality)
    check_encoder_name(name)
    if name in ENCODERS[known]:
        raise UsageError(
            f"{name!r} is the name of a built-in {known} encoder; import the array under another one"
        )
    for file in (array_file, ids_file):
        if not file.is_file():
            raise DataError(f"{file} does not exist; give the array with --array and its id map with --ids")
    files = {"array": hash_file(array_file), "ids": hash_file(ids_file)}
    made_from = hash_json({"items": prepared.items_hash, **files})
    stored = stored_report(prepared, known, name, made_from)
    if stored is not None:
        return stored
    array = read_array(array_file)
    rows = read_ids(ids_file, n_rows=len(array))
    values, present, reasons = _by_item(prepared, array, rows, array_file, ids_file)
    identity = {"name": name, "imported": {"array": array_file.name, "ids": ids_file.name, "sha256": files}}
    return store_report(
        prepared, known, name, (values, present), reasons, {"identity": identity}, made_from, started
    )


def _by_item(
    prepared: Prepared, array: np.ndarray, rows: dict[str, int], array_file: Path, ids_file: Path
) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """Rows in item order: values float32 [N, D], present [N], reasons."""
    catalogue = [str(record["id"]) for record in prepared.item_records]
    row_of = np.array([rows.get(item, -1) for item in catalogue], dtype=np.int64)
    mapped = row_of >= 0
    if not mapped.any():
        raise DataError(
            f"{ids_file}: none of its {len(rows)} ids is an item of {prepared.name} "
            f"(it has {next(iter(rows))!r}, the catalogue {catalogue[0]!r}); "
            "write the raw ids, leading zeros included"
        )
    values = np.zeros((len(catalogue), array.shape[1]), np.float32)
    with np.errstate(over="ignore"):  # what is too large for float32 becomes inf and is refused below
        values[mapped] = array[row_of[mapped]]
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        first = int(np.argmax(bad))
        raise DataError(
            f"{array_file}: {int(bad.sum())} rows have NaN or infinite values, the first is "
            f"row {row_of[first]} (item {catalogue[first]!r}); "
            "leave such items out of the id map, then they count as absent"
        )
    present = np.asarray(values.any(axis=1), dtype=bool)
    reasons = Counter(
        {
            "not in the id map": int((~mapped).sum()),
            "zero row": int((mapped & ~present).sum()),
            "unknown id": len(rows) - int(mapped.sum()),
        }
    )
    return values, present, +reasons


def read_array(file: Path) -> np.ndarray:
    """The one 2-D numeric array [rows, D] in a .npy, .npz or .pt file; DataError when it is anything else."""
    readers = {".npy": _read_npy, ".npz": _read_npz, ".pt": _read_pt, ".pth": _read_pt}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise UsageError(
            f"{file}: cannot read {file.suffix or 'a file without ending'}; known: .npy, .npz, .pt"
        )
    try:
        array = reader(file)
    except DataError:
        raise
    # Damaged files raise nearly anything; torch refuses pickled code by an error of the pickle module.
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(
            f"{file}: not a readable {file.suffix} of plain numbers ({reason}); "
            "save one float array without pickle"
        ) from error
    if array.ndim != 2 or 0 in array.shape:
        raise DataError(f"{file}: shape {list(array.shape)}, needed is [rows, D] with one row per id")
    if array.dtype.kind not in "fiu":
        raise DataError(f"{file}: values of type {array.dtype}; needed are real numbers")
    return array


def _read_npy(file: Path) -> np.ndarray:
    return np.load(file, mmap_mode="r", allow_pickle=False)


def _only(file: Path, named: dict[str, Any], *, what: str) -> Any:
    if len(named) != 1:
        listing = ", ".join(sorted(named)[:8]) or "none"
        raise DataError(f"{file}: holds {len(named)} {what} ({listing}); save exactly one")
    return next(iter(named.values()))


def _read_npz(file: Path) -> np.ndarray:
    with np.load(file, allow_pickle=False) as archive:
        array: np.ndarray = archive[_only(file, {name: name for name in archive.files}, what="arrays")]
    return array


def _read_pt(file: Path) -> np.ndarray:
    import torch

    loaded = torch.load(file, map_location="cpu", weights_only=True)
    if isinstance(loaded, dict):
        tensors = {str(key): value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
        loaded = _only(file, tensors, what="tensors")
    if not isinstance(loaded, torch.Tensor):
        raise DataError(f"{file}: holds a {type(loaded).__name__}; save one tensor")
    # numpy has no bfloat16; float32 keeps every value of the short types.
    if loaded.dtype in (torch.bfloat16, torch.float16):
        loaded = loaded.float()
    return loaded.detach().numpy()


def read_ids(file: Path, *, n_rows: int) -> dict[str, int]:
    """Raw item id -> row of the array (0 <= row < n_rows), each id once; DataError names the first slip."""
    readers = {".txt": _ids_of_text, ".json": _ids_of_json, ".csv": _ids_of_csv}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise UsageError(
            f"{file}: cannot read {file.suffix or 'a file without ending'}; known: .txt, .json, .csv"
        )
    try:
        pairs, in_row_order = reader(file, file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    if not pairs:
        raise DataError(f"{file}: holds no ids; one per row of the array is needed")
    if in_row_order and len(pairs) != n_rows:
        raise DataError(
            f"{file}: {len(pairs)} ids for an array of {n_rows} rows; give one id per row, in row order"
        )
    counts = Counter(item for item, _ in pairs)
    twice = [item for item, n in counts.items() if n > 1]
    if twice:
        raise DataError(
            f"{file}: {len(twice)} ids stand more than once, the first is {twice[0]!r}; keep one row each"
        )
    for item, row in pairs:
        if not 0 <= row < n_rows:
            raise DataError(f"{file}: id {item!r} points to row {row}; the array has rows 0 to {n_rows - 1}")
    return dict(pairs)


Pairs = tuple[list[tuple[str, int]], bool]  # (id, row), and whether the file only lists ids in row order


def _ids_of_text(file: Path, text: str) -> Pairs:
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise DataError(f"{file}:{number}: empty line; line i must hold the id of row i")
    return [(line.strip(), row) for row, line in enumerate(lines)], True


def _ids_of_json(file: Path, text: str) -> Pairs:
    try:
        # Pairs instead of a dict: a dict would keep the last of two equal keys and say nothing.
        loaded = json.loads(text, object_pairs_hook=lambda pairs: {"pairs": pairs})
    except ValueError as error:
        raise DataError(f"{file}: not JSON ({error}); write a list of ids or an object id -> row") from error
    if isinstance(loaded, list):
        for row, item in enumerate(loaded):
            if isinstance(item, bool) or not isinstance(item, str | int):
                raise DataError(f"{file}: entry {row} is {item!r}; needed is an id as text")
        return [(str(item), row) for row, item in enumerate(loaded)], True
    if isinstance(loaded, dict):
        pairs: list[tuple[str, Any]] = loaded["pairs"]
        for item, row in pairs:
            if isinstance(row, bool) or not isinstance(row, int):
                raise DataError(f"{file}: the row of id {item!r} is {row!r}; needed is a whole number from 0")
        return pairs, False
    raise DataError(f"{file}: holds neither a list of ids nor an object id -> row")


def _ids_of_csv(file: Path, text: str) -> Pairs:
    pairs = []
    for number, cells in enumerate(csv.reader(io.StringIO(text)), start=1):
        if not cells:
            continue
        if len(cells) != 2:
            raise DataError(f"{file}:{number}: {len(cells)} columns; needed are two, id and row")
        item, row = (cell.strip() for cell in cells)
        if row.isdecimal() and row.isascii():
            pairs.append((item, int(row)))
        elif number > 1:
            raise DataError(f"{file}:{number}: row {row!r} of id {item!r} is no whole number from 0")
    return pairs, False
