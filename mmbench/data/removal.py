"""Removal of prepared data: the folder with its features; raw files stay."""

import os
from pathlib import Path

from mmbench.atomic import remove_folder
from mmbench.data.catalog import load_catalog
from mmbench.data.manifest import folder_name
from mmbench.data.protocol import PreparedName
from mmbench.data.raw_files import raw_folders
from mmbench.data.store import is_prepared, list_prepared, prepared_path
from mmbench.errors import UsageError
from mmbench.locks import held, lock_file


def prepared_bytes(name: str, data_dir: Path) -> int | None:
    """Return how many bytes the prepared data of exactly this name have; None where there are none."""
    if not is_prepared(name, data_dir):
        return None
    walk = os.walk(prepared_path(name, data_dir))
    return sum(os.lstat(os.path.join(folder, file)).st_size for folder, _, files in walk for file in files)


def remaining(name: str, data_dir: Path, results_dir: Path) -> list[str]:
    """Return a line for each thing of a data set that `remove` leaves: raw files, other preparations, results."""
    base = PreparedName.parse(name).dataset
    spec = load_catalog(data_dir).get(base)
    folders = [] if spec is None else raw_folders(spec, data_dir)
    lines = [f"raw files in {folder}" for folder in folders if folder.is_dir()]
    others = [
        prepared.name
        for prepared in list_prepared(data_dir, on_error=lambda error: None)
        if prepared.manifest.dataset == base and prepared.name != name
    ]
    lines += [f"prepared data of {', '.join(others)}"] if others else []
    runs = results_dir / folder_name(name)
    return [*lines, *([f"runs in {runs} (mmbench runs rm)"] if runs.is_dir() else [])]


def remove_prepared(name: str, data_dir: Path) -> None:
    """Remove the prepared data of exactly this name; UsageError where their folder is a link."""
    path = prepared_path(name, data_dir)
    if path.is_symlink():
        raise UsageError(f"{path} is a link; remove it yourself")
    with held(lock_file(path), error=UsageError, option="--data-dir"):
        remove_folder(path)
