"""Recent-pop: section "How to check it" of its specification, and an oracle in plain loops."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmbench.errors import UsageError
from mmbench.models.base import Catalog
from tests.models.toy import (
    DAY,
    MAX_LEN,
    START,
    catalog_of,
    history_batch,
    toy_catalog,
    toy_model,
    view_of,
)

Event = tuple[int, int, int]  # user, item, unix seconds
PRINTED: list[Event] = [(0, 1, 0), (1, 1, 3), (0, 2, 7), (2, 3, 7), (2, 2, 9), (3, 3, 10), (3, 4, 12)]  # days


def catalog_from(events: Sequence[Event], *, n_items: int, n_users: int = 0, **more: Any) -> Catalog:
    """The catalogue of these events, which stand in each user's order of time."""
    n_users = max([n_users, *(user + 1 for user, _, _ in events)])
    own = [[(item, time) for who, item, time in events if who == user] for user in range(n_users)]
    view = view_of([[item for item, _ in part] for part in own], [[time for _, time in part] for part in own])
    return replace(catalog_of(view, n_items=n_items, features=False), **more)


def printed_catalog() -> Catalog:
    return catalog_from([(user, item, START + day * DAY) for user, item, day in PRINTED], n_items=4)


def events_of(catalog: Catalog) -> list[Event]:
    columns = (catalog.histories.users, catalog.train_items, catalog.train_times)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def counts_by_hand(
    events: Sequence[Event], now: int, *, window: float, n_items: int, users: bool = False
) -> list[float]:
    inside = [(user, item) for user, item, time in events if now - window < time <= now]
    inside = sorted(set(inside)) if users else inside
    return [float(sum(item == bought for _, bought in inside)) for item in range(1, n_items + 1)]


def with_back_off(counts: list[float], every: list[float]) -> list[float]:
    return [count + other / (max(every) + 1) for count, other in zip(counts, every, strict=True)]


def ask(model: Any, *moments: int, users: Sequence[int] | None = None) -> Tensor:
    """Scores at these moments, each of a history with one item."""
    times = [[moment] for moment in moments]
    return model.score(history_batch(model, [[2]] * len(times), times=times, users=users))


@pytest.mark.parametrize(
    ("day", "settings", "printed"),
    [
        (7, {"backoff": False}, [1, 1, 1, 0]),
        (7, {}, [5 / 3, 4 / 3, 4 / 3, 0]),
        (7, {"form": "decay", "decay_days": 5.0}, [0.6959259281, 1, 1, 0]),
        (7, {"form": "trend"}, [0.0714305714, 0.1071438571, 0.1071438571, 0]),
        (10, {"backoff": False}, [0, 2, 2, 0]),
        (10, {}, [2 / 3, 8 / 3, 8 / 3, 0]),
        (10, {"form": "decay", "decay_days": 5.0}, [0.3819322472, 1.3675423892, 1.5488116361, 0]),
        (10, {"form": "trend"}, [-0.0714265714, 0.2142877143, 0.2142877143, 0]),
    ],
    ids=str,
)
def test_numbers_of_the_specification(day: int, settings: dict[str, Any], printed: list[float]) -> None:
    scores = ask(toy_model("recent-pop", printed_catalog(), **settings), START + day * DAY)[0]
    assert scores.dtype == torch.float64
    assert scores.tolist() == pytest.approx(printed, abs=6e-11)


def test_what_is_popular_changes_with_the_week() -> None:
    events = [(user, 1, START + user * DAY) for user in range(5)]
    events += [(user, 2, START + (8 + user) * DAY) for user in range(5, 8)]
    catalog = catalog_from(events, n_items=2)
    week, ever = toy_model("recent-pop", catalog), toy_model("recent-pop", catalog, window_days=0.0)
    moments = (START + 5 * DAY, START + 16 * DAY)
    assert (ask(week, *moments).argmax(1) + 1).tolist() == [1, 2]
    assert (ask(ever, *moments).argmax(1) + 1).tolist() == [1, 1]


@pytest.mark.parametrize("backoff", [False, True])
def test_everything_up_to_the_end_is_pop(backoff: bool) -> None:
    catalog = toy_catalog(n_items=33)
    model = toy_model("recent-pop:global", catalog, window_days=0.0, backoff=backoff)
    pop = toy_model("pop", catalog)
    batch = history_batch(model, [[1, 2], [9], [30, 30, 4]])
    mine, theirs = model.score(batch), pop.score(batch)
    assert torch.equal(mine[:, :, None] > mine[:, None], theirs[:, :, None] > theirs[:, None])
    if not backoff:
        assert torch.equal(mine[0], torch.bincount(catalog.train_items, minlength=34)[1:].double())


