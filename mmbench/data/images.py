"""Where an item's picture lies: the listing of a folder or zip, and member names from a template. Opens no picture."""

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from mmbench.atomic import hash_json
from mmbench.data.spec import MEMBER_FIELD, Images
from mmbench.errors import DataError


@dataclass(frozen=True)
class ImageListing:
    """The members of a folder or zip of pictures. `hash` covers names and sizes (and CRCs of a zip)."""

    kind: str
    path: Path
    members: frozenset[str]
    hash: str


def list_images(images: Images | None, raw_dir: Path) -> ImageListing | None:
    """The pictures beside the raw files: `name` as a folder or a zip, or `name` + ".zip"; None if there are none."""
    if images is None:
        return None
    for path in (raw_dir / images.name, raw_dir / f"{images.name}.zip"):
        if path.is_dir():
            return _list_folder(path.resolve())
        if path.is_file():
            return _list_zip(path.resolve())
    return None


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
