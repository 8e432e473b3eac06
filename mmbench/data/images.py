"""Where an item's picture lies: the listing of a folder, zip or store, and member names from a template.

Opens no picture.
"""

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from mmbench.atomic import hash_json, write_json
from mmbench.data.spec import MEMBER_FIELD, Images
from mmbench.data.statistics import coverage
from mmbench.data.store import Prepared, open_path
from mmbench.errors import DataError
from mmbench.fetch.store import PictureStore


@dataclass(frozen=True)
class ImageListing:
    """The members of a folder, zip or store of pictures.

    `hash` covers names and sizes (folder), and CRCs (zip), or names and sha256 (store).
    """

    kind: str
    path: Path
    members: frozenset[str]
    hash: str

    @property
    def facts(self) -> dict[str, str]:
        """What a manifest says about it."""
        return {"kind": self.kind, "path": str(self.path), "hash": self.hash}


def store_path(images: Images, raw_dir: Path) -> Path:
    """The file of the pictures that mmbench fetches itself."""
    return raw_dir / f"{images.name}.sqlite"


def list_images(images: Images | None, raw_dir: Path) -> ImageListing | None:
    """The pictures beside the raw files, None if there are none.

    `name` as a folder or a zip, or `name` + ".zip"; only when none of them is there, the store of fetched ones:
    what a user put there is what he wants to be read.
    """
    if images is None:
        return None
    for path in (raw_dir / images.name, raw_dir / f"{images.name}.zip"):
        if path.is_dir():
            return _list_folder(path.resolve())
        if path.is_file():
            return _list_zip(path.resolve())
    store = store_path(images, raw_dir)
    return list_store(store) if store.is_file() else None


def list_at(kind: str, path: Path, name: str) -> ImageListing:
    """The pictures that the manifest of data set `name` names; DataError when they are gone."""
    known = {"folder": _list_folder, "zip": _list_zip, "store": list_store}
    if kind not in known:
        raise DataError(f"pictures of {name}: kind {kind!r} is unknown; known: {', '.join(known)}")
    if not path.exists():
        raise DataError(f"the pictures of {name} are no longer at {path}; run: mmbench prepare {name}")
    return known[kind](path)


def deciding(listing: ImageListing | None) -> ImageListing | None:
    """The listing as far as prepared data may depend on it: a store grows, and every picture in it has an address."""
    return None if listing is None or listing.kind == "store" else listing


def point_at(prepared: Prepared, listing: ImageListing | None) -> Prepared:
    """Let the manifest name these pictures and count the items that have one; the data and their hash stay.

    The caller holds the lock of the prepared data.
    """
    facts = listing.facts if listing else None
    if prepared.manifest["images"] == facts:
        return prepared
    counted = coverage(prepared.item_records, listing.members if listing else None)
    statistics = {**prepared.manifest["statistics"], "coverage": counted}
    write_json(
        prepared.path / "manifest.json", {**prepared.manifest, "images": facts, "statistics": statistics}
    )
    return open_path(prepared.path)


def list_store(path: Path) -> ImageListing:
    """The pictures that were fetched into a store; DataError when it is damaged."""
    path = path.resolve()
    with PictureStore(path) as store:
        members = store.members()
    return ImageListing("store", path, frozenset(members), hash_json(list(members.items())))


def _list_folder(path: Path) -> ImageListing:
    sizes: dict[str, int] = {}
    for folder, _, files in os.walk(path):
        for name in files:
            file = Path(folder) / name
            sizes[file.relative_to(path).as_posix()] = file.stat().st_size
    return ImageListing("folder", path, frozenset(sizes), hash_json(sorted(sizes.items())))


def _list_zip(path: Path) -> ImageListing:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [
                (one.filename, one.file_size, one.CRC) for one in archive.infolist() if not one.is_dir()
            ]
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(
            f"{path} is no readable zip ({error}); get it again or unpack it into a folder"
        ) from error
    return ImageListing("zip", path, frozenset(name for name, _, _ in entries), hash_json(sorted(entries)))


def member_name(template: str, value_of: Callable[[str], str]) -> str | None:
    """The template filled in; None when a value is blank or the name would leave the folder."""
    values = {name: value_of(name) for name in MEMBER_FIELD.findall(template)}
    if not all(values.values()):
        return None
    member = MEMBER_FIELD.sub(lambda match: values[match[1]], template)
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or "\\" in member or PureWindowsPath(member).drive:
        return None
    return member
