"""One raw file over a bad network: mirrors in order, resume, retries, and a check before the file takes its name.

    mirror 1: try, pause, try, ... -> mirror 2: try, ... -> one error line with every mirror's reason

A try goes on from the `.part` file when the server still has the same version, and starts anew otherwise.
What arrived is compared with the length and the sha256 that are known and must be whole in itself (gzip, zip,
...); what fails is thrown away. So the final name holds the right file or none, whenever the process ends.
"""

import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mmbench.atomic import hash_file
from mmbench.errors import DataError, MmbenchError
from mmbench.fetch.check import checks_itself, fault_of
from mmbench.fetch.client import CONNECT_S, READ_S, faults_sorted, get, retrying
from mmbench.fetch.errors import FetchError
from mmbench.fetch.part import Origin, Part
from mmbench.locks import held, lock_file

if TYPE_CHECKING:
    import requests
    import tenacity

BLOCK = 1 << 18
SLOWEST = 1024  # bytes per read timeout; a server that sends less is given up like one that sends nothing
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")

Note = Callable[[str], None]
Bytes = Callable[[int, int | None], None]  # bytes there, bytes in all if known


@dataclass(frozen=True)
class Patience:
    """How much a bad network is put up with, for each mirror.

    tries: in a row, each bringing next to nothing. After `worthwhile` new bytes they are counted anew, so that a
    connection that is cut every minute still brings a large file home.
    """

    tries: int = 5
    first_wait_s: float = 1.0
    connect_s: float = CONNECT_S
    read_s: float = READ_S
    worthwhile: int = 1 << 16
    sleep: Callable[[float], None] = time.sleep


PATIENT = Patience()


@dataclass(frozen=True)
class Wanted:
    """A file to be fetched. `size` in bytes and `sha256` are what is known before, `known_from` says from where."""

    name: str
    urls: Sequence[str]
    size: int | None = None
    sha256: str | None = None
    known_from: str = "the catalogue"
    if_changed: str = ""  # what to do when the servers have another file by now


@dataclass(frozen=True)
class Fetched:
    """A checked file."""

    sha256: str
    size: int
    url: str


class NotFetchedError(DataError):
    """No mirror gave the file."""


def size_text(n: int) -> str:
    """1234567 -> "1.2 MB"; decimal units, as download pages count."""
    value = float(n)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def download(
    wanted: Wanted,
    target: Path,
    session: "requests.Session",
    *,
    patience: Patience = PATIENT,
    on_bytes: Bytes = lambda there, total: None,
    on_note: Note = lambda text: None,
    on_checked: Callable[[Fetched], None] = lambda fetched: None,
) -> Fetched | None:
    """Bring the file to `target`; None when it is there already. `on_checked` runs just before it takes its name.

    NotFetchedError: no mirror gave it. Any other MmbenchError: it could not be written here.
    """
    with _alone(target, on_note):
        if target.exists():
            return None
        work = _Download(wanted, Part(target), session, patience, on_bytes, on_note)
        fetched = work.run()
        on_checked(fetched)
        work.part.take_place()
        return fetched


@contextmanager
def _alone(target: Path, on_note: Note) -> Iterator[None]:
    """Let only one process at a time fetch `target`; the others wait and then find it there."""
    lock = lock_file(target)

    def on_wait() -> None:
        on_note("another process is fetching it; waiting")

    with held(lock, error=MmbenchError, option="--data-dir", on_wait=on_wait):
        try:
            yield
        finally:
            if target.exists():  # whoever takes the lock after this finds the file and does nothing
                with suppress(OSError):
                    lock.unlink()


