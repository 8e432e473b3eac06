"""Texts and pictures of a prepared data set -> stored features, with a report on what is missing and why."""

import importlib.metadata
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mmbench.atomic import remove_leftovers
from mmbench.data.decoding import PREPROCESSING
from mmbench.data.store import DATA_DIR, Prepared
from mmbench.errors import DataError, UsageError, counted
from mmbench.features.encoders import Encoder, NetworkEncoder, get_encoder, plugin_facts
from mmbench.features.manifest import MadeBy, Modality, Stored, made_from
from mmbench.features.network import NOTHING, encode_all
from mmbench.features.sources import PictureSource, TextSource
from mmbench.features.store import (
    INPUTS,
    check_modality,
    feature_dir,
    find_manifest,
    load_features,
    remove_features,
    write_features,
)
from mmbench.features.work import Say, Work
from mmbench.locks import held_where_writable, lock_file

Progress = Callable[
    [str, int, int], None
]  # takes a title ("image colour-gradient"), items done, number of items
# These are counted in `reasons`, but the item is present. (A truncated picture is absent, a truncated text is not.)
NOTES: dict[str, tuple[str, ...]] = {
    "text": ("duplicate", "unknown id", "truncated"),
    "image": ("duplicate", "unknown id"),
}
SKIP = "none"  # the encoder name that leaves a modality out
LIBRARIES = ("numpy", "pillow", "scikit-learn")
NETWORK_LIBRARIES = ("numpy", "pillow", "torch", "torchvision", "transformers", "tokenizers")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to extract; `batch_size`, `device` and `precision` concern networks only."""

    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None  # None: chosen automatically
    float16: bool = False  # store half as many bytes
    force: bool = False  # extract even if the same features are stored

    @property
    def dtype(self) -> Stored:
        return "float16" if self.float16 else "float32"

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"batch size {self.batch_size}: must be a whole number from 1")


@dataclass(frozen=True)
class ExtractReport:
    """The outcome of an extraction. `reasons` counts why items are absent, and the notes in NOTES."""

    modality: Modality
    encoder: str
    n_items: int
    n_present: int
    dim: int  # 0 = nothing was stored, because no item has the modality
    reasons: dict[str, int] = field(default_factory=dict)
    skipped: bool = False  # True if the same features were stored already
    seconds: float = 0.0
    n_layers: int = 0  # 0 = a single vector per item
    items_per_second: float = 0.0  # speed of a network without the loading of its weights; 0 = not a network

    @property
    def absent(self) -> dict[str, int]:
        return {reason: n for reason, n in self.reasons.items() if reason not in NOTES[self.modality]}

    def line(self) -> str:
        """Describe the outcome in a line for the terminal: coverage, reasons, time."""
        share = 100 * self.n_present / self.n_items if self.n_items else 0.0
        parts = [f"{self.modality} {self.encoder}: {self.n_present} of {self.n_items} items ({share:.1f}%)"]
        size = f"{self.n_layers} layers of {self.dim}" if self.n_layers else f"{self.dim}"
        parts.append(f"{size} dimensions" if self.dim else "nothing stored")
        if self.absent:
            parts.append("absent: " + ", ".join(f"{n} {reason}" for reason, n in sorted(self.absent.items())))
        notes = sorted(item for item in self.reasons.items() if item[0] in NOTES[self.modality])
        parts += [counted(n, note) if note == "duplicate" else f"{n} {note}" for note, n in notes]
        if self.items_per_second and not self.skipped:
            parts.append(f"{self.items_per_second:.1f} items/s")
        parts.append("already stored" if self.skipped else f"{self.seconds:.1f} s")
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
    """Encode a modality of all items and store it.

    encoder  a name (see mmbench.features.encoders), None = the modality's default, or an encoder object
    say      is called with remarks

    Does nothing when the features of this encoder and these inputs are stored already (unless `force`). Resumes what a
    killed extraction left. When no item has the modality, nothing is stored, and features stored earlier under the name
    are removed. Raises UsageError for unknown names, DataError when the pictures are gone, changed since the data set
    was prepared, or when the model cannot be loaded.
    """
    options = replace(options or Options(), force=force or (options is not None and options.force))
    built = encoder
    if built is None or isinstance(built, str):
        built = get_encoder(modality, built, device=options.device, precision=options.precision)
    with _open_source(prepared, check_modality(modality)) as source:
        return _Extraction(prepared, built, source, options, on_progress, say).run()


@contextmanager
def _open_source(prepared: Prepared, modality: Modality) -> Iterator[TextSource | PictureSource]:
    if modality == "text":
        yield TextSource(prepared)
        return
    pictures = PictureSource(prepared)
    try:
        yield pictures
    finally:
        pictures.close()


@dataclass(frozen=True)
class _Extraction:
    """A call of `extract`, with its encoder and its inputs."""

    prepared: Prepared
    encoder: Encoder | NetworkEncoder
    source: TextSource | PictureSource
    options: Options
    on_progress: Progress | None
    say: Say

    @property
    def modality(self) -> Modality:
        return self.encoder.modality

    @property
    def name(self) -> str:
        return self.encoder.name

    def run(self) -> ExtractReport:
        started, made = time.perf_counter(), self._made_by()
        stored = None if self.options.force else self._stored(made)
        if stored is not None:
            return stored
        with self._lock() as has_waited:
            # Another process may have done the work while this process waited.
            stored = self._stored(made) if has_waited or not self.options.force else None
            folder = self._work_folder(made)
            if stored is None:
                remove_leftovers(feature_dir(self.prepared, self.modality, self.name))
                encoded, made = self._encode(folder, made)
                stored = store_report(
                    self.prepared, self.modality, self.name, encoded, made, started, dtype=self.options.dtype
                )
            shutil.rmtree(folder, ignore_errors=True)
        return stored

    def _made_by(self) -> MadeBy:
        """Return what decides the numbers; DataError when the inputs changed since the data set was prepared."""
        fingerprint, prepared_fingerprint = (
            self.source.fingerprint(),
            getattr(self.prepared.manifest.inputs, self.modality),
        )
        if fingerprint != prepared_fingerprint:
            name = self.prepared.name
            raise DataError(
                f"the {INPUTS[self.modality]} of {name} changed since it was prepared; run: mmbench preprocess {name}"
            )
        preprocessing = PREPROCESSING if self.modality == "image" else "white space collapsed"
        plugin = plugin_facts(self.modality, self.name)
        identity = self.encoder.identity() | ({"plugin": plugin} if plugin else {})
        return MadeBy(identity=identity, inputs=fingerprint, preprocessing=preprocessing)

    def _stored(self, made: MadeBy) -> ExtractReport | None:
        return stored_report(self.prepared, self.modality, self.name, made, self.options.dtype)

    def _lock(self) -> AbstractContextManager[bool]:
        """Hold the lock on these features; the context yields whether another process held it before."""
        final = feature_dir(self.prepared, self.modality, self.name)

        def on_wait() -> None:
            self.say(
                f"{self.modality} {self.name}: another process is extracting it; waiting for it to finish"
            )

        return held_where_writable(lock_file(final), error=DataError, option=DATA_DIR, on_wait=on_wait)

    def _work_folder(self, made: MadeBy) -> Path:
        """Return the folder of unfinished work on these features; remove unfinished work on others of the same name."""
        identity = made_from(self.prepared.items_hash, made, self.options.dtype)
        parent = feature_dir(self.prepared, self.modality, self.name).parent
        folder = parent / f".{self.name}.work-{identity[:16]}"
        for stale in parent.glob(f".{self.name}.work-*"):
            if self.options.force or stale != folder:
                shutil.rmtree(stale, ignore_errors=True)
        return folder

    def _encode(self, folder: Path, made: MadeBy) -> tuple[tuple[np.ndarray, np.ndarray], MadeBy]:
        """Return values and presence flags (item 1 first), and how they were made."""
        source, encoder = self.source, self.encoder
        if not isinstance(encoder, NetworkEncoder):
            values, present = encoder.encode(source.read(self._tick))
            reasons = _with_empty(source.reasons, self.modality, len(source), int(present.sum()))
            return (values, present), replace(made, reasons=reasons, versions=_versions(LIBRARIES))
        work = Work(folder, device=encoder.device, say=self.say)
        batch_size = self.options.batch_size
        encoded = encode_all(encoder, source, work, batch_size=batch_size, tick=self._tick, say=self.say)
        made = replace(
            made,
            reasons=dict(encoded.reasons),
            versions=_versions(NETWORK_LIBRARIES),
            extraction=encoded.facts,
        )
        return (encoded.values, encoded.present), made

    def _tick(self, n_done: int) -> None:
        if self.on_progress is not None:
            self.on_progress(f"{self.modality} {self.name}", n_done, len(self.source))


def _with_empty(counted: Counter[str], modality: Modality, n_items: int, n_present: int) -> dict[str, int]:
    """Return the source's reasons, and the number of items with an input that the encoder found empty."""
    reasons = dict(+counted)
    n_inputs = n_items - sum(n for reason, n in reasons.items() if reason not in NOTES[modality])
    if n_inputs > n_present:
        reasons[NOTHING] = n_inputs - n_present
    return reasons


