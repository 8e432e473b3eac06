"""The picture files of a data set, read singly from a folder, a zip or a store.

The files are untrusted: a file that cannot be read becomes a reason that can be counted, never a crash, and no name
leads out of the folder.
"""

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

from mmbench.data.decoding import MAX_BYTES
from mmbench.data.manifest import PictureKind, Pictures
from mmbench.data.picture_store import PictureStore
from mmbench.errors import DataError

MISSING = "missing file"
UNNAMED = "no picture named"


class PictureFiles:
    """The pictures that a manifest names, opened for reading by a single thread. Close it, or use it as a context.

    pictures  None if there are none; then every name is missing
    name      the data set's name, for messages

    Raises DataError when the folder, zip or store is gone or damaged.
    """

    def __init__(self, pictures: Pictures | None, name: str) -> None:
        self._store: PictureStore | None = None
        self._archive: zipfile.ZipFile | None = None
        self._open: Callable[[str], bytes | str] = lambda member: MISSING
        if pictures is not None:
            self._open = self._opener(pictures.kind, Path(pictures.path), name)

    def __enter__(self) -> "PictureFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the zip or the store."""
        if self._store is not None:
            self._store.close()
        if self._archive is not None:
            self._archive.close()

    def read(self, member: str | None) -> bytes | str:
        """Return a picture file's bytes, or the reason why there is none."""
        return UNNAMED if member is None else self._open(member)

    def mark(self, member: str | None) -> str:
        """Return the sha256 of a picture file, or why there is none; a changed picture has another mark."""
        if self._store is not None and member is not None:
            # The store knows it without reading gigabytes. Why a fetch failed is not an input: it changes daily.
            return self._store.sha256(member) or MISSING
        content = self.read(member)
        return content if isinstance(content, str) else hashlib.sha256(content).hexdigest()

    def _opener(self, kind: PictureKind, path: Path, name: str) -> Callable[[str], bytes | str]:
        """Return a function that maps a member to its bytes, or to the reason why it cannot be read."""
        if not (path.is_dir() if kind == "folder" else path.is_file()):
            what = "the fetched pictures" if kind == "store" else "the pictures"
            raise DataError(
                f"{what} of {name} are no longer at {path}; put them back or run: mmbench prepare {name} --force"
            )
        if kind == "folder":
            return lambda member: _read_file(path.resolve(), member)
        if kind == "store":
            self._store = PictureStore(path)
            return self._store.read
        try:
            archive = self._archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path} is not a readable zip ({error}); get the pictures of {name} again"
            ) from error
        return lambda member: _read_member(archive, member)


def _read_file(folder: Path, member: str) -> bytes | str:
    try:
        path = (folder / member).resolve()
        # A foreign table must not make us read /etc/passwd, not even as a picture.
        if not path.is_relative_to(folder):
            return "outside the folder"
        if not path.is_file():
            return MISSING
        return path.read_bytes() if path.stat().st_size <= MAX_BYTES else "too large"
    except (OSError, ValueError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        return "unreadable"


def _read_member(archive: zipfile.ZipFile, member: str) -> bytes | str:
    try:
        info = archive.getinfo(member)
    except KeyError:
        return MISSING
    if info.file_size > MAX_BYTES:
        return "too large"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "unreadable"  # the others unpack without bounds, and no picture gains by them
    try:
        # The read is bounded: a plain `read()` unpacks gigabytes of a member whose header states a small size.
        with archive.open(info) as stream:
            return stream.read(info.file_size + 1)
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError):
        return "unreadable"  # bad CRC, encrypted, unknown compression
    except Exception as error:
        if type(error).__module__ in ("zlib", "lzma", "_lzma"):
            return "unreadable"
        raise
