"""The files of ready-made features: an array of rows, and the map that says which item each row belongs to.

    .npy .npz .pt .pth   a numeric array [rows, D], such as MMRec's image_feat.npy and text_feat.npy
    .feat*               UniSRec (.feat1CLS): float32 numbers, row after row, without any header

    .txt                 a raw item id per line; line i = row i of the array
    .json                a list of raw item ids, or an object {raw item id: row number from 0}
    .csv .tsv            two columns, raw item id and row number from 0, split at tabs if the first line has any,
                         else at commas; a header line is allowed (MMRec's i_id_mapping.csv: asin, itemID)
    .item2index          UniSRec's map: the same two columns, split at a tab

Nothing that could run code is read: no pickled `.npy`, and of `.pt` only weights.
"""

import csv
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.choices import whole_number
from mmbench.errors import DataError, UsageError
from mmbench.explain import explain

ARRAY_ENDINGS = ".npy, .npz, .pt, .feat1CLS"
ID_ENDINGS = ".txt, .json, .csv, .tsv, .item2index"


@dataclass(frozen=True)
class IdMap:
    """Pairs (raw item id, row number); `in_row_order` when the file only lists ids, in the order of the rows."""

    file: Path
    pairs: list[tuple[str, int]]
    in_row_order: bool

    def rows(self, n_rows: int) -> dict[str, int]:
        """Return id -> row in an array of `n_rows`; DataError when an id is repeated or a row does not exist."""
        if self.in_row_order and len(self.pairs) != n_rows:
            raise DataError(
                f"{self.file}: {len(self.pairs)} ids for an array of {n_rows} rows; "
                "give an id per row, in row order"
            )
        counts = Counter(item for item, _ in self.pairs)
        repeated = [item for item, n in counts.items() if n > 1]
        if repeated:
            raise DataError(
                f"{self.file}: {len(repeated)} ids appear more than once, the first is {repeated[0]!r}; "
                "keep a single row each"
            )
        for item, row in self.pairs:
            if not 0 <= row < n_rows:
                raise DataError(
                    f"{self.file}: id {item!r} points to row {row}; the array has rows 0 to {n_rows - 1}"
                )
        return dict(self.pairs)


def read_array(file: Path, ids: IdMap, dim: int | None = None) -> np.ndarray:
    """Return the only 2-D numeric array [rows, D] of a file; DataError when it is anything else, or D is not `dim`.

    A file without a header has as many rows as `ids` has entries.
    """
    if re.fullmatch(r"\.feat\w*", file.suffix):
        return _read_raw(file, len(ids.pairs), dim)
    readers = {".npy": _read_npy, ".npz": _read_npz, ".pt": _read_pt, ".pth": _read_pt}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise UsageError(
            f"{file}: cannot read {file.suffix or 'a file without ending'}; known: {ARRAY_ENDINGS}"
        )
    try:
        array = reader(file)
    except DataError:
        raise
    # Damaged files raise nearly anything; torch refuses pickled code with an error of the pickle module.
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(
            f"{file}: not a readable {file.suffix} of plain numbers ({reason}); "
            "save a single float array without pickle"
        ) from error
    if array.ndim != 2 or 0 in array.shape:
        raise DataError(f"{file}: shape {list(array.shape)}; it must be [rows, D] with a row per id")
    if array.dtype.kind not in "fiu":
        raise DataError(f"{file}: values of type {array.dtype}; they must be real numbers")
    if dim is not None and array.shape[1] != dim:
        raise DataError(f"{file}: rows of {array.shape[1]} numbers, not the {dim} of --dim")
    return array


