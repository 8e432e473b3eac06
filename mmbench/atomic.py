"""Files that are either the old or the new version, never half of one, and their hashes."""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmbench.errors import MmbenchError


def beside(path: Path, *, what: str) -> Path:
    """A new name in the same folder: hidden, ends in `.tmp`, used by nobody else.

    Not made by `tempfile`, whose files and folders only their owner may read whatever the umask says.
    """
    return path.with_name(f".{path.name}.{what}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit it replaces `path` in one step.

    The data are flushed to the disk before the rename, so that a power cut leaves the old or the new file.
    A full disk or a missing permission becomes one line; the temporary file goes away either way.
    """
    temporary = beside(path, what="new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise MmbenchError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another folder"
        ) from error
    finally:
        with suppress(OSError):  # renamed, or never made
            temporary.unlink()


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file that then replaces `path`."""
    with replacing(path) as temporary:
        write(temporary)


def write_text(path: Path, text: str) -> None:
    write_with(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Readable JSON in a stable key order; NaN is refused because other readers choke on it."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def canonical(value: Any) -> bytes:
    """The one byte string of a JSON value that its hash is taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def hash_json(value: Any) -> str:
    """sha256 of a JSON value, hexadecimal; independent of key order and white space."""
    return hashlib.sha256(canonical(value)).hexdigest()


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
