"""Removal of stored runs. Nothing outside the results folder can go, and nothing that is being computed."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from mmbench.errors import RunError, UsageError
from mmbench.runs.store import RECORD
from mmbench.runs.workers import LOCK, claim
from mmbench.training.names import CANDIDATE, PREVIOUS, RESUME

# These go first: what a kill in between leaves is then no result and no state to resume from.
_FIRST = (RECORD, RESUME, PREVIOUS, CANDIDATE)


def check_removable(path: Path, results_dir: Path) -> None:
    """Raise UsageError for a folder that is not a run of this results folder, or that is reached through a link."""
    root, real = results_dir.resolve(), path.resolve()
    if not real.is_relative_to(root):
        raise UsageError(
            f"{path} lies outside the results folder {results_dir}; nothing was removed; "
            "name its results folder with --results-dir"
        )
    inside = real.relative_to(root)
    if len(inside.parts) != 4 or not inside.name.startswith("seed_") or not real.is_dir():
        raise UsageError(f"{path} is not a run of {results_dir}: that is DATASET/MODEL/CONFIGURATION/seed_N")
    if Path(os.path.abspath(path)).parts[-4:] != inside.parts:
        raise UsageError(f"{path} is a link to {real}; name that folder, or remove the link itself")


def remove_run(path: Path, results_dir: Path) -> None:
    """Remove a run and the folders above it that are then empty.

    Raises UsageError as `check_removable`, RunError when another process computes the run.
    """
    check_removable(path, results_dir)
    lock = claim(path, wait=False)
    if lock is None:
        raise RunError(f"{path} is being computed; stop that run first")
    try:
        with lock:
            _empty(path)
        (path / LOCK).unlink(missing_ok=True)
        path.rmdir()
    except OSError as error:
        raise RunError(f"cannot remove {path}: {error.strerror or error}") from error
    with suppress(OSError):  # the folder holds other runs
        for folder in path.resolve().parents[:3]:
            folder.rmdir()


def _empty(path: Path) -> None:
    """Remove all but the lock, which we hold."""
    for name in _FIRST:
        (path / name).unlink(missing_ok=True)
    for entry in path.iterdir():
        if entry.name == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
