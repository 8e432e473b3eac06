"""The raw files of a data set: which of them to fetch, and what was recorded about them."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from mmbench.data.raw_hashes import Recorded, record_file, recorded_file
from mmbench.data.spec import DatasetSpec, RawFile
from mmbench.errors import DataError
from mmbench.fetch.client import new_session
from mmbench.fetch.files import PATIENT, Fetched, NotFetchedError, Patience, Wanted, download

Progress = Callable[[str, int, int | None], None]  # takes file name, bytes received, bytes in total if known
Note = Callable[[str, str], None]  # takes file name and event


def fetch_raw(
    spec: DatasetSpec,
    files: Sequence[RawFile],
    data_dir: Path,
    *,
    patience: Patience = PATIENT,
    on_bytes: Progress = lambda name, received, total: None,
    on_note: Note = lambda name, text: None,
    on_done: Callable[[str, Fetched], None] = lambda name, fetched: None,
) -> None:
    """Fetch those of `files` that have an address into the raw folder of `spec`.

    A failure does not keep the other files from being fetched; at the end a DataError names all that failed.
    """
    failed = []
    with new_session() as session:
        for file in (file for file in files if file.urls):
            name = file.name
            try:
                done = download(
                    _wanted(spec, file, data_dir),
                    spec.raw_dir(data_dir) / name,
                    session,
                    patience=patience,
                    on_bytes=partial(on_bytes, name),
                    on_note=partial(on_note, name),
                    on_checked=partial(_record, data_dir, spec.name, name),
                )
            except NotFetchedError as error:
                failed.append(str(error))
                continue
            if done is not None:
                on_done(name, done)
    if failed:
        raise DataError(f"{spec.name}: {'; and '.join(failed)}")


def _wanted(spec: DatasetSpec, file: RawFile, data_dir: Path) -> Wanted:
    """Return the file with what is known about it: by the catalogue, or else by the record of the first download."""
    if file.sha256 is not None:
        return Wanted(file.name, file.urls, file.size, file.sha256)
    known = recorded_file(data_dir, spec.name, file.name)
    if known is None:
        return Wanted(file.name, file.urls, file.size)
    return Wanted(
        file.name,
        file.urls,
        known.size,
        known.sha256,
        known_from=f"the download of {known.date}",
        if_changed=f"the expected sha256 is {known.sha256}; to accept the new version, run: "
        f"mmbench datasets unlock {spec.name}",
    )


def _record(data_dir: Path, dataset: str, name: str, fetched: Fetched) -> None:
    today = datetime.now(UTC).date().isoformat()
    record_file(data_dir, dataset, name, Recorded(fetched.sha256, fetched.size, fetched.url, today))
