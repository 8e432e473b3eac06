"""Ways to filter one list of events, and the counts that each leaves. Pure functions on arrays; no files.

A recipe is a choice in each of: ratings, repeated events, what an item must have, fewest events of users and
items, in which order these bounds are applied, and what they count. `search` tries them all, with the work that
recipes share done once, and leaves out those that cannot differ from a simpler one on these events.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mmbench.data.filters import first_of_duplicates

RATINGS = (0, 3, 4, 5)  # events with at least so many stars; 0 = all
BOUNDS = (0, 3, 5, 10, 20)
COUNTS = ("events", "pairs", "customers")
_LEAST = 0.5  # a step that leaves less than this share of the wanted interactions is not followed further

_DUPLICATES = {
    "keep": "",
    "exact": "equal (user, item, time) once",
    "pair": "each user-item pair once",
    "first": "the first event of each user-item pair, before the ratings",
    "last": "the last event of each user-item pair, before the ratings",
}
_ORDERS = {
    "repeated": ", repeated until stable",
    "users first": ", users first, one pass",
    "items first": ", items first, one pass",
    "at once": ", both counted once before either",
}
_COUNTS = {
    "events": "",
    "pairs": ", counting pairs instead of events",
    "customers": ", counting an item's different users",
}


@dataclass(frozen=True)
class Recipe:
    """One way from a raw file to counts. `require` names what an item must have, "" for nothing."""

    file: str
    rating: int = 0
    duplicates: str = "keep"
    require: str = ""
    min_user: int = 0
    min_item: int = 0
    order: str = "repeated"
    counts: str = "events"

    def words(self) -> str:
        """The recipe as a person would say it, in the order of the steps."""
        parts = [f"items with {self.require}"] if self.require else []
        early = self.duplicates in ("first", "last")
        duplicates = [_DUPLICATES[self.duplicates]] if self.duplicates != "keep" else []
        ratings = [f"ratings >= {self.rating}" if self.rating < 5 else "ratings = 5"] if self.rating else []
        parts += duplicates + ratings if early else ratings + duplicates
        bounds = [
            f"{who} >= {least}"
            for who, least in (("users", self.min_user), ("items", self.min_item))
            if least
        ]
        if bounds:
            both = _ORDERS[self.order] if len(bounds) == 2 else ""
            parts.append(" and ".join(bounds) + both + _COUNTS[self.counts])
        return f"{self.file}: {'; '.join(parts) or 'as it is'}"

    def keys(self, *, own_file: str) -> str | None:
        """What to write into a datasets.toml, or None where its keys cannot say this recipe."""
        filters = self.filters()
        if filters is None or self.file == own_file:
            return filters
        return f'files.interactions = {{ name = "{self.file}" }} and {filters}'

    def filters(self) -> str | None:
        """The `filters` key that does this, or None."""
        requires = {"": [], "text": ["text"], "an image": ["image"], "text and an image": ["text", "image"]}
        one_sided = 0 in (self.min_user, self.min_item)
        order = {"repeated": True, "users first": False}.get(self.order)
        if (
            self.rating
            or self.duplicates not in ("keep", "exact")
            or self.require not in requires
            or order is None
        ):
            return None
        if self.counts == "pairs" or (self.counts == "customers" and not self.min_item):
            return None
        said = {
            "duplicates": '"drop"' if self.duplicates == "exact" else '"keep"',
            "min_user": str(self.min_user),
            "min_item": str(self.min_item),
        }
        if self.counts == "customers":
            said["item_counts"] = '"users"'
        if not one_sided and not order:
            said["iterate"] = "false"
        if self.require:
            said["require"] = str(requires[self.require]).replace("'", '"')
        return f"filters = {{ {', '.join(f'{key} = {value}' for key, value in said.items())} }}"

    def steps(self) -> int:
        """How much is done: of recipes with equal counts the one with the least comes first."""
        unusual = (self.order != "repeated") + (self.counts != "events") + (self.min_user != self.min_item)
        return (
            2 * bool(self.rating)
            + {"keep": 0, "exact": 1}.get(self.duplicates, 2)
            + 2 * bool(self.require)
            + bool(self.min_user or self.min_item)
            + unusual
        )


class Found(NamedTuple):
    """What a recipe leaves."""

    recipe: Recipe
    users: int
    items: int
    interactions: int


@dataclass(frozen=True)
class Log:
    """The events of one raw file, in its order. `has[name]` bool [n_items]: the items that have it."""

    file: str
    user: np.ndarray
    item: np.ndarray
    ticks: np.ndarray
    rating: np.ndarray | None
    has: dict[str, np.ndarray]


class _Events(NamedTuple):
    """Events that are left: codes of user and item, and whether it is the first event of its pair."""

    user: np.ndarray
    item: np.ndarray
    first: np.ndarray

    def take(self, keep: np.ndarray) -> "_Events":
        return self if keep.all() else _Events(*(column[keep] for column in self))


def search(log: Log, *, least: int = 0) -> Iterator[Found]:
    """Every recipe with what it leaves; those that leave far less than `least` interactions are not followed."""
    for recipe, place in _required(log):
        for chosen, kept in _chosen(recipe, log, place):
            if len(kept) and len(kept) >= _LEAST * least:
                first = _first_of_pairs(log, kept)
                events = _Events(log.user[kept], log.item[kept], first)
                yield from _bounded(chosen, events, least)


def _required(log: Log) -> Iterator[tuple[Recipe, np.ndarray]]:
    """What items must have, as (recipe, places of the events left)."""
    plain = Recipe(log.file)
    yield plain, np.arange(len(log.user))
    seen = {np.ones(len(next(iter(log.has.values()), ())), dtype=bool).tobytes()}
    for name, has in log.has.items():
        if has.tobytes() not in seen:
            seen.add(has.tobytes())
            yield replace(plain, require=name), np.flatnonzero(has[log.item])


def _chosen(recipe: Recipe, log: Log, place: np.ndarray) -> Iterator[tuple[Recipe, np.ndarray]]:
    """Ratings and repeated events: each choice that leaves other events than a simpler one."""
    seen: set[bytes] = set()
    for stars in [0] if log.rating is None else RATINGS:
        for duplicates, kept in _choices(log, place, stars):
            digest = hashlib.blake2b(kept.data, digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                yield replace(recipe, rating=stars, duplicates=duplicates), kept


def _choices(log: Log, place: np.ndarray, stars: int) -> Iterator[tuple[str, np.ndarray]]:
    """(what becomes of repeated events, places of the events left), simple ones first."""
    rated = place if log.rating is None or not stars else place[log.rating[place] >= stars]
    yield "keep", rated
    yield "exact", _once(log, rated, by_time=True)
    yield "pair", _once(log, rated, by_time=False)
    if stars and log.rating is not None:
        for which in ("first", "last"):
            once = _once(log, place, by_time=False, last=which == "last")
            yield which, once[log.rating[once] >= stars]


def _once(log: Log, place: np.ndarray, *, by_time: bool, last: bool = False) -> np.ndarray:
    """Of equal (user, item[, time]) the first, or of equal pairs the first or last in time; places in file order."""
    user, item, ticks = log.user[place], log.item[place], log.ticks[place]
    if by_time:
        return place[first_of_duplicates(user, item, ticks)]
    order = np.lexsort((ticks, item, user))
    if last:
        order = order[::-1]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(user[order]) != 0) | (np.diff(item[order]) != 0)
    return np.sort(place[order[new]])


def _first_of_pairs(log: Log, place: np.ndarray) -> np.ndarray:
    return first_of_duplicates(log.user[place], log.item[place], np.zeros(len(place), dtype=np.int64))


def _bounded(recipe: Recipe, events: _Events, least: int) -> Iterator[Found]:
    """Every pair of bounds, order and way of counting."""
    yield _found(recipe, events)
    for counts in COUNTS if not events.first.all() else COUNTS[:1]:
        chosen = replace(recipe, counts=counts)
        yield from _repeated(chosen, events, least)
        yield from _one_pass(chosen, events, least)


def _repeated(recipe: Recipe, events: _Events, least: int) -> Iterator[Found]:
    """Bounds repeated until stable, and one-sided ones. Each begins at the result of the next weaker bounds."""
    weaker: dict[tuple[int, int], _Events] = {}
    for i, min_user in enumerate(BOUNDS):
        for j, min_item in enumerate(BOUNDS):
            below = weaker.get((i - 1, j)) or weaker.get((i, j - 1)) or events
            if len(below.user) < _LEAST * least:
                weaker[i, j] = below
                continue
            chosen = replace(recipe, min_user=min_user, min_item=min_item)
            weaker[i, j] = _until_stable(chosen, below)
            if (i or j) and (recipe.counts != "customers" or j):
                yield _found(chosen, weaker[i, j])


def _one_pass(recipe: Recipe, events: _Events, least: int) -> Iterator[Found]:
    """Both bounds applied once: users first, items first, or both counted before either."""
    for min_user in BOUNDS[1:]:
        many = _enough_user(replace(recipe, min_user=min_user), events)
        of_users = events.take(many)
        if len(of_users.user) < _LEAST * least:
            break  # stronger bounds leave even less
        for min_item in BOUNDS[1:]:
            chosen = replace(recipe, min_user=min_user, min_item=min_item)
            often = _enough_item(chosen, events)
            of_items = events.take(often)
            if len(of_items.user) < _LEAST * least:
                break
            left = {
                "users first": of_users.take(_enough_item(chosen, of_users)),
                "items first": of_items.take(_enough_user(chosen, of_items)),
                "at once": events.take(many & often),
            }
            for order, one in left.items():
                yield _found(replace(chosen, order=order), one)


def _until_stable(recipe: Recipe, events: _Events) -> _Events:
    before = -1
    while len(events.user) != before:
        before = len(events.user)
        events = events.take(_enough_user(recipe, events))
        events = events.take(_enough_item(recipe, events))
    return events


def _enough_user(recipe: Recipe, events: _Events) -> np.ndarray:
    return _enough(events.user, events.first if recipe.counts == "pairs" else None, recipe.min_user)


def _enough_item(recipe: Recipe, events: _Events) -> np.ndarray:
    return _enough(events.item, None if recipe.counts == "events" else events.first, recipe.min_item)


def _enough(codes: np.ndarray, counted: np.ndarray | None, least: int) -> np.ndarray:
    """bool [E]: the event's user (or item) has at least `least` events (of those counted)."""
    if not least or not len(codes):
        return np.ones(len(codes), dtype=bool)
    size = int(codes.max()) + 1
    return (np.bincount(codes if counted is None else codes[counted], minlength=size) >= least)[codes]


def _found(recipe: Recipe, events: _Events) -> Found:
    users, items = (
        int(np.count_nonzero(np.bincount(codes))) if len(codes) else 0 for codes in (events.user, events.item)
    )
    return Found(recipe, users, items, len(events.user))