def test_the_moment_is_that_of_the_last_input_event() -> None:
    """Not of the first, not of padding, not of a neighbour; a history that is cut keeps its newest events."""
    catalog = printed_catalog()
    model = toy_model("recent-pop", catalog, backoff=False)
    long = [1] * (MAX_LEN + 3)
    days = [*range(-MAX_LEN - 2, 0), 10]
    histories, at = [[1, 2], [3], long], [[0, 7], [10], days]
    batch = history_batch(
        model, histories, times=[[START + day * DAY for day in days] for days in at], users=[0, 1, 2]
    )
    assert model.score(batch).tolist() == [[1, 1, 1, 0], [0, 2, 2, 0], [0, 2, 2, 0]]
    everywhere = toy_model("recent-pop:global", catalog, backoff=False)
    assert everywhere.score(batch).tolist() == [[0, 2, 2, 1]] * 3
    assert model.score(history_batch(model, [[1, 2], []], users=[0, 1]))[1].tolist() == [0, 2, 2, 1]


def test_the_window_ends_with_the_moment_and_begins_after_its_far_end() -> None:
    now, week = START + 100 * DAY, 7 * DAY
    times = [now, now + 1, now - week, now - week + 1]
    catalog = catalog_from([(k, k + 1, time) for k, time in enumerate(times)], n_items=4)
    assert ask(toy_model("recent-pop", catalog, backoff=False), now).tolist() == [[1, 0, 0, 1]]


FORMS = [
    {},
    {"backoff": False},
    {"count": "users"},
    {"form": "decay", "decay_days": 40.0},
    {"form": "trend"},
    {"form": "trend", "count": "users"},
    {"form": "category"},
    {"form": "category", "backoff": False, "window_days": 60.0},
    {"window_days": 0.0},
    {"exclude_own": True, "window_days": 90.0},
    {"exclude_own": True, "window_days": 30.0, "count": "users", "form": "category"},
]


def score_by_hand(
    catalog: Catalog, user: int, history: Sequence[int], now: int, settings: dict[str, Any]
) -> list[float]:
    """The definitions of the specification, one event after the other."""
    n = catalog.n_items
    events = [event for event in events_of(catalog) if not (settings.get("exclude_own") and event[0] == user)]
    form, days = settings.get("form", "window"), settings.get("window_days", 7.0) or math.inf

    def counts(window: float) -> list[float]:
        return counts_by_hand(events, now, window=window, n_items=n, users=settings.get("count") == "users")

    recent, every = counts(days * DAY), counts(math.inf)
    if form == "decay":
        tau = settings["decay_days"] * DAY
        past = [(item, math.exp((time - now) / tau)) for _, item, time in events if time <= now]
        return [sum(weight for bought, weight in past if bought == item) for item in range(1, n + 1)]
    if form == "trend":
        longer = counts(4 * days * DAY)
        rates = zip(recent, longer, every, strict=True)
        return [short / days - long / (4 * days) + 1e-6 * ever for short, long, ever in rates]
    scores = with_back_off(recent, every) if settings.get("backoff", True) else list(recent)
    if form == "category":
        owned = catalog.category_matrix()
        for item in range(1, n + 1):
            if recent[item - 1] and (owned[item] * owned[history[-1]]).any():
                scores[item - 1] += max(recent) + 1
    return scores


