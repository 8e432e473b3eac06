"""What a prepared data set says of itself: how it was made, its counts and statistics, and the hash of every file."""

import re
from dataclasses import dataclass
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
PictureKind = Literal["folder", "zip", "store"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*(@[a-z0-9:-]+){0,2}")


@dataclass(frozen=True, kw_only=True)
class Counts(strict.Strict):
    """How many there are of each."""

    users: int
    items: int
    interactions: int


@dataclass(frozen=True, kw_only=True)
class Printed(strict.Strict):
    """Counts that a paper prints, the protocol they hold for, and numbers in it that cannot be."""

    users: int
    items: int
    interactions: int
    source: str
    protocol: str
    slips: tuple[Slip, ...] = ()

    @property
    def values(self) -> dict[str, float]:
        """The printed numbers by the name of their statistic."""
        return {name: getattr(self, name) for name in COUNTS}


@dataclass(frozen=True, kw_only=True)
class RawFileFacts(strict.Strict):
    """A raw file as it was read. `stamp` is None where the file lay in a folder named with --raw."""

    file: str
    sha256: Sha256
    bytes: int
    stamp: str | None = None  # see mmbench.atomic.file_stamp


@dataclass(frozen=True, kw_only=True)
class Pictures(strict.Strict):
    """Where the pictures are, and which there were.

    hash   covers their names, with sizes (folder), sizes and CRCs (zip) or sha256 (store)
    stamp  equal stamps: no picture was changed; other stamps: look into the files
    """

    kind: PictureKind
    path: str
    hash: Sha256
    stamp: Sha256


@dataclass(frozen=True, kw_only=True)
class Inputs(strict.Strict):
    """Hashes of what encoders read: each item's text, and the content of its picture, in item order."""

    text: Sha256
    image: Sha256


@dataclass(frozen=True, kw_only=True)
class Definition(strict.Strict):
    """What decides the data besides protocol, raw files and pictures.

    table  the data set's table as mmbench.data.spec.DatasetSpec.content gives it
    code   number of the code that prepared it
    """

    table: dict[str, Any]
    code: int


@dataclass(frozen=True, kw_only=True)
class Facts(strict.Strict):
    """The part of a manifest that the writer of the data knows; the rest is computed from the files.

    definition, source  None for data that no table describes, such as generated ones
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
    source: str | None = None  # hash of everything that the data are made from
    text_fields: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what was skipped while the raw files were read

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of a prepared data set")


@dataclass(frozen=True, kw_only=True)
class Manifest(Facts):
    """The whole manifest.

    files       sha256 of every other file of the folder
    items_hash  hash of the raw item ids in internal order
    inputs      what features must have been made from
    hash        identifies the data: covers protocol and files, not the date, the folder or the pictures' place
    """

    counts: Counts
    files: dict[str, Sha256]
    items_hash: Sha256
    inputs: Inputs
    hash: Sha256

    def __post_init__(self) -> None:
        super().__post_init__()
        if set(self.files) != {*ARRAYS, *TEXTS}:
            raise ValueError(f"files must be {', '.join([*ARRAYS, *TEXTS])}")
        if self.hash != data_hash(self.files, self.protocol):
            raise ValueError("hash is not that of protocol and files")
        wrong = [name for name in COUNTS if getattr(self.counts, name) != getattr(self.statistics, name)]
        if wrong:
            raise ValueError(f"counts and statistics differ in {wrong[0]}")


def data_hash(files: dict[str, str], protocol: Protocol) -> str:
    """Return the hash that identifies prepared data."""
    return hash_json({"files": files, "protocol": protocol.to_json(), "format": FORMAT})


def folder_name(name: str) -> str:
    """Return the folder of a prepared data set, which every file system takes: `toy@random:1` -> `toy@random-1`."""
    return name.replace(":", "-")


def name_of(folder: Path) -> str:
    """Return the name of the data set whose folder this is, for messages about one that cannot be read."""
    return re.sub(r"(?<=@random)-(?=[0-9]+$)", ":", folder.name)


def advice_for(name: str) -> str:
    """Return what to do about prepared data that cannot be used."""
    return f"run: mmbench prepare {name} --force"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of the prepared data in `folder`, in one step."""
    sealed.write_json(folder / FILE, manifest.to_json(), version=FORMAT)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the prepared data in `folder`.

    FileNotFoundError when there is none, OtherVersionError when another mmbench wrote it, DamagedError when it is
    not what was written or describes another folder.
    """
    file = folder / FILE
    advice = advice_for(name_of(folder))
    content = sealed.read_json(file, advice=advice, version=FORMAT)
    try:
        manifest = Manifest.from_json(content)
        PreparedName.parse(manifest.name)
    except (ValueError, MmbenchError) as error:
        raise sealed.damaged(file, error, advice) from error
    if folder_name(manifest.name) != folder.name:
        reason = f"it is of {manifest.name}, which lies in a folder {folder_name(manifest.name)}"
        raise sealed.damaged(file, reason, f"rename or remove {folder}")
    return manifest
