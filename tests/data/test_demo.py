"""The demo's planted truth, found without a deep model: by the oracle that knows it, and by counting alone."""

import ast
import gzip
import io
import json
import zipfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmbench.atomic import hash_file
from mmbench.data import demo
from mmbench.data.demo import (
    CATEGORIES,
    N_HOME,
    N_SEASONS,
    N_STYLES,
    Demo,
    generate,
    oracle_scores,
    season_of,
)
from mmbench.errors import UsageError
from mmbench.features.image import ColourGradient
from mmbench.features.text import TfidfSvd

SMALL = {"n_users": 30, "n_items": 80}


@pytest.fixture(scope="module")
def timed() -> Demo:
    return generate()


@pytest.fixture(scope="module")
def untimed() -> Demo:
    return generate(time_signal=False)


def oracle_hits(shop: Demo, *, use_time: bool, companions: bool | None = None) -> float:
    """HR@10 of the oracle on the last event of each history (only companions or only anchors, if asked)."""
    hits = []
    for items, times in shop.histories():
        if companions is None or companions == (len(items) % 2 == 0):
            scores = oracle_scores(shop, items[:-1], times[:-1], use_time=use_time)
            hits.append((scores > scores[items[-1]]).sum() < 10)
    return float(np.mean(hits))


def test_size_is_what_a_five_core_keeps(timed: Demo) -> None:
    per_item, per_user = np.bincount(timed.item, minlength=500), np.bincount(timed.user)
    assert (len(per_user), len(per_item)) == (1000, 500)
    assert per_user.min() >= 9
    assert 12 <= per_user.mean() <= 14
    assert (per_item < 5).sum() <= 5
    pairs = Counter(zip(timed.user.tolist(), timed.item.tolist(), strict=True))
    assert max(pairs.values()) == 1


def test_events_are_in_order_without_ties(timed: Demo, untimed: Demo) -> None:
    for shop in (timed, untimed):
        assert all((np.diff(times) > 0).all() for _, times in shop.histories())


def test_visits_are_saturdays_and_sundays_of_the_first_weekend(timed: Demo) -> None:
    for _, times in timed.histories()[:50]:
        days = [datetime.fromtimestamp(int(one), tz=UTC) for one in times]
        assert [day.weekday() for day in days] == [5 + k % 2 for k in range(len(days))]
        assert all(day.day <= 8 and (day.hour, day.minute) == (0, 0) for day in days)


def test_without_time_signal_only_the_dates_differ(timed: Demo, untimed: Demo) -> None:
    np.testing.assert_array_equal(timed.user, untimed.user)
    np.testing.assert_array_equal(timed.item, untimed.item)
    assert timed.title == untimed.title
    assert (timed.time != untimed.time).mean() > 0.9
    gaps = [
        np.concatenate([np.diff(t) for _, t in shop.histories()]) // demo.DAY for shop in (timed, untimed)
    ]
    assert abs(gaps[0].mean() / gaps[1].mean() - 1) < 0.03  # the same distribution


def companions(shop: Demo) -> list[tuple[int, int, bool, int]]:
    """(category of the anchor, category of the companion, long gap before the visit, its season)."""
    found = []
    for items, times in shop.histories():
        for k in range(1, len(items), 2):
            long = k == 1 or times[k - 1] - times[k - 2] > 62 * demo.DAY
            category = shop.category[items[k - 1 : k + 1]]
            found.append((int(category[0]), int(category[1]), bool(long), season_of(times[k - 1])))
    return found


def test_gap_and_season_decide_the_companion(timed: Demo, untimed: Demo) -> None:
    kept = 1 - 2 * demo.P_NOISE
    long = [companion == N_HOME + season for _, companion, is_long, season in companions(timed) if is_long]
    short = [companion == anchor for anchor, companion, is_long, _ in companions(timed) if not is_long]
    assert np.mean(long) > kept
    assert np.mean(short) > kept
    long = [companion == N_HOME + season for _, companion, is_long, season in companions(untimed) if is_long]
    short = [companion == anchor for anchor, companion, is_long, _ in companions(untimed) if not is_long]
    assert np.mean(long) < 0.3
    assert np.mean(short) < 0.6


def test_style_drifts_around_the_ring(timed: Demo) -> None:
    steps = Counter()
    for items, times in timed.histories():
        style = timed.style[items]
        steps.update(
            ((style[-1] - style[0]) % N_STYLES).tolist() for _ in [0] if times[-1] - times[0] < 274 * demo.DAY
        )
    assert steps[0] + steps[1] > 0.8 * sum(steps.values())
    first = np.array([timed.style[items[0]] == timed.style[items[-1]] for items, _ in timed.histories()])
    last = np.array([timed.style[items[-2]] == timed.style[items[-1]] for items, _ in timed.histories()])
    assert last.mean() > first.mean() + 0.3


def test_oracle_gains_from_time_only_where_time_tells(timed: Demo, untimed: Demo) -> None:
    """Measured: .827 with, .484 without time; on companions .922 and .432."""
    assert oracle_hits(timed, use_time=True) > oracle_hits(timed, use_time=False) + 0.25
    assert oracle_hits(timed, use_time=True, companions=True) > 0.85
    assert oracle_hits(timed, use_time=False, companions=True) < 0.55
    same = [oracle_hits(timed, use_time=flag, companions=False) for flag in (True, False)]
    assert same[0] == same[1]
    assert oracle_hits(untimed, use_time=True) < oracle_hits(untimed, use_time=False)
    assert oracle_hits(untimed, use_time=False) == oracle_hits(timed, use_time=False)


