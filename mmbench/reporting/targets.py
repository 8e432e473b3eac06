"""What a caption says of the targets: looks at the test, ties in time, repeats, what metrics read besides ranks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmbench.choices import MaskRule, SplitName
from mmbench.data.loaded import LoadedData
from mmbench.errors import MmbenchError, counted
from mmbench.evaluation.data_facts import DataFacts
from mmbench.evaluation.metrics import Metric
from mmbench.evaluation.slices import is_repeated
from mmbench.evaluation.target_weights import WEIGHTS, border_of, effective_size
from mmbench.runs.facts import data_facts, data_of
from mmbench.runs.look_log import looks_at, note_looks
from mmbench.runs.store import RunRecord


def look_lines(
    records: Sequence[RunRecord], *, data_dir: Path, is_noted_before: bool = False
) -> list[tuple[str, str]]:
    """Note that test numbers of these runs are shown, unless that was done, and return the caption of each data set."""
    lines = []
    for dataset in dict.fromkeys(record.dataset for record in records if record.status == "finished"):
        shown = [record for record in records if record.dataset == dataset]
        is_noted = is_noted_before or note_looks(shown, data_dir=data_dir)
        looks = looks_at(shown, data_dir=data_dir)
        times, number = counted(looks.times, "time"), counted(len(looks.configurations), "configuration")
        missed = "" if is_noted else "; this look could not be recorded, because no folder can be written"
        lines.append(("Looks", f"test targets of {dataset}: looked at {times} for {number}{missed}."))
    return lines


def tie_lines(records: Sequence[RunRecord], *, data_dir: Path) -> list[tuple[str, str]]:
    """Return how many test targets have exactly the time of the event before, where the data are as the runs had them.

    Data that lack the fractions of seconds that their raw files have are compared by the second, and the line says so.
    """
    lines = []
    for dataset in dict.fromkeys(record.dataset for record in records):
        record = next(record for record in records if record.dataset == dataset)
        share = tied_share(record, data_dir)
        if share is None:
            continue
        lacks = data_of(record, data_dir).prepared.lacks_fractions
        shared = f"share their {'second' if lacks else 'time'} with the last input event"
        decided = ", so that the order of equal times decides which of them is the target" * (share > 0)
        if lacks:
            decided = f"; run `mmbench prepare {dataset}` to compare the finer times of its raw files"
        lines.append(("Equal times", f"{dataset}: {100 * share:.1f} % of test targets {shared}{decided}."))
    return lines


def tied_share(record: RunRecord, data_dir: Path) -> float | None:
    """Return the share of test targets with the time of the newest input event; None where it cannot be known."""
    data = _data_of(record, data_dir)
    if data is None or not data.prepared.has_times:
        return None
    times, offsets = np.asarray(data.prepared.times), np.asarray(data.prepared.offsets)
    users = np.flatnonzero(data.split.test_pos >= 0)
    events = offsets[users] + data.split.test_pos[users]
    is_tied = (times[events] == times[events - 1]) & (data.prepared.finer_gaps(events) == 0)
    return float(is_tied.mean())


def _data_of(record: RunRecord, data_dir: Path) -> LoadedData | None:
    """Return the data of a run; None where they are not prepared as the run had them."""
    try:
        return data_of(record, data_dir)
    except MmbenchError:
        return None


def repeat_lines(
    records: Sequence[RunRecord], rule: MaskRule | None, *, data_dir: Path
) -> list[tuple[str, str]]:
    """Return how many test targets are items that their user already has, for each data set where some are.

    rule  the mask rule of the numbers; None = that of each run
    """
    lines = []
    for dataset in dict.fromkeys(record.dataset for record in records):
        runs = [record for record in records if record.dataset == dataset]
        share = repeated_share(runs[0], data_dir)
        if share:
            text = f"{dataset}: {100 * share:.1f} % of test targets are items that the user already has"
            masked = any((rule or record.mask_seen) != "none" for record in runs)
            advice = (
                "; a target is never masked and the user's other items are, so these targets are almost given away: "
                "compare under --mask-seen none"
            )
            lines.append(("Repeats", f"{text}{advice if masked else ''}."))
    return lines


def repeated_share(record: RunRecord, data_dir: Path) -> float | None:
    """Return the share of test targets that stand in the history before them; None where it cannot be known."""
    data = _data_of(record, data_dir)
    if data is None:
        return None
    view = data.targets("test")
    return float(is_repeated(view).mean()) if len(view) else None


def read_lines(
    records: Sequence[RunRecord], metrics: Sequence[Metric], split: SplitName, *, data_dir: Path
) -> list[tuple[str, str]]:
    """Return what the weights of targets and the vectors of items are that metrics of these runs read."""
    kinds = list(
        dict.fromkeys(metric.name.partition("-")[2] for metric in metrics if metric.name.startswith("ILD-"))
    )
    weights = list(dict.fromkeys(metric.weight for metric in metrics if metric.weight))
    lines: list[tuple[str, str]] = []
    if not (kinds or weights):
        return lines
    for dataset in dict.fromkeys(record.dataset for record in records if record.status == "finished"):
        record = next(r for r in records if r.dataset == dataset and r.status == "finished")
        facts = data_facts(record, split, data_dir)
        lines += [("Weights", f"{dataset}: {_weight_text(weight, facts)}.") for weight in weights]
        if kinds:
            lines.append(("Diversity", f"{dataset}: {', '.join(map(facts.names, kinds))}."))
    return lines


def _weight_text(weight: str, facts: DataFacts) -> str:
    targets = facts.view.target
    weights = WEIGHTS[weight](targets, facts.events)
    if weight == "debiased":
        share, border = weights.sum() / len(weights), border_of(targets)
        return f"debiased keeps {share:.0%} of {len(targets):,} targets, at most {border:,} of an item"
    if weight == "macro":
        return f"macro is the mean over {len(np.unique(targets)):,} items with targets"
    return f"ips counts like {effective_size(weights):,.0f} equally weighted targets of {len(targets):,}"
