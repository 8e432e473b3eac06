"""Which stored runs a name of the command line means: the one reader of such names for commands that ask a run."""

import os
from collections.abc import Iterable
from pathlib import Path

from mmbench.errors import UsageError
from mmbench.runs.inventory import SHOWN_DIGITS, find_runs
from mmbench.runs.store import RECORD, RunRecord, read_record


def runs_named(results_dir: Path, names: Iterable[str | Path]) -> list[RunRecord]:
    """Return the records that these names mean, each run once.

    A name is a folder of a run or above runs, wherever it lies, or what `mmbench runs` shows: the first digits of the
    configuration, with or without "/SEED". Raises UsageError for a name without a run and for the beginning of several
    configurations, DataError for a run that cannot be read.
    """
    records: dict[str, RunRecord] = {}
    for name in names:
        for folder in _folders(results_dir, str(name)):
            key = os.path.abspath(folder)
            if key not in records:
                records[key] = read_record(folder)
    return list(records.values())


def run_named(results_dir: Path, name: str | Path) -> RunRecord:
    """Return the only run that a name means; UsageError where it means several, otherwise as `runs_named`."""
    records = runs_named(results_dir, [name])
    if len(records) > 1:
        shown = ", ".join(f"{record.config_id[:SHOWN_DIGITS]}/{record.seed}" for record in records[:5])
        more = ", ..." if len(records) > 5 else ""
        raise UsageError(f"{str(name)!r} is {len(records)} runs; name one of them: {shown}{more}")
    return records[0]


def configuration_named(results_dir: Path, name: str | Path) -> Path:
    """Return the folder of the configuration that a name means; an existing folder is returned as it is."""
    if Path(name).is_dir():
        return Path(name)
    folders = sorted({run.path.parent for run in find_runs(results_dir, [str(name)])})
    if len(folders) > 1:
        ids = ", ".join(folder.name for folder in folders)
        raise UsageError(f"{str(name)!r} is {len(folders)} configurations; name one of them: {ids}")
    return folders[0]


def _folders(results_dir: Path, name: str) -> list[Path]:
    path = Path(name)
    if not path.is_dir():
        return [run.path for run in find_runs(results_dir, [name])]
    below = [] if (path / RECORD).is_file() else sorted(path.rglob(f"seed_*/{RECORD}"))
    # A folder without any run has its own error when it is read.
    return [file.parent for file in below] or [path]