def stored_report(
    prepared: Prepared, modality: Modality, name: str, made: MadeBy, dtype: Stored
) -> ExtractReport | None:
    """Return the report of stored features that were made from the same inputs in the same way.

    None if there are none, or if they are damaged or of another version of mmbench: then they are made again.
    """
    try:
        manifest = find_manifest(prepared, modality, name)
        if manifest is None or manifest.made_from != made_from(prepared.items_hash, made, dtype):
            return None
        load_features(prepared, modality, name).verify()
    except DataError:
        return None
    return ExtractReport(
        modality, name, prepared.n_items, manifest.n_present, manifest.dim, manifest.reasons, skipped=True,
        n_layers=manifest.n_layers,
    )  # fmt: skip


def store_report(
    prepared: Prepared,
    modality: Modality,
    name: str,
    encoded: tuple[np.ndarray, np.ndarray],
    made: MadeBy,
    started: float,
    *,
    dtype: Stored = "float32",
) -> ExtractReport:
    """Store values [N, D] or [N, layers, D] and present [N] (item 1 first); `started` is a time.perf_counter()."""
    values, present = encoded
    made = replace(made, reasons={reason: int(n) for reason, n in made.reasons.items()})
    dim = values.shape[-1] if present.any() else 0
    if dim:
        padded = np.concatenate([np.zeros((1, *values.shape[1:]), values.dtype), values])
        flags = np.concatenate([[False], present])
        write_features(prepared, modality, name, padded, flags, made, dtype=dtype)
    else:
        remove_features(prepared, modality, name)
    return ExtractReport(
        modality,
        name,
        prepared.n_items,
        int(present.sum()),
        dim,
        made.reasons,
        seconds=time.perf_counter() - started,
        n_layers=values.shape[1] if dim and values.ndim == 3 else 0,
        items_per_second=float(made.extraction.get("items_per_second", 0.0)),
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
    """Extract both modalities with the named encoders (None = the default, "none" = leave the modality out).

    A data set without pictures gives no image report unless an image encoder is named.
    """
    reports = []
    for modality, name in (("text", text), ("image", image)):
        no_pictures = modality == "image" and prepared.manifest.images is None
        if name == SKIP or (name is None and no_pictures):
            continue
        reports.append(extract(prepared, modality, name, options=options, on_progress=on_progress, say=say))
    return reports


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = ""
    return versions
