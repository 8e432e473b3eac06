"""Texts and pictures of a prepared data set -> stored features, with a report of what is missing and why."""

import importlib.metadata
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmbench.atomic import hash_json
from mmbench.data.store import Prepared
from mmbench.features.encoders import Encoder, get_encoder
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

Progress = Callable[[str, int, int], None]  # what ("image colour-gradient"), items done, items in all
NOTES = ("duplicate", "unknown id")  # counted in `reasons`, but not a reason to be absent
SKIP = "none"  # the encoder name that leaves a modality out


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

    @property
    def absent(self) -> dict[str, int]:
        return {reason: n for reason, n in self.reasons.items() if reason not in NOTES}

    def line(self) -> str:
        """One line for the terminal: coverage, reasons, time."""
        share = 100 * self.n_present / self.n_items if self.n_items else 0.0
        parts = [f"{self.modality} {self.encoder}: {self.n_present} of {self.n_items} items ({share:.1f}%)"]
        parts.append(f"{self.dim} numbers each" if self.dim else "nothing stored")
        if self.absent:
            parts.append("absent: " + ", ".join(f"{n} {reason}" for reason, n in sorted(self.absent.items())))
        parts += [f"{n} {note}" for note, n in sorted(self.reasons.items()) if note in NOTES]
        parts.append("already there" if self.skipped else f"{self.seconds:.1f} s")
        return "; ".join(parts)


def extract(
    prepared: Prepared,
    modality: str,
    encoder: str | Encoder | None = None,
    *,
    force: bool = False,
    on_progress: Progress | None = None,
) -> ExtractReport:
    """Encode one modality of all items and store it.

    `encoder`: a registered name, None = the modality's default, or an encoder itself. Does nothing when the
    same encoder has already seen the same inputs (unless `force`). When no item has the modality nothing is
    stored, and what an earlier extraction left under the name goes. Raises UsageError for unknown names,
    DataError when the pictures' folder or zip is gone.
    """
    started = time.perf_counter()
    built = get_encoder(modality, encoder) if encoder is None or isinstance(encoder, str) else encoder
    known = check_modality(modality)
    source = TextSource(prepared) if known == "text" else PictureSource(prepared)
    identity = built.identity()
    made_from = hash_json(
        {
            "items": prepared.items_hash,
            "inputs": source.fingerprint(),
            "encoder": identity,
            "source": PREPROCESSING,
        }
    )
    stored = None if force else stored_report(prepared, known, built.name, made_from)
    if stored is not None:
        return stored
    label, total = f"{known} {built.name}", len(source)
    tick = (lambda done: on_progress(label, done, total)) if on_progress else (lambda done: None)
    values, present = built.encode(source.read(tick))
    reasons = _with_refused(source.reasons, total, int(present.sum()))
    info = {
        "identity": identity,
        "preprocessing": PREPROCESSING if known == "image" else "white space collapsed",
        "versions": _versions(),
    }
    return store_report(prepared, known, built.name, (values, present), reasons, info, made_from, started)


def _with_refused(counted: Counter[str], n_items: int, n_present: int) -> dict[str, int]:
    """The source's reasons, and how many items with an input the encoder itself found empty."""
    reasons = dict(+counted)
    given = n_items - sum(n for reason, n in reasons.items() if reason not in NOTES)
    if given > n_present:
        reasons["nothing to encode"] = given - n_present
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
) -> ExtractReport:
    """Store values [N, D] and present [N] (item 1 first) with their reasons; `started` is a perf_counter."""
    values, present = encoded
    reasons = {reason: int(n) for reason, n in reasons.items()}
    dim = values.shape[1] if present.any() else 0
    if dim:
        padded = np.concatenate([np.zeros((1, dim), np.float32), values])
        more = {**info, "reasons": reasons, "made_from": made_from}
        write_features(prepared, modality, name, padded, np.concatenate([[False], present]), more)
    else:
        remove_features(prepared, modality, name)
    seconds = time.perf_counter() - started
    return ExtractReport(modality, name, prepared.n_items, int(present.sum()), dim, reasons, seconds=seconds)


def extract_default(
    prepared: Prepared,
    text: str | None = None,
    image: str | None = None,
    on_progress: Progress | None = None,
) -> list[ExtractReport]:
    """Both modalities with the named encoders (None = the default one, "none" = leave the modality out).

    A data set that names no pictures at all gives no image report unless an image encoder was asked for.
    """
    reports = []
    for modality, name in (("text", text), ("image", image)):
        no_pictures = modality == "image" and prepared.manifest.get("images") is None
        if name == SKIP or (name is None and no_pictures):
            continue
        reports.append(extract(prepared, modality, name, on_progress=on_progress))
    return reports


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("numpy", "pillow", "scikit-learn")}
