"""Feature arrays of a prepared data set on disk.

    <prepared>/features/<modality>/<encoder>/
      values.npy   float32 [N+1, D]  row i belongs to item i; row 0 (padding) and absent items are zeros;
                   or [N+1, layers, D] for a state per layer; float16 if requested
      present.npy  bool [N+1]        False if the item has no such text or picture (and for row 0)
      manifest.json                  which catalogue, which encoder, made from which inputs, see features/manifest.py

A folder is replaced as a whole, so that values never lie beside a manifest that describes others. Arrays are
compared with their hash when they are first read, so that a changed byte is an error and never another number.
"""

import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mmbench.atomic import beside, finish_swaps, hash_file, remove_folder, swap_folder
from mmbench.data.store import DATA_DIR, Prepared
from mmbench.errors import DamagedError, DataError, UsageError, suggest
from mmbench.features.manifest import (
    FILE,
    MODALITIES,
    PRESENT,
    VALUES,
    FeatureManifest,
    MadeBy,
    Modality,
    Stored,
    read_manifest,
    write_manifest,
)
from mmbench.features.use import FeatureUse
from mmbench.sealed import damaged

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
INPUTS: dict[Modality, str] = {"text": "texts", "image": "pictures"}


@dataclass(frozen=True)
class FeatureSet:
    """An encoder's features for every item of a prepared data set, opened read-only.

    advice  says how to make the features again, for messages
    """

    path: Path
    manifest: FeatureManifest
    advice: str

    @property
    def modality(self) -> Modality:
        return self.manifest.modality

    @property
    def encoder(self) -> str:
        return self.manifest.encoder

    @property
    def use(self) -> FeatureUse:
        return self.manifest.use

    @property
    def dim(self) -> int:
        return self.manifest.dim

    @property
    def n_layers(self) -> int:
        """Return the number of states per item; 0 = a single vector."""
        return self.manifest.n_layers

    @cached_property
    def values(self) -> np.ndarray:
        """Return float32 or float16, [N+1, D] or [N+1, layers, D], a memory map."""
        return self._array(VALUES, self.manifest.shape, self.manifest.dtype)

    @cached_property
    def present(self) -> np.ndarray:
        """Return bool [N+1], a memory map."""
        return self._array(PRESENT, (), "bool")

    def verify(self) -> None:
        """Compare both arrays with their hashes; DamagedError when either differs."""
        _ = self.values, self.present

    def _array(self, name: str, row: tuple[int, ...], dtype: str) -> np.ndarray:
        file, shape = self.path / name, (self.manifest.n_items + 1, *row)
        try:
            if hash_file(file) != self.manifest.files[name]:
                raise self._damaged(name, "it does not hold the values that its manifest describes")
            array = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(name, error) from error
        if array.shape != shape or array.dtype != dtype:
            raise self._damaged(name, f"{array.shape} {array.dtype} instead of {shape} {dtype}")
        return array

    def _damaged(self, name: str, reason: object) -> DamagedError:
        reason = "it is missing" if isinstance(reason, FileNotFoundError) else reason
        return damaged(self.path / name, reason, self.advice)


def check_modality(modality: str) -> Modality:
    """Return the modality; UsageError for an unknown modality, with the nearest."""
    for known in MODALITIES:
        if modality == known:
            return known
    raise UsageError(suggest(modality, MODALITIES, what="modality"))


