"""Texts and pictures of a prepared data set -> stored features, with a report of what is missing and why."""

import importlib.metadata
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.atomic import hash_json
from mmbench.data.store import Prepared
from mmbench.errors import DataError, UsageError
from mmbench.features.encoders import Encoder, NetworkEncoder, get_encoder
from mmbench.features.network import NOTHING, encode_all
from mmbench.features.sources import PREPROCESSING, PictureSource, TextSource
from mmbench.features.store import (
    Modality,
    check_modality,
    feature_dir,
    load_features,
    read_manifest,
    remove_features,
    write_features,
)
from mmbench.features.work import Say, Work

Progress = Callable[[str, int, int], None]  # what ("image colour-gradient"), items done, items in all
# Counted in `reasons`, but no reason to be absent. (A truncated picture is absent, a truncated text is not.)
NOTES: dict[str, tuple[str, ...]] = {
    "text": ("duplicate", "unknown id", "truncated"),
    "image": ("duplicate", "unknown id"),
}
SKIP = "none"  # the encoder name that leaves a modality out
LIBRARIES = ("numpy", "pillow", "scikit-learn")
NETWORK_LIBRARIES = ("numpy", "pillow", "torch", "torchvision", "transformers", "tokenizers")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to extract. `batch_size`, `device` and `precision` concern networks only."""

    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None  # None: found automatically
    float16: bool = False  # store half as many bytes
    force: bool = False  # again, even if the same features lie there

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"batch size {self.batch_size}: needed is a whole number from 1")


@dataclass(frozen=True)
class ExtractReport:
    """What one extraction stored. `reasons` counts why items are absent, plus the notes named in NOTES."""

    modality: Modality
    encoder: str
    n_items: int
    n_present: int
    dim: int  # 0 = nothing stored, because no item has the modality
    reasons: dict[str, int] = field(default_factory=dict)
    skipped: bool = False  # the stored features were already these
    seconds: float = 0.0
    n_layers: int = 0  # 0 = one vector an item
    items_per_second: float = 0.0  # of a network, without the loading of its weights; 0 = not a network

    @property
    def absent(self) -> dict[str, int]:
        return {reason: n for reason, n in self.reasons.items() if reason not in NOTES[self.modality]}

    def line(self) -> str:
        """One line for the terminal: coverage, reasons, time."""
        share = 100 * self.n_present / self.n_items if self.n_items else 0.0
        parts = [f"{self.modality} {self.encoder}: {self.n_present} of {self.n_items} items ({share:.1f}%)"]
        size = f"{self.n_layers} layers of {self.dim}" if self.n_layers else f"{self.dim}"
        parts.append(f"{size} numbers each" if self.dim else "nothing stored")
        if self.absent:
            parts.append("absent: " + ", ".join(f"{n} {reason}" for reason, n in sorted(self.absent.items())))
        parts += [f"{n} {note}" for note, n in sorted(self.reasons.items()) if note in NOTES[self.modality]]
        if self.items_per_second and not self.skipped:
            parts.append(f"{self.items_per_second:.1f} items/s")
        parts.append("already there" if self.skipped else f"{self.seconds:.1f} s")
        return "; ".join(parts)


def extract(
    prepared: Prepared,
    modality: str,
    encoder: str | Encoder | NetworkEncoder | None = None,
    *,
    options: Options | None = None,
    force: bool = False,
    on_progress: Progress | None = None,
    say: Say = lambda message: None,
) -> ExtractReport:
    """Encode one modality of all items and store it.

    `encoder`: a name (see mmbench.features.encoders), None = the modality's default, or an encoder itself. Does
    nothing when the same encoder has already seen the same inputs (unless `force`). What a killed extraction
    had done is not done again. When no item has the modality nothing is stored, and what an earlier extraction
    left under the name goes. `say` hears remarks. Raises UsageError for unknown names, DataError when the
    pictures' folder or zip is gone or the model cannot be loaded.
    """
    options = replace(options or Options(), force=force or (options is not None and options.force))
    built = encoder
    if built is None or isinstance(built, str):
        built = get_encoder(modality, built, device=options.device, precision=options.precision)
    with _source_of(prepared, check_modality(modality)) as source:
        return _extract(prepared, built, source, options, on_progress, say)


@contextmanager
def _source_of(prepared: Prepared, modality: Modality) -> Iterator[TextSource | PictureSource]:
    if modality == "text":
        yield TextSource(prepared)
        return
    pictures = PictureSource(prepared)
    try:
        yield pictures
    finally:
        pictures.close()


def _extract(
    prepared: Prepared,
    built: Encoder | NetworkEncoder,
    source: TextSource | PictureSource,
    options: Options,
    on_progress: Progress | None,
    say: Say,
) -> ExtractReport:
    started, known = time.perf_counter(), built.modality
    made_from = _made_from(prepared, source, built.identity(), options)
    stored = None if options.force else stored_report(prepared, known, built.name, made_from)
    if stored is not None:
        return stored
    with _turn(prepared, known, built.name, say) as waited:
        # Another process may have done the work while this one waited for it.
        again = options.force and not waited
        stored = None if again else stored_report(prepared, known, built.name, made_from)
        folder = _work_folder(prepared, known, built.name, made_from, options.force)
        if stored is None:
            tick = _ticker(on_progress, f"{known} {built.name}", len(source))
            encoded, reasons, info = _encode(built, source, folder, options, tick, say)
            stored = store_report(
                prepared,
                known,
                built.name,
                encoded,
                reasons,
                info,
                made_from,
                started,
                float16=options.float16,
            )
        shutil.rmtree(folder, ignore_errors=True)
    return stored


def _made_from(
    prepared: Prepared, source: TextSource | PictureSource, identity: dict[str, Any], options: Options
) -> str:
    """Hash of everything that decides the stored numbers."""
    stored_as = {"stored": "float16"} if options.float16 else {}
    return hash_json(
        {
            "items": prepared.items_hash,
            "inputs": source.fingerprint(),
            "encoder": identity,
            "source": PREPROCESSING,
            **stored_as,
        }
    )


def _preprocessing(modality: Modality) -> str:
    return PREPROCESSING if modality == "image" else "white space collapsed"


def _ticker(on_progress: Progress | None, label: str, total: int) -> Callable[[int], None]:
    return (lambda done: on_progress(label, done, total)) if on_progress else (lambda done: None)


@contextmanager
def _turn(prepared: Prepared, modality: Modality, name: str, say: Say) -> Iterator[bool]:
    """Hold the right to extract these features; True = another process had it before. Ends with the process."""
    from filelock import FileLock, Timeout

    final = feature_dir(prepared, modality, name)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(final.parent / f".{name}.lock")
        waited = False
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waited = True
            say(f"{modality} {name}: another process extracts it; waiting for its end")
            lock.acquire()
    except OSError as error:
        raise DataError(
            f"cannot write in {final.parent}: {error.strerror}; choose another --data-dir"
        ) from error
    try:
        yield waited
    finally:
        lock.release()


def _work_folder(prepared: Prepared, modality: Modality, name: str, made_from: str, force: bool) -> Path:
    """Where unfinished work on these features lies; unfinished work on others of the name goes."""
    parent = feature_dir(prepared, modality, name).parent
    folder = parent / f".{name}.work-{made_from[:16]}"
    for stale in parent.glob(f".{name}.work-*"):
        if force or stale != folder:
            shutil.rmtree(stale, ignore_errors=True)
    return folder


def _encode(
    built: Encoder | NetworkEncoder,
    source: TextSource | PictureSource,
    folder: Path,
    options: Options,
    tick: Callable[[int], None],
    say: Say,
) -> tuple[tuple[np.ndarray, np.ndarray], dict[str, int], dict[str, Any]]:
    """-> (values, present), reasons, and what the manifest tells of the encoder and the run."""
    info: dict[str, Any] = {"identity": built.identity(), "preprocessing": _preprocessing(built.modality)}
    if not isinstance(built, NetworkEncoder):
        values, present = built.encode(source.read(tick))
        reasons = _with_refused(source.reasons, built.modality, len(source), int(present.sum()))
        return (values, present), reasons, {**info, "versions": _versions(LIBRARIES)}
    work = Work(folder, device=built.device, say=say)
    found = encode_all(built, source, work, batch_size=options.batch_size, tick=tick, say=say)
    info |= {"versions": _versions(NETWORK_LIBRARIES), "run": found.facts}
    return (found.values, found.present), dict(found.reasons), info


def _with_refused(counted: Counter[str], modality: Modality, n_items: int, n_present: int) -> dict[str, int]:
    """The source's reasons, and how many items with an input the encoder itself found empty."""
    reasons = dict(+counted)
    given = n_items - sum(n for reason, n in reasons.items() if reason not in NOTES[modality])
    if given > n_present:
        reasons[NOTHING] = given - n_present
    return reasons