@pytest.mark.parametrize("setting", FORMS, ids=str)
def test_all_moments_at_once_are_plain_loops(setting: dict[str, Any]) -> None:
    """Random events on few days, so that many times are equal; items, users and pairs repeat."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 15, 25)
    histories = [rng.integers(1, 13, length).tolist() for length in lengths]
    times = [np.sort(START + DAY * rng.integers(0, 60, length)).tolist() for length in lengths]
    catalog = catalog_of(view_of(histories, times), n_items=14)
    model = toy_model("recent-pop", catalog, **setting)
    users = [3, 3, 9, 0, 24, 7, 12]
    asked = [[2], [5, 14], [4], [1, 1], [12], [13], [6]]  # item 4 has no category
    last = [START + DAY * day for day in (30, 12, 30, 59, 70, 0, -4)]
    at = [[time] * len(history) for history, time in zip(asked, last, strict=True)]
    scores = model.score(history_batch(model, asked, times=at, users=users))
    for row, (user, history, now) in enumerate(zip(users, asked, last, strict=True)):
        expected = score_by_hand(catalog, user, history, now, setting)
        assert scores[row].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)
        if setting.get("form") in (None, "category") and not setting.get("backoff", True):
            assert scores[row].tolist() == expected, "counts are exact"
    assert scores[:4].any(1).all()


@pytest.mark.parametrize("setting", FORMS, ids=str)
def test_no_event_after_the_moment_is_seen(setting: dict[str, Any]) -> None:
    catalog = toy_catalog()
    events = events_of(catalog)
    moments = sorted({time for _, _, time in events})[20:200:37]
    model = toy_model("recent-pop", catalog, **setting)
    for now in moments:
        later = [event for event in events if event[2] > now]
        assert later
        changed = [event for event in events if event[2] <= now]
        changed += [(user, item % 30 + 1, time + 1) for user, item, time in later[:-1]]
        changed += [(user, 3, now + 1) for user in range(10)]
        order = sorted(changed, key=lambda entry: entry[2])
        more = {key: getattr(catalog, key) for key in ("category_ids", "category_offsets", "n_categories")}
        other = toy_model("recent-pop", catalog_from(order, n_items=30, n_users=20, **more), **setting)
        assert torch.equal(ask(model, now, users=[4]), ask(other, now, users=[4]))


def test_the_global_clock_reads_what_lies_after_the_moment() -> None:
    """What the test above would find in it."""
    catalog = printed_catalog()
    model = toy_model("recent-pop:global", catalog)
    before = ask(model, START)
    later = catalog_from(
        [*((u, i, START + d * DAY) for u, i, d in PRINTED), (3, 4, START + 90 * DAY)], n_items=4
    )
    assert not torch.equal(ask(toy_model("recent-pop:global", later), START), before)


def test_a_long_memory_counts_everything_and_a_short_one_this_moment() -> None:
    catalog = toy_catalog()
    now = int(catalog.train_times.median())
    ever = ask(toy_model("recent-pop", catalog, window_days=0.0, backoff=False), now)
    long = ask(toy_model("recent-pop:decay", catalog, decay_days=1e12), now)
    torch.testing.assert_close(long, ever, rtol=1e-6, atol=0)
    short = ask(toy_model("recent-pop:decay", catalog, decay_days=1e-6), now)
    at_once = [
        float(((catalog.train_items == item) & (catalog.train_times == now)).sum()) for item in range(1, 31)
    ]
    assert short.tolist() == [at_once]
    assert short.any()


def test_a_window_of_less_than_a_second_is_one_second() -> None:
    catalog = catalog_from([(0, 1, START - 1), (0, 2, START)], n_items=2)
    model = toy_model("recent-pop", catalog, window_days=1e-9, backoff=False)
    assert ask(model, START).tolist() == [[0, 1]]


def test_the_back_off_never_outvotes_the_window() -> None:
    events = [(user, 1, START + user) for user in range(50)] + [(0, 2, START + 90 * DAY)]
    scores = ask(toy_model("recent-pop", catalog_from(events, n_items=3)), START + 91 * DAY)[0]
    assert scores.tolist() == pytest.approx([50 / 51, 1 + 1 / 51, 0])


def test_items_like_the_last_one_come_first_among_the_recent() -> None:
    """Item 1 shares a category with 2 and 4; 4 is old, and 3 is more popular than 2."""
    days = [(0, 2, 10), (1, 3, 10), (2, 3, 10), (3, 4, 0), (4, 4, 1), (5, 4, 1)]
    categories = {
        "category_ids": torch.tensor([0, 0, 1, 1, 0]), "category_offsets": torch.tensor([0, 0, 1, 3, 4, 5]),
        "n_categories": 2,
    }  # fmt: skip
    catalog = catalog_from([(u, i, START + d * DAY) for u, i, d in days], n_items=4, **categories)
    model = toy_model("recent-pop:category", catalog)
    batch = history_batch(model, [[3, 1], [1, 3]], times=[[START, START + 11 * DAY]] * 2)
    order = model.score(batch).argsort(dim=1, descending=True, stable=True) + 1
    assert order[0].tolist() == [2, 3, 4, 1]
    assert order[1].tolist() == [3, 2, 4, 1]
    none = replace(catalog, category_ids=None, category_offsets=None, n_categories=0)
    plain, without = toy_model("recent-pop", catalog), toy_model("recent-pop:category", none)
    assert torch.equal(plain.score(batch), without.score(batch))


def test_settings_that_mean_nothing_together_are_refused() -> None:
    catalog = printed_catalog()
    with pytest.raises(UsageError, match="set window_days"):
        toy_model("recent-pop:trend", catalog, window_days=0.0)
    for setting in ({"count": "users"}, {"exclude_own": True}):
        with pytest.raises(UsageError, match="weighs single events"):
            toy_model("recent-pop:decay", catalog, **setting)


def test_the_record_says_how_much_a_window_holds() -> None:
    """Times in milliseconds, or windows in seconds, would leave each event alone in its window."""
    catalog = printed_catalog()
    assert toy_model("recent-pop", catalog).extra_state() == {"median_window_events": 3}
    assert toy_model("recent-pop", catalog, window_days=1e-4).extra_state() == {"median_window_events": 1}
    assert toy_model("recent-pop", catalog, window_days=0.0).extra_state() == {}


@pytest.mark.parametrize("setting", FORMS, ids=str)
def test_neither_precision_nor_seed_matters(setting: dict[str, Any]) -> None:
    catalog = toy_catalog()
    model = toy_model("recent-pop", catalog, seed=1, **setting)
    batch = history_batch(model, [[5, 3, 4, 3], [2]], users=[4, 4])
    before = model.score(batch)
    assert torch.equal(model.to(torch.float32).score(batch), before)
    assert torch.equal(toy_model("recent-pop", catalog, seed=2, **setting).score(batch), before)
    assert not list(model.parameters())
