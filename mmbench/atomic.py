"""Files that are either the old or the new version, never a part of either, and their hashes."""

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from mmbench.errors import MmbenchError
from mmbench.locks import held

# The names that `beside` makes.
BESIDE = re.compile(r"\.(?P<of>.+)\.(new|gone)-(?P<process>[0-9]+)-[0-9a-f]{8}\.tmp")


def beside(path: Path, *, what: str) -> Path:
    """Return a new name in the same folder: hidden, ends in `.tmp`, used by nobody else.

    Not made by `tempfile`, whose files and folders only their owner may read whatever the umask says.
    """
    return path.with_name(f".{path.name}.{what}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on a clean exit it replaces `path` atomically.

    The data are flushed to the disk before the rename, so that a power cut leaves the old or the new file, which has
    the old file's mode. A link stays and the file that it leads to is replaced; a device or pipe is written to. A full
    disk or a missing permission becomes a line; the temporary file goes away either way.
    """
    temporary = beside(path, what="new")
    try:
        # Asked of the path itself: what /dev/stdout leads to has no name when it is a pipe.
        is_special = path.exists() and not path.is_file() and not path.is_dir()
        final = path if is_special else Path(os.path.realpath(path))
        if final.is_symlink() and not is_special:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        temporary = beside(Path(tempfile.gettempdir()) / final.name if is_special else final, what="new")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        yield temporary
        if is_special:
            with temporary.open("rb") as content, final.open("wb", buffering=0) as opened:
                shutil.copyfileobj(content, opened)
            return
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if final.exists():
            temporary.chmod(stat.S_IMODE(final.stat().st_mode))
        os.replace(temporary, final)
    except OSError as error:
        raise MmbenchError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another folder"
        ) from error
    finally:
        with suppress(OSError):  # renamed, or never made
            temporary.unlink()


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers of `path` left beside it, files or folders; the caller holds the lock of `path`."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        match = BESIDE.fullmatch(leftover.name)
        if match and match["of"] == path.name:
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder so that no reader sees half of it: it loses its name first."""
    gone = beside(path, what="gone")
    with suppress(FileNotFoundError):
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file that then replaces `path`."""
    with replacing(path) as temporary:
        write(temporary)


def write_text(path: Path, text: str) -> None:
    write_with(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON in a stable key order; refuse NaN, which other readers cannot parse."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def canonical(value: Any) -> bytes:
    """Return the canonical bytes of a JSON value, from which its hash is computed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def hash_json(value: Any) -> str:
    """Return the sha256 of a JSON value in hexadecimal; key order and white space do not matter."""
    return hashlib.sha256(canonical(value)).hexdigest()


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_stamp(path: Path) -> str:
    """Return size and times of a file: while they are equal, its content is the same on this machine."""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


# -- folders ----------------------------------------------------------------------------------------------

KEPT = ".old"  # ends the name under which an old folder waits while the new folder is renamed


def swap_folder(work: Path, final: Path, *, keep: Sequence[str] = (), option: str) -> None:
    """Put the folder `work` in the place of `final`, which may exist.

    keep    sub-folders of the old folder that move into the new, where it has none of that name
    option  the command line's option that chooses another place, for the message when the disk refuses

    A folder cannot be replaced atomically, so a kill may fall between the two renames; `finish_swaps` then ends
    what was begun: it finds the new folder, or brings the old folder back.
    """
    for file in work.rglob("*"):
        if file.is_file():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())  # so that a power cut after the swap does not leave empty files
    write_text(work / KEEP_FILE, "\n".join(keep))
    with _swapping(final.parent, option):
        try:
            _finish(final)
            if final.exists():
                final.rename(_waiting(final))
            work.rename(final)
            _finish(final)
        except OSError as error:
            _finish(final)
            raise MmbenchError(
                f"cannot write {final}: {error.strerror or error}; choose another {option}"
            ) from error


def finish_swaps(parent: Path, *, option: str) -> None:
    """End every swap of a folder in `parent` that a kill cut short; wait for those that are under way."""
    if any(_unfinished(parent)):
        with _swapping(parent, option):
            for final in list(_unfinished(parent)):
                _finish(final)


KEEP_FILE = ".keep"  # names what moves over from the old folder; gone once that is done


def _swapping(parent: Path, option: str) -> AbstractContextManager[bool]:
    return held(parent / ".swap.lock", error=MmbenchError, option=option)


def _waiting(final: Path) -> Path:
    return final.with_name(f".{final.name}{KEPT}")


def _unfinished(parent: Path) -> Iterator[Path]:
    """Yield the folders whose old version still waits, and those that have not taken over what is kept."""
    if not parent.is_dir():
        return
    for entry in sorted(parent.iterdir()):
        if entry.name.startswith(".") and entry.name.endswith(KEPT) and entry.is_dir():
            yield entry.with_name(entry.name[1 : -len(KEPT)])
        elif (entry / KEEP_FILE).is_file() and not entry.name.startswith("."):
            yield entry


def _finish(final: Path) -> None:
    """Bring the old folder back when no new folder came, else take over what is kept and remove the old."""
    old = _waiting(final)
    if old.exists() and not final.exists():
        old.rename(final)
        return
    marker = final / KEEP_FILE
    if marker.is_file():
        for name in filter(None, marker.read_text(encoding="utf-8").splitlines()):
            if (old / name).exists() and not (final / name).exists():
                (old / name).rename(final / name)
        marker.unlink()
    if old.exists():
        shutil.rmtree(old, ignore_errors=True)
