"""What a caption says of the test targets: how often they were looked at, and how many are tied in time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmbench.data.store import open_prepared
from mmbench.errors import MmbenchError
from mmbench.runs.build import load_data
from mmbench.runs.look_log import looks_at, note_looks
from mmbench.runs.store import RunRecord


def look_lines(records: Sequence[RunRecord], *, data_dir: Path) -> list[tuple[str, str]]:
    """Note that test numbers of these runs are shown, and return the caption about each data set."""
    lines = []
    for dataset in dict.fromkeys(record.dataset for record in records if record.status == "finished"):
        shown = [record for record in records if record.dataset == dataset]
        is_noted = note_looks(shown, data_dir=data_dir)
        looks = looks_at(shown, data_dir=data_dir)
        times, number = _counted(looks.times, "time"), _counted(len(looks.configurations), "configuration")
        missed = "" if is_noted else "; this time could not be noted, no folder can be written"
        lines.append(("Looks", f"test targets of {dataset}: looked at {times} for {number}{missed}."))
    return lines


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def tie_lines(records: Sequence[RunRecord], *, data_dir: Path) -> list[tuple[str, str]]:
    """Return how many test targets have the time of the event before, where the data are as the runs had them."""
    lines = []
    for dataset in dict.fromkeys(record.dataset for record in records):
        share = tied_share(next(record for record in records if record.dataset == dataset), data_dir)
        if share is not None:
            text = (
                f"{dataset}: {100 * share:.1f} % of test targets share their time with the last input event"
            )
            decided = (
                ", so that the order of equal times decides which of them is the target" if share else ""
            )
            lines.append(("Ties", f"{text}{decided}."))
    return lines


def tied_share(record: RunRecord, data_dir: Path) -> float | None:
    """Return the share of test targets with the time of the newest input event; None where it cannot be known."""
    try:
        prepared = open_prepared(record.dataset, data_dir)
        if prepared.hash != record.data_hash or not prepared.has_times:
            return None
        split = load_data(prepared.path, prepared.hash).split
    except MmbenchError:
        return None
    times, offsets = np.asarray(prepared.times), np.asarray(prepared.offsets)
    users = np.flatnonzero(split.test_pos >= 0)
    events = offsets[users] + split.test_pos[users]
    return float((times[events] == times[events - 1]).mean())
