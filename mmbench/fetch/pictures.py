"""The pictures of a prepared data set's items, fetched from their addresses into a PictureStore.

    items with an address, except those that were fetched or are known to be gone
      -> a job per address -> threads, few requests per host at once -> decoded -> store

Only the calling thread writes. A fetched picture is in the store within a fraction of a second, so a kill loses
the pictures that were under way, and the next call resumes with what is missing.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbench.data.images import list_at, list_store, point_at
from mmbench.data.picture_store import UNKNOWN, Entry, PictureStore, StoreWriter
from mmbench.data.pictures import MISSING, UNNAMED
from mmbench.data.store import DATA_DIR, Prepared, open_path
from mmbench.errors import DataError
from mmbench.fetch.hosts import Hosts, Limits
from mmbench.fetch.jobs import Job, Outcome, outcomes
from mmbench.locks import held_where_writable, lock_file


@dataclass(frozen=True)
class Progress:
    """The progress of a call, in pictures."""

    done: int
    total: int
    failed: int
    seconds: float


@dataclass(frozen=True)
class PicturesReport:
    """The state after a call. `missing`: reason -> names, the most frequent reason first."""

    wanted: int
    fetched: int = 0
    stored: int = 0  # before this call
    missing: Mapping[str, list[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # name the hosts that were given up
    seconds: float = 0.0

    @property
    def n_missing(self) -> int:
        return sum(map(len, self.missing.values()))


def wanted_pictures(prepared: Prepared) -> dict[str, str]:
    """Return name -> address of the items' pictures; repeated names have the address of the first item."""
    pictures: dict[str, str] = {}
    for record in prepared.item_records:
        name, url = record.get("image"), str(record.get("image_url") or "").strip()
        if name and url:
            pictures.setdefault(name, url)
    return pictures


def fetch_pictures(
    prepared: Prepared,
    path: Path,
    *,
    retry: bool = False,
    limits: Limits | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_wait: Callable[[], None] = lambda: None,
) -> PicturesReport:
    """Fetch what the store at `path` lacks; with `retry`, also what failed for good.

    Opens no connection and creates no file if there is nothing to fetch. Ctrl-C stops it within about a second
    and is raised as KeyboardInterrupt after everything fetched was stored. Raises DataError when the store cannot
    be written; a picture that cannot be fetched is not an error but part of the report. `on_wait` is called if
    another process is fetching into the same store.
    """
    started, limits = time.monotonic(), limits or Limits()
    wanted = wanted_pictures(prepared)
    before = _known(path)
    if not _plan(wanted, before, retry=retry):
        return _report(wanted, before, before, [], 0.0)
    with _lock(path, on_wait), StoreWriter(path) as writer:
        before = writer.entries()
        jobs = _link(writer, _plan(wanted, before, retry=retry), before)
        hosts = Hosts(limits)
        _fetch(writer, jobs, hosts, limits, on_progress)
        after = writer.entries()
    notes = [
        f"{host.name}: no proper answer to {limits.give_up_after} requests in a row "
        f"(last: {host.given_up}); given up for this time"
        for host in hosts.given_up()
    ]
    return _report(wanted, before, after, notes, time.monotonic() - started)


def _known(path: Path) -> dict[str, Entry]:
    if not path.is_file():
        return {}
    with PictureStore(path) as store:
        return store.entries()


def _plan(wanted: Mapping[str, str], known: Mapping[str, Entry], *, retry: bool) -> list[Job]:
    """Return a job per address, in the order of the items."""
    names: dict[str, list[str]] = {}
    for name, url in wanted.items():
        entry = known.get(name)
        is_stored = entry is not None and entry.sha256 is not None
        is_gone = entry is not None and entry.final and entry.url == url and not retry
        if not is_stored and not is_gone:
            names.setdefault(url, []).append(name)
    return [Job(url, tuple(group)) for url, group in names.items()]


def _link(writer: StoreWriter, jobs: list[Job], known: Mapping[str, Entry]) -> list[Job]:
    """Link pictures whose address was fetched under another name; return the other jobs."""
    fetched = {entry.url: entry.sha256 for entry in known.values() if entry.sha256 is not None}
    with writer.transaction():
        for job in jobs:
            if job.url in fetched:
                writer.link(job.names, job.url, fetched[job.url])
    return [job for job in jobs if job.url not in fetched]