def check_encoder_name(name: str) -> str:
    """Return a name that every file system accepts as a folder; UsageError for any other."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"feature name {name!r} is not usable as a folder; take 1-64 of letters, digits, . _ + -"
        )
    return name


def feature_dir(prepared: Prepared, modality: str, encoder: str) -> Path:
    """Return the folder of stored features."""
    return prepared.features_dir / check_modality(modality) / check_encoder_name(encoder)


def advice_for(prepared: Prepared, modality: str, encoder: str) -> str:
    """Return the advice about features that cannot be used."""
    return f"run: mmbench extract {prepared.name} --{modality} {encoder} --force"


def find_manifest(prepared: Prepared, modality: str, encoder: str) -> FeatureManifest | None:
    """Return the manifest of stored features, None when there are none.

    Raises DamagedError when it cannot be read, OtherVersionError when another mmbench wrote it.
    """
    finish_swaps(feature_dir(prepared, modality, encoder).parent, option=DATA_DIR)
    return _find(prepared, modality, encoder)


def _find(prepared: Prepared, modality: str, encoder: str) -> FeatureManifest | None:
    path = feature_dir(prepared, modality, encoder)
    if not _holds_features(path):
        return None
    advice = advice_for(prepared, modality, encoder)
    try:
        return read_manifest(path, advice=advice)
    except FileNotFoundError as error:
        raise damaged(path / FILE, "it is missing", advice) from error


def _holds_features(path: Path) -> bool:
    """Return whether a folder holds features, or what is left of them."""
    try:
        return any((path / name).is_file() for name in (FILE, VALUES, PRESENT))
    except OSError:  # opening it will say that the permission is missing
        return True


def list_features(
    prepared: Prepared, *, on_error: Callable[[DataError], object] | None = None
) -> dict[Modality, list[FeatureManifest]]:
    """Return the manifests of all stored features by modality, the newest first.

    Raise DataError for an unreadable manifest or, if `on_error` is given, call it with the error and leave those
    features out.
    """
    return {modality: _list_modality(prepared, modality, on_error) for modality in MODALITIES}


def _list_modality(
    prepared: Prepared, modality: Modality, on_error: Callable[[DataError], object] | None
) -> list[FeatureManifest]:
    parent = prepared.features_dir / modality
    finish_swaps(parent, option=DATA_DIR)
    manifests = []
    for path in sorted(parent.glob("[!.]*")):
        if not _NAME.fullmatch(path.name):
            continue
        try:
            manifest = _find(prepared, modality, path.name)
        except DataError as error:
            if on_error is None:
                raise
            on_error(error)
        else:
            manifests += [manifest] if manifest is not None else []
    return sorted(manifests, key=lambda manifest: (-manifest.created, manifest.encoder))


def default_encoder(prepared: Prepared, modality: str) -> str | None:
    """Return the encoder that a run reads by default (see default_of); None without features of the modality.

    States per layer are never the default, since only a few models read them. Raises DataError when features cannot be
    read, because they might be the default.
    """
    return default_of(_list_modality(prepared, check_modality(modality), None))


def default_of(manifests: Sequence[FeatureManifest]) -> str | None:
    """Return the encoder that a run reads by default, of a modality's manifests as `list_features` orders them.

    It is what was extracted last; imported features are the default only where nothing was extracted.
    """
    vectors = [manifest for manifest in manifests if not manifest.n_layers]
    extracted = [manifest for manifest in vectors if not manifest.is_imported]
    return next((manifest.encoder for manifest in extracted or vectors), None)


def _time_of_storing(prepared: Prepared, modality: Modality, encoder: str) -> float:
    """Return the time, or a moment after the newest other features: the order of storing must not depend on a clock."""
    others = [stored for stored in _list_modality(prepared, modality, _ignore) if stored.encoder != encoder]
    return max([time.time(), *(stored.created + 0.001 for stored in others)])


def is_of_catalogue(prepared: Prepared, manifest: FeatureManifest) -> bool:
    """Return whether the rows of features are the items of the data set, in its order."""
    return manifest.items_hash == prepared.items_hash


def is_stale(prepared: Prepared, manifest: FeatureManifest) -> bool:
    """Return whether features were made from other texts or pictures than the data set has now."""
    fingerprint: str = getattr(prepared.manifest.inputs, manifest.modality)
    return manifest.inputs is not None and manifest.inputs != fingerprint


def load_features(prepared: Prepared, modality: str, encoder: str) -> FeatureSet:
    """Open stored features.

    Raises UsageError when there are none, DataError when they do not belong to the data set as it is prepared now.
    """
    manifest = find_manifest(prepared, modality, encoder)
    path = feature_dir(prepared, modality, encoder)
    if manifest is None:
        known = [stored.encoder for stored in _list_modality(prepared, check_modality(modality), _ignore)]
        raise UsageError(
            f"{suggest(encoder, known, what=f'{modality} features')} of {prepared.name}; "
            f"run: mmbench extract {prepared.name} --{modality} {encoder}"
        )
    check_fits(prepared, manifest)
    return FeatureSet(path, manifest, advice_for(prepared, modality, encoder))


def check_fits(prepared: Prepared, manifest: FeatureManifest) -> None:
    """Raise DataError when features do not belong to the data set as it is prepared now."""
    path = feature_dir(prepared, manifest.modality, manifest.encoder)
    advice = f"run: mmbench extract {prepared.name} --{manifest.modality} {manifest.encoder}"
    if not is_of_catalogue(prepared, manifest):
        raise DataError(
            f"{path} was made for another catalogue ({manifest.n_items} items, {prepared.name} has "
            f"{prepared.n_items} or other ids): a row would belong to the wrong item; {advice}"
        )
    if is_stale(prepared, manifest):
        raise DataError(
            f"{path} is stale: made from other {INPUTS[manifest.modality]} than {prepared.name} has now; {advice}"
        )


def _ignore(error: DataError) -> None:
    return None


def _checked(
    prepared: Prepared, values: np.ndarray, present: np.ndarray, *, dtype: Stored
) -> tuple[np.ndarray, np.ndarray]:
    """Return values with zeros in row 0 and in absent rows; DataError when they do not fit the data set."""
    rows = prepared.n_items + 1
    fits = values.ndim in (2, 3) and len(values) == rows and values.size > 0 and present.shape == (rows,)
    if not fits:
        raise DataError(
            f"features of {prepared.name} need values [{rows}, D] or [{rows}, layers, D] and present [{rows}], "
            f"got {list(values.shape)} and {list(present.shape)}"
        )
    present = present.astype(bool)
    present[0] = False
    with np.errstate(over="ignore"):  # a value that becomes infinite is refused below
        kept = values.astype(dtype)
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
    made: MadeBy,
    *,
    dtype: Stored = "float32",
) -> FeatureSet:
    """Store features, replacing those of the same name in one step.

    values [N+1, D] or [N+1, layers, D] and present [N+1]; row 0 and absent rows are set to zero.
    """
    values, present = _checked(prepared, values, present, dtype=dtype)
    final = feature_dir(prepared, modality, encoder)
    work = beside(final, what="new")
    try:
        work.mkdir(parents=True)
        np.save(work / VALUES, values, allow_pickle=False)
        np.save(work / PRESENT, present, allow_pickle=False)
        manifest = FeatureManifest(
            **vars(made),
            modality=check_modality(modality),
            encoder=encoder,
            items_hash=prepared.items_hash,
            n_items=prepared.n_items,
            n_present=int(present.sum()),
            dim=int(values.shape[-1]),
            n_layers=int(values.shape[1]) if values.ndim == 3 else 0,
            dtype=dtype,
            files={name: hash_file(work / name) for name in (VALUES, PRESENT)},
            created=_time_of_storing(prepared, check_modality(modality), encoder),
        )
        write_manifest(work, manifest)
        swap_folder(work, final, option=DATA_DIR)
    except OSError as error:
        raise DataError(
            f"cannot write {final}: {error.strerror or error}; free some space or choose another {DATA_DIR}"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return load_features(prepared, modality, encoder)


def remove_features(prepared: Prepared, modality: str, encoder: str) -> None:
    """Remove stored features, if there are any."""
    path = feature_dir(prepared, modality, encoder)
    try:
        remove_folder(path)
    except OSError as error:
        raise DataError(
            f"cannot remove {path}: {error.strerror or error}; choose another {DATA_DIR}"
        ) from error
