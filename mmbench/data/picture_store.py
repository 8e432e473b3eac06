"""Fetched pictures in an SQLite file, because a folder of 400,000 small files makes every copy and listing slow.

    picture   name -> address, sha256 of its content or the reason why there is none, number of tries, time
    content   sha256 -> bytes; pictures with equal bytes are stored once

A single process writes at a time (it holds a lock file beside the store), any number read. While the store is written,
it is in WAL mode: a kill loses nothing that was committed. A closed store is a single file, readable from a read-only
disk.
"""

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from mmbench.atomic import replacing
from mmbench.errors import DataError

FORMAT = 1
APPLICATION = 0x6D6D7069  # "mmpi" distinguishes the store from other programs' SQLite files
PAGE_BYTES = 8192
BUSY_S = 30.0  # readers and checkpoints of other processes hold the file for a shorter time
UNKNOWN = "not fetched yet"

_TABLES = """
CREATE TABLE picture (
    name TEXT PRIMARY KEY, url TEXT NOT NULL, sha256 BLOB, reason TEXT, final INTEGER NOT NULL,
    tries INTEGER NOT NULL, time REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE content (sha256 BLOB NOT NULL UNIQUE, bytes BLOB NOT NULL);
"""


class Entry(NamedTuple):  # half a million of these are read at once
    """What is known about a picture: `sha256` (hexadecimal) if it was fetched, else `reason`."""

    name: str
    url: str
    sha256: str | None
    reason: str | None
    final: bool  # True if it was fetched or is not worth another request
    tries: int  # counts requests, over all calls
    time: float  # unix seconds of the last change


@contextmanager
def _one_line(path: Path, doing: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        known = isinstance(error, sqlite3.OperationalError)  # full disk, missing permission, a busy file
        hint = "check the disk and the permissions" if known else "remove it to fetch the pictures again"
        raise DataError(f"cannot {doing} the picture store {path} ({error}); {hint}") from error


class PictureStore:
    """A store opened for reading. It is cheap, and threads may share it: each gets a connection.

    Close it (or use it as a context manager) before the same process writes. Raises DataError when `path` is
    missing, damaged or not a picture store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        if not path.is_file():
            raise DataError(f"picture store {path} not found; run: mmbench prepare")
        with _one_line(path, "read"):
            _check_format(self._connection(), path)

    def __enter__(self) -> "PictureStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connection(self) -> sqlite3.Connection:
        process, connection = getattr(self._local, "opened", (None, None))
        if process != os.getpid() or connection is None:  # SQLite connections do not survive a fork
            connection = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)
            self._local.opened = (os.getpid(), connection)
        return connection

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with _one_line(self.path, "read"):
            return self._connection().execute(query, values).fetchall()

    def read(self, name: str) -> bytes | str:
        """Return the picture's bytes, or the reason why there is none."""
        rows = self._rows(
            "SELECT picture.sha256, picture.reason, content.bytes FROM picture "
            "LEFT JOIN content ON content.sha256 = picture.sha256 WHERE name = ?",
            (name,),
        )
        if not rows:
            return UNKNOWN
        sha256, reason, content = rows[0]
        if sha256 is None:
            return str(reason)
        # SQLite does not check what it reads from the disk.
        if content is None or hashlib.sha256(content).digest() != sha256:
            return "unreadable"
        return bytes(content)

    def sha256(self, name: str) -> str | None:
        """Return the sha256 (hexadecimal) of the picture's bytes without reading them, None when there is none."""
        rows = self._rows("SELECT sha256 FROM picture WHERE name = ?", (name,))
        return rows[0][0].hex() if rows and rows[0][0] is not None else None

    def entries(self) -> dict[str, Entry]:
        """Return all entries by name, sorted by name."""
        return {row[0]: _entry(*row) for row in self._rows(_ALL)}

    def members(self) -> dict[str, str]:
        """Return name -> sha256 of the fetched pictures, sorted by name."""
        query = "SELECT name, sha256 FROM picture WHERE sha256 IS NOT NULL ORDER BY name"
        return {name: sha256.hex() for name, sha256 in self._rows(query)}

    def close(self) -> None:
        """Close this thread's connection; those of other threads close when the threads end."""
        _, connection = getattr(self._local, "opened", (None, None))
        if connection is not None:
            connection.close()
        self._local.opened = (None, None)


_ALL = "SELECT name, url, sha256, reason, final, tries, time FROM picture ORDER BY name"


def _entry(
    name: str, url: str, sha256: bytes | None, reason: str | None, final: int, tries: int, when: float
) -> Entry:
    return Entry(name, url, sha256.hex() if sha256 else None, reason, bool(final), tries, when)


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if (application, version) != (APPLICATION, FORMAT):
        raise DataError(
            f"{path} is not a picture store of this version of mmbench (format {version}, not {FORMAT}); "
            "move it away to fetch the pictures again"
        )


def _create(path: Path) -> None:
    """Create an empty store, which is complete from the moment it has its name."""
    with _one_line(path, "write"), replacing(path) as temporary:
        connection = sqlite3.connect(temporary)
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.executescript(
                f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT}; {_TABLES}"
            )
        finally:
            connection.close()


