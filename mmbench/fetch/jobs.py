"""Pictures from their addresses by a few threads: again after transient failures, verified by decoding them."""

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

# The same path under another host name. Public programs replace the first by the second where they show old data.
MIRRORS = {"http://ecx.images-amazon.com/images/I/": "https://m.media-amazon.com/images/I/"}
BLOCKED = ("not a picture", "the server's certificate", "redirected")  # how such reasons begin
CUT = ("truncated", "empty file", "undecodable")  # what a body looks like whose end is missing
N_DECODERS = 4  # pictures decoded at once: a large one takes hundreds of megabytes
TICK_S = 0.2
_decoders = threading.BoundedSemaphore(N_DECODERS)


@dataclass(frozen=True)
class Job:
    """One address, and the names under which its picture is kept."""

    url: str
    names: tuple[str, ...]

    @property
    def addresses(self) -> list[str]:
        """The address and its second one, if there is a rule for it."""
        found = [self.url]
        for start, other in MIRRORS.items():
            if self.url.startswith(start):
                found.append(other + self.url.removeprefix(start))
        return found


@dataclass(frozen=True)
class Outcome:
    """What became of a job: `content`, or the `reason` why not."""

    job: Job
    tries: int
    content: bytes | None = None
    reason: str = ""
    final: bool = False  # not asked again
    refused_by: Host | None = None  # final only if this host gives pictures at all


def outcomes(
    jobs: list[Job], hosts: Hosts, limits: Limits, stop: threading.Event
) -> Generator[list[Outcome], None, None]:
    """What has come since the last time (often nothing), until all jobs have ended or `stop` is set."""
    results: queue.Queue[Outcome | BaseException | None] = queue.Queue()
    line = _Line(jobs, limits.per_host)
    # Daemons: one that waits for a dead server must not keep a stopped program alive.
    threads = [
        threading.Thread(target=_work, args=(line, hosts, limits, stop, results), daemon=True)
        for _ in range(min(limits.threads, line.n_lanes))
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
            came = _drain(results)
            running -= came.count(None)
            for one in came:
                if isinstance(one, BaseException):
                    raise one
            yield [one for one in came if isinstance(one, Outcome)]
    finally:
        if running:
            stop.set()


def _drain(results: "queue.Queue[Any]") -> list[Any]:
    """Everything in the queue; waits TICK_S for the first."""
    came = []
    try:
        came.append(results.get(timeout=TICK_S))
        while True:
            came.append(results.get_nowait())
    except queue.Empty:
        return came


class _Line:
    """The jobs, by host: a thread takes the next job of a host that has a free lane, the hosts in turn."""

    def __init__(self, jobs: list[Job], per_host: int) -> None:
        self._lock, self._per_host = threading.Lock(), per_host
        self._waiting: dict[str, deque[Job]] = {}
        for job in jobs:
            self._waiting.setdefault(host_name(job.url), deque()).append(job)
        self._active = dict.fromkeys(self._waiting, 0)
        self.n_lanes = sum(min(per_host, len(one)) for one in self._waiting.values())

    def take(self) -> Job | None:
        """None when all jobs are taken or every host that has some is busy: then its own threads go on with them."""
        with self._lock:
            for name, jobs in self._waiting.items():
                if jobs and self._active[name] < self._per_host:
                    self._active[name] += 1
                    self._waiting[name] = self._waiting.pop(name)  # to the end of the line
                    return jobs.popleft()
        return None

    def done(self, job: Job) -> None:
        with self._lock:
            self._active[host_name(job.url)] -= 1


def _work(
    line: _Line, hosts: Hosts, limits: Limits, stop: threading.Event, results: "queue.Queue[Any]"
) -> None:
    """One thread: jobs until there are none; None in `results` says that it ended."""
    try:
        with new_session(limits.per_host, allows_private=limits.allows_private) as session:
            while not stop.is_set() and (job := line.take()) is not None:
                try:
                    results.put(_run(session, job, hosts, limits, stop))
                finally:
                    line.done(job)
    except StoppedError:
        return
    except BaseException as error:  # a mistake of ours: the calling thread raises it
        results.put(error)
    finally:
        results.put(None)


def _run(
    session: "requests.Session", job: Job, hosts: Hosts, limits: Limits, stop: threading.Event
) -> Outcome:
    """Try the job's addresses, again after transient failures."""
    tries = 0

    def ask() -> bytes:
        nonlocal tries
        errors: list[tuple[FetchError, Host]] = []
        for url in job.addresses:
            host = hosts.of(url)
            try:
                with host.turn(stop):
                    tries += 1
                    return _ask(session, url, host, limits, stop)
            except FetchError as error:
                errors.append((error, host))
        raise _JobError(*_decisive(errors))

    def sleep(seconds: float) -> None:
        if stop.wait(seconds):
            raise StoppedError

    try:
        again = retrying(tries=limits.tries, first_wait_s=limits.first_wait_s).copy(sleep=sleep)
        content = again(ask)
        return Outcome(job, tries, content=content)
    except _JobError as failure:
        error, host = failure.error, failure.host
        refused = host if _is_refusal(error) else None
        final = not error.transient and refused is None and not isinstance(error, GivenUpError)
        return Outcome(job, tries, reason=error.reason, final=final, refused_by=refused)


class _JobError(FetchError):
    """The failure of all addresses, and the host whose answer counts."""

    def __init__(self, error: FetchError, host: Host) -> None:
        super().__init__(error.reason, transient=error.transient, wait_s=error.wait_s, status=error.status)
        self.error, self.host = error, host


def _decisive(errors: list[tuple[FetchError, Host]]) -> tuple[FetchError, Host]:
    """The failure that decides: of a host that is busy, else a final answer, else the first.

    A picture whose first host is dead and whose second does not know it is gone; one whose host is busy is not.
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


def _ask(session: "requests.Session", url: str, host: Host, limits: Limits, stop: threading.Event) -> bytes:
    """One request; the host learns how it went."""
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
    """An answer that comes for everything when we are blocked, by the host or by what lies between."""
    return error.status in REFUSED or error.reason.startswith(BLOCKED)


def _verify(body: Body) -> None:
    """Decode the picture; whatever the server calls it, only that counts."""
    with _decoders:
        picture = decode(body.content)
    if isinstance(picture, str):
        raise FetchError(picture, transient=not body.complete and picture in CUT)
