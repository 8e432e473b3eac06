"""Raw files to prepared data with pictures and features, in a single call: what `prepare` does.

    fetch the raw files that are missing -> preprocess -> fetch the items' pictures -> extract features

The steps live in data/, fetch/ and here; this file says in which order, and calls their watchers.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from mmbench.data import prepare as data
from mmbench.data.images import store_path
from mmbench.data.prepare import PrepareReport
from mmbench.data.raw_files import RawFilesMissingError, find_raw
from mmbench.data.store import Prepared
from mmbench.features.extract import SKIP, ExtractReport, Options, extract_default
from mmbench.fetch.hosts import Limits
from mmbench.fetch.lines import DownloadLines, picture_lines
from mmbench.fetch.pictures import PicturesReport, attach, fetch_pictures, wanted_pictures
from mmbench.fetch.pictures import Progress as PictureProgress
from mmbench.fetch.raw import fetch_raw

Bars = Callable[[str, int, int], None]  # what is encoded ("image colour-gradient"), items done, items in all


class PrepareWatcher:
    """Reports a preparation in plain lines; a command line overrides it with bars and tables.

    say  is called with each line; by default nothing is shown
    """

    def __init__(self, say: Callable[[str], object] = lambda text: None) -> None:
        self.say = say

    def note(self, dataset: str, text: str) -> None:
        """Report what happens at present."""
        self.say(f"{dataset}: {text}")

    def result(self, dataset: str, text: str) -> None:
        """Report the outcome."""
        self.say(f"{dataset}: {text}")

    def missing(self, error: RawFilesMissingError) -> None:
        """Report that raw files are missing and cannot be fetched; the error follows."""

    def downloads(self, dataset: str) -> AbstractContextManager[DownloadLines]:
        """Return the watcher of raw files while they are fetched."""
        return nullcontext(DownloadLines(lambda text: self.note(dataset, text)))

    def prepared(self, report: PrepareReport) -> None:
        """Report the prepared data, without features as yet."""
        name = report.prepared.name
        if report.fresh:
            self.note(name, f"prepared in {report.seconds:.1f} s")
        else:
            self.result(name, "already prepared, nothing to do")

    def pictures(self, dataset: str) -> AbstractContextManager[Callable[[PictureProgress], None]]:
        """Return the watcher of pictures while they are fetched."""
        return nullcontext(picture_lines(lambda text: self.note(dataset, text)))

    def pictures_done(self, dataset: str, report: PicturesReport) -> None:
        """Report how many pictures are stored."""
        took = f"; {report.seconds:.1f} s" if report.seconds else ""
        self.result(
            dataset,
            f"pictures: {report.fetched:,} fetched, {report.stored:,} already stored, "
            f"{report.n_missing:,} missing of {report.wanted:,} with an address{took}",
        )
        for note in report.notes:
            self.result(dataset, note)

    def extraction(self, dataset: str) -> AbstractContextManager[Bars | None]:
        """Return the watcher of items while they are encoded."""
        return nullcontext(None)

    def extracted(self, dataset: str, reports: Sequence[ExtractReport]) -> None:
        """Report which features are stored."""
        for report in reports:
            self.result(dataset, report.line())


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a data set is prepared.

    raw             the folder of the raw files; None = the usual folder, into which missing files are fetched
    offline         open no connection
    force           prepare again even if nothing changed
    protocol, ties  instead of the data set's
    text, image     encoders; None = the default, "none" = leave the modality out
    device          of pretrained encoders
    pictures        fetch the pictures of items that name an address
    retry_pictures  ask again for pictures that are known to be gone
    private_hosts   let pictures come from hosts of private networks
    """

    raw: Path | None = None
    offline: bool = False
    force: bool = False
    protocol: str | None = None
    ties: str | None = None
    text: str | None = None
    image: str | None = None
    device: str = "auto"
    pictures: bool = True
    retry_pictures: bool = False
    private_hosts: bool = False

    @property
    def fetches_pictures(self) -> bool:
        return self.pictures and not self.offline and self.image != SKIP


DEFAULTS = Preparation()


