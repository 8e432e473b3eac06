"""Ready-made feature arrays of other projects, with a map that says which item each row belongs to -> store.

The id map is explicit, because rows in an unknown order are the most common way to feed a model the wrong
pictures. For the files that can be read, see imported_files.py.
"""

import hashlib
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmbench.atomic import hash_file
from mmbench.data.store import Prepared
from mmbench.errors import DataError, UsageError
from mmbench.features.encoders import encoder_names
from mmbench.features.extract import ExtractReport, store_report, stored_report
from mmbench.features.imported_files import read_array, read_ids
from mmbench.features.manifest import MadeBy, Modality
from mmbench.features.store import check_encoder_name, check_modality

# The least share of the catalogue's items. Below it, the file was most likely made for another edition or another
# filter, and a comparison of models would mostly be about items without features.
LEAST_SHARE = 0.5


def import_features(
    prepared: Prepared,
    modality: str,
    name: str,
    array_file: Path,
    ids_file: Path,
    *,
    dim: int | None = None,
    allow_partial: bool = False,
) -> ExtractReport:
    """Store ready-made features under `name`.

    Items that the map lacks, or whose row is all zeros, are absent and counted. Ids that are not items are counted too,
    as are items with the same row as another ("duplicate"). Everything else that does not fit (repeated ids, rows and
    ids that do not match, rows whose width is not `dim`, NaN, a map with fewer than LEAST_SHARE of the items unless
    `allow_partial`) raises DataError; the name of a built-in encoder raises UsageError. Importing the same files
    again does nothing.
    """
    started = time.perf_counter()
    known = check_modality(modality)
    _check_name(known, name)
    for file in (array_file, ids_file):
        if not file.is_file():
            raise DataError(f"{file} does not exist; give the array with --array and its id map with --ids")
    made = MadeBy(
        identity={"imported": {"array": hash_file(array_file), "ids": hash_file(ids_file)}},
        extraction={"array": array_file.name, "ids": ids_file.name},
    )
    stored = stored_report(prepared, known, name, made, "float32")
    if stored is not None:
        return stored
    ids = read_ids(ids_file)
    array = read_array(array_file, ids, dim)
    rows = ids.rows(len(array))
    _check_overlap(prepared, rows, ids_file, allow_partial)
    values, present, reasons = _by_item(prepared, array, rows, array_file)
    return store_report(prepared, known, name, (values, present), replace(made, reasons=reasons), started)


def _check_name(modality: Modality, name: str) -> None:
    """Raise UsageError when the name cannot be a folder's name or is that of a registered encoder."""
    check_encoder_name(name)
    if name in encoder_names(modality):
        raise UsageError(
            f"{name!r} is the name of a registered {modality} encoder; import the array under another name"
        )


def _check_overlap(prepared: Prepared, rows: dict[str, int], ids_file: Path, allow_partial: bool) -> None:
    """Raise DataError when the map knows none of the items, or too few."""
    catalogue = [str(record["id"]) for record in prepared.item_records]
    n_common = sum(item in rows for item in catalogue)
    if not n_common:
        raise DataError(
            f"{ids_file}: none of its {len(rows)} ids is an item of {prepared.name} "
            f"(it has {next(iter(rows))!r}, the catalogue {catalogue[0]!r}); "
            "write the raw ids, leading zeros included"
        )
    share = n_common / len(catalogue)
    if share < LEAST_SHARE and not allow_partial:
        raise DataError(
            f"{ids_file}: covers {n_common:,} of the {len(catalogue):,} items of {prepared.name} ({100 * share:.1f}%), "
            f"{len(rows) - n_common:,} of its {len(rows):,} ids are not items: it seems to belong to another catalogue "
            "(edition, filter); --allow-partial accepts it anyway"
        )


def _by_item(
    prepared: Prepared, array: np.ndarray, rows: dict[str, int], array_file: Path
) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """Return the rows in item order: values float32 [N, D], present [N], reasons."""
    catalogue = [str(record["id"]) for record in prepared.item_records]
    row_of = np.array([rows.get(item, -1) for item in catalogue], dtype=np.int64)
    mapped = row_of >= 0
    values = np.zeros((len(catalogue), array.shape[1]), np.float32)
    with np.errstate(over="ignore"):  # a value too large for float32 becomes infinite and is refused below
        values[mapped] = array[row_of[mapped]]
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        first = int(np.argmax(bad))
        raise DataError(
            f"{array_file}: {int(bad.sum())} rows have NaN or infinite values, the first is "
            f"row {row_of[first]} (item {catalogue[first]!r}); "
            "leave such items out of the id map, so that they count as absent"
        )
    present = np.asarray(values.any(axis=1), dtype=bool)
    reasons = Counter(
        {
            "not in the id map": int((~mapped).sum()),
            "zero row": int((mapped & ~present).sum()),
            "unknown id": len(rows) - int(mapped.sum()),
            "duplicate": int(present.sum()) - len({hashlib.sha256(row).digest() for row in values[present]}),
        }
    )
    return values, present, +reasons
