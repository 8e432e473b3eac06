"""Many small downloads at once that do not burden a host: few connections per host, pauses when it asks for them.

A host that fails to answer properly many times in a row is given up for this call, so that 10,000 addresses of a
dead host cost 50 failures and not 10,000 time-outs.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mmbench.choices import whole_number
from mmbench.data.decoding import MAX_BYTES
from mmbench.fetch.client import CONNECT_S, MAX_WAIT_S, faults_sorted, get
from mmbench.fetch.errors import FetchError

if TYPE_CHECKING:
    import requests

CHUNK_BYTES = 64 * 1024
THROTTLED = frozenset({429, 503})
REFUSED = frozenset({401, 403, 407, 451})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on the requests to hosts. Times are in seconds."""

    threads: int = 48  # over all hosts
    per_host: int = 8  # requests at a time
    tries: int = 3  # requests per picture in a call
    first_wait_s: float = 1.0  # pause before the second try; doubles
    pause_s: float = 5.0  # pause after a 429 or 503 that does not say for how long
    timeout: tuple[float, float] = (CONNECT_S, 30.0)  # to connect, and between two packets
    total_s: float = 120.0  # bounds the time for a picture, however slowly it arrives
    max_bytes: int = MAX_BYTES
    give_up_after: int = 50  # requests in a row without a proper answer
    grace_s: float = 1.0  # lets running downloads finish when the user stops
    allows_private: bool = False  # whether hosts of private networks may be asked (mmbench.fetch.session)


class StoppedError(Exception):
    """The user wants to stop; nothing is known about this picture."""


class GivenUpError(FetchError):
    """The host was given up, so no request was sent."""

    def __init__(self, host: "Host") -> None:
        super().__init__(f"{host.name} was given up", transient=False, status=host.last_status)


def host_name(url: str) -> str:
    """Return host and port in lower case; "" for text that is not an address."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2].lower()
    except ValueError:
        return ""


class Host:
    """What a call knows about a host. Used by all threads."""

    def __init__(self, name: str, limits: Limits) -> None:
        self.name, self.limits = name, limits
        self.served = 0  # counts pictures
        self.given_up: str | None = None  # the last failure's reason
        self.last_status: int | None = None
        self._failed_in_a_row = 0
        self._ready_at = 0.0
        self._slots = threading.Semaphore(limits.per_host)
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, stop: threading.Event) -> Iterator[None]:
        """Wait for a free slot and the end of a pause. Raises GivenUpError or StoppedError."""
        while not self._slots.acquire(timeout=0.1):
            self._check(stop)
        try:
            while (pause := self._ready_at - time.monotonic()) > 0:
                self._check(stop)
                stop.wait(min(pause, 0.1))
            self._check(stop)
            yield
        finally:
            self._slots.release()

    def _check(self, stop: threading.Event) -> None:
        if stop.is_set():
            raise StoppedError
        if self.given_up is not None:
            raise GivenUpError(self)

    def answered(self, *, served: bool) -> None:
        """Note a proper answer: a picture, or the statement that there is none."""
        with self._lock:
            self._failed_in_a_row = 0
            self.served += served

    def failed(self, error: FetchError) -> None:
        """Note a failure: pause if the host is busy, give it up after too many failures."""
        with self._lock:
            self._failed_in_a_row += 1
            self.last_status = error.status
            if error.status in THROTTLED:
                wait = self.limits.pause_s if error.wait_s is None else min(error.wait_s, MAX_WAIT_S)
                self._ready_at = max(self._ready_at, time.monotonic() + wait)
            if self._failed_in_a_row >= self.limits.give_up_after and self.given_up is None:
                self.given_up = error.reason


class Hosts:
    """All hosts of a call, by name."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._lock = limits, threading.Lock()
        self._hosts: dict[str, Host] = {}

    def of(self, url: str) -> Host:
        name = host_name(url)
        with self._lock:
            return self._hosts.setdefault(name, Host(name, self._limits))

    def given_up(self) -> list[Host]:
        with self._lock:
            return [host for host in self._hosts.values() if host.given_up is not None]


@dataclass(frozen=True)
class Body:
    """The body of an answer; `complete`: the server announced the length, and all bytes arrived."""

    content: bytes
    complete: bool


def download(session: "requests.Session", url: str, limits: Limits, stop: threading.Event) -> Body:
    """Return the body of a GET. Raises FetchError, and StoppedError between two packets."""
    started = time.monotonic()
    response = _get(session, url, limits)
    try:
        length = whole_number(response.headers.get("Content-Length", ""))
        chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        if length is not None and length > limits.max_bytes:
            raise FetchError("too large", transient=False, status=response.status_code)
        parts, size = [], 0
        while chunk := _read(response):
            parts.append(chunk)
            size += len(chunk)
            if stop.is_set():
                raise StoppedError
            if size > limits.max_bytes:
                raise FetchError("too large", transient=False, status=response.status_code)
            if time.monotonic() - started > limits.total_s:
                raise FetchError("the server sends too slowly", transient=True)
        return Body(b"".join(parts), complete=chunked or length is not None)
    finally:
        response.close()


def _get(session: "requests.Session", url: str, limits: Limits) -> "requests.Response":
    try:
        return get(session, url, timeout=limits.timeout)
    except ValueError as error:  # the libraries below requests refuse some host names in this way
        raise FetchError("the address is not valid", transient=False) from error


def _read(response: "requests.Response") -> bytes:
    """Return what has arrived, at most CHUNK_BYTES; `read` would wait for all of them, which a slow server prolongs."""
    read = getattr(response.raw, "read1", response.raw.read)
    with faults_sorted():
        return bytes(read(CHUNK_BYTES, decode_content=True) or b"")
