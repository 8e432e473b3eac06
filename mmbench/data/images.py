"""Where an item's picture lies: listings of folders, zips and stores, and member names from a template.

No picture is opened.
"""

import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from mmbench.atomic import file_stamp, hash_json
from mmbench.data.inputs import read_inputs
from mmbench.data.manifest import PictureKind, Pictures, write_manifest
from mmbench.data.picture_store import PictureStore
from mmbench.data.spec import MEMBER_FIELD, Images
from mmbench.data.statistics import coverage
from mmbench.data.store import Prepared, open_path
from mmbench.errors import DataError


@dataclass(frozen=True)
class ImageListing:
    """The members of a folder, zip or store of pictures; `hash` and `stamp` as in mmbench.data.manifest.Pictures."""

    kind: PictureKind
    path: Path
    members: frozenset[str]
    hash: str
    stamp: str

    @property
    def facts(self) -> Pictures:
        """Return what a manifest says about the listing."""
        return Pictures(kind=self.kind, path=str(self.path), hash=self.hash, stamp=self.stamp)


def store_path(images: Images, raw_dir: Path) -> Path:
    """Return the file that holds the pictures fetched by mmbench."""
    return raw_dir / f"{images.name}.sqlite"


def list_images(images: Images | None, raw_dir: Path) -> ImageListing | None:
    """Return the pictures beside the raw files, None if there are none.

    Pictures are looked for in `name` as a folder or a zip, in `name` + ".zip", and only then in the store of fetched
    pictures, because those that users put there take precedence.
    """
    if images is None:
        return None
    for path in (raw_dir / images.name, raw_dir / f"{images.name}.zip", store_path(images, raw_dir)):
        if path.exists():
            return list_path(path)
    return None


def list_path(path: Path) -> ImageListing:
    """Return the pictures in a folder, a zip or a store (a name in .sqlite); DataError when it is damaged."""
    if path.is_dir():
        return _list_folder(path.resolve())
    return list_store(path) if path.suffix == ".sqlite" else _list_zip(path.resolve())


def list_at(pictures: Pictures, name: str) -> ImageListing:
    """Return the pictures named in the manifest of data set `name`; DataError when they are gone."""
    path = Path(pictures.path)
    if not path.exists():
        raise DataError(f"the pictures of {name} are no longer at {path}; run: mmbench prepare {name}")
    return list_path(path)


def deciding(listing: ImageListing | None) -> ImageListing | None:
    """Return the listing if prepared data may depend on it; a store may grow, so they do not depend on it.

    Every picture in a store has an address, and a picture with an address counts whether or not it was fetched.
    """
    return None if listing is None or listing.kind == "store" else listing


def point_at(prepared: Prepared, listing: ImageListing | None) -> Prepared:
    """Write these pictures into the manifest, with their hash and the number of items that have one; the data stay.

    The caller holds the lock of the prepared data. In data that may only be read, pictures that were only touched (by
    the `chmod` that made them so, for instance) keep their old stamp.
    """
    facts, stored = listing.facts if listing else None, prepared.manifest.images
    if stored == facts:
        return prepared
    is_touched = facts is not None and stored is not None and replace(stored, stamp=facts.stamp) == facts
    if is_touched and not os.access(prepared.path, os.W_OK):
        return prepared
    counted = coverage(prepared.item_records, listing.members if listing else None)
    changed = replace(
        prepared.manifest,
        images=facts,
        statistics=replace(prepared.manifest.statistics, coverage=counted),
        inputs=read_inputs(prepared.item_records, facts, prepared.name),
    )
    write_manifest(prepared.path, changed)
    return open_path(prepared.path)


def list_store(path: Path) -> ImageListing:
    """Return the pictures in a store; DataError when it is damaged."""
    path = path.resolve()
    with PictureStore(path) as store:
        members = store.members()
    content = hash_json(list(members.items()))
    return ImageListing("store", path, frozenset(members), content, content)


def _list_folder(path: Path) -> ImageListing:
    files: dict[str, tuple[int, str]] = {}
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder) / name
            with suppress(OSError):  # a link that leads nowhere or in a circle is not a picture
                files[file.relative_to(path).as_posix()] = file.stat().st_size, file_stamp(file)
    sizes = sorted((name, size) for name, (size, _) in files.items())
    stamps = sorted((name, stamp) for name, (_, stamp) in files.items())
    return ImageListing("folder", path, frozenset(files), hash_json(sizes), hash_json(stamps))


def _list_zip(path: Path) -> ImageListing:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [
                (entry.filename, entry.file_size, entry.CRC)
                for entry in archive.infolist()
                if not entry.is_dir()
            ]
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(
            f"{path} is not a readable zip ({error}); get it again or unpack it into a folder"
        ) from error
    content, members = hash_json(sorted(entries)), frozenset(name for name, _, _ in entries)
    return ImageListing("zip", path, members, content, hash_json([content, file_stamp(path)]))


def member_name(template: str, value_of: Callable[[str], str]) -> str | None:
    """Return the filled-in template; None when a value is blank or the name would leave the folder."""
    values = {name: value_of(name) for name in MEMBER_FIELD.findall(template)}
    if not all(values.values()):
        return None
    member = MEMBER_FIELD.sub(lambda match: values[match[1]], template)
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or "\\" in member or PureWindowsPath(member).drive:
        return None
    return member
