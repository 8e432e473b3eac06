"""Fetch a raw file over a bad network: mirrors in order, resume, retries, and a check before the file gets its name.

    mirror 1: try, pause, try, ... -> mirror 2: try, ... -> an error line with every mirror's reason

A try resumes from the `.part` file if the server still has the same version, and starts over otherwise. The
received file is compared with the known length and sha256 and must be whole in itself (gzip, zip, ...); a file that
fails is thrown away. So the final name belongs to the right file or to none, whenever the process ends.
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
from mmbench.choices import whole_number
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
SLOWEST = 1024  # bytes per read timeout; a server that sends less is given up, like a silent one
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")

Note = Callable[[str], None]
Bytes = Callable[[int, int | None], None]  # takes bytes received and bytes in total, if known


@dataclass(frozen=True)
class Patience:
    """How much of a bad network is tolerated, per mirror.

    tries: how many in a row may bring next to nothing. The count restarts after `worthwhile` new bytes, so that a
    connection that is cut every minute still delivers a large file.
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
    """A file to fetch. `size` (bytes) and `sha256` are what is known in advance; `known_from` says from where."""

    name: str
    urls: Sequence[str]
    size: int | None = None
    sha256: str | None = None
    known_from: str = "the catalogue"
    if_changed: str = ""  # says what to do if the servers have another file now


@dataclass(frozen=True)
class Fetched:
    """A checked file."""

    sha256: str
    size: int
    url: str


class NotFetchedError(DataError):
    """No mirror gave the file."""


def size_text(n: int) -> str:
    """Return `1.2 MB` for 1234567; decimal units, as on download pages."""
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
    on_bytes: Bytes = lambda received, total: None,
    on_note: Note = lambda text: None,
    on_checked: Callable[[Fetched], None] = lambda fetched: None,
) -> Fetched | None:
    """Fetch the file to `target`; None if it exists already. `on_checked` runs just before the file gets its name.

    Raises NotFetchedError when no mirror delivers it, and another MmbenchError when it cannot be written.
    """
    with _lock(target, on_note):
        if target.exists():
            return None
        work = _Download(wanted, Part(target), session, patience, on_bytes, on_note)
        fetched = work.run()
        on_checked(fetched)
        work.part.replace_target()
        return fetched


@contextmanager
def _lock(target: Path, on_note: Note) -> Iterator[None]:
    """Let only a single process at a time fetch `target`; the others wait and then find the file."""
    lock = lock_file(target)

    def on_wait() -> None:
        on_note("another process is fetching it; waiting")

    with held(lock, error=MmbenchError, option="--data-dir", on_wait=on_wait):
        try:
            yield
        finally:
            if target.exists():  # whoever gets the lock after this finds the file and does nothing
                with suppress(OSError):
                    lock.unlink()