def stored_report(prepared: Prepared, modality: Modality, name: str, made_from: str) -> ExtractReport | None:
    """The report of features that lie there already and were made from the same, None when there are none."""
    manifest = read_manifest(prepared, modality, name)
    if manifest is None or manifest.get("made_from") != made_from:
        return None
    if not all(
        (feature_dir(prepared, modality, name) / part).is_file() for part in ("values.npy", "present.npy")
    ):
        return None
    features = load_features(prepared, modality, name)
    return ExtractReport(
        modality,
        name,
        prepared.n_items,
        int(manifest["n_present"]),
        features.dim,
        manifest["reasons"],
        skipped=True,
        n_layers=features.n_layers,
    )


def store_report(
    prepared: Prepared,
    modality: Modality,
    name: str,
    encoded: tuple[np.ndarray, np.ndarray],
    reasons: Mapping[str, int],
    info: dict[str, Any],
    made_from: str,
    started: float,
    *,
    float16: bool = False,
) -> ExtractReport:
    """Store values [N, D] or [N, layers, D] and present [N] (item 1 first); `started` is a perf_counter."""
    values, present = encoded
    reasons = {reason: int(n) for reason, n in reasons.items()}
    dim = values.shape[-1] if present.any() else 0
    if dim:
        padded = np.concatenate([np.zeros((1, *values.shape[1:]), values.dtype), values])
        more = {**info, "reasons": reasons, "made_from": made_from}
        flags = np.concatenate([[False], present])
        write_features(prepared, modality, name, padded, flags, more, float16=float16)
    else:
        remove_features(prepared, modality, name)
    return ExtractReport(
        modality,
        name,
        prepared.n_items,
        int(present.sum()),
        dim,
        reasons,
        seconds=time.perf_counter() - started,
        n_layers=values.shape[1] if dim and values.ndim == 3 else 0,
        items_per_second=float(info.get("run", {}).get("items_per_second", 0.0)),
    )


def extract_default(
    prepared: Prepared,
    text: str | None = None,
    image: str | None = None,
    on_progress: Progress | None = None,
    *,
    options: Options | None = None,
    say: Say = lambda message: None,
) -> list[ExtractReport]:
    """Both modalities with the named encoders (None = the default one, "none" = leave the modality out).

    A data set that names no pictures at all gives no image report unless an image encoder was asked for.
    """
    reports = []
    for modality, name in (("text", text), ("image", image)):
        no_pictures = modality == "image" and prepared.manifest.get("images") is None
        if name == SKIP or (name is None and no_pictures):
            continue
        reports.append(extract(prepared, modality, name, options=options, on_progress=on_progress, say=say))
    return reports


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found
