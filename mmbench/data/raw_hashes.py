"""`<data-dir>/raw/lock.json`: what each raw file was when first fetched, for comparison with later downloads."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmbench import sealed, strict
from mmbench.data.manifest import RawFileFacts, Sha256
from mmbench.errors import DataError
from mmbench.locks import held, lock_file

FORMAT = 1
ADVICE = "delete it to record the hashes of new downloads again"


@dataclass(frozen=True)
class Recorded(strict.Strict):
    """A raw file as it was first fetched: hash, bytes, address, and the day (ISO, UTC)."""

    sha256: Sha256
    size: int
    url: str
    date: str


@dataclass(frozen=True)
class _Content(strict.Strict):
    files: dict[str, dict[str, Recorded]]  # data set -> file name -> record


def hashes_path(data_dir: Path) -> Path:
    """Return the file that holds the recorded hashes."""
    return data_dir / "raw" / "lock.json"


def read_recorded(data_dir: Path) -> dict[str, dict[str, Recorded]]:
    """Return the records of each data set's files; {} before the first download."""
    path = hashes_path(data_dir)
    try:
        return _Content.from_json(sealed.read_json(path, advice=ADVICE, version=FORMAT)).files
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise sealed.damaged(path, error, ADVICE) from error


def recorded_file(data_dir: Path, dataset: str, name: str) -> Recorded | None:
    """Return the record of a file, None when there is none."""
    return read_recorded(data_dir).get(dataset, {}).get(name)


def record_file(data_dir: Path, dataset: str, name: str, file: Recorded) -> None:
    """Record a file. The first download counts, unless the catalogue has given another hash since."""
    with _changing(data_dir) as recorded:
        files = recorded.setdefault(dataset, {})
        if name not in files or files[name].sha256 != file.sha256:
            files[name] = file


def forget_files(data_dir: Path, dataset: str) -> list[str]:
    """Forget the records of a data set's files, so that the next downloads are accepted; return the files' names."""
    with _changing(data_dir) as recorded:
        return sorted(recorded.pop(dataset, {}))


@contextmanager
def _changing(data_dir: Path) -> Iterator[dict[str, dict[str, Recorded]]]:
    path = hashes_path(data_dir)
    with held(lock_file(path), error=DataError, option="--data-dir"):
        recorded = read_recorded(data_dir)
        yield recorded
        sealed.write_json(path, _Content(recorded).to_json(), version=FORMAT)


def check_recorded(data_dir: Path, dataset: str, folder: Path, files: Sequence[RawFileFacts]) -> None:
    """Raise DataError when a raw file differs from the file that was fetched."""
    known = read_recorded(data_dir).get(dataset, {})
    for file in files:
        recorded = known.get(file.file)
        if recorded is not None and recorded.sha256 != file.sha256:
            raise DataError(
                f"{folder / file.file} is not the file that was fetched on {recorded.date} "
                f"(sha256 {file.sha256}, expected {recorded.sha256}); delete it to fetch it again, or accept it: "
                f"mmbench datasets unlock {dataset}"
            )
