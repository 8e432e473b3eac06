"""Data and results: permission, space, what is prepared, what was left unfinished."""

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
from mmbench.errors import DataError, MmbenchError

if TYPE_CHECKING:
    from mmbench.data.store import Prepared

LITTLE, NOTHING = 2 * 2**30, 50 * 2**20  # bytes free: a note, a problem
WALK_SECONDS = 0.4  # a huge tree is not searched to its end
OLD_SECONDS = 3600.0  # nothing is written for so long without a sign of life


def catalogue(data_dir: Path) -> Iterator[Finding]:
    from mmbench.data.catalog import load_catalog
    from mmbench.models import registry

    try:
        n_sets, n_models = len(load_catalog(data_dir)), len(registry.entries())
    except MmbenchError as error:
        yield Finding("problem", "catalogue", str(error), "repair or remove that file")
        return
    yield Finding("ok", "catalogue", f"{n_sets} data sets, {n_models} models known")


def place(topic: str, folder: Path, option: str) -> Iterator[Finding]:
    """Can it be written to, and how much space is there?"""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    reason = _unwritable(there, exists=there == folder)
    if reason:
        help_text = f"choose another folder with {option}, or get permission for this one"
        yield Finding("problem", topic, f"{folder.absolute()} cannot be written to: {reason}", help_text)
        return
    free = shutil.disk_usage(there).free
    state = "writable" if there == folder else "made when needed"
    text = f"{folder.absolute()}: {state}, {size(free)} free"
    if free < NOTHING:
        yield Finding("problem", topic, text, f"free some space, or choose another disk with {option}")
    elif free < LITTLE:
        yield Finding("note", topic, f"{text}: little for pictures and features", f"or see {option}")
    else:
        yield Finding("ok", topic, text)


def _unwritable(there: Path, *, exists: bool) -> str:
    """Why nothing can be made in `there`; "" when something can."""
    if not there.is_dir():
        return f"{there.absolute()} is no folder"
    if not exists:  # the parent of what is to be made: nothing of ours belongs there, not even for a moment
        return "" if os.access(there, os.W_OK | os.X_OK) else f"no permission in {there.absolute()}"
    try:
        with tempfile.TemporaryFile(dir=there):
            return ""
    except OSError as error:
        return error.strerror or type(error).__name__


def prepared(data_dir: Path) -> Iterator[Finding]:
    """Yield which data sets are prepared with which features, and which of them are damaged or out of date."""
    from mmbench.data.store import list_prepared, prepared_root

    faults: list[DataError] = []
    found = list_prepared(data_dir, on_error=faults.append)
    if found:
        yield Finding(
            "ok", "prepared", "; ".join(map(_prepared_line, sorted(found, key=lambda one: one.name)))
        )
    elif not faults:
        yield Finding("ok", "prepared", "nothing yet; begin with: mmbench prepare demo")
    for fault in faults:
        yield Finding("note", "prepared", *_told(str(fault)))
    for one in found:
        for text in _out_of_date(one):
            yield Finding("note", "prepared", *_told(text))
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


def _out_of_date(prepared: "Prepared") -> Iterator[str]:
    """Yield what of a data set is damaged or not what would be made today, each with what to do."""
    from mmbench.data.definition import why_outdated
    from mmbench.features.store import check_fits, list_features

    try:
        why = why_outdated(prepared)
    except MmbenchError:  # the catalogue has a line of its own
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


def _told(line: str) -> tuple[str, str]:
    """Return an error's line as what is wrong and what to do."""
    text, _, advice = line.rpartition("; ")
    return (text, advice.removeprefix("run: ")) if text else (line, "")


def raw(data_dir: Path) -> Iterator[Finding]:
    """Yield what was recorded of fetched files, and downloads that did not end."""
    from mmbench.data.raw_hashes import hashes_path, read_recorded

    try:
        recorded = read_recorded(data_dir)
    except DataError as error:
        yield Finding("note", "raw files", *_told(str(error)))
    else:
        if recorded:
            n_files = sum(len(files) for files in recorded.values())
            text = f"{hashes_path(data_dir)}: hashes of {n_files} files of {len(recorded)} data sets"
            yield Finding("ok", "raw files", text)
    parts = sorted((data_dir / "raw").glob("*/*.part"))
    if parts:
        names = [f"{one.parent.name}/{one.name} ({size(one.stat().st_size)})" for one in parts]
        text = f"{len(parts)} downloads did not end: {few(names)}"
        yield Finding("note", "raw files", text, "the same mmbench prepare goes on with them")


def runs(results_dir: Path) -> Iterator[Finding]:
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
        text = f"{len(unfinished)} did not end or are being computed: {few(unfinished)}"
        yield Finding("note", "runs", text, "the same mmbench run goes on with them")


def _status(record: Path) -> str:
    try:
        return str(json.loads(record.read_text(encoding="utf-8"))["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unreadable"


def leftovers(data_dir: Path, results_dir: Path) -> Iterator[Finding]:
    """Temporary files whose process is gone: what was being written when it was killed."""
    found, complete = _stale([data_dir / "prepared", data_dir / "raw", results_dir])
    if found:
        n_bytes = sum(_bytes(one) for one in found)
        text = f"{len(found)} temporary files of killed processes, {size(n_bytes)}: {few([str(one) for one in found])}"
        yield Finding("note", "leftovers", text, "they can be deleted")
    else:
        yield Finding("ok", "leftovers", "none" if complete else "none in the part that was searched")


def _stale(roots: list[Path]) -> tuple[list[Path], bool]:
    """Stale temporary files and folders below, and whether time allowed to search everything."""
    found, end = [], time.monotonic() + WALK_SECONDS
    for root in roots:
        for folder, folders, files in os.walk(root):
            for name in [*folders, *files]:
                match = BESIDE.fullmatch(name)
                if match and _gone(Path(folder) / name, int(match["process"])):
                    found.append(Path(folder) / name)
            folders[:] = [name for name in folders if not BESIDE.fullmatch(name)]
            if time.monotonic() > end:
                return found, False
    return found, True


def _gone(path: Path, pid: int) -> bool:
    """Whether the process that made it has surely ended: none has its number, and it was not made just now.

    The number may be of another machine that shares the disk, so a young file is left alone.
    """
    try:
        return time.time() - path.stat().st_mtime > OLD_SECONDS and not _alive(pid)
    except OSError:
        return False


def _alive(pid: int) -> bool:
    if sys.platform == "win32":  # there, signal 0 would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _bytes(path: Path) -> int:
    files = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
    return sum(one.stat().st_size for one in files if one.exists())
