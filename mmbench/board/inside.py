"""What the page of a configuration shows of users: slices of its metric, and the lists of a few users nobody chose.

Both need the data set prepared here, as the runs had it, and runs whose lists may be shown.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.choices import MaskRule
from mmbench.errors import MmbenchError
from mmbench.evaluation.evidence import LIST_RULES, Ranking
from mmbench.evaluation.significance import t_interval
from mmbench.reporting.recommended import Recommended, pictures_of, recommended
from mmbench.reporting.slices import Slice, labels_of, slices_of
from mmbench.runs.facts import data_of
from mmbench.runs.store import RunRecord

FAMILIES = ("history", "popularity", "tied")
N_CASES, LIST_LENGTH, HISTORY_LENGTH, PICTURE_SIZE = 3, 5, 5, 72


@dataclass(frozen=True)
class Case:
    """A user's history and list; `pictures` has the `url` of each item's picture, or the `reason` why there is none."""

    shown: Recommended
    pictures: Mapping[int, Mapping[str, Any]]


@dataclass(frozen=True)
class Inside:
    """Slices by family, and cases of the first seed; a family that the data cannot have is missing."""

    slices: Mapping[str, tuple[Slice, ...]]
    cases: tuple[Case, ...]


def look_inside(
    records: Sequence[RunRecord],
    ranking: Callable[[RunRecord, str], Ranking],
    values: np.ndarray | None,
    data_dir: Path,
) -> Inside | None:
    """Return slices and cases of a configuration's runs; None where lists, targets or the data are not there.

    values  of each user, mean over seeds, by rising user; None where they are not known
    """
    first = records[0]
    test = ranking(first, "test")
    if not test.lists or not test.has_targets:
        return None
    try:
        data = data_of(first, data_dir)
        view = data.targets("test")
        order = np.argsort(test.user, kind="stable")
        # Users and targets of a foreign bundle may be none of this data set.
        if not (
            np.array_equal(test.user[order], view.user) and np.array_equal(test.target[order], view.target)
        ):
            return None
        ids = [data.prepared.user_ids[user] for user in view.user]
        cases = tuple(_case(first, user, test, data_dir) for user in drawn(ids, first.data_hash))
        return Inside({} if values is None else _slices(first, values, data_dir), cases)
    except MmbenchError:
        return None


def drawn(ids: Sequence[str], data_hash: str) -> list[str]:
    """Return the N_CASES users with the smallest sha256 of data and id: the same for every model, chosen by nobody."""
    return sorted(ids, key=lambda user: hashlib.sha256(f"{data_hash}:{user}".encode()).digest())[:N_CASES]


def _case(record: RunRecord, user: str, test: Ranking, data_dir: Path) -> Case:
    rule: MaskRule = record.mask_seen if record.mask_seen in LIST_RULES else "none"
    k = min(LIST_LENGTH, test.list_length)
    shown = recommended(record, user, k=k, data_dir=data_dir, rule=rule)
    items = [event.item.number for event in shown.history[-HISTORY_LENGTH:]]
    items += [*(entry.item.number for entry in shown.entries), shown.target.number]
    return Case(shown, pictures_of(record, set(items), data_dir, size=PICTURE_SIZE))


def _slices(record: RunRecord, values: np.ndarray, data_dir: Path) -> dict[str, tuple[Slice, ...]]:
    """Return the slices of each family; t intervals, since those of a bootstrap take minutes on a large board."""
    slices = {}
    for family in FAMILIES:
        try:
            labels = labels_of(record, family, "test", data_dir)
        except MmbenchError:  # events without times have no ties
            continue
        slices[family] = slices_of(values.astype(np.float64), labels, interval=t_interval)
    return slices
