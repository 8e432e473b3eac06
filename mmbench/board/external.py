"""Lists of any other program -> a run that tables, tests and the board treat like others.

    user, item, score   the larger the better; every user with a test target needs a list, which may end early
    user, rank          the 1-based rank of the test target among all candidates under a mask rule

A target that its list does not hold has some rank behind the list's end. So metrics are exact up to the length of the
shortest such list, without the items that the mask rule takes away (`Ranking.limits`), and nothing shows others.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.atomic import hash_file, hash_json
from mmbench.board.lists_file import RowsOfLists, read_columns, read_lists, read_ranks
from mmbench.choices import DEFAULT_LISTS, RULES, MaskRule
from mmbench.data.loaded import load_data
from mmbench.data.store import Prepared, open_prepared
from mmbench.data.views import TargetView, ranges
from mmbench.errors import DataError, UsageError
from mmbench.evaluation.evidence import LIST_RULES, MadeBy, Ranking, TopLists
from mmbench.models.registry import EXTERNAL
from mmbench.runs import store
from mmbench.runs.plan import comparison_protocol
from mmbench.runs.store import RECORD, RunRecord, cell_path, read_record
from mmbench.runtime import code_version, environment
from mmbench.settings.config import Origin, Setting


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What another program is called here.

    name       as tables show it
    mask_seen  the rule of its numbers; None = that of the data set's protocol
    """

    name: str
    seed: int = 1
    mask_seen: MaskRule | None = None

    @property
    def model(self) -> str:
        slug = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:60]
        if not slug or not self.name.isprintable():
            raise UsageError(f"--name {self.name!r}: needs letters or digits, without control characters")
        return f"{EXTERNAL}{slug}"


def score_lists(
    file: Path, entry: Entry, *, dataset: str, data_dir: Path, results_dir: Path, replaces: bool = False
) -> RunRecord:
    """Store the ranking of another program's lists as a finished run, and return its record.

    replaces  also where other lists are stored under this name and seed

    Raises DataError with the line for what is not a list of this data set, UsageError for other stored lists.
    """
    prepared = open_prepared(dataset, data_dir)
    view = load_data(prepared.path, prepared.hash).targets("test")
    rule = entry.mask_seen or prepared.protocol.mask_seen
    protocol = comparison_protocol(prepared, {"mask_seen": Setting(rule, Origin.protocol)})
    config_id = hash_json({"external": entry.name, "protocol": protocol})[:10]
    path = cell_path(results_dir, dataset=dataset, model=entry.model, config_id=config_id, seed=entry.seed)
    sha256 = hash_file(file) if file.is_file() else ""
    if (path / RECORD).is_file() and not replaces:
        _check_stored(path, sha256, file)
    ranking = ranking_of(file, prepared, view, rule)
    record = RunRecord(
        path=path, dataset=dataset, model=entry.model, display=entry.name.strip()[:120], config_id=config_id,
        seed=entry.seed, status="finished", synthetic=prepared.synthetic, protocol=protocol,
        n_items=prepared.n_items, stopped="external", external=True, environment=environment("cpu"),
        extra={"sha256": sha256}, notes=[_note(ranking, rule)],
    )  # fmt: skip
    made_by = MadeBy(run=record.title, data=prepared.hash, weights=sha256, code=code_version()["source_hash"])
    store.write_rankings(path, [_made(ranking, made_by)])
    store.write_record(record)
    return record


def _check_stored(path: Path, sha256: str, file: Path) -> None:
    stored = read_record(path)
    if stored.extra.get("sha256") != sha256:
        raise UsageError(
            f"{path} holds other lists than {file}; choose another --name or --seed, or replace them with --force"
        )


def _made(ranking: Ranking, made_by: MadeBy) -> Ranking:
    return Ranking(**{**vars(ranking), "made_by": made_by})


def _note(ranking: Ranking, rule: MaskRule) -> str:
    limit = ranking.limits.get(rule)
    until = "" if limit is None else f"; they end early: metrics up to @{limit}"
    rules = (
        "" if len(ranking.counts) == len(RULES) else f"; ranks under mask rule {next(iter(ranking.counts))}"
    )
    return f"lists of another program, ranked here{rules}{until}"


# -- rankings ---------------------------------------------------------------------------------------------


def ranking_of(file: Path, prepared: Prepared, view: TargetView, rule: MaskRule) -> Ranking:
    """Return the ranking of the test targets that a file of lists or of ranks means."""
    users = {name: number for number, name in enumerate(prepared.user_ids)}
    if "item" in read_columns(file):
        items = {str(record["id"]): number for number, record in enumerate(prepared.item_records, start=1)}
        return ranking_of_lists(read_lists(file, users, items), view, prepared.n_items, file=file)
    user, rank = read_ranks(file, users, prepared.n_items)
    order = _rows_of(view, user, file)
    greater = np.empty(len(view), np.int64)
    greater[order[order >= 0]] = rank[order >= 0] - 1
    return Ranking(
        name="test", user=view.user, target=view.target, n_items=prepared.n_items,
        counts={rule: (greater, np.zeros_like(greater))},
    )  # fmt: skip


