"""A bundle, unpacked into a folder of results of its own, so that everything that reads results reads it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from mmbench import sealed
from mmbench.atomic import hash_file
from mmbench.board import manifest as names
from mmbench.board.archive import BundleError, check_arrays, differences, unpack
from mmbench.board.manifest import Manifest, folder_of_seed
from mmbench.errors import DataError
from mmbench.evaluation.evidence import Ranking
from mmbench.runs.store import RANKINGS, RunRecord, read_record, slug
from mmbench.tuning.ledger import TUNING

ADVICE = "ask for the bundle again"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are those of its manifest.

    path     the archive
    results  a folder of results that holds its runs alone
    code     the folder of its model's files, which nothing has imported; None for a model of mmbench
    """

    path: Path
    manifest: Manifest
    results: Path
    code: Path | None
    has_libraries: bool
    _rankings: dict[tuple[int, str], Ranking] = field(default_factory=dict)

    @cached_property
    def sha256(self) -> str:
        return hash_file(self.path)

    @cached_property
    def records(self) -> list[RunRecord]:
        """Return the records by seed, each in its folder of `results`; DataError for a record that does not fit."""
        return [read_record(self._folder / folder_of_seed(seed)) for seed in self.manifest.seeds]

    def ranking(self, record: RunRecord, split: str) -> Ranking:
        """Return a stored ranking, read once."""
        key = record.seed, split
        if key not in self._rankings:
            self._rankings[key] = record.ranking(split)
        return self._rankings[key]

    @property
    def splits(self) -> tuple[str, ...]:
        return ("test",) if self.records[0].external else ("valid", "test")

    @property
    def _folder(self) -> Path:
        return self.results.joinpath(*_title(self.manifest))


@contextmanager
def opened(path: Path, *, parent: Path | None = None) -> Iterator[Bundle]:
    """Yield an unpacked bundle, which is removed at the end; BundleError for a damaged or refused bundle.

    parent  where to unpack, by default the system's folder of temporary files
    """
    with TemporaryDirectory(prefix="mmbench-verify-", dir=parent) as temporary:
        yield open_into(path, Path(temporary))


def open_into(path: Path, root: Path) -> Bundle:
    """Unpack a bundle below an empty folder."""
    flat = root / "files"
    flat.mkdir()
    stored = unpack(path, flat)
    manifest = _read_manifest(path, flat)
    other = differences(
        {name: facts for name, facts in stored.items() if name != names.MANIFEST}, manifest.files
    )
    if other:
        raise BundleError(
            f"{path}: {other[0]} is not the file that the manifest names ({len(other)} such); {ADVICE}"
        )
    for file in sorted(flat.rglob("*.npz")):
        check_arrays(file, name=f"{path}: {file.relative_to(flat)}")
    missing = {names.record_name(seed) for seed in manifest.seeds} - set(stored)
    folders = {name.partition("/")[0] for name in stored if name.startswith("seed_")}
    expected = [folder_of_seed(seed) for seed in manifest.seeds]
    if missing or sorted(expected) != sorted(folders):
        raise BundleError(f"{path}: the seeds of the manifest are not those of its files; {ADVICE}")
    return _arranged(path, manifest, flat, root)


def _read_manifest(path: Path, flat: Path) -> Manifest:
    file = flat / names.MANIFEST
    if not file.is_file():
        raise BundleError(f"{path}: has no {names.MANIFEST}, so it is not a bundle; {ADVICE}")
    advice = f"make it again with this version: mmbench bundle, or {ADVICE}"
    try:
        return Manifest.from_json(sealed.read_json(file, advice=advice, version=names.FORMAT))
    except DataError as error:
        raise BundleError(f"{path}: {str(error).replace(f'{flat}/', '')}") from error
    except ValueError as error:
        raise BundleError(f"{path}: {names.MANIFEST}: {error}; {ADVICE}") from error


def _title(manifest: Manifest) -> tuple[str, str, str]:
    return slug(manifest.dataset), slug(manifest.model), manifest.config_id


def _arranged(path: Path, manifest: Manifest, flat: Path, root: Path) -> Bundle:
    """Move unpacked files to where a folder of results has them."""
    results, code = root / "results", flat / names.MODEL
    folder = results.joinpath(*_title(manifest))
    folder.mkdir(parents=True)
    for seed in manifest.seeds:
        (flat / folder_of_seed(seed)).rename(folder / folder_of_seed(seed))
        (folder / folder_of_seed(seed) / RANKINGS).mkdir(exist_ok=True)
    if (flat / names.TUNING).is_dir():
        shutil.move(flat / names.TUNING, folder.parent / TUNING)
    return Bundle(
        path=path, manifest=manifest, results=results, code=code if code.is_dir() else None,
        has_libraries=(flat / names.LIBRARIES).is_file(),
    )  # fmt: skip
