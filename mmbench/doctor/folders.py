"""Data and results: permissions, space, what is prepared, what is unfinished."""

import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mmbench.atomic import BESIDE
from mmbench.doctor.finding import Finding, few, size
from mmbench.errors import DataError, MmbenchError, counted

if TYPE_CHECKING:
    from mmbench.data.store import Prepared

READ_ONLY = {"data": "prepare and extract need", "results": "training and evaluating need"}
LITTLE, NOTHING = 2 * 2**30, 50 * 2**20  # free bytes below which there is a note, a problem
WALK_SECONDS = 0.4  # bounds the search of a huge tree
OLD_SECONDS = 3600.0  # a file that was not written for so long has been abandoned


def catalogue(data_dir: Path) -> Iterator[Finding]:
    from mmbench.data.catalog import load_catalog
    from mmbench.models import registry

    try:
        n_sets, n_models = len(load_catalog(data_dir)), len(registry.entries())
    except MmbenchError as error:
        yield Finding("problem", "catalogue", str(error), "repair or remove that file")
        return
    yield Finding("ok", "catalogue", f"{n_sets} data sets, {n_models} models known")


def disk(topic: str, folder: Path, option: str) -> Iterator[Finding]:
    """Yield whether a folder can be written to, and how much space is left."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    reason = _why_unwritable(existing, is_parent=existing != folder)
    if reason:
        if folder.is_dir() and os.access(folder, os.R_OK | os.X_OK) and any(folder.iterdir()):
            text = f"{folder.absolute()} can only be read ({reason}): what it holds is used as it is"
            yield Finding("note", topic, text, f"{READ_ONLY[topic]} another folder: {option}")
            return
        help_text = f"choose another folder with {option}, or get permission for this folder"
        yield Finding("problem", topic, f"{folder.absolute()} cannot be written to: {reason}", help_text)
        return
    free = shutil.disk_usage(existing).free
    state = "writable" if existing == folder else "created when needed"
    text = f"{folder.absolute()}: {state}, {size(free)} free"
    if free < NOTHING:
        yield Finding("problem", topic, text, f"free some space, or choose another disk with {option}")
    elif free < LITTLE:
        yield Finding("note", topic, f"{text}: little for pictures and features", f"or see {option}")
    else:
        yield Finding("ok", topic, text)


def _why_unwritable(folder: Path, *, is_parent: bool) -> str:
    """Return why nothing can be created in `folder`; "" if something can."""
    if not folder.is_dir():
        return f"{folder.absolute()} is not a folder"
    if is_parent:  # nothing of ours belongs there, not even for a moment
        return "" if os.access(folder, os.W_OK | os.X_OK) else f"no permission in {folder.absolute()}"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or type(error).__name__


def prepared(data_dir: Path) -> Iterator[Finding]:
    """Yield which data sets are prepared with which features, and which are damaged or outdated."""
    from mmbench.data.store import list_prepared, prepared_root

    faults: list[DataError] = []
    data_sets = list_prepared(data_dir, on_error=faults.append)
    if data_sets:
        yield Finding(
            "ok", "prepared", "; ".join(map(_prepared_line, sorted(data_sets, key=lambda data: data.name)))
        )
    elif not faults:
        yield Finding("ok", "prepared", "nothing yet; begin with: mmbench prepare demo")
    for fault in faults:
        yield Finding("note", "prepared", *_split_advice(str(fault)))
    for data in data_sets:
        for text in _outdated(data):
            yield Finding("note", "prepared", *_split_advice(text))
    for folder in sorted(prepared_root(data_dir).glob("*/features/*/.*.work-*")):
        name, modality = folder.parents[2].name, folder.parent.name
        encoder = folder.name[1:].partition(".work-")[0]
        text = f"unfinished: {modality} features {encoder} of {name}"
        yield Finding("note", "prepared", text, f"mmbench extract {name} --{modality} ENCODER resumes it")


def _prepared_line(prepared: "Prepared") -> str:
    from mmbench.features.store import list_features

    stored = list_features(prepared, on_error=lambda error: None)
    features = ", ".join(f"{len(group)} {kind}" for kind, group in stored.items() if group) or "no features"
    return f"{prepared.name} ({prepared.n_items} items; {features})"


def _outdated(prepared: "Prepared") -> Iterator[str]:
    """Yield what is damaged or outdated in a data set, each with what to do."""
    from mmbench.data.definition import why_outdated
    from mmbench.features.store import check_fits, list_features

    try:
        why = why_outdated(prepared)
    except MmbenchError:  # a separate finding reports the catalogue
        why = None
    if why is not None:
        yield why
    faults: list[DataError] = []
    for group in list_features(prepared, on_error=faults.append).values():
        for manifest in group:
            try:
                check_fits(prepared, manifest)
            except DataError as error:
                faults.append(error)
    yield from map(str, faults)


def _split_advice(line: str) -> tuple[str, str]:
    """Split an error's line into what is wrong and what to do."""
    text, _, advice = line.rpartition("; ")
    return (text, advice.removeprefix("run: ")) if text else (line, "")