def _rows_of(view: TargetView, user: np.ndarray, file: Path) -> np.ndarray:
    """Return the row of the view of each user, -1 without a test target; DataError if a row has no user."""
    row_of = np.full(max(int(view.user.max()), int(user.max(initial=0))) + 1, -1)
    row_of[view.user] = np.arange(len(view))
    rows = row_of[user]
    missing = np.setdiff1d(np.arange(len(view)), rows)
    if len(missing):
        raise DataError(
            f"{file}: {len(missing):,} of {len(view):,} users with a test target have no list, the first is number "
            f"{view.user[missing[0]] + 1} of the data set; every user needs a list (see mmbench datasets export)"
        )
    return rows


def ranking_of_lists(lists: RowsOfLists, view: TargetView, n_items: int, *, file: Path) -> Ranking:
    """Return the ranking under every mask rule; lists of users without a test target are left out."""
    rows = _rows_of(view, lists.user, file)
    kept = rows >= 0
    row, item, score = rows[kept], lists.item[kept], lists.score[kept]
    order = np.lexsort((item, -score, row))
    row, item, score = row[order], item[order], score[order]
    counts, limits, kept_rows = {}, {}, {}
    for rule in RULES:
        is_left = ~_is_masked(row, item, view, rule, n_items)
        kept_rows[rule] = is_left
        counts[rule], limit = _counts(row[is_left], item[is_left], score[is_left], view)
        if limit is not None:
            limits[rule] = limit
    for rule, limit in list(limits.items()):
        if limit < 1:
            raise DataError(
                f"{file}: a list holds nothing but items that mask rule {rule} takes away; give longer lists"
            )
    return Ranking(
        name="test", user=view.user, target=view.target, n_items=n_items, counts=counts, limits=limits,
        lists=_top_lists(row, item, score, kept_rows, len(view)),
    )  # fmt: skip


def _is_masked(
    row: np.ndarray, item: np.ndarray, view: TargetView, rule: MaskRule, n_items: int
) -> np.ndarray:
    """Return which entries a mask rule takes away, bool; targets stay."""
    if rule == "none":
        return np.zeros(len(row), bool)
    lengths = view.train_len if rule == "train" else np.diff(view.offsets)
    seen_items = view.items[ranges(view.offsets[:-1], lengths)]
    seen = np.repeat(np.arange(len(view)), lengths) * (n_items + 1) + seen_items
    return np.isin(row * (n_items + 1) + item, seen) & (item != view.target[row])


def _counts(
    row: np.ndarray, item: np.ndarray, score: np.ndarray, view: TargetView
) -> tuple[tuple[np.ndarray, np.ndarray], int | None]:
    """Return (greater, equal) of each target, and the largest exact cutoff (None = any).

    A target that is not listed is beaten by its whole list, which is the least that can be.
    """
    n = len(view)
    is_target = item == view.target[row]
    target_score = np.full(n, -np.inf)
    target_score[row[is_target]] = score[is_target]
    is_listed = np.zeros(n, bool)
    is_listed[row[is_target]] = True
    greater = np.bincount(row[score > target_score[row]], minlength=n)
    equal = np.bincount(row[score == target_score[row]], minlength=n) - is_listed
    absent = greater[~is_listed]
    return (greater, equal), int(absent.min()) if len(absent) else None


def _top_lists(
    row: np.ndarray, item: np.ndarray, score: np.ndarray, kept: dict[MaskRule, np.ndarray], n: int
) -> dict[MaskRule, TopLists]:
    """Return the first items of each user, as many as every list has under both rules; none where that is 0."""
    lengths = [np.bincount(row[kept[rule]], minlength=n).min() for rule in LIST_RULES]
    width = int(min(DEFAULT_LISTS, *lengths))
    if not width:
        return {}
    lists = {}
    for rule in LIST_RULES:
        of_user, items, scores = row[kept[rule]], item[kept[rule]], score[kept[rule]]
        first = np.searchsorted(of_user, np.arange(n))
        index = first[:, None] + np.arange(width)
        with np.errstate(over="ignore"):
            lists[rule] = TopLists(items[index].astype(np.int32), scores[index].astype(np.float16))
    return lists


def exact_metrics(record: RunRecord, metrics: Sequence[Any]) -> list[Any]:
    """Return those metrics that a run's lists are long enough for, under its own mask rule."""
    ranking = record.ranking("test")
    return [metric for metric in metrics if metric.is_exact(ranking.limits.get(record.mask_seen))]
