"""Feature arrays of a prepared data set on disk.

    <prepared>/features/<modality>/<encoder>/
      values.npy   float32 [N+1, D]  row i belongs to item i; row 0 (padding) and absent items are zeros;
                   or [N+1, layers, D] for one state per layer; float16 where that was asked for
      present.npy  bool [N+1]        False = the item has no such text or picture (and for row 0)
      manifest.json                  which catalogue, which encoder with which settings, coverage, hash

A folder is replaced as a whole, so that values never stand beside a manifest that describes others.
"""

import hashlib
import json
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from mmbench.atomic import beside, write_json
from mmbench.data.store import Prepared
from mmbench.errors import DataError, UsageError, suggest

Modality = Literal["text", "image"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


@dataclass(frozen=True)
class FeatureSet:
    """One encoder's features for every item of a prepared data set, opened read-only."""

    modality: Modality
    encoder: str
    values: np.ndarray  # float32 or float16, [N+1, D] or [N+1, layers, D], memory map
    present: np.ndarray  # bool [N+1]
    manifest: dict[str, Any]
    path: Path

    @property
    def hash(self) -> str:
        """sha256 of values and presence: what a result names as its features."""
        return str(self.manifest["hash"])

    @property
    def dim(self) -> int:
        return int(self.values.shape[-1])

    @property
    def n_layers(self) -> int:
        """States per item; 0 = one vector."""
        return int(self.values.shape[1]) if self.values.ndim == 3 else 0

    def verify(self) -> None:
        """Hash the arrays again; raise DataError when they are not those that the manifest describes."""
        if hash_values(self.values, self.present) != self.hash:
            raise DataError(f"{self.path} does not hold the values its manifest describes; extract it again")


def hash_values(values: np.ndarray, present: np.ndarray) -> str:
    """sha256 over shape, values (float32 or float16, little endian) and presence."""
    form = "<f2" if values.dtype == np.float16 else "<f4"
    digest = hashlib.sha256(repr(values.shape).encode())
    digest.update(np.ascontiguousarray(values, dtype=form).data)
    digest.update(np.packbits(present).tobytes())
    return digest.hexdigest()


def check_modality(modality: str) -> Modality:
    for known in MODALITIES:
        if modality == known:
            return known
    raise UsageError(suggest(modality, MODALITIES, what="modality"))


def check_encoder_name(name: str) -> str:
    """A name that is a folder name everywhere."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"feature name {name!r} is not usable as a folder; take 1-64 of letters, digits, . _ + -"
        )
    return name


def feature_dir(prepared: Prepared, modality: str, encoder: str) -> Path:
    return prepared.features_dir / check_modality(modality) / check_encoder_name(encoder)


def read_manifest(prepared: Prepared, modality: str, encoder: str) -> dict[str, Any] | None:
    """The manifest of stored features, None when there are none (or none of this format)."""
    try:
        text = (feature_dir(prepared, modality, encoder) / "manifest.json").read_text(encoding="utf-8")
        manifest = json.loads(text)
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("format") == FORMAT else None


def list_features(prepared: Prepared) -> dict[str, list[str]]:
    """Encoders stored per modality, the one stored last first."""
    found: dict[str, list[str]] = {}
    for modality in MODALITIES:
        dated = []
        for path in (prepared.features_dir / modality).glob("*/manifest.json"):
            manifest = (
                None
                if path.parent.name.startswith(".")
                else read_manifest(prepared, modality, path.parent.name)
            )
            if manifest is not None:
                dated.append((-float(manifest["created"]), path.parent.name))
        found[modality] = [name for _, name in sorted(dated)]
    return found


def default_encoder(prepared: Prepared, modality: str) -> str | None:
    """The encoder that a run reads unless told otherwise; None = there are no features of the modality.

    The data set's preference (`manifest["encoders"][modality]`) when stored, else the one stored last. States
    per layer are for the few models that read them, so they are never the default.
    """
    names = [
        name
        for name in list_features(prepared)[check_modality(modality)]
        if not (read_manifest(prepared, modality, name) or {}).get("layers")
    ]
    preferred = prepared.manifest.get("encoders", {}).get(modality)
    if preferred in names:
        return str(preferred)
    return names[0] if names else None


def load_features(prepared: Prepared, modality: str, encoder: str) -> FeatureSet:
    """Open stored features; UsageError when there are none, DataError when they do not fit the catalogue."""
    path = feature_dir(prepared, modality, encoder)
    manifest = read_manifest(prepared, modality, encoder)
    if manifest is None:
        known = list_features(prepared)[modality]
        raise UsageError(
            f"{suggest(encoder, known, what=f'{modality} features')} of {prepared.name}; "
            f"run: mmbench extract {prepared.name} --{modality} {encoder}"
        )
    again = f"run: mmbench extract {prepared.name} --{modality} {encoder}"
    if manifest["items_hash"] != prepared.items_hash:
        raise DataError(
            f"{path} was made for another catalogue ({manifest['n_items']} items, {prepared.name} has "
            f"{prepared.n_items} or other ids): a row would belong to the wrong item; {again}"
        )
    try:
        values = np.load(path / "values.npy", mmap_mode="r", allow_pickle=False)
        present = np.load(path / "present.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}); {again}") from error
    rows = prepared.n_items + 1
    plausible = values.ndim in (2, 3) and values.dtype in (np.float32, np.float16)
    if not plausible or len(values) != rows or present.shape != (rows,) or present.dtype != bool:
        raise DataError(f"{path}: values {values.shape} {values.dtype} do not fit {rows} rows; {again}")
    return FeatureSet(check_modality(modality), encoder, values, present, manifest, path)


def _checked(
    prepared: Prepared, values: np.ndarray, present: np.ndarray, *, float16: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Values with zeros in row 0 and in absent rows; DataError when they do not fit."""
    rows = prepared.n_items + 1
    fits = values.ndim in (2, 3) and len(values) == rows and values.size > 0 and present.shape == (rows,)
    if not fits:
        raise DataError(
            f"features of {prepared.name} need values [{rows}, D] or [{rows}, layers, D] and present [{rows}], "
            f"got {list(values.shape)} and {list(present.shape)}"
        )
    present = present.astype(bool)
    present[0] = False
    with np.errstate(over="ignore"):  # becomes infinite and is refused below
        kept = values.astype(np.float16 if float16 else np.float32)
    kept[~present] = 0
    finite = np.isfinite(kept).all(axis=tuple(range(1, kept.ndim)))
    if not finite.all():
        item = int(np.argmin(finite))
        if np.isfinite(values[item]).all():
            raise DataError(
                f"features of {prepared.name}: item {item} is too large for {kept.dtype}; store float32"
            )
        raise DataError(f"features of {prepared.name}: item {item} has NaN or infinite values")
    return kept, present


def write_features(
    prepared: Prepared,
    modality: str,
    encoder: str,
    values: np.ndarray,
    present: np.ndarray,
    info: dict[str, Any],
    *,
    float16: bool = False,
) -> FeatureSet:
    """Store features, replacing those of the same name in one step.

    values [N+1, D] or [N+1, layers, D] and present [N+1]; row 0 and absent rows are set to zero. `info` (JSON)
    tells how they were made; format, catalogue, counts, hash and date are added to it.
    """
    values, present = _checked(prepared, values, present, float16=float16)
    final = feature_dir(prepared, modality, encoder)
    described = {**info, "modality": modality, "encoder": encoder}
    work: Path | None = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        work = beside(final, what="new")
        work.mkdir()
        np.save(work / "values.npy", values, allow_pickle=False)
        np.save(work / "present.npy", present, allow_pickle=False)
        write_json(work / "manifest.json", _manifest(prepared, values, present, described))
        _replace(work, final)
    except OSError as error:
        raise DataError(
            f"cannot write {final}: {error.strerror or error}; free some space or choose another --data-dir"
        ) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
    return load_features(prepared, modality, encoder)


def _manifest(
    prepared: Prepared, values: np.ndarray, present: np.ndarray, described: dict[str, Any]
) -> dict[str, Any]:
    return {
        **described,
        "format": FORMAT,
        "items_hash": prepared.items_hash,
        "n_items": prepared.n_items,
        "n_present": int(present.sum()),
        "dim": int(values.shape[-1]),
        "layers": int(values.shape[1]) if values.ndim == 3 else 0,
        "dtype": str(values.dtype),
        "hash": hash_values(values, present),
        "created": time.time(),
    }


def remove_features(prepared: Prepared, modality: str, encoder: str) -> None:
    """Drop stored features, if there are any."""
    shutil.rmtree(feature_dir(prepared, modality, encoder), ignore_errors=True)


def _replace(work: Path, final: Path) -> None:
    """Put `work` in the place of `final`. Two writers at once are told apart by a lock; readers that have the
    old arrays mapped keep them."""
    from filelock import FileLock

    for name in ("values.npy", "present.npy"):
        with (work / name).open("rb+") as file:
            os.fsync(file.fileno())
    with FileLock(final.parent / ".lock"):
        if final.exists():
            old = beside(final, what="old")
            old.mkdir()
            final.rename(old / final.name)
            try:
                work.rename(final)
            except OSError:
                (old / final.name).rename(final)
                raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
        else:
            work.rename(final)
