"""A file that has not arrived completely: `<name>.part`, and `<name>.part.json`, which says which version it is of.

The bytes of the part always belong to the version that the note describes: the part is emptied before the
note changes, and filled afterwards, so that a kill at any moment leaves a part from which a download can resume.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mmbench import sealed
from mmbench.errors import DataError, MmbenchError


@dataclass(frozen=True)
class Origin:
    """A version of a file that a server sent: its address, validators (RFC 9110) and length in bytes."""

    url: str
    etag: str | None
    modified: str | None
    total: int | None

    @property
    def validator(self) -> str | None:
        """The value for If-Range: a strong ETag, else the date of the last change."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else None
        return strong or self.modified

    def contradicts(self, other: "Origin") -> bool:
        """Return whether both name a version (or a length), and the versions differ."""
        pairs = ((self.etag, other.etag), (self.modified, other.modified), (self.total, other.total))
        return any(
            own_value is not None and other_value is not None and own_value != other_value
            for own_value, other_value in pairs
        )


class Part:
    """The part of `target` on the disk."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.file = target.with_name(f"{target.name}.part")
        self.note = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        try:
            return self.file.stat().st_size
        except OSError:
            return 0

    @property
    def origin(self) -> Origin | None:
        """The version to which the part belongs; None if it is unknown, or if the note is damaged."""
        try:
            return Origin(**sealed.read_json(self.note, advice="it is fetched again"))
        except (FileNotFoundError, DataError, TypeError):
            return None

    def begin(self, origin: Origin) -> None:
        """Empty the part; what is appended from now on belongs to `origin`."""
        with _writing(self.file):
            self.file.write_bytes(b"")
        sealed.write_json(self.note, asdict(origin))

    @contextmanager
    def appending(self) -> Iterator[Callable[[bytes], None]]:
        """Yield a function that appends bytes to the part; nothing waits in a buffer."""
        with _writing(self.file):
            descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND)
        try:
            yield lambda chunk: self._write(descriptor, chunk)
        finally:
            os.close(descriptor)

    def _write(self, descriptor: int, chunk: bytes) -> None:
        view = memoryview(chunk)
        with _writing(self.file):
            while view:
                view = view[os.write(descriptor, view) :]

    def discard(self) -> None:
        """Remove the part and its note."""
        for file in (self.file, self.note):
            with suppress(FileNotFoundError):
                file.unlink()

    def replace_target(self) -> None:
        """Rename the complete, checked part to the target, atomically and flushed to the disk."""
        with _writing(self.target):
            with self.file.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(self.file, self.target)
        self.discard()


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into a single line; what has arrived stays."""
    try:
        yield
    except OSError as error:
        raise MmbenchError(
            f"cannot write {file}: {error.strerror or error}; free some space or choose another --data-dir, "
            "then the same command resumes from here"
        ) from error
