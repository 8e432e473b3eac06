"""Ways to filter a list of events, and the counts that each leaves. Pure functions on arrays; no files.

A recipe chooses: ratings, repeated events, what an item must have, the fewest events of users and items, the order
in which these bounds are applied, and what they count. `search` tries all recipes, does the work that they share
once, and leaves out those that cannot differ from a simpler recipe on these events.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mmbench.data.filters import first_of_duplicates

RATINGS = (0, 3, 4, 5)  # keep events with at least this many stars; 0 = all
BOUNDS = (0, 3, 5, 10, 20)
COUNTS = ("events", "pairs", "customers")
_LEAST = 0.5  # a step that leaves a smaller share of the wanted interactions is not followed further

_DUPLICATES = {
    "keep": "",
    "exact": "equal (user, item, time) once",
    "pair": "each user-item pair once",
    "first": "the first event of each user-item pair, before the ratings",
    "last": "the last event of each user-item pair, before the ratings",
}
_ORDERS = {
    "repeated": ", repeated until stable",
    "users first": ", users first, a single pass",
    "items first": ", items first, a single pass",
    "at once": ", both counted once before either",
}
_COUNTS = {
    "events": "",
    "pairs": ", counting pairs instead of events",
    "customers": ", counting an item's different users",
}


@dataclass(frozen=True)
class Recipe:
    """A way from a raw file to counts. `require` names what an item must have, "" for nothing."""

    file: str
    rating: int = 0
    duplicates: str = "keep"
    require: str = ""
    min_user: int = 0
    min_item: int = 0
    order: str = "repeated"
    counts: str = "events"

    def words(self) -> str:
        """Describe the recipe in words, in the order of the steps."""
        parts = [f"items with {self.require}"] if self.require else []
        early = self.duplicates in ("first", "last")
        duplicates = [_DUPLICATES[self.duplicates]] if self.duplicates != "keep" else []
        ratings = [f"ratings >= {self.rating}" if self.rating < 5 else "ratings = 5"] if self.rating else []
        parts += duplicates + ratings if early else ratings + duplicates
        bounds = [
            f"{kind} >= {least}"
            for kind, least in (("users", self.min_user), ("items", self.min_item))
            if least
        ]
        if bounds:
            both = _ORDERS[self.order] if len(bounds) == 2 else ""
            parts.append(" and ".join(bounds) + both + _COUNTS[self.counts])
        return f"{self.file}: {'; '.join(parts) or 'as it is'}"

    def keys(self, *, own_file: str) -> str | None:
        """Return what to write into a datasets.toml, or None if its keys cannot express the recipe."""
        filters = self.filters()
        if filters is None or self.file == own_file:
            return filters
        return f'files.interactions = {{ name = "{self.file}" }} and {filters}'

    def filters(self) -> str | None:
        """Return the `filters` key that does what the recipe does, or None."""
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
        keys = {
            "duplicates": '"drop"' if self.duplicates == "exact" else '"keep"',
            "min_user": str(self.min_user),
            "min_item": str(self.min_item),
        }
        if self.counts == "customers":
            keys["item_counts"] = '"users"'
        if not one_sided and not order:
            keys["iterate"] = "false"
        if self.require:
            keys["require"] = str(requires[self.require]).replace("'", '"')
        return f"filters = {{ {', '.join(f'{key} = {value}' for key, value in keys.items())} }}"

    def steps(self) -> int:
        """Return how much the recipe does: of recipes with equal counts, that which does least comes first."""
        unusual = (self.order != "repeated") + (self.counts != "events") + (self.min_user != self.min_item)
        return (
            2 * bool(self.rating)
            + {"keep": 0, "exact": 1}.get(self.duplicates, 2)
            + 2 * bool(self.require)
            + bool(self.min_user or self.min_item)
            + unusual
        )


class Outcome(NamedTuple):
    """The counts that a recipe leaves."""

    recipe: Recipe
    users: int
    items: int
    interactions: int


@dataclass(frozen=True)
class Log:
    """The events of a raw file, in its order. `has[name]` bool [n_items] says which items have it."""

    file: str
    user: np.ndarray
    item: np.ndarray
    ticks: np.ndarray
    rating: np.ndarray | None
    has: dict[str, np.ndarray]


class _Events(NamedTuple):
    """The events that are left: codes of user and item, and whether an event is the first of its pair."""

    user: np.ndarray
    item: np.ndarray
    first: np.ndarray

    def take(self, keep: np.ndarray) -> "_Events":
        return self if keep.all() else _Events(*(column[keep] for column in self))


def search(log: Log, *, least: int = 0) -> Iterator[Outcome]:
    """Yield the outcome of every recipe; recipes that leave far fewer than `least` interactions are not followed."""
    for recipe, index in _required(log):
        for chosen, kept in _chosen(recipe, log, index):
            if len(kept) and len(kept) >= _LEAST * least:
                first = _first_of_pairs(log, kept)
                events = _Events(log.user[kept], log.item[kept], first)
                yield from _bounded(chosen, events, least)


def _required(log: Log) -> Iterator[tuple[Recipe, np.ndarray]]:
    """Yield (recipe, indices of the events left) for each thing that items may be required to have."""
    plain = Recipe(log.file)
    yield plain, np.arange(len(log.user))
    seen = {np.ones(len(next(iter(log.has.values()), ())), dtype=bool).tobytes()}
    for name, has in log.has.items():
        if has.tobytes() not in seen:
            seen.add(has.tobytes())
            yield replace(plain, require=name), np.flatnonzero(has[log.item])


def _chosen(recipe: Recipe, log: Log, index: np.ndarray) -> Iterator[tuple[Recipe, np.ndarray]]:
    """Yield the choices of ratings and repeated events that leave other events than a simpler choice."""
    seen: set[bytes] = set()
    for stars in [0] if log.rating is None else RATINGS:
        for duplicates, kept in _choices(log, index, stars):
            digest = hashlib.blake2b(kept.data, digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                yield replace(recipe, rating=stars, duplicates=duplicates), kept


def _choices(log: Log, index: np.ndarray, stars: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (treatment of repeated events, indices of the events left), the simplest first."""
    rated = index if log.rating is None or not stars else index[log.rating[index] >= stars]
    yield "keep", rated
    yield "exact", _once(log, rated, by_time=True)
    yield "pair", _once(log, rated, by_time=False)
    if stars and log.rating is not None:
        for which in ("first", "last"):
            once = _once(log, index, by_time=False, last=which == "last")
            yield which, once[log.rating[once] >= stars]