def raw(data_dir: Path) -> Iterator[Finding]:
    """Yield what was recorded about fetched files, and which downloads are unfinished."""
    from mmbench.data.raw_hashes import hashes_path, read_recorded

    try:
        recorded = read_recorded(data_dir)
    except DataError as error:
        yield Finding("note", "raw files", *_split_advice(str(error)))
    else:
        if recorded:
            n_files = sum(len(files) for files in recorded.values())
            text = f"{hashes_path(data_dir)}: hashes of {n_files} files of {len(recorded)} data sets"
            yield Finding("ok", "raw files", text)
    parts = sorted((data_dir / "raw").glob("*/*.part"))
    if parts:
        names = [f"{part.parent.name}/{part.name} ({size(part.stat().st_size)})" for part in parts]
        text = f"{counted(len(parts), 'unfinished download')}: {few(names)}"
        yield Finding("note", "raw files", text, "the same mmbench prepare resumes them")


def runs(results_dir: Path) -> Iterator[Finding]:
    """Yield how many runs there are by status, and which are unfinished."""
    states: Counter[str] = Counter()
    unfinished: list[str] = []
    for cell in sorted(results_dir.glob("*/*/*/seed_*")):
        record = cell / "run.json"
        if record.is_file():
            states[_status(record)] += 1
        elif (cell / "resume.safetensors").is_file() or (cell / "train.jsonl").is_file():
            unfinished.append(str(cell.relative_to(results_dir)))
    counted = ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
    yield Finding("ok", "runs", counted or "none yet")
    if states["unreadable"]:
        yield Finding(
            "note", "runs", f"{states['unreadable']} run.json cannot be read", "mmbench report names them"
        )
    if unfinished:
        text = f"{len(unfinished)} are unfinished or still running: {few(unfinished)}"
        yield Finding("note", "runs", text, "the same mmbench run resumes them")


def _status(record: Path) -> str:
    try:
        return str(json.loads(record.read_text(encoding="utf-8"))["status"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "unreadable"


def leftovers(data_dir: Path, results_dir: Path) -> Iterator[Finding]:
    """Yield the temporary files of killed processes."""
    stale, complete = _stale([data_dir / "prepared", data_dir / "raw", results_dir])
    if stale:
        n_bytes = sum(map(_bytes, stale))
        text = (
            f"{counted(len(stale), 'temporary file')} of killed processes, {size(n_bytes)}: "
            f"{few(list(map(str, stale)))}"
        )
        yield Finding("note", "leftovers", text, "they can be deleted")
    else:
        yield Finding("ok", "leftovers", "none" if complete else "none in the part that was searched")


def _stale(roots: list[Path]) -> tuple[list[Path], bool]:
    """Return stale temporary files and folders below the roots, and whether there was time to search everything."""
    stale, end = [], time.monotonic() + WALK_SECONDS
    for root in roots:
        for folder, folders, files in os.walk(root):
            for name in [*folders, *files]:
                match = BESIDE.fullmatch(name)
                if match and _is_abandoned(Path(folder) / name, int(match["process"])):
                    stale.append(Path(folder) / name)
            folders[:] = [name for name in folders if not BESIDE.fullmatch(name)]
            if time.monotonic() > end:
                return stale, False
    return stale, True


def _is_abandoned(path: Path, pid: int) -> bool:
    """Return whether the process that made the file has surely ended: no process has its number, and the file is old.

    The number may belong to another machine that shares the disk, so a young file is left alone.
    """
    try:
        return time.time() - path.stat().st_mtime > OLD_SECONDS and not _is_alive(pid)
    except OSError:
        return False


def _is_alive(pid: int) -> bool:
    if sys.platform == "win32":  # where signal 0 would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _bytes(path: Path) -> int:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.exists())