class _Download:
    """The state of one call of `download`."""

    def __init__(
        self,
        wanted: Wanted,
        part: Part,
        session: "requests.Session",
        patience: Patience,
        on_bytes: Bytes,
        on_note: Note,
    ) -> None:
        self.wanted, self.part, self.session, self.patience = wanted, part, session, patience
        self.on_bytes, self.on_note = on_bytes, on_note
        self.most = part.size  # bytes that were there at best
        self.refused = 0  # contents of the present mirror that failed the check
        self.changed = False  # a mirror has another file than the known one

    def run(self) -> Fetched:
        faults = []
        for url in self._in_order():
            self.on_note(f"from {url}")
            try:
                return self._from_mirror(url)
            except FetchError as error:
                faults.append(f"{_server(url)}: {error.reason}")
        there = self.part.size
        goes_on = f"the same command goes on from {size_text(there)}" if there else "try again later"
        advice = f"; {self.wanted.if_changed}" if self.changed and self.wanted.if_changed else ""
        raise NotFetchedError(
            f"{self.wanted.name} could not be fetched ({'; '.join(faults)}); {goes_on}, "
            f"or put the file into {self.part.target.parent} by hand{advice}"
        )

    def _in_order(self) -> list[str]:
        """The mirrors; the one whose part is there comes first, because only there it can go on."""
        origin = self.part.origin if self.part.size else None
        return sorted(self.wanted.urls, key=lambda url: origin is None or url != origin.url)

    def _from_mirror(self, url: str) -> Fetched:
        self.refused = 0
        while True:
            before = self.most
            tries = retrying(tries=self.patience.tries, first_wait_s=self.patience.first_wait_s).copy(
                sleep=self.patience.sleep, before_sleep=self._say_why
            )
            try:
                return tries(self._try, url)
            except FetchError as error:
                if not error.transient or self.most - before < self.patience.worthwhile:
                    raise

    def _say_why(self, state: "tenacity.RetryCallState") -> None:
        error = state.outcome.exception() if state.outcome else None
        pause = state.next_action.sleep if state.next_action else 0.0
        self.on_note(f"{getattr(error, 'reason', error)}; next try in {pause:.0f} s")

    def _try(self, url: str) -> Fetched:
        origin = self._usable(url)
        have = self.part.size if origin else 0
        if origin is None or origin.total != have:
            self._receive(url, have, origin)
        origin = self.part.origin
        return self._checked(url, in_pieces=have > 0 or origin is None or origin.total is None)

    def _usable(self, url: str) -> Origin | None:
        """What the part is a part of, when going on from it can do no harm.

        Without a validator two versions could be joined unnoticed, unless the result is checked as a whole.
        Another mirror's validators say nothing here, so its part needs a known hash.
        """
        origin = self.part.origin
        if not self.part.size or origin is None:
            return None
        if origin.url != url:
            unsigned = Origin(url, None, None, origin.total)
            return unsigned if self.wanted.sha256 else None
        safe = origin.validator or self.wanted.sha256 or checks_itself(self.wanted.name)
        return origin if safe else None

    def _receive(self, url: str, have: int, origin: Origin | None) -> None:
        """One request: go on behind `have` bytes of `origin`, or take the whole."""
        headers = {"Range": f"bytes={have}-"} if have else {}
        if have and origin and origin.validator:
            headers["If-Range"] = origin.validator
        times = (self.patience.connect_s, self.patience.read_s)
        with get(self.session, url, headers, timeout=times, allowed=(416,)) as response:
            if response.status_code == 416:
                self._past_the_end(response, have, origin)
                return
            _refuse_encoding(response, self.wanted.name)
            if response.status_code == 206:
                found = self._next_piece(response, url, have, origin)
            elif response.status_code == 200:
                found = _origin(response, url, _content_length(response))
            else:
                raise FetchError(f"unexpected answer: HTTP {response.status_code}", transient=False)
            self._refuse_size(found.total)
            self._need_space(found.total, have if response.status_code == 206 else 0)
            if response.status_code == 200:
                self.part.begin(found)
            self._read(response, found.total)

    def _next_piece(
        self, response: "requests.Response", url: str, have: int, origin: Origin | None
    ) -> Origin:
        """A 206 must begin where the part ends and belong to the same version; otherwise the part is dropped."""
        text = response.headers.get("Content-Range", "")
        match = _CONTENT_RANGE.fullmatch(text.strip())
        start, _, total = match.groups() if match else (None, None, None)
        if not have or start is None or int(start) != have:
            self.part.discard()
            raise FetchError(f"bytes {have}- were asked for, the answer says {text!r}", transient=have > 0)
        found = _origin(response, url, int(total) if total and total.isdecimal() else None)
        if origin is not None and origin.contradicts(found):
            self.part.discard()
            raise FetchError("the file on the server changed in between", transient=True)
        return Origin(url, found.etag, found.modified, found.total or (origin.total if origin else None))

    def _past_the_end(self, response: "requests.Response", have: int, origin: Origin | None) -> None:
        """416: fine when exactly the whole file is there already; otherwise the part is no part of it."""
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        certain = self.wanted.sha256 is not None or checks_itself(self.wanted.name)
        fits = (
            certain or origin is None or origin.total in (None, have)
        )  # a length announced wrongly is forgiven
        if have and match and match[3] == str(have) and fits:
            return
        self.part.discard()
        raise FetchError(f"HTTP 416: the server has no bytes from {have} on", transient=have > 0)

    def _refuse_size(self, total: int | None) -> None:
        known = self.wanted.size
        if known is not None and total is not None and total != known:
            self.changed = True
            raise FetchError(
                f"the file has {total:,} bytes there, {known:,} by {self.wanted.known_from}", transient=False
            )

    def _need_space(self, total: int | None, have: int) -> None:
        free = shutil.disk_usage(self.part.file.parent).free
        if total is not None and total - have > free:
            raise MmbenchError(
                f"{self.wanted.name} needs {size_text(total - have)} more, but {self.part.file.parent} has only "
                f"{size_text(free)} free; free some space or choose another --data-dir"
            )

    def _read(self, response: "requests.Response", total: int | None) -> None:
        """Append the body as it comes, bytes as they are (a .gz file may be declared as an encoding)."""
        there = self.part.size
        since, mark = time.monotonic(), there
        self.on_bytes(there, total)
        with self.part.appending() as append:
            while True:
                with faults_sorted():
                    chunk = response.raw.read1(BLOCK, decode_content=False)
                if not chunk:
                    break
                append(chunk)
                there += len(chunk)
                self.most = max(self.most, there)
                self.on_bytes(there, total)
                if time.monotonic() - since > self.patience.read_s:
                    if there - mark < SLOWEST:
                        raise FetchError("the server sends next to nothing", transient=True)
                    since, mark = time.monotonic(), there
        if total is not None and there < total:
            raise FetchError("the connection was cut", transient=True)
        if total is not None and there > total:
            self.part.discard()
            raise FetchError(f"more than the announced {total:,} bytes came", transient=True)

    def _checked(self, url: str, *, in_pieces: bool) -> Fetched:
        """The complete part, held against everything that is known. One that fails is thrown away.

        Pieces may be of two versions, and a body of unknown length may have been cut: one more try, as a whole.
        """
        size, name = self.part.size, self.wanted.name
        fault = f"the server sends {found}" if (found := fault_of(self.part.file, name)) else None
        digest = hash_file(self.part.file)
        source = f"by {self.wanted.known_from}"
        if fault is None and self.wanted.size not in (None, size):
            fault, self.changed = f"the file has {size:,} bytes there, {self.wanted.size:,} {source}", True
        if fault is None and self.wanted.sha256 not in (None, digest):
            fault = f"another file is there: sha256 {digest}, but {self.wanted.sha256} {source}"
            self.changed = True
        if fault is None:
            return Fetched(digest, size, url)
        self.part.discard()
        self.refused += 1
        raise FetchError(fault, transient=in_pieces and self.refused < 2)