def counted_hits(shop: Demo, *, use_time: bool) -> float:
    """HR@10 of counts from training events: next category given the last one (and gap and season), last style."""
    context = lambda items, times: (  # noqa: E731
        int(shop.category[items[-1]]),
        *(
            (len(items) < 2 or times[-1] - times[-2] > 62 * demo.DAY, season_of(times[-1]))
            if use_time
            else ()
        ),
    )
    counts: dict[tuple[int, ...], np.ndarray] = {}
    popular = np.zeros(shop.n_items)
    for items, times in shop.histories():
        popular[items[:-2]] += 1
        for k in range(1, len(items) - 2):
            table = counts.setdefault(context(items[:k], times[:k]), np.zeros(len(CATEGORIES)))
            table[shop.category[items[k]]] += 1
    hits = []
    for items, times in shop.histories():
        table = counts.get(context(items[:-1], times[:-1]), np.zeros(len(CATEGORIES)))
        same_style = shop.style == shop.style[items[-2]]
        scores = (table[shop.category] + 0.1) * np.where(same_style, 1, 0.1) * (popular + 1)
        hits.append((scores > scores[items[-1]]).sum() < 10)
    return float(np.mean(hits))


def test_counting_finds_the_time_signal(timed: Demo, untimed: Demo) -> None:
    """No knowledge of the rules but the right features: time must pay with the signal and not without."""
    assert counted_hits(timed, use_time=True) > counted_hits(timed, use_time=False) + 0.15
    assert counted_hits(untimed, use_time=True) < counted_hits(untimed, use_time=False) + 0.02


def test_popularity_alone_is_weak(timed: Demo) -> None:
    train = np.concatenate([items[:-2] for items, _ in timed.histories()])
    top = np.bincount(train, minlength=500).argsort()[::-1][:10]
    assert np.mean([items[-1] in top for items, _ in timed.histories()]) < 0.06


def test_pictures_show_the_style_and_texts_name_the_category() -> None:
    """Nearest neighbour in each modality: style only in the picture, brand only in the text."""
    shop = generate(n_users=10, n_items=240)
    images, _ = ColourGradient().encode(Image.open(io.BytesIO(one)) for one in demo.pictures(shop))
    texts, _ = TfidfSvd().encode(
        f"{title}. {CATEGORIES[c][0]} {CATEGORIES[c][1]}. {demo.BRANDS[b]}"
        for title, c, b in zip(shop.title, shop.category, shop.brand, strict=True)
    )
    share = {}
    for modality, values in (("image", images), ("text", texts)):
        near = values @ values.T
        np.fill_diagonal(near, -1)
        for name, label in (("style", shop.style), ("category", shop.category), ("brand", shop.brand)):
            share[modality, name] = (label[near.argmax(axis=1)] == label).mean()
    assert share["image", "style"] > 0.95
    assert share["text", "style"] < 0.3  # chance is .17
    assert share["text", "category"] > 0.95
    assert share["text", "brand"] > 0.35
    assert share["image", "brand"] < 0.2  # chance is .10


def test_files_are_the_raw_amazon_format(tmp_path: Path) -> None:
    demo.write_raw(tmp_path, **SMALL)
    shop = generate(**SMALL)
    with gzip.open(tmp_path / "reviews_Demo_5.json.gz", "rt") as file:
        reviews = [json.loads(line) for line in file]
    found = {(one["reviewerID"], one["asin"], one["unixReviewTime"]) for one in reviews}
    known = zip(shop.user, shop.item, shop.time, strict=True)
    assert found == {(shop.reviewers[user], shop.asins[item], int(time)) for user, item, time in known}
    assert [one["asin"] for one in reviews] == sorted(one["asin"] for one in reviews)
    assert {one["overall"] for one in reviews} <= {3.0, 4.0, 5.0}
    with gzip.open(tmp_path / "meta_Demo.json.gz", "rt") as file:
        items = [ast.literal_eval(line) for line in file]
    assert [one["asin"] for one in items] == shop.asins
    assert set(items[0]) == {"asin", "title", "brand", "categories"}
    assert all(path[0] == "Demo (synthetic)" for one in items for path in one["categories"])
    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        assert archive.namelist() == [f"{asin}.png" for asin in shop.asins]
        with Image.open(archive.open("DEMO000000.png")) as picture:
            assert (picture.mode, picture.size) == ("RGB", (72, 72))


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    names = ("reviews_Demo_5.json.gz", "meta_Demo.json.gz", "images.zip")
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        demo.write_raw(tmp_path / folder, seed=seed, **SMALL)
    for name in names:
        first, again, other = (hash_file(tmp_path / folder / name) for folder in "abc")
        assert first == again != other


def test_too_small_a_shop_is_refused() -> None:
    smallest = len(CATEGORIES) * N_STYLES
    assert generate(n_users=1, n_items=smallest).n_items == smallest
    with pytest.raises(UsageError, match=f"at least {smallest} items"):
        generate(n_items=smallest - 1)
    with pytest.raises(UsageError, match="1 user"):
        generate(n_users=0)


def test_seasons_cover_the_year() -> None:
    months = [demo.market_day(month) for month in range(12)]
    assert Counter(season_of(one) for one in months) == dict.fromkeys(range(N_SEASONS), 3)
    assert demo.market_day(0) == 1_262_390_400  # Saturday 2010-01-02 00:00 UTC