def _read_raw(file: Path, n_rows: int, dim: int | None) -> np.ndarray:
    """Read float32 [n_rows, D] from a file of numbers only; DataError shows the arithmetic when they do not fit."""
    size = file.stat().st_size
    numbers, odd = divmod(size, 4)
    whole = f"{file}: {size:,} bytes"
    if odd or not numbers:
        raise DataError(
            f"{whole} are not a whole number of 4-byte numbers ({size / 4:g}); the file is cut off or not float32"
        )
    if dim is not None and n_rows * dim != numbers:
        raise DataError(
            f"{whole} / 4 / {dim} (--dim) = {numbers / dim:g} rows, but the id map has {n_rows:,} ids; "
            "give the map and the width of this file"
        )
    if numbers % n_rows:
        raise DataError(
            f"{whole} / 4 / {n_rows:,} (ids in the map) = {numbers / n_rows:.2f} numbers per row, which is not whole; "
            "give the id map that was made with this file"
        )
    array = np.memmap(file, dtype="<f4", mode="r", shape=(n_rows, numbers // n_rows))
    if dim is None and _is_float64(array[:1000]):
        raise DataError(
            f"{whole} / {n_rows:,} (ids in the map) = {numbers // n_rows} float32 or {numbers // n_rows // 2} float64 "
            "numbers per row, and read as float64 they make sense; save them as float32, or give --dim"
        )
    return array


def _is_float64(array: np.ndarray) -> bool:
    """Return whether float32 [rows, D] without a header are float64 numbers in fact.

    Halves of float64 numbers are noise, which has huge and tiny numbers in it; the lower halves of numbers that were
    float32 once end in 28 zero bits.
    """
    if array.shape[1] % 2:
        return False
    lower = np.ascontiguousarray(array).view("<u4")[:, ::2]
    was_float32 = bool((lower & (2**28 - 1) == 0).all()) and bool((np.asarray(array)[:, 1::2] != 0).any())
    doubles = np.ascontiguousarray(array).view("<f8")
    return _makes_sense(doubles) and (was_float32 or not _makes_sense(array))


def _makes_sense(values: np.ndarray) -> bool:
    """Return whether all numbers are zero or of a size that features have."""
    size = np.abs(values)
    with np.errstate(invalid="ignore"):
        return bool((np.isfinite(values) & ((size == 0) | ((size > 1e-15) & (size < 1e15)))).all())


def _read_npy(file: Path) -> np.ndarray:
    return np.load(file, mmap_mode="r", allow_pickle=False)


def _only(file: Path, named: dict[str, Any], *, what: str) -> Any:
    if len(named) != 1:
        listing = ", ".join(sorted(named)[:8]) or "none"
        raise DataError(f"{file}: holds {len(named)} {what} ({listing}); save a single")
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
        raise DataError(f"{file}: holds a {type(loaded).__name__}; save a tensor")
    # numpy has no bfloat16; float32 represents all values of the short types.
    if loaded.dtype in (torch.bfloat16, torch.float16):
        loaded = loaded.float()
    return loaded.detach().numpy()


def read_ids(file: Path) -> IdMap:
    """Read the id map of a file; DataError names the first mistake."""
    readers = {
        ".txt": _ids_of_text, ".json": _ids_of_json, ".csv": _ids_of_table, ".tsv": _ids_of_table,
        ".item2index": _ids_of_table,
    }  # fmt: skip
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise UsageError(f"{file}: cannot read {file.suffix or 'a file without ending'}; known: {ID_ENDINGS}")
    try:
        pairs, in_row_order = reader(file, file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    if not pairs:
        raise DataError(f"{file}: holds no ids; give an id per row of the array")
    return IdMap(file, pairs, in_row_order)


Pairs = tuple[list[tuple[str, int]], bool]  # (id, row), and whether the file only lists ids in row order


def _ids_of_text(file: Path, text: str) -> Pairs:
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise DataError(f"{file}:{number}: empty line; line i must hold the id of row i")
    return [(line.strip(), row) for row, line in enumerate(lines)], True


def _ids_of_json(file: Path, text: str) -> Pairs:
    try:
        # Pairs instead of a dictionary, which would silently keep the last of two equal keys.
        loaded = json.loads(text, object_pairs_hook=lambda pairs: {"pairs": pairs})
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{file}: not JSON ({explain(error)}); write a list of ids or an object id -> row"
        ) from error
    if isinstance(loaded, list):
        for row, item in enumerate(loaded):
            if isinstance(item, bool) or not isinstance(item, str | int):
                raise DataError(f"{file}: entry {row} is {item!r}; it must be an id as text")
        return [(str(item), row) for row, item in enumerate(loaded)], True
    if isinstance(loaded, dict):
        pairs: list[tuple[str, Any]] = loaded["pairs"]
        for item, row in pairs:
            if isinstance(row, bool) or not isinstance(row, int):
                raise DataError(
                    f"{file}: the row of id {item!r} is {row!r}; it must be a whole number from 0"
                )
        return pairs, False
    raise DataError(f"{file}: holds neither a list of ids nor an object id -> row")


def _ids_of_table(file: Path, text: str) -> Pairs:
    lines = text.split("\n")  # str.splitlines would also split at U+2028, which ids may hold
    tab = file.suffix.lower() != ".csv" or "\t" in lines[0]
    # A map split at tabs is written without quotes, so a quote belongs to the id.
    table = (line.split("\t") if line.strip() else [] for line in lines) if tab else csv.reader(lines)
    pairs = []
    for number, cells in enumerate(table, start=1):
        if not cells:
            continue
        if len(cells) != 2:
            raise DataError(f"{file}:{number}: {len(cells)} columns; there must be two, id and row")
        item, row = (cell.strip() for cell in cells)
        if (place := whole_number(row)) is not None:
            pairs.append((item, place))
        elif number > 1:
            raise DataError(f"{file}:{number}: row {row!r} of id {item!r} is not a whole number from 0")
    return pairs, False
