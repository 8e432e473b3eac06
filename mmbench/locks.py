"""Advisory locks between processes. The system drops a lock when its process dies, however it dies."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mmbench.errors import MmbenchError


def lock_file(path: Path) -> Path:
    """Return the lock file of what lies at `path`: hidden, in the same folder."""
    return path.with_name(f".{path.name}.lock")


def take(
    file: Path, *, wait: bool, error: type[MmbenchError], option: str
) -> AbstractContextManager[Any] | None:
    """Take the lock `file`; return None when another process holds it and we do not wait. Leave it with `with`.

    Raises `error` when the folder cannot be written to; it names `option`, which chooses another.
    """
    from filelock import FileLock, Timeout

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # The returned proxy releases the lock once. `with` on the lock itself would take it a second time, and
        # two processes could wait for each other for ever.
        return FileLock(file).acquire(timeout=-1 if wait else 0)
    except Timeout:
        return None
    except OSError as fault:
        reason = fault.strerror or fault
        raise error(f"cannot write in {file.parent}: {reason}; choose another {option}") from fault


@contextmanager
def held(
    file: Path,
    *,
    error: type[MmbenchError],
    option: str,
    on_wait: Callable[[], None] | None = None,
) -> Iterator[bool]:
    """Hold the lock `file`, waiting for it; yield whether another process held it before.

    on_wait  is called once when the wait begins
    """
    lock = take(file, wait=False, error=error, option=option)
    waited = lock is None
    if lock is None:
        if on_wait is not None:
            on_wait()
        lock = take(file, wait=True, error=error, option=option)
    assert lock is not None
    with lock:
        yield waited


def held_where_writable(
    file: Path,
    *,
    error: type[MmbenchError],
    option: str,
    on_wait: Callable[[], None] | None = None,
) -> AbstractContextManager[bool]:
    """Hold the lock `file` as `held` does, or nothing in a folder that may only be read, where nobody can write.

    For work that is often done already. What is not done fails when it writes.
    """
    if file.parent.is_dir() and not os.access(file.parent, os.W_OK):
        return nullcontext(False)
    return held(file, error=error, option=option, on_wait=on_wait)
