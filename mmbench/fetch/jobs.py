"""Fetch pictures by a few threads: transient failures are retried, and pictures are verified by decoding them."""

import queue
import threading
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmbench.data.decoding import decode
from mmbench.fetch.client import new_session, retrying
from mmbench.fetch.errors import FetchError
from mmbench.fetch.hosts import (
    REFUSED,
    Body,
    GivenUpError,
    Host,
    Hosts,
    Limits,
    StoppedError,
    download,
    host_name,
)

if TYPE_CHECKING:
    import requests

# The same path under another host name; public programs replace the first host by the second for old data.
MIRRORS = {"http://ecx.images-amazon.com/images/I/": "https://m.media-amazon.com/images/I/"}
BLOCKED = ("not a picture", "the server's certificate", "redirected")  # begin the reasons of a block
CUT = ("truncated", "empty file", "undecodable")  # reasons for a body whose end is missing
N_DECODERS = 4  # decode at a time: a large picture takes hundreds of megabytes
TICK_S = 0.2
_decoders = threading.BoundedSemaphore(N_DECODERS)


@dataclass(frozen=True)
class Job:
    """An address, and the names under which its picture is stored."""

    url: str
    names: tuple[str, ...]

    @property
    def addresses(self) -> list[str]:
        """The address, and its mirror if there is a rule for it."""
        urls = [self.url]
        for start, other in MIRRORS.items():
            if self.url.startswith(start):
                urls.append(other + self.url.removeprefix(start))
        return urls


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job: `content`, or the `reason` why there is none."""

    job: Job
    tries: int
    content: bytes | None = None
    reason: str = ""
    final: bool = False  # True: not requested again
    refused_by: Host | None = None  # a host whose refusal is final only if it serves pictures at all


def outcomes(
    jobs: list[Job], hosts: Hosts, limits: Limits, stop: threading.Event
) -> Generator[list[Outcome], None, None]:
    """Yield the outcomes since the last time (often none), until all jobs have ended or `stop` is set."""
    results: queue.Queue[Outcome | BaseException | None] = queue.Queue()
    schedule = _Schedule(jobs, limits.per_host)
    # Daemon threads, because a thread that waits for a dead server must not keep a stopped program alive.
    threads = [
        threading.Thread(target=_work, args=(schedule, hosts, limits, stop, results), daemon=True)
        for _ in range(min(limits.threads, schedule.n_lanes))
    ]
    running, deadline = 0, None
    try:
        for thread in threads:
            thread.start()
            running += 1
        while running:
            if stop.is_set():
                deadline = deadline or time.monotonic() + limits.grace_s
                if time.monotonic() > deadline:
                    return
            arrived = _drain(results)
            running -= arrived.count(None)
            for outcome in arrived:
                if isinstance(outcome, BaseException):
                    raise outcome
            yield [outcome for outcome in arrived if isinstance(outcome, Outcome)]
    finally:
        if running:
            stop.set()


def _drain(results: "queue.Queue[Any]") -> list[Any]:
    """Return everything in the queue, after waiting up to TICK_S for the first outcome."""
    arrived = []
    try:
        arrived.append(results.get(timeout=TICK_S))
        while True:
            arrived.append(results.get_nowait())
    except queue.Empty:
        return arrived


class _Schedule:
    """The jobs by host: a thread takes the next job of a host that has a free lane, the hosts in turn."""

    def __init__(self, jobs: list[Job], per_host: int) -> None:
        self._lock, self._per_host = threading.Lock(), per_host
        self._waiting: dict[str, deque[Job]] = {}
        for job in jobs:
            self._waiting.setdefault(host_name(job.url), deque()).append(job)
        self._active = dict.fromkeys(self._waiting, 0)
        self.n_lanes = sum(min(per_host, len(waiting)) for waiting in self._waiting.values())

    def take(self) -> Job | None:
        """Return the next job, or None if all are taken or every host with jobs is busy, whose threads do the rest."""
        with self._lock:
            for name, jobs in self._waiting.items():
                if jobs and self._active[name] < self._per_host:
                    self._active[name] += 1
                    self._waiting[name] = self._waiting.pop(name)  # move the host to the end of the line
                    return jobs.popleft()
        return None

    def done(self, job: Job) -> None:
        with self._lock:
            self._active[host_name(job.url)] -= 1


def _work(
    schedule: _Schedule, hosts: Hosts, limits: Limits, stop: threading.Event, results: "queue.Queue[Any]"
) -> None:
    """Run jobs in a thread until there are none; None in `results` says that the thread ended."""
    try:
        with new_session(limits.per_host, allows_private=limits.allows_private) as session:
            while not stop.is_set() and (job := schedule.take()) is not None:
                try:
                    results.put(_run_job(session, job, hosts, limits, stop))
                finally:
                    schedule.done(job)
    except StoppedError:
        return
    except BaseException as error:  # a bug: the calling thread raises it
        results.put(error)
    finally:
        results.put(None)


def _run_job(
    session: "requests.Session", job: Job, hosts: Hosts, limits: Limits, stop: threading.Event
) -> Outcome:
    """Try the job's addresses, and again after transient failures."""
    tries = 0

    def try_addresses() -> bytes:
        nonlocal tries
        errors: list[tuple[FetchError, Host]] = []
        for url in job.addresses:
            host = hosts.of(url)
            try:
                with host.turn(stop):
                    tries += 1
                    return _request(session, url, host, limits, stop)
            except FetchError as error:
                errors.append((error, host))
        raise _JobError(*_decisive(errors))

    def sleep(seconds: float) -> None:
        if stop.wait(seconds):
            raise StoppedError

    try:
        retries = retrying(tries=limits.tries, first_wait_s=limits.first_wait_s).copy(sleep=sleep)
        content = retries(try_addresses)
        return Outcome(job, tries, content=content)
    except _JobError as failure:
        error, host = failure.error, failure.host
        refused = host if _is_refusal(error) else None
        final = not error.transient and refused is None and not isinstance(error, GivenUpError)
        return Outcome(job, tries, reason=error.reason, final=final, refused_by=refused)


