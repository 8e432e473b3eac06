"""Users' own data sets: their tables are checked against the headers of the files that exist, then added."""

from pathlib import Path

from mmbench.data import sequences
from mmbench.data.catalog import add_datasets, read_catalog
from mmbench.data.parsers import declared_columns
from mmbench.data.raw_files import raw_folders
from mmbench.data.spec import DatasetSpec, RawFile
from mmbench.data.tables import new_faults, read_rows


def add(file: Path, data_dir: Path) -> dict[str, list[Path]]:
    """Add the tables of `file`; return for each data set where its raw files that do not exist yet should lie.

    UsageError for a table that is wrong in itself, DataError where the header of a file lacks a column that its table
    names; nothing is added then.
    """
    missing = {name: check_headers(spec, data_dir) for name, spec in read_catalog(file).items()}
    add_datasets(file, data_dir)
    return missing


def check_headers(spec: DatasetSpec, data_dir: Path) -> list[Path]:
    """Open the files of a data set and return those that do not exist; DataError for a header without a column."""
    missing = []
    for raw_file in spec.raw_files:
        paths = [folder / raw_file.name for folder in raw_folders(spec, data_dir)]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            missing.append(paths[0])
        elif spec.is_table:
            _read_first(path, spec, raw_file)
    return missing


def _read_first(path: Path, spec: DatasetSpec, raw_file: RawFile) -> None:
    """Read the beginning of a file, which is refused as `prepare` would refuse it."""
    if spec.parser == "sequence" and raw_file == spec.files.interactions:
        sequences.check_first(path)
        return
    next(read_rows(path, declared_columns(spec, raw_file), new_faults(path)), None)
