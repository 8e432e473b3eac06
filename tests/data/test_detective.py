"""The dataset detective: planted recipes are found, on every axis."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbench.data.detective import Verdict, Wanted, match
from mmbench.data.filters import k_core
from mmbench.data.recipes import Log, Recipe, search
from mmbench.errors import DataError, UsageError
from tests.data.preparing import made
from tests.data.raw_files import AMAZON_2014, write_lines, write_toml
from tests.prepared import cli

TABLE = AMAZON_2014 + 'images = { name = "images", member = "{id}.jpg" }\n'
N_USERS, N_ITEMS, N_EVENTS, DAY = 500, 300, 2_600, 86_400


def random_log(seed: int = 0) -> Log:
    """Events with repeated pairs, exact duplicates, ratings, and items that lack something."""
    rng = np.random.default_rng(seed)
    user = (rng.random(N_EVENTS) ** 2 * N_USERS).astype(np.int64)
    item = (rng.random(N_EVENTS) ** 2 * N_ITEMS).astype(np.int64)
    ticks = rng.integers(0, 40, N_EVENTS) * DAY
    again = rng.integers(0, N_EVENTS, 150)  # the same event twice, here and there with another time
    user, item = np.concatenate([user, user[again]]), np.concatenate([item, item[again]])
    ticks = np.concatenate([ticks, ticks[again] + DAY * rng.integers(0, 2, len(again))])
    rating = rng.integers(1, 6, len(user)).astype(np.float32)
    has = {"a title": rng.random(N_ITEMS) > 0.1, "an image": rng.random(N_ITEMS) > 0.2}
    return Log("events", user, item, ticks, rating, has)


def oracle(log: Log, recipe: Recipe) -> tuple[int, int, int]:
    """The recipe by hand: lists and dictionaries, one step after the other."""
    rows = list(
        zip(log.user.tolist(), log.item.tolist(), log.ticks.tolist(), log.rating.tolist(), strict=True)
    )  # type: ignore[union-attr]
    if recipe.require:
        rows = [row for row in rows if log.has[recipe.require][row[1]]]
    rated = lambda some: [row for row in some if row[3] >= recipe.rating]  # noqa: E731
    if recipe.duplicates in ("first", "last"):
        by_time = sorted(rows, key=lambda row: row[2])  # stable: equal times in the order of the file
        rows = rated({row[:2]: row for row in by_time[:: -1 if recipe.duplicates == "first" else 1]}.values())
    else:
        rows = rated(rows)
        if recipe.duplicates != "keep":
            length = 3 if recipe.duplicates == "exact" else 2
            rows = list({row[:length]: row for row in rows}.values())
    rows = bounded(rows, recipe)
    return len({row[0] for row in rows}), len({row[1] for row in rows}), len(rows)


def bounded(rows: list[Any], recipe: Recipe) -> list[Any]:
    sides = ((0, recipe.min_user, recipe.counts == "pairs"), (1, recipe.min_item, recipe.counts != "events"))

    def enough(some: list[Any], side: int, least: int, pairs: bool) -> set[int]:
        counted = {row[:2] for row in some} if pairs else some
        codes = [row[side] for row in counted]
        return {code for code in set(codes) if codes.count(code) >= least}

    if recipe.order == "at once":
        users, items = (enough(rows, *side) for side in sides)
        return [row for row in rows if row[0] in users and row[1] in items]
    before = -1
    while len(rows) != before:
        before = len(rows)
        for axis in sides if recipe.order != "items first" else sides[::-1]:
            kept = enough(rows, *axis)
            rows = [row for row in rows if row[axis[0]] in kept]
        if recipe.order != "repeated":
            break
    return rows


PLAIN = Recipe("events", min_user=5, min_item=5)
PLANTED = [
    Recipe("events"),
    PLAIN,
    replace(PLAIN, min_user=3, min_item=10),
    replace(PLAIN, min_item=0),
    replace(PLAIN, min_user=0, min_item=10),
    replace(PLAIN, order="users first"),
    replace(PLAIN, order="items first"),
    replace(PLAIN, order="at once"),
    replace(PLAIN, duplicates="exact"),
    replace(PLAIN, duplicates="pair"),
    replace(PLAIN, counts="pairs"),
    replace(PLAIN, counts="customers"),
    replace(PLAIN, rating=3, min_user=3, min_item=3),
    replace(PLAIN, rating=4, min_user=3, min_item=3),
    replace(PLAIN, rating=5, min_user=3, min_item=0),
    replace(PLAIN, rating=4, duplicates="first", min_user=3, min_item=0),
    replace(PLAIN, rating=4, duplicates="last", min_user=3, min_item=0),
    replace(PLAIN, require="a title"),
    replace(PLAIN, require="an image", duplicates="exact", order="users first"),
]


@pytest.mark.parametrize("recipe", PLANTED, ids=lambda axis: axis.words())
def test_planted_recipes_are_found(recipe: Recipe) -> None:
    """The counts come from the oracle; only the planted recipe gives them."""
    log = random_log()
    counts = oracle(log, recipe)
    alike = [actual.recipe for actual in search(log, least=counts[2]) if actual[1:] == counts]
    assert alike == [recipe]


def test_all_recipes_leave_what_the_oracle_leaves() -> None:
    log = random_log(1)
    rng = np.random.default_rng(2)
    every = list(search(log))
    assert len(every) == len({actual.recipe for actual in every}) > 1000
    for place in rng.integers(0, len(every), 60):
        assert oracle(log, every[place].recipe) == every[place][1:], every[place].recipe.words()


def test_repeated_bounds_are_those_of_preparing() -> None:
    log = random_log(3)
    for actual in search(log):
        recipe = actual.recipe
        if recipe == replace(Recipe("events"), min_user=recipe.min_user, min_item=recipe.min_item):
            keep, _ = k_core(log.user, log.item, min_user=recipe.min_user, min_item=recipe.min_item,
                             item_counts="events", iterate=True)  # fmt: skip
            assert int(keep.sum()) == actual.interactions


def test_no_recipe_is_tried_that_cannot_differ() -> None:
    """Without ratings, repeated pairs and gaps in the metadata only the bounds are left to try."""
    user, item = np.divmod(np.arange(60), 6)
    has = {"a title": np.ones(6, dtype=bool)}
    log = Log("events", user, item, np.zeros(60, dtype=np.int64), None, has)
    recipes = [actual.recipe for actual in search(log)]
    assert {(recipe.rating, recipe.duplicates, recipe.require, recipe.counts) for recipe in recipes} == {
        (0, "keep", "", "events")
    }


def write_raw(folder: Path, log: Log, name: str = "reviews_Demo_5.json.gz", *, rated: bool = True) -> None:
    assert log.rating is not None
    rows = zip(log.user.tolist(), log.item.tolist(), log.ticks.tolist(), log.rating.tolist(), strict=True)
    lines = (
        {
            "reviewerID": f"u{u}",
            "asin": f"i{i}",
            "unixReviewTime": 1_400_000_000 + t,
            **({"overall": r} if rated else {}),
        }
        for u, i, t, r in rows
    )
    write_lines(folder / name, map(json.dumps, lines))
    meta = [
        {
            "asin": f"i{i}",
            "title": "T" if log.has["a title"][i] else "",
            **({"imUrl": "u"} if log.has["an image"][i] else {}),
        }
        for i in range(N_ITEMS)
    ]
    write_lines(folder / "meta_Demo.json.gz", map(repr, meta))


def asked(tmp_path: Path, *counts: int | None) -> Verdict:
    return match("mine", Wanted(*counts), tmp_path / "data")


def test_from_raw_files_to_a_line_that_prepares_the_same(tmp_path: Path, declare) -> None:
    """The detective's own line, put into the table, prepares data with the wanted counts."""
    log = random_log()
    raw = declare(TABLE)
    write_raw(raw, log)
    recipe = replace(PLAIN, require="an image", duplicates="exact", order="users first", min_item=3)
    counts = oracle(log, recipe)
    actual = asked(tmp_path, *counts)
    assert actual.exact
    line = actual.matches[0].recipe.keys(own_file=actual.own_file)
    assert line == (
        'filters = { duplicates = "drop", min_user = 5, min_item = 3, iterate = false, require = ["image"] }'
    )
    declare(TABLE + line)
    prepared = made(tmp_path)
    assert (prepared.n_users, prepared.n_items, len(prepared.items)) == counts


