"""How often the test targets of a data set were looked at, and for how many configurations.

Every command that shows numbers of test targets adds a line to an append-only file beside the prepared data, or in the
results folder where that cannot be written:

    data/prepared/<name>.looks.jsonl    or    results/<name>/looks.jsonl
    {"date": "2025-11-27T12:00:00+00:00", "data": "d0d0...", "shown": ["sasrec/0123456789", ...]}

What is chosen after many looks was chosen on the test; the count says how large that danger is. Validation costs none.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mmbench.data.store import prepared_path, prepared_root
from mmbench.runs.store import RunRecord, slug

FILE = "looks.jsonl"


@dataclass(frozen=True)
class Looks:
    """Looks at the test targets of a data set.

    times           how many commands showed numbers of them; a line that cannot be read counts
    configurations  models with their settings that were shown, "sasrec/0123456789"
    """

    times: int
    configurations: frozenset[str]


def note_looks(records: Iterable[RunRecord], *, data_dir: Path) -> bool:
    """Note that test numbers of these runs are shown, a line for each data set; return whether all could be noted."""
    by_dataset: dict[str, list[RunRecord]] = {}
    for record in records:
        if record.status == "finished":
            by_dataset.setdefault(record.dataset, []).append(record)
    noted = [_note(dataset, shown, data_dir) for dataset, shown in by_dataset.items()]
    return all(noted)


def looks_at(records: Sequence[RunRecord], *, data_dir: Path) -> Looks:
    """Return the looks at the data set of these runs, of all files that were written for it."""
    lines = [line for file in _files(records[0], data_dir) for line in _lines(file)]
    return Looks(len(lines), frozenset(name for line in lines for name in _shown(line)))


def _note(dataset: str, shown: Sequence[RunRecord], data_dir: Path) -> bool:
    line = json.dumps({
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "data": shown[0].data_hash,
        "shown": sorted({f"{record.model}/{record.config_id}" for record in shown}),
    })  # fmt: skip
    return any(_append(file, line) for file in _files(shown[0], data_dir))


def _files(record: RunRecord, data_dir: Path) -> list[Path]:
    """Return where looks are noted: beside the prepared data if they are there, and in the results folder."""
    prepared = prepared_path(record.dataset, data_dir)
    beside = [prepared_root(data_dir) / f"{prepared.name}.{FILE}"] if prepared.is_dir() else []
    return [*beside, record.path.parents[3] / slug(record.dataset) / FILE]


def _append(file: Path, line: str) -> bool:
    """Append a line by a single write, which the system does not interleave; return whether it was written."""
    try:
        number = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError:
        return False
    try:
        return os.write(number, f"{line}\n".encode()) == len(line) + 1
    except OSError:
        return False
    finally:
        os.close(number)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _shown(line: str) -> list[str]:
    try:
        return [str(name) for name in json.loads(line)["shown"]]
    except (ValueError, TypeError, KeyError):
        return []
