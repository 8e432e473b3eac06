"""`<data-dir>/raw/lock.json`: what each raw file was when it was first fetched, and is compared with ever after."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmbench.atomic import write_json
from mmbench.errors import DataError


@dataclass(frozen=True)
class Locked:
    """A raw file as it was first fetched: hash, bytes, address, and the day (ISO, UTC)."""

    sha256: str
    size: int
    url: str
    date: str


Lock = dict[str, dict[str, Locked]]  # data set -> file name -> what it was


def lock_path(data_dir: Path) -> Path:
    return data_dir / "raw" / "lock.json"


def read_lock(data_dir: Path) -> Lock:
    """Everything that was recorded; {} before the first download."""
    path = lock_path(data_dir)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            dataset: {name: Locked(**entry) for name, entry in files.items()}
            for dataset, files in content.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); repair it, or delete it to record the hashes of new downloads again"
        ) from error


def locked(data_dir: Path, dataset: str, name: str) -> Locked | None:
    return read_lock(data_dir).get(dataset, {}).get(name)


def add_locked(data_dir: Path, dataset: str, name: str, entry: Locked) -> None:
    """Record a file. The first download counts, unless the catalogue has named another hash since."""
    with _changing(data_dir) as lock:
        files = lock.setdefault(dataset, {})
        if name not in files or files[name].sha256 != entry.sha256:
            files[name] = entry


def unlock(data_dir: Path, dataset: str) -> list[str]:
    """Forget what the files of `dataset` were, so that the next ones are taken as they come; returns their names."""
    with _changing(data_dir) as lock:
        return sorted(lock.pop(dataset, {}))


@contextmanager
def _changing(data_dir: Path) -> Iterator[Lock]:
    from filelock import FileLock

    path = lock_path(data_dir)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot write below {data_dir}: {error.strerror}; choose another --data-dir"
        ) from error
    with FileLock(path.with_name(".lock.json.lock")):
        lock = read_lock(data_dir)
        yield lock
        write_json(
            path, {name: {key: asdict(one) for key, one in files.items()} for name, files in lock.items()}
        )


def check_locked(data_dir: Path, dataset: str, folder: Path, hashes: Sequence[Mapping[str, Any]]) -> None:
    """DataError when a raw file (`file`, `sha256`) is not the one that was fetched."""
    known = read_lock(data_dir).get(dataset, {})
    for one in hashes:
        entry = known.get(one["file"])
        if entry is not None and entry.sha256 != one["sha256"]:
            raise DataError(
                f"{folder / one['file']} is not the file that was fetched on {entry.date} "
                f"(sha256 {one['sha256']}, expected {entry.sha256}); delete it to fetch it again, or accept it: "
                f"mmbench datasets unlock {dataset}"
            )