class _JobError(FetchError):
    """The failure of all addresses of a job, and the host whose answer counts."""

    def __init__(self, error: FetchError, host: Host) -> None:
        super().__init__(error.reason, transient=error.transient, wait_s=error.wait_s, status=error.status)
        self.error, self.host = error, host


def _decisive(errors: list[tuple[FetchError, Host]]) -> tuple[FetchError, Host]:
    """Return the failure that counts: of a busy host, else a final answer, else the first failure.

    A picture whose first host is dead and whose second does not know it is gone; with a busy host it is not.
    """
    for error, host in errors:
        if error.status is not None and (error.transient or isinstance(error, GivenUpError)):
            return error, host
    for error, host in errors:
        if not error.transient and not isinstance(error, GivenUpError):
            return error, host
    for error, host in errors:
        if error.transient:
            return error, host
    return errors[0]


def _request(
    session: "requests.Session", url: str, host: Host, limits: Limits, stop: threading.Event
) -> bytes:
    """Send a request, and report to the host how it went."""
    try:
        body = download(session, url, limits, stop)
        _verify(body)
    except FetchError as error:
        if error.transient or _is_refusal(error):
            host.failed(error)
        else:
            host.answered(served=False)
        raise
    host.answered(served=True)
    return body.content


def _is_refusal(error: FetchError) -> bool:
    """Return whether we are blocked, by the host or by something in between, which refuses every request."""
    return error.status in REFUSED or error.reason.startswith(BLOCKED)


def _verify(body: Body) -> None:
    """Decode the picture, which alone counts, whatever the server calls it."""
    with _decoders:
        picture = decode(body.content)
    if isinstance(picture, str):
        raise FetchError(picture, transient=not body.complete and picture in CUT)
