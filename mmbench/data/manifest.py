"""The manifest of a prepared data set: how it was made, its counts and statistics, and the hash of every file."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from mmbench import sealed, strict
from mmbench.atomic import hash_json
from mmbench.data.protocol import PreparedName, Protocol
from mmbench.data.spec import Slip
from mmbench.data.statistics import COUNTS, Statistics
from mmbench.errors import MmbenchError

FORMAT = 2
FILE = "manifest.json"
ARRAYS = {
    "items.npy": "int32",
    "times.npy": "int64",
    "offsets.npy": "int64",
    "category_ids.npy": "int32",
    "category_offsets.npy": "int64",
}
TEXTS = ("items.jsonl", "users.txt", "categories.txt")
FRACTIONS = "fractions.npy"  # int32, exists where the raw files have times finer than a second
PictureKind = Literal["folder", "zip", "store"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*(@[a-z0-9:-]+){0,2}")


@dataclass(frozen=True, kw_only=True)
class Counts(strict.Strict):
    """The numbers of users, items and interactions."""

    users: int
    items: int
    interactions: int


@dataclass(frozen=True, kw_only=True)
class Printed(strict.Strict):
    """Counts that a paper prints, the protocol for which they hold, and known slips in them."""

    users: int
    items: int
    interactions: int
    source: str
    protocol: str
    slips: tuple[Slip, ...] = ()

    @property
    def values(self) -> dict[str, float]:
        """Return the printed numbers by name of the statistic."""
        return {name: getattr(self, name) for name in COUNTS}


@dataclass(frozen=True, kw_only=True)
class RawFileFacts(strict.Strict):
    """A raw file as it was read; `stamp` is None if the file lay in a folder named with --raw."""

    file: str
    sha256: Sha256
    bytes: int
    stamp: str | None = None  # see mmbench.atomic.file_stamp


@dataclass(frozen=True, kw_only=True)
class Pictures(strict.Strict):
    """Where the pictures are, and which pictures there were.

    hash   covers their names, with sizes (folder), sizes and CRCs (zip) or sha256 (store)
    stamp  while it is equal, no picture has changed; when it differs, the files must be compared
    """

    kind: PictureKind
    path: str
    hash: Sha256
    stamp: Sha256


@dataclass(frozen=True, kw_only=True)
class Inputs(strict.Strict):
    """Hashes of what encoders read: each item's text and the content of its picture, in item order."""

    text: Sha256
    image: Sha256


@dataclass(frozen=True, kw_only=True)
class Definition(strict.Strict):
    """What the data depend on besides protocol, raw files and pictures.

    table  the data set's table as mmbench.data.spec.DatasetSpec.content returns it
    code   the number of the code that prepared it
    """

    table: dict[str, Any]
    code: int


@dataclass(frozen=True, kw_only=True)
class Facts(strict.Strict):
    """The part of a manifest that the caller knows; the rest is computed from the files.

    definition, source  None for data that no table describes, such as generated data
    """

    name: str
    dataset: str
    title: str
    synthetic: bool
    protocol: Protocol
    statistics: Statistics
    created: float  # unix seconds
    printed: Printed | None = None
    raw: tuple[RawFileFacts, ...] = ()
    images: Pictures | None = None
    definition: Definition | None = None
    source: str | None = None  # the hash of everything that the data are made from
    text_fields: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # say what was skipped while the raw files were read
    has_times: bool = True  # False: `times` are positions in a history, because only an order is known

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is not the name of a prepared data set")


@dataclass(frozen=True, kw_only=True)
class Manifest(Facts):
    """The whole manifest.

    files       sha256 of every other file in the folder
    items_hash  hash of the raw item ids in internal order
    inputs      hashes of the texts and pictures that features must have been made from
    hash        identifies the data: covers protocol and files, but not the date, the folder or the pictures' path; nor
                the fractions of seconds, which no model reads once they have ordered the events
    """

    counts: Counts
    files: dict[str, Sha256]
    items_hash: Sha256
    inputs: Inputs
    hash: Sha256

    def __post_init__(self) -> None:
        super().__post_init__()
        if set(self.files) - {FRACTIONS} != {*ARRAYS, *TEXTS}:
            raise ValueError(f"files must be {', '.join([*ARRAYS, *TEXTS])}")
        if self.hash != data_hash(self.files, self.protocol):
            raise ValueError("hash does not match protocol and files")
        wrong = [name for name in COUNTS if getattr(self.counts, name) != getattr(self.statistics, name)]
        if wrong:
            raise ValueError(f"counts and statistics differ in {wrong[0]}")


def data_hash(files: dict[str, str], protocol: Protocol) -> str:
    """Return the hash that identifies prepared data."""
    identifying = {name: sha256 for name, sha256 in files.items() if name != FRACTIONS}
    return hash_json({"files": identifying, "protocol": protocol.to_json(), "format": FORMAT})


def folder_name(name: str) -> str:
    """Return the name of a prepared data set's folder, valid on every file system: `toy@random:1` -> `toy@random-1`."""
    return name.replace(":", "-")


def name_of(folder: Path) -> str:
    """Return the name of the data set in a folder, for messages about a manifest that cannot be read."""
    return re.sub(r"(?<=@random)-(?=[0-9]+$)", ":", folder.name)


def advice_for(name: str) -> str:
    """Return the advice about prepared data that cannot be used."""
    return f"run: mmbench prepare {name} --force"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of the prepared data in `folder`, atomically.

    The path of pictures inside the data folder is written relative to it, so that the manifest names no folder of the
    machine and the data folder may move.
    """
    content = manifest.to_json()
    if manifest.images is not None and (inside := _below(data_folder_of(folder), manifest.images.path)):
        content["images"] = {**content["images"], "path": inside}
    sealed.write_json(folder / FILE, content, version=FORMAT)


def data_folder_of(folder: Path) -> Path:
    """Return the data folder that holds the prepared data in `folder`."""
    return folder.resolve().parents[1]


def _below(root: Path, path: str) -> str:
    """Return a path relative to a folder that holds it; "" for a path elsewhere."""
    return Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else ""


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the prepared data in `folder`.

    Raises FileNotFoundError when there is none, OtherVersionError when another mmbench wrote it, and DamagedError when
    its content changed or describes another folder.
    """
    file = folder / FILE
    advice = advice_for(name_of(folder))
    content = sealed.read_json(file, advice=advice, version=FORMAT)
    try:
        manifest = Manifest.from_json(content)
        PreparedName.parse(manifest.name)
        if manifest.images is not None:
            path = str(data_folder_of(folder) / manifest.images.path)
            manifest = replace(manifest, images=replace(manifest.images, path=path))
    except (ValueError, MmbenchError) as error:
        raise sealed.damaged(file, error, advice) from error
    if folder_name(manifest.name) != folder.name:
        reason = f"it describes {manifest.name}, whose folder is called {folder_name(manifest.name)}"
        raise sealed.damaged(file, reason, f"rename or remove {folder}")
    return manifest
