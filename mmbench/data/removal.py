"""Removal of prepared data: the folder with its features; raw files stay."""

import os
from pathlib import Path

from mmbench.atomic import remove_folder
from mmbench.data.store import is_prepared, prepared_path
from mmbench.errors import UsageError
from mmbench.locks import held, lock_file


def prepared_bytes(name: str, data_dir: Path) -> int | None:
    """Return how many bytes the prepared data of exactly this name have; None where there are none."""
    if not is_prepared(name, data_dir):
        return None
    walk = os.walk(prepared_path(name, data_dir))
    return sum(os.lstat(os.path.join(folder, file)).st_size for folder, _, files in walk for file in files)


def remove_prepared(name: str, data_dir: Path) -> None:
    """Remove the prepared data of exactly this name; UsageError where their folder is a link."""
    path = prepared_path(name, data_dir)
    if path.is_symlink():
        raise UsageError(f"{path} is a link; remove it yourself")
    with held(lock_file(path), error=UsageError, option="--data-dir"):
        remove_folder(path)
