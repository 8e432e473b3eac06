"""The raw files of a data set: in which folders they are looked for, and what each of them is."""

import shutil
from collections.abc import Callable
from pathlib import Path

from mmbench.atomic import beside, file_stamp, hash_file, swap_folder
from mmbench.data.manifest import RawFileFacts
from mmbench.data.spec import DatasetSpec, RawFile
from mmbench.errors import DataError, plural
from mmbench.locks import held, lock_file

Progress = Callable[[str], None]


class RawFilesMissingError(DataError):
    """Raw files are missing; `files` says which, `folder` where they belong."""

    def __init__(self, spec: DatasetSpec, files: list[RawFile], looked: list[Path]) -> None:
        self.spec, self.files, self.folder = spec, files, looked[0]
        names = " and ".join(file.name for file in files)
        it = "it" if len(files) == 1 else "them"
        where = (
            f" (mmbench datasets {spec.name} shows where to get {it})"
            if any(file.urls for file in files)
            else ""
        )
        super().__init__(
            f"{spec.name}: {plural(len(files), 'raw file')} {names} not found in {' or '.join(map(str, looked))}; "
            f"put {it} into the folder{where}, or name their folder with --raw DIR"
        )


def raw_folders(spec: DatasetSpec, data_dir: Path) -> list[Path]:
    """Return the folders in which raw files are looked for without --raw, in this order."""
    return list(dict.fromkeys([spec.raw_dir(data_dir), data_dir / "raw" / spec.name]))


def find_raw(
    spec: DatasetSpec, data_dir: Path, *, raw: Path | None, force: bool = False, progress: Progress
) -> Path:
    """Return the folder that holds all raw files; RawFilesMissingError when none does.

    Raw files are looked for in `raw` and `raw`/<name>, or without `raw` in the usual folders. Missing files of the demo
    are generated.
    """
    if raw is not None and not raw.is_dir():
        raise DataError(
            f"--raw {raw} is not a folder; name the folder that holds {spec.files.interactions.name}"
        )
    folders = raw_folders(spec, data_dir) if raw is None else [raw, raw / spec.name]
    if spec.name == "demo" and spec.synthetic and raw is None:
        _generate_demo(spec, folders[0], force=force, progress=progress)
    for folder in folders:
        if all((folder / file.name).is_file() for file in spec.raw_files):
            return folder
    missing = [file for file in spec.raw_files if not (folders[0] / file.name).is_file()]
    raise RawFilesMissingError(spec, missing, folders)


def _generate_demo(spec: DatasetSpec, folder: Path, *, force: bool, progress: Progress) -> None:
    """Write the demo's raw files unless they exist; an incomplete folder is written again."""
    if not force and _has_all(spec, folder):
        return
    from mmbench.data.demo import write_raw

    with held(lock_file(folder), error=DataError, option="--data-dir"):
        if not force and _has_all(spec, folder):  # another process generated it meanwhile
            return
        progress("generating the demo data")
        work = beside(folder, what="new")
        try:
            work.mkdir()
            write_raw(work)
            swap_folder(work, folder, option="--data-dir")
        except OSError as error:
            raise DataError(
                f"cannot write {folder}: {error.strerror or error}; choose another --data-dir"
            ) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _has_all(spec: DatasetSpec, folder: Path) -> bool:
    names = [file.name for file in spec.raw_files] + ([spec.images.name] if spec.images else [])
    return all((folder / name).is_file() for name in names)


def raw_facts(spec: DatasetSpec, folder: Path, data_dir: Path) -> tuple[RawFileFacts, ...]:
    """Hash the raw files in a folder; DataError when any differs from the file that the catalogue describes."""
    is_usual = folder.resolve() in {usual.resolve() for usual in raw_folders(spec, data_dir)}
    return tuple(_facts(spec, folder, file, is_usual=is_usual) for file in spec.files_in(folder))


def _facts(spec: DatasetSpec, folder: Path, raw_file: RawFile, *, is_usual: bool) -> RawFileFacts:
    file = folder / raw_file.name
    try:
        stamp = file_stamp(file) if is_usual else None
        size, sha256 = file.stat().st_size, hash_file(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    if raw_file.sha256 not in (None, sha256):
        raise DataError(
            f"{file} is not the file that the catalogue of {spec.name} describes (sha256 differs); get it again"
        )
    return RawFileFacts(file=raw_file.name, sha256=sha256, bytes=size, stamp=stamp)
