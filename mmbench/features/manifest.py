"""The manifest of stored features: how and from what they were made, their shape, and the hash of every file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from mmbench import sealed, strict
from mmbench.atomic import hash_json
from mmbench.data.manifest import Sha256
from mmbench.features.use import FeatureUse

FORMAT = 2
FILE = "manifest.json"
VALUES, PRESENT = "values.npy", "present.npy"
Modality = Literal["text", "image"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
Stored = Literal["float32", "float16"]


@dataclass(frozen=True, kw_only=True)
class MadeBy(strict.Strict):
    """How features were made: the part of a manifest that the encoder or the importer knows.

    identity       everything that decides the values besides the inputs, as JSON that the encoder chooses
    inputs         hash of the texts or pictures as they were read; None for imported features
    preprocessing  what was done to the inputs before the encoder saw them
    versions       versions of the libraries, for information only: they are not part of the identity
    extraction     facts of the run (device, batches, seconds), or the names of imported files
    reasons        why items are absent, and notes, with the number of items
    """

    identity: dict[str, Any]
    inputs: Sha256 | None = None
    preprocessing: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    extraction: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FeatureManifest(MadeBy):
    """The whole manifest. `files` holds the sha256 of both arrays; `n_layers` is 0 for a single vector per item."""

    modality: Modality
    encoder: str
    items_hash: Sha256  # identifies the catalogue to whose items the rows belong
    n_items: int
    n_present: int
    dim: Annotated[int, Field(ge=1)]
    n_layers: int
    dtype: Stored
    files: dict[str, Sha256]
    created: float  # unix seconds; later than those of features that were stored before

    def __post_init__(self) -> None:
        if set(self.files) != {VALUES, PRESENT}:
            raise ValueError(f"files must be {VALUES} and {PRESENT}")

    @property
    def is_imported(self) -> bool:
        """Whether the features are a ready-made file of others."""
        return "imported" in self.identity

    @property
    def made_from(self) -> str:
        """The hash of everything that decides the stored numbers up to rounding."""
        return made_from(self.items_hash, self, self.dtype)

    @property
    def use(self) -> FeatureUse:
        """What a run that reads these features stores about them."""
        return FeatureUse(self.encoder, self.made_from, hash_json(self.files))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an item's row: (D,) or (layers, D)."""
        return (self.n_layers, self.dim) if self.n_layers else (self.dim,)


def made_from(items_hash: str, made: MadeBy, dtype: Stored) -> str:
    """Return the identity of features: a hash of catalogue, inputs, encoder and stored type."""
    return hash_json(
        {
            "items": items_hash,
            "inputs": made.inputs,
            "encoder": made.identity,
            "preprocessing": made.preprocessing,
            "stored": dtype,
        }
    )


def write_manifest(folder: Path, manifest: FeatureManifest) -> None:
    """Write the manifest of the features in `folder`, atomically."""
    sealed.write_json(folder / FILE, manifest.to_json(), version=FORMAT)


def read_manifest(folder: Path, *, advice: str) -> FeatureManifest:
    """Read the manifest of the features in `folder`; `advice` says how to make them again.

    Raises FileNotFoundError when there is none, OtherVersionError when another mmbench wrote it, and DamagedError when
    its content changed or describes other features.
    """
    file = folder / FILE
    content: Mapping[str, Any] = sealed.read_json(file, advice=advice, version=FORMAT)
    try:
        manifest = FeatureManifest.from_json(content)
    except ValueError as error:
        raise sealed.damaged(file, error, advice) from error
    if (manifest.modality, manifest.encoder) != (folder.parent.name, folder.name):
        reason = f"it describes the {manifest.modality} features {manifest.encoder}"
        raise sealed.damaged(file, reason, f"rename or remove {folder}")
    return manifest