class StoreWriter:
    """A store opened for writing by a single thread, and created when it is missing. Every call is a commit.

    Use it as a context manager. The caller holds the lock of the store (mmbench.locks.lock_file).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            _create(path)
        with _one_line(path, "write"):
            self._connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
            try:
                _check_format(self._connection, path)
                self._connection.execute("PRAGMA journal_mode = WAL")
                # SQLite syncs at checkpoints only: a power cut may lose the last seconds, a kill loses no commit.
                self._connection.execute("PRAGMA synchronous = NORMAL")
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit everything that is written inside together, at the end."""
        with _one_line(self.path, "write"):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def put(self, names: Iterable[str], url: str, content: bytes, *, tries: int) -> None:
        """Store the picture `content` of `url` under each of `names`."""
        sha256 = hashlib.sha256(content).digest()
        with _one_line(self.path, "write"):
            self._connection.execute("INSERT OR IGNORE INTO content VALUES (?, ?)", (sha256, content))
            self._write(names, url, sha256, None, final=True, tries=tries)

    def link(self, names: Iterable[str], url: str, sha256: str) -> None:
        """Store further names of a picture that was fetched already."""
        with _one_line(self.path, "write"):
            self._write(names, url, bytes.fromhex(sha256), None, final=True, tries=0)

    def fail(self, names: Iterable[str], url: str, reason: str, *, final: bool, tries: int) -> None:
        """Store why there is no picture; if `final`, it is not requested again."""
        with _one_line(self.path, "write"):
            self._write(names, url, None, reason, final=final, tries=tries)

    def _write(
        self,
        names: Iterable[str],
        url: str,
        sha256: bytes | None,
        reason: str | None,
        *,
        final: bool,
        tries: int,
    ) -> None:
        self._connection.executemany(
            "INSERT INTO picture VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
            "url = excluded.url, sha256 = excluded.sha256, reason = excluded.reason, final = excluded.final, "
            "tries = picture.tries + excluded.tries, time = excluded.time",
            [(name, url, sha256, reason, int(final), tries, time.time()) for name in names],
        )

    def finalise(self, names: Iterable[str]) -> None:
        """Mark failed pictures, so that they are not requested again."""
        with self.transaction():
            self._connection.executemany(
                "UPDATE picture SET final = 1 WHERE name = ? AND sha256 IS NULL", [(name,) for name in names]
            )

    def entries(self) -> dict[str, Entry]:
        """Return all entries by name, sorted by name, including those just written."""
        with _one_line(self.path, "read"):
            return {row[0]: _entry(*row) for row in self._connection.execute(_ALL)}

    def close(self) -> None:
        """Leave a single file without a log beside it; if someone is reading, the next writer removes the log."""
        with suppress(sqlite3.OperationalError):  # a reader makes this fail with "database is locked"
            self._connection.execute("PRAGMA busy_timeout = 0")
            self._connection.execute("PRAGMA journal_mode = DELETE")
        self._connection.close()
