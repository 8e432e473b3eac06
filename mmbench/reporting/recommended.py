"""What a stored run recommends: a user's history and list with what is known of the items, and all lists as a table."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmbench.choices import MaskRule
from mmbench.data.loaded import LoadedData
from mmbench.data.store import Prepared
from mmbench.errors import RunError, UsageError
from mmbench.evaluation.evidence import ListsError, Ranking
from mmbench.look.pictures import data_url, thumbnails
from mmbench.runs.facts import data_of
from mmbench.runs.store import RunRecord
from mmbench.visible import one_line

if TYPE_CHECKING:
    import pandas as pd

PICTURE_SIZE = 120  # pixels
N_EVENTS = 10  # of a history that are shown


@dataclass(frozen=True)
class Item:
    """An item as it is shown; `number` is internal, from 1."""

    number: int
    id: str
    title: str
    categories: str


@dataclass(frozen=True)
class Event:
    """An event of a history."""

    item: Item
    time: datetime


@dataclass(frozen=True)
class ListEntry:
    """An item of a list with its rank, from 1; the score is rounded to float16."""

    rank: int
    item: Item
    score: float
    is_target: bool


@dataclass(frozen=True, kw_only=True)
class Recommended:
    """A user's history before the test target, the run's list for it, and the target with its rank.

    rank  the first and the last of the ranks that the target's score allows; they differ where scores tie
    """

    record: RunRecord
    user: str
    history: tuple[Event, ...]
    entries: tuple[ListEntry, ...]
    rule: MaskRule
    target: Item
    rank: tuple[int, int]

    def __repr__(self) -> str:
        lines = [f"{entry.rank:3}  {entry.item.title}" for entry in self.entries]
        return "\n".join([f"{self.record.title}, user {one_line(self.user)}:", *lines, self.target_line])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"

    @property
    def target_line(self) -> str:
        """Return what the user took next and at which rank it stands."""
        first, last = self.rank
        rank = f"rank {first:,}" if first == last else f"ranks {first:,} to {last:,}, whose scores tie"
        return f"taken next: {self.target.title} ({rank})"


def recommended(
    record: RunRecord, user: str, *, k: int, data_dir: Path, rule: MaskRule | None = None
) -> Recommended:
    """Return the k best items of a user under a mask rule, by default that of the run's selection.

    Raises UsageError for a user who has no test target and for lists that are too short, RunError for other data.
    """
    rule = rule or record.mask_seen
    data, ranking = _opened(record, data_dir), record.ranking("test")
    items = _top(record, ranking, rule, k)
    prepared, view = data.prepared, data.targets("test")
    number = _user_number(prepared, user)
    row, history = _row_of(ranking.user, number, user, record), _row_of(view.user, number, user, record)
    events = slice(view.offsets[history], view.offsets[history + 1])
    target, ranks = int(ranking.target[row]), ranking.ranks(rule)
    first = int(ranks.greater[row]) + 1
    scores = ranking.lists[rule].scores[row]
    return Recommended(
        record=record, user=user, rule=rule, target=_item(prepared, target),
        rank=(first, first + int(ranks.equal[row])),
        history=tuple(
            Event(_item(prepared, int(item)), datetime.fromtimestamp(int(time), tz=UTC))
            for item, time in zip(view.items[events], view.times[events], strict=True)
        ),
        entries=tuple(
            ListEntry(rank, _item(prepared, int(item)), float(score), int(item) == target)
            for rank, (item, score) in enumerate(zip(items[row], scores, strict=False), start=1)
            if item
        ),
    )  # fmt: skip


def all_lists(record: RunRecord, *, k: int, data_dir: Path, rule: MaskRule | None = None) -> "pd.DataFrame":
    """Return all users' lists: user, rank, item, title, score, is_target; errors as in `recommended`."""
    import pandas as pd

    rule = rule or record.mask_seen
    prepared, ranking = _opened(record, data_dir).prepared, record.ranking("test")
    items = _top(record, ranking, rule, k)
    scores = ranking.lists[rule].scores[:, : items.shape[1]]
    row, column = items.nonzero()  # 0: the user has fewer candidates
    listed = items[row, column]
    ids = np.array([record["id"] for record in prepared.item_records], dtype=object)
    titles = np.array([record["title"] for record in prepared.item_records], dtype=object)
    return pd.DataFrame({
        "user": np.array(prepared.user_ids, dtype=object)[ranking.user[row]],
        "rank": column + 1, "item": ids[listed - 1], "title": titles[listed - 1],
        "score": scores[row, column].astype(np.float32), "is_target": listed == ranking.target[row],
    })  # fmt: skip


def page(recommended: Recommended, data_dir: Path) -> str:
    """Return history and list with pictures as an HTML page that loads nothing."""
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined

    from mmbench.visible import visible_if_text

    shown = [event.item for event in recommended.history]
    shown += [*(entry.item for entry in recommended.entries), recommended.target]
    pictures = pictures_of(recommended.record, {item.number for item in shown}, data_dir, size=PICTURE_SIZE)
    source = (files("mmbench.reporting") / "recommended.html.j2").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined, finalize=visible_if_text)
    return template.from_string(source).render(shown=recommended, run=recommended.record, pictures=pictures)


def pictures_of(
    record: RunRecord, items: Iterable[int], data_dir: Path, *, size: int
) -> dict[int, dict[str, Any]]:
    """Return the `url` of each item's picture with sides of `size` pixels, or the `reason` why there is none."""
    prepared = _opened(record, data_dir).prepared
    return {
        item: {"url": "", "reason": picture} if isinstance(picture, str)
        else {"url": data_url(picture), "reason": ""}
        for item, picture in thumbnails(prepared, items, size=size).items()
    }  # fmt: skip


def _opened(record: RunRecord, data_dir: Path) -> LoadedData:
    if record.status != "finished":
        raise RunError(f"{record.path} did not finish ({record.reason}); run it again first")
    return data_of(record, data_dir)


def _top(record: RunRecord, ranking: Ranking, rule: MaskRule, k: int) -> np.ndarray:
    try:
        return ranking.top(rule, k)
    except ListsError as error:
        raise UsageError(
            f"{record.path}: {error}; run: mmbench evaluate {record.path} --lists {k}"
        ) from error


def _user_number(prepared: Prepared, user: str) -> int:
    try:
        return prepared.user_ids.index(user)
    except ValueError:
        example = one_line(prepared.user_ids[0])
        raise UsageError(
            f"user {user!r} is not in {prepared.name}; ids are as in {prepared.path / 'users.txt'}, such as {example!r}"
        ) from None


def _row_of(users: np.ndarray, number: int, user: str, record: RunRecord) -> int:
    rows = np.flatnonzero(users == number)
    if not len(rows):
        raise UsageError(f"user {user!r} of {record.dataset} has no test target; choose another user")
    return int(rows[0])


def _item(prepared: Prepared, number: int) -> Item:
    record = prepared.item_records[number - 1]
    owned = slice(prepared.category_offsets[number - 1], prepared.category_offsets[number])
    categories = [prepared.category_names[category] for category in prepared.category_ids[owned]]
    return Item(
        number, one_line(record["id"]), one_line(record["title"]) or f"(no title, {one_line(record['id'])})",
        one_line(", ".join(categories)),
    )  # fmt: skip