def test_other_files_of_the_category_are_tried(tmp_path: Path, declare) -> None:
    raw = declare(TABLE)
    write_raw(raw, random_log(5))
    write_raw(raw, random_log(6), "reviews_Demo.json.gz")
    actual = asked(tmp_path, *oracle(random_log(6), PLAIN))
    assert len(actual.files) == 2
    assert actual.matches[0].recipe == replace(PLAIN, file="reviews_Demo.json.gz")
    assert (actual.matches[0].recipe.keys(own_file=actual.own_file) or "").startswith(
        'files.interactions = { name = "reviews_Demo.json.gz" } and filters = {'
    )


def test_padding_ids_are_recognised(tmp_path: Path, declare) -> None:
    log = random_log()
    write_raw(declare(TABLE), log)
    users, items, interactions = oracle(log, PLAIN)
    for more, padding in (((1, 1), ("user", "item")), ((0, 1), ("item",)), ((0, 0), ())):
        actual = asked(tmp_path, users + more[0], items + more[1], interactions)
        assert actual.exact
        assert (actual.matches[0].recipe.min_user, actual.matches[0].padding) == (5, padding)
    assert not asked(tmp_path, users, items, interactions + 1).exact  # no padding event exists


def test_the_nearest_recipes_come_with_their_differences(tmp_path: Path, declare) -> None:
    log = random_log()
    write_raw(declare(TABLE), log, rated=False)
    users, items, interactions = oracle(log, PLAIN)
    actual = asked(tmp_path, users + 2, items, interactions)
    assert not actual.exact
    assert len(actual.matches) == 10
    assert actual.matches[0].counts == (users, items, interactions)
    assert actual.matches[0].distance == pytest.approx(2 / (users + 2))
    distances = [match.distance for match in actual.matches]
    assert distances == sorted(distances)
    assert {match.recipe.rating for match in actual.matches} == {0}  # no ratings, so none were tried
    assert asked(tmp_path, None, items, None).exact