def _once(log: Log, index: np.ndarray, *, by_time: bool, last: bool = False) -> np.ndarray:
    """Return, in file order, the indices of the first of equal (user, item, time), or the first or last of pairs."""
    user, item, ticks = log.user[index], log.item[index], log.ticks[index]
    if by_time:
        return index[first_of_duplicates(user, item, ticks)]
    order = np.lexsort((ticks, item, user))
    if last:
        order = order[::-1]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(user[order]) != 0) | (np.diff(item[order]) != 0)
    return np.sort(index[order[new]])


def _first_of_pairs(log: Log, index: np.ndarray) -> np.ndarray:
    return first_of_duplicates(log.user[index], log.item[index], np.zeros(len(index), dtype=np.int64))


def _bounded(recipe: Recipe, events: _Events, least: int) -> Iterator[Outcome]:
    """Yield the outcome of every pair of bounds, order and way of counting."""
    yield _outcome(recipe, events)
    for counts in COUNTS if not events.first.all() else COUNTS[:1]:
        chosen = replace(recipe, counts=counts)
        yield from _repeated(chosen, events, least)
        yield from _single_pass(chosen, events, least)


def _repeated(recipe: Recipe, events: _Events, least: int) -> Iterator[Outcome]:
    """Apply bounds until stable, and one-sided bounds. Each begins with the result of the next weaker bounds."""
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
                yield _outcome(chosen, weaker[i, j])


def _single_pass(recipe: Recipe, events: _Events, least: int) -> Iterator[Outcome]:
    """Apply both bounds once: users first, items first, or both counted before either."""
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
            for order, remaining in left.items():
                yield _outcome(replace(chosen, order=order), remaining)


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
    """Return bool [E]: whether the event's user (or item) has at least `least` events (of those counted)."""
    if not least or not len(codes):
        return np.ones(len(codes), dtype=bool)
    size = int(codes.max()) + 1
    return (np.bincount(codes if counted is None else codes[counted], minlength=size) >= least)[codes]


def _outcome(recipe: Recipe, events: _Events) -> Outcome:
    users, items = (
        int(np.count_nonzero(np.bincount(codes))) if len(codes) else 0 for codes in (events.user, events.item)
    )
    return Outcome(recipe, users, items, len(events.user))