class _Download:
    """The state of a call of `download`."""

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
        self.most = part.size  # the most bytes that the part ever had
        self.refused = 0  # counts contents of the present mirror that failed the check
        self.changed = False  # True once a mirror has another file than the known

    def run(self) -> Fetched:
        faults = []
        for url in self._ordered_urls():
            self.on_note(f"from {url}")
            try:
                return self._from_mirror(url)
            except FetchError as error:
                faults.append(f"{_server(url)}: {error.reason}")
        received = self.part.size
        next_step = f"the same command resumes from {size_text(received)}" if received else "try again later"
        advice = f"; {self.wanted.if_changed}" if self.changed and self.wanted.if_changed else ""
        raise NotFetchedError(
            f"{self.wanted.name} could not be fetched ({'; '.join(faults)}); {next_step}, "
            f"or put the file into {self.part.target.parent} by hand{advice}"
        )

    def _ordered_urls(self) -> list[str]:
        """Return the mirrors, first that which sent the part, because only it can resume."""
        origin = self.part.origin if self.part.size else None
        return sorted(self.wanted.urls, key=lambda url: origin is None or url != origin.url)

    def _from_mirror(self, url: str) -> Fetched:
        self.refused = 0
        while True:
            before = self.most
            tries = retrying(tries=self.patience.tries, first_wait_s=self.patience.first_wait_s).copy(
                sleep=self.patience.sleep, before_sleep=self._note_failure
            )
            try:
                return tries(self._try, url)
            except FetchError as error:
                if not error.transient or self.most - before < self.patience.worthwhile:
                    raise

    def _note_failure(self, state: "tenacity.RetryCallState") -> None:
        error = state.outcome.exception() if state.outcome else None
        pause = state.next_action.sleep if state.next_action else 0.0
        self.on_note(f"{getattr(error, 'reason', error)}; next try in {pause:.0f} s")

    def _try(self, url: str) -> Fetched:
        origin = self._resumable(url)
        received = self.part.size if origin else 0
        if origin is None or origin.total != received:
            self._receive(url, received, origin)
        origin = self.part.origin
        return self._checked(url, in_pieces=received > 0 or origin is None or origin.total is None)

    def _resumable(self, url: str) -> Origin | None:
        """Return the origin of the part if resuming from it is safe.

        Without a validator, two versions could be joined unnoticed, unless the result is checked as a whole.
        Another mirror's validators mean nothing here, so a part from elsewhere needs a known hash.
        """
        origin = self.part.origin
        if not self.part.size or origin is None:
            return None
        if origin.url != url:
            unsigned = Origin(url, None, None, origin.total)
            return unsigned if self.wanted.sha256 else None
        is_safe = origin.validator or self.wanted.sha256 or checks_itself(self.wanted.name)
        return origin if is_safe else None

    def _receive(self, url: str, received: int, origin: Origin | None) -> None:
        """Send a request: continue after `received` bytes of `origin`, or fetch the whole file."""
        headers = {"Range": f"bytes={received}-"} if received else {}
        if received and origin and origin.validator:
            headers["If-Range"] = origin.validator
        times = (self.patience.connect_s, self.patience.read_s)
        with get(self.session, url, headers, timeout=times, allowed=(416,)) as response:
            if response.status_code == 416:
                self._check_complete(response, received, origin)
                return
            _refuse_encoding(response, self.wanted.name)
            if response.status_code == 206:
                version = self._next_piece(response, url, received, origin)
            elif response.status_code == 200:
                version = _origin(response, url, _content_length(response))
            else:
                raise FetchError(f"unexpected answer: HTTP {response.status_code}", transient=False)
            self._refuse_size(version.total)
            self._need_space(version.total, received if response.status_code == 206 else 0)
            if response.status_code == 200:
                self.part.begin(version)
            self._read(response, version.total)

    def _next_piece(
        self, response: "requests.Response", url: str, received: int, origin: Origin | None
    ) -> Origin:
        """Return the version of a 206, which must begin at the part's end and belong to it; else drop the part."""
        text = response.headers.get("Content-Range", "")
        match = _CONTENT_RANGE.fullmatch(text.strip())
        start, _, total = match.groups() if match else (None, None, None)
        if not received or start is None or int(start) != received:
            self.part.discard()
            raise FetchError(f"requested bytes {received}-, the answer says {text!r}", transient=received > 0)
        version = _origin(response, url, whole_number(total or ""))
        if origin is not None and origin.contradicts(version):
            self.part.discard()
            raise FetchError("the file on the server changed in between", transient=True)
        return Origin(
            url, version.etag, version.modified, version.total or (origin.total if origin else None)
        )

    def _check_complete(self, response: "requests.Response", received: int, origin: Origin | None) -> None:
        """Accept a 416 if exactly the whole file has arrived; otherwise drop the part, which does not belong to it."""
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        certain = self.wanted.sha256 is not None or checks_itself(self.wanted.name)
        # The announced length may be wrong if the content can be checked.
        fits = certain or origin is None or origin.total in (None, received)
        if received and match and match[3] == str(received) and fits:
            return
        self.part.discard()
        raise FetchError(f"HTTP 416: the server has no bytes from {received} on", transient=received > 0)

    def _refuse_size(self, total: int | None) -> None:
        known = self.wanted.size
        if known is not None and total is not None and total != known:
            self.changed = True
            raise FetchError(
                f"the server's file has {total:,} bytes, but {known:,} according to {self.wanted.known_from}",
                transient=False,
            )

    def _need_space(self, total: int | None, received: int) -> None:
        free = shutil.disk_usage(self.part.file.parent).free
        if total is not None and total - received > free:
            raise MmbenchError(
                f"{self.wanted.name} needs {size_text(total - received)} more, but {self.part.file.parent} has only "
                f"{size_text(free)} free; free some space or choose another --data-dir"
            )

    def _read(self, response: "requests.Response", total: int | None) -> None:
        """Append the body as it arrives, without decoding it (servers may declare a .gz file as an encoding)."""
        received = self.part.size
        since, mark = time.monotonic(), received
        self.on_bytes(received, total)
        with self.part.appending() as append:
            while True:
                with faults_sorted():
                    chunk = response.raw.read1(BLOCK, decode_content=False)
                if not chunk:
                    break
                append(chunk)
                received += len(chunk)
                self.most = max(self.most, received)
                self.on_bytes(received, total)
                if time.monotonic() - since > self.patience.read_s:
                    if received - mark < SLOWEST:
                        raise FetchError("the server sends next to nothing", transient=True)
                    since, mark = time.monotonic(), received
        if total is not None and received < total:
            raise FetchError("the connection was cut", transient=True)
        if total is not None and received > total:
            self.part.discard()
            raise FetchError(f"more than the announced {total:,} bytes arrived", transient=True)

    def _checked(self, url: str, *, in_pieces: bool) -> Fetched:
        """Compare the complete part with everything that is known; a part that fails is thrown away.

        Pieces may be of two versions, and a body of unknown length may be cut: they get a further try, as a whole.
        """
        size, name = self.part.size, self.wanted.name
        fault = f"the server sends {content}" if (content := fault_of(self.part.file, name)) else None
        digest = hash_file(self.part.file)
        source = f"according to {self.wanted.known_from}"
        if fault is None and self.wanted.size not in (None, size):
            fault, self.changed = (
                f"the server's file has {size:,} bytes, but {self.wanted.size:,} {source}",
                True,
            )
        if fault is None and self.wanted.sha256 not in (None, digest):
            fault = f"the server has another file: sha256 {digest}, but {self.wanted.sha256} {source}"
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
    value = whole_number(response.headers.get("Content-Length", ""))
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    return None if chunked else value


def _refuse_encoding(response: "requests.Response", name: str) -> None:
    """Refuse an encoded body, since bytes are stored as sent; only a .gz file may be declared as gzip, which it is."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("", "identity") or (encoding in ("gzip", "x-gzip") and name.lower().endswith(".gz")):
        return
    raise FetchError(
        f"the server encodes the file ({encoding}) although the request forbids it", transient=False
    )


def ask_size(
    urls: Sequence[str], session: "requests.Session", *, timeout: tuple[float, float] = (5, 10)
) -> int | None:
    """Return the bytes that the first mirror with an answer announces (HEAD); None if none does."""
    for url in urls:
        with suppress(FetchError), faults_sorted():
            response = session.head(url, allow_redirects=True, timeout=timeout)
            length = whole_number(response.headers.get("Content-Length", ""))
            if response.status_code == 200 and length is not None:
                return length
    return None
