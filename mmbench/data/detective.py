"""Which recipe gives a paper's counts? `match` tries the recipes of `recipes.py` on every raw file of a data set.

It reads the data set's raw files, and those of other editions of the same category that lie in its folder or where
the catalogue's tables look for them. A number of users or items that is too large by 1 is recognised as a count that
includes a padding id (as RecBole's `user_num` and `item_num` do).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmbench.data.catalog import find_dataset, load_catalog
from mmbench.data.images import list_images
from mmbench.data.parsers import parse
from mmbench.data.raw import RawData
from mmbench.data.raw_files import find_raw
from mmbench.data.recipes import Log, Recipe, search
from mmbench.data.spec import DatasetSpec
from mmbench.data.text import join_text
from mmbench.errors import UsageError

Progress = Callable[[str], None]
NEAREST = 10
# Amazon's file names for the reviews of a category: 5-core and all, per edition.
_REVIEWS = {
    "amazon-2014": ("reviews_{}_5.json.gz", "reviews_{}.json.gz"),
    "amazon-2018": ("{}_5.json.gz", "{}.json.gz"),
    "amazon-2023": ("{}.jsonl.gz",),
}


@dataclass(frozen=True)
class Wanted:
    """The counts to look for; None where the paper prints none."""

    users: int | None = None
    items: int | None = None
    interactions: int | None = None

    def __post_init__(self) -> None:
        named = [count for count in self.counts if count is not None]
        if not named:
            raise UsageError("no count to look for; give --users, --items or --inters")
        if min(named) < 1:
            raise UsageError(f"a count must be at least 1 (got {min(named)})")

    @property
    def counts(self) -> tuple[int | None, int | None, int | None]:
        return self.users, self.items, self.interactions


@dataclass(frozen=True)
class Match:
    """Recipes that leave the same counts, the simplest first, compared with the wanted counts.

    `padding` names the counts that include a padding id.
    """

    recipes: list[Recipe]
    counts: tuple[int, int, int]
    padding: tuple[str, ...]
    distance: float  # sum over the wanted counts of |found - wanted| / wanted; 0 = exact

    @property
    def recipe(self) -> Recipe:
        return self.recipes[0]

    @property
    def exact(self) -> bool:
        return self.distance == 0


@dataclass(frozen=True)
class Verdict:
    """Exact matches, or else the nearest; the files and the number of recipes that were tried."""

    matches: list[Match]
    n_recipes: int
    files: list[str]
    own_file: str  # the interactions file that the data set's table names

    @property
    def exact(self) -> bool:
        return bool(self.matches) and self.matches[0].exact


def match(
    name: str,
    wanted: Wanted,
    data_dir: Path,
    *,
    raw: Path | None = None,
    progress: Progress = lambda message: None,
) -> Verdict:
    """Try every recipe on every raw file of `name` and of its other editions."""
    spec = find_dataset(name, data_dir)
    folder = find_raw(spec, data_dir, raw=raw, progress=progress)
    by_counts: dict[tuple[int, int, int], list[Recipe]] = {}
    files = []
    for edition, directory in _editions(spec, folder, data_dir):
        files.append(str(directory / edition.files.interactions.name))
        log = _log(edition, directory, progress)
        progress(f"{log.file}: trying recipes")
        for outcome in search(log, least=wanted.interactions or 0):
            if outcome.interactions:
                by_counts.setdefault(outcome[1:], []).append(outcome.recipe)
    n_recipes = sum(map(len, by_counts.values()))
    return Verdict(_ranked(by_counts, wanted), n_recipes, files, spec.files.interactions.name)


def _ranked(by_counts: dict[tuple[int, int, int], list[Recipe]], wanted: Wanted) -> list[Match]:
    """Return the exact matches, else those that are exact up to padding ids, else the nearest."""
    matches = [
        _compare(sorted(recipes, key=Recipe.steps), counts, wanted) for counts, recipes in by_counts.items()
    ]
    matches.sort(key=lambda match: (match.distance, len(match.padding), match.recipe.steps()))
    exact = [match for match in matches if match.exact]
    # A padding id explains a difference of 1 only where nothing else does.
    plain = [match for match in exact if not match.padding]
    return (plain or exact or matches)[:NEAREST]


def _compare(recipes: list[Recipe], counts: tuple[int, int, int], wanted: Wanted) -> Match:
    distance, padding = 0.0, []
    for kind, count, target in zip(("user", "item", ""), counts, wanted.counts, strict=True):
        if target is None or count == target:
            continue
        if count == target - 1 and kind:
            padding.append(kind)
        else:
            distance += abs(count - target) / target
    return Match(recipes, counts, tuple(padding), distance)


def _editions(spec: DatasetSpec, folder: Path, data_dir: Path) -> Iterator[tuple[DatasetSpec, Path]]:
    """Yield the data set as declared, then other files of its category: (spec, folder that holds all its files)."""
    yield spec, folder
    category = _category(spec)
    if category is None:
        return
    seen = {(folder / spec.files.interactions.name).resolve()}
    for other in [spec, *load_catalog(data_dir).values()]:
        if _category(other) != category:
            continue
        for name in (form.format(category) for form in _REVIEWS[other.parser]):
            files = other.files.model_copy(
                update={"interactions": other.files.interactions.model_copy(update={"name": name})}
            )
            edition = other.model_copy(update={"files": files})
            for directory in (folder, other.raw_dir(data_dir), data_dir / "raw" / other.name):
                file = (directory / name).resolve()
                if file not in seen and all((directory / part.name).is_file() for part in edition.raw_files):
                    seen.add(file)
                    yield edition, directory


def _category(spec: DatasetSpec) -> str | None:
    """Return `Video_Games` for reviews_Video_Games_5.json.gz; None for data that are not Amazon's."""
    for form in _REVIEWS.get(spec.parser, ()):
        before, after = form.split("{}")
        name = spec.files.interactions.name
        if name.startswith(before) and name.endswith(after):
            return name[len(before) : len(name) - len(after)]
    return None


def _log(spec: DatasetSpec, folder: Path, progress: Progress) -> Log:
    listing = list_images(spec.pictures, folder)
    data = parse(spec, folder, listing, progress)
    events = data.events
    has = _has(spec, data, listing.members if listing else None)
    return Log(spec.files.interactions.name, events.user, events.item, events.ticks, events.rating, has)


def _has(spec: DatasetSpec, data: RawData, members: frozenset[str] | None) -> dict[str, np.ndarray]:
    """Return bool [n_items] by the items' event codes for each thing that a paper may have required of items."""
    items = [data.items[name] for name in data.events.item_names]
    columns: dict[str, list[bool]] = {"any metadata": [], "a title": [], "text": [], "an image": []}
    for item in items:
        record = {**item.fields, "title": item.title, "brand": item.brand, "categories": item.categories}
        text = bool(join_text(record, spec.text_fields))
        image = item.image is not None and (members is None or item.image in members or bool(item.image_url))
        columns["any metadata"].append(image or any([*record.values(), item.image_url]))
        columns["a title"].append(bool(item.title))
        columns["text"].append(text)
        columns["an image"].append(image)
    has = {name: np.array(column, dtype=bool) for name, column in columns.items()}
    has["text and an image"] = has["text"] & has["an image"]
    return {name: column for name, column in has.items() if column.any()}