def prepare_whole(
    name: str, data_dir: Path, how: Preparation = DEFAULTS, *, watcher: PrepareWatcher
) -> Prepared:
    """Return the data set called `NAME[@PROTOCOL][@TIES]`, prepared with pictures and features.

    What is done already is not done again. Raises UsageError for unknown names, DataError for raw files that are
    missing or damaged, and RawFilesMissingError when they cannot be fetched.
    """
    report = preprocess(name, data_dir, how, watcher=watcher)
    prepared = add_pictures(report, how, watcher=watcher) if how.fetches_pictures else report.prepared
    extract_features(
        prepared, text=how.text, image=how.image, options=Options(device=how.device), watcher=watcher
    )
    return prepared


def preprocess(
    name: str, data_dir: Path, how: Preparation = DEFAULTS, *, watcher: PrepareWatcher
) -> PrepareReport:
    """Prepare a data set without pictures and features; raw files that are needed and missing are fetched."""

    def attempt() -> PrepareReport:
        return data.prepare(
            name, data_dir, raw=how.raw, protocol=how.protocol, ties=how.ties, force=how.force,
            progress=lambda text: watcher.note(name, text),
        )  # fmt: skip

    try:
        report = attempt()
    except RawFilesMissingError as error:
        if how.offline or how.raw is not None or not any(file.urls for file in error.files):
            watcher.missing(error)
            raise
        fetch_missing(error, data_dir, watcher=watcher)
        report = _after_fetching(attempt, watcher)
    for note in report.notes:
        watcher.note(name, note)
    watcher.prepared(report)
    return report


def _after_fetching(attempt: Callable[[], PrepareReport], watcher: PrepareWatcher) -> PrepareReport:
    try:
        return attempt()
    except RawFilesMissingError as error:  # of those without an address
        watcher.missing(error)
        raise


def fetch_missing(missing: RawFilesMissingError, data_dir: Path, *, watcher: PrepareWatcher) -> None:
    """Fetch the raw files that have an address; DataError when any of them could not be fetched."""
    with watcher.downloads(missing.spec.name) as lines:
        fetch_raw(
            missing.spec, missing.files, data_dir,
            on_bytes=lines.bytes, on_note=lines.note, on_done=lines.done,
        )  # fmt: skip


def add_pictures(report: PrepareReport, how: Preparation = DEFAULTS, *, watcher: PrepareWatcher) -> Prepared:
    """Fetch the pictures that items have an address of and that are not on disk.

    Does nothing, and opens no connection, when no item has an address, or when the data set's pictures lie in a
    folder or zip of the user's. Returns the prepared data with their manifest naming the pictures.
    """
    prepared = report.prepared
    images = prepared.manifest.images
    if report.spec.pictures is None or (images is not None and images.kind != "store"):
        return prepared
    if not wanted_pictures(prepared):
        return prepared
    path = Path(images.path) if images else _store_of(report, how.raw)

    def on_wait() -> None:
        watcher.note(prepared.name, "waiting for another process that fetches pictures")

    with watcher.pictures(prepared.name) as on_progress:
        done = fetch_pictures(
            prepared, path, retry=how.retry_pictures, limits=Limits(allows_private=how.private_hosts),
            on_progress=on_progress, on_wait=on_wait,
        )  # fmt: skip
    watcher.pictures_done(prepared.name, done)
    return attach(prepared, path)


def _store_of(report: PrepareReport, raw: Path | None) -> Path:
    """Return the place of the picture store: beside the raw files, or where they would be if they are gone."""
    assert report.spec.pictures is not None  # the caller checks
    try:
        folder = find_raw(report.spec, report.prepared.data_dir, raw=raw, progress=lambda message: None)
    except RawFilesMissingError as error:
        folder = error.folder
    return store_path(report.spec.pictures, folder)


def extract_features(
    prepared: Prepared,
    *,
    text: str | None = None,
    image: str | None = None,
    options: Options | None = None,
    watcher: PrepareWatcher,
) -> list[ExtractReport]:
    """Encode texts and pictures of prepared data, see `extract_default`."""
    with watcher.extraction(prepared.name) as on_progress:
        reports = extract_default(
            prepared, text, image, on_progress=on_progress, options=options,
            say=lambda message: watcher.note(prepared.name, message),
        )  # fmt: skip
    watcher.extracted(prepared.name, reports)
    if image is None and prepared.manifest.images is None:
        has_addresses = any("image_url" in record for record in prepared.item_records)
        hint = (
            f"mmbench prepare {prepared.name} fetches them"
            if has_addresses
            else "the key images of the data set's table names their folder (docs/data.md)"
        )
        watcher.result(prepared.name, f"no pictures are there, so no image features; {hint}")
    return reports