def test_what_cannot_be_asked(tmp_path: Path, declare) -> None:
    declare(TABLE)
    with pytest.raises(UsageError, match="give --users"):
        Wanted()
    with pytest.raises(UsageError, match="at least 1"):
        Wanted(users=0)
    with pytest.raises(DataError, match=r"reviews_Demo_5\.json\.gz and meta_Demo\.json\.gz not found"):
        asked(tmp_path, 1)


def test_command(tmp_path: Path) -> None:
    log = random_log()
    write_raw(tmp_path, log)
    (tmp_path / "data").mkdir()
    file = write_toml(tmp_path, TABLE)
    users, items, interactions = oracle(log, PLAIN)
    args = ["--datasets", file, "datasets", "match", "mine", "--users", str(users + 1), "--items", str(items)]
    done = cli(*args, "--inters", str(interactions), data=tmp_path / "data")
    assert done.returncode == 0, done.stderr
    assert "users >= 5 and items >= 5, repeated until stable" in done.stdout
    assert "counts the padding id as a user" in done.stdout
    assert 'filters = { duplicates = "keep", min_user = 5, min_item = 5 }' in done.stdout
    done = cli(*args[:5], "--raw", "nowhere", "--users", "3", data=tmp_path / "data")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.error_lines == [
        "error: --raw nowhere is not a folder; name the folder that holds reviews_Demo_5.json.gz"
    ]