def _server(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    return f"{parts.scheme}://{parts.netloc}"


def _origin(response: "requests.Response", url: str, total: int | None) -> Origin:
    headers = response.headers
    return Origin(url, headers.get("ETag"), headers.get("Last-Modified"), total)


def _content_length(response: "requests.Response") -> int | None:
    value = response.headers.get("Content-Length", "")
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    return int(value) if value.isdecimal() and not chunked else None


def _refuse_encoding(response: "requests.Response", name: str) -> None:
    """Bytes are kept as they are sent: only of a .gz file may a server say `Content-Encoding: gzip`, it is one."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("", "identity") or (encoding in ("gzip", "x-gzip") and name.lower().endswith(".gz")):
        return
    raise FetchError(f"the server packs the file ({encoding}) although asked not to", transient=False)


def ask_size(
    urls: Sequence[str], session: "requests.Session", *, timeout: tuple[float, float] = (5, 10)
) -> int | None:
    """Bytes that the first mirror which answers announces (HEAD); None when none tells."""
    for url in urls:
        with suppress(FetchError), faults_sorted():
            response = session.head(url, allow_redirects=True, timeout=timeout)
            length = response.headers.get("Content-Length", "")
            if response.status_code == 200 and length.isdecimal():
                return int(length)
    return None