def _fetch(
    writer: StoreWriter,
    jobs: list[Job],
    hosts: Hosts,
    limits: Limits,
    on_progress: Callable[[Progress], None],
) -> None:
    """Run the jobs and store their outcomes."""
    started, total = time.monotonic(), sum(len(job.names) for job in jobs)
    done = failed = 0
    refused: list[Outcome] = []
    stop = threading.Event()
    with _stopped_by_ctrl_c(stop), closing(outcomes(jobs, hosts, limits, stop)) as batches:
        for arrived in batches:
            if arrived:
                with writer.transaction():
                    for outcome in arrived:
                        _store(writer, outcome)
            refused += [outcome for outcome in arrived if outcome.refused_by is not None]
            done += sum(len(outcome.job.names) for outcome in arrived)
            failed += sum(len(outcome.job.names) for outcome in arrived if outcome.content is None)
            on_progress(Progress(done, total, failed, time.monotonic() - started))
        # Refusals are stored as transient until here: a host that refuses everything says nothing about its pictures.
        writer.finalise(
            name
            for outcome in refused
            if outcome.refused_by and outcome.refused_by.served
            for name in outcome.job.names
        )
    if stop.is_set():
        raise KeyboardInterrupt


def _store(writer: StoreWriter, outcome: Outcome) -> None:
    if outcome.content is not None:
        writer.put(outcome.job.names, outcome.job.url, outcome.content, tries=outcome.tries)
    else:
        writer.fail(
            outcome.job.names, outcome.job.url, outcome.reason, final=outcome.final, tries=outcome.tries
        )


def _lock(path: Path, on_wait: Callable[[], None]) -> AbstractContextManager[bool]:
    """Hold the lock for writing into the store at `path`."""
    option = "folder for the raw files, or use --no-pictures"
    return held_where_writable(lock_file(path), error=DataError, option=option, on_wait=on_wait)


@contextmanager
def _stopped_by_ctrl_c(stop: threading.Event) -> Iterator[None]:
    """Let Ctrl-C set `stop`, so that it never interrupts a write; a second Ctrl-C interrupts as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def _report(
    wanted: Mapping[str, str],
    before: Mapping[str, Entry],
    after: Mapping[str, Entry],
    notes: list[str],
    seconds: float,
) -> PicturesReport:
    missing: dict[str, list[str]] = {}
    for name in wanted:
        if not _is_stored(after, name):
            reason = after[name].reason if name in after else None
            missing.setdefault(reason or UNKNOWN, []).append(name)
    stored = sum(_is_stored(before, name) for name in wanted)
    return PicturesReport(
        wanted=len(wanted),
        fetched=sum(_is_stored(after, name) for name in wanted) - stored,
        stored=stored,
        missing=dict(sorted(missing.items(), key=lambda item: (-len(item[1]), item[0]))),
        notes=tuple(notes),
        seconds=seconds,
    )


def _is_stored(known: Mapping[str, Entry], name: str) -> bool:
    return name in known and known[name].sha256 is not None


def attach(prepared: Prepared, path: Path) -> Prepared:
    """Write the store at `path` into the manifest of `prepared`, with the number of pictures in it."""
    with held_where_writable(lock_file(prepared.path), error=DataError, option=DATA_DIR):
        return point_at(open_path(prepared.path), list_store(path) if path.is_file() else None)


@dataclass(frozen=True)
class ItemPicture:
    """The picture of an item; `reason` says why there is none, and is None if it exists."""

    item: str
    name: str
    url: str
    reason: str | None


def item_pictures(prepared: Prepared) -> list[ItemPicture]:
    """Return every item's picture, in item order, from the folder, zip or store that the manifest names."""
    images = prepared.manifest.images
    listing = list_at(images, prepared.name) if images else None
    is_fetched = listing is None or listing.kind == "store"
    known = _known(listing.path) if listing is not None and is_fetched else {}
    pictures = []
    for record in prepared.item_records:
        name, url = record.get("image") or "", str(record.get("image_url") or "")
        reason: str | None = None
        if not name:
            reason = UNNAMED
        elif listing is None or name not in listing.members:
            entry = known.get(name)
            reason = (entry and entry.reason) or (UNKNOWN if is_fetched and url else MISSING)
        pictures.append(ItemPicture(str(record["id"]), name, url, reason))
    return pictures
