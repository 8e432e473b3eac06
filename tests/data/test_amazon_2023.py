"""Amazon Reviews 2023: parent_asin, milliseconds, pictures in several sizes."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbench.data.amazon import read_meta, read_reviews
from tests.data.preparing import history, made
from tests.data.raw_files import write_lines

EDITION = "amazon-2023"
TABLE = """
title = "Mine"
parser = "amazon-2023"
files.interactions = { name = "Demo.jsonl.gz" }
files.items = { name = "meta_Demo.jsonl.gz" }
images = { name = "images", member = "{id}.jpg" }
"""
LATE = 1_683_000_000_000  # 2023 in milliseconds; neighbours in float32 are 131,072 of them apart


def review(user: str, item: str, time: int, **change: Any) -> str:
    record = {
        "rating": 4.0, "title": "Good", "text": "Bought \"it\".", "images": [], "asin": f"{item}-red",
        "parent_asin": item, "user_id": user, "timestamp": time, "helpful_vote": 0, "verified_purchase": True,
    }  # fmt: skip
    return json.dumps({**record, **change})


def meta(**change: Any) -> str:
    record = {
        "main_category": "All Beauty",
        "title": "Brush &amp; Comb",
        "features": ["Soft.", "Light."],
        "description": ["One.", "Two."],
        "price": "None",
        "images": [
            {"thumb": "t2", "large": "l2", "variant": "PT01", "hi_res": "h2"},
            {"thumb": "t1", "large": "l1", "variant": "MAIN", "hi_res": None},
        ],
        "store": "Acme",
        "categories": ["Beauty & Personal Care", "Hair"],
        "details": {"Color": "red"},
        "parent_asin": "x",
        "bought_together": None,
    }
    return json.dumps({**record, **change})


def test_reviews_are_of_the_parent_item(tmp_path: Path) -> None:
    lines = [
        review("a", "x", LATE),
        review("a", "y", LATE + 1, rating=None),
        review("b", "x", LATE, rating=1),
    ]
    events, notes = read_reviews(write_lines(tmp_path / "r.jsonl.gz", lines), edition=EDITION)
    assert (events.user_names, events.item_names, notes) == (["a", "b"], ["x", "y"], [])
    assert events.ticks.tolist() == [LATE * 1000, (LATE + 1) * 1000, LATE * 1000]
    assert events.rating is not None
    assert np.array_equal(events.rating, [4.0, np.nan, 1.0], equal_nan=True)


def test_malformed_lines_are_counted_with_their_number(tmp_path: Path) -> None:
    good = [review("a", f"x{number}", LATE) for number in range(40)]
    bad = [
        review("a", "x", LATE, timestamp="soon"),
        review("a", "x", LATE, parent_asin=None),
        '{"user_id": "a"}',
    ]
    events, (note,) = read_reviews(write_lines(tmp_path / "r.jsonl", [*good, *bad]), edition=EDITION)
    assert len(events) == 40
    assert note.startswith(
        "r.jsonl: 3 of 43 lines malformed, skipped (line 41: timestamp 'soon' is not a number; "
    )
    assert "line 42: parent_asin None is not text; line 43: no field 'parent_asin'" in note


def test_peer_bug_float32_milliseconds(tmp_path: Path, declare) -> None:
    """RecBole keeps times as float32: 131 s become one moment. Here milliseconds decide, under every tie rule."""
    assert len({float(np.float32(LATE + step)) for step in range(6)}) == 1
    items = list("pqrstu")
    rows = [review(user, item, LATE + step) for user in "abcdef" for step, item in enumerate(items)]
    raw = declare(TABLE)
    write_lines(raw / "Demo.jsonl.gz", rows[::-1])
    write_lines(raw / "meta_Demo.jsonl.gz", [meta(parent_asin=item) for item in items])
    for ties in ("file", "reverse", "random:1"):
        prepared = made(tmp_path, ties=ties)
        assert all(history(prepared, user) == items for user in prepared.user_ids)
        assert prepared.manifest.statistics.tied_neighbours == 0.0
        assert set(prepared.times.tolist()) == {LATE // 1000}
        assert prepared.times.dtype == np.int64


def test_seconds_of_2023_stay_apart(tmp_path: Path, declare) -> None:
    raw = declare(TABLE)
    steps = [0, 1, 2, 130, 131, 132]
    rows = [
        review(user, item, LATE + 1000 * step)
        for user in "abcdef"
        for step, item in zip(steps, "pqrstu", strict=True)
    ]
    write_lines(raw / "Demo.jsonl.gz", rows)
    write_lines(raw / "meta_Demo.jsonl.gz", [meta(parent_asin="p")])
    prepared = made(tmp_path)
    assert [b - a for a, b in pairwise(prepared.times[:6].tolist())] == [1, 1, 128, 1, 1]


def read_one(tmp_path: Path, line: str, **options: Any) -> Any:
    items, _ = read_meta(write_lines(tmp_path / "m.jsonl.gz", [line]), {"x"}, edition=EDITION, **options)
    return items["x"]


def test_meta(tmp_path: Path) -> None:
    item = read_one(tmp_path, meta(), fields=["features", "description"])
    assert (item.title, item.brand, item.image_url) == ("Brush & Comb", "Acme", "l1")
    assert item.categories == [["Beauty & Personal Care", "Hair"]]
    assert item.fields == {"features": "Soft. Light.", "description": "One. Two."}
    assert read_one(tmp_path, meta(categories=[])).categories == [["All Beauty"]]
    assert read_one(tmp_path, meta(categories=[], main_category=None)).categories == []


@pytest.mark.parametrize(
    ("images", "url"),
    [
        ([], ""),
        (None, ""),
        ("l1", ""),
        ([{"variant": "MAIN"}, {"hi_res": "h", "variant": "PT01"}], "h"),
        ([{"thumb": "t"}, 3, None], "t"),
        ({"hi_res": [None, "h2"], "large": ["l1", "l2"], "variant": ["PT01", "MAIN"]}, "l2"),
        ({"hi_res": None, "large": ["l1"]}, "l1"),
    ],
)
def test_the_main_picture_in_a_usual_size(tmp_path: Path, images: Any, url: str) -> None:
    assert read_one(tmp_path, meta(images=images)).image_url == url


def test_meta_of_unwanted_items_is_not_parsed(tmp_path: Path) -> None:
    """The id is not a first key; a text that quotes it does not pass for it."""
    lines = [meta(parent_asin="other")[:-5], meta(title='He said {"parent_asin": "other"}')]
    items, notes = read_meta(write_lines(tmp_path / "m.jsonl", lines), {"x"}, edition=EDITION)
    assert (list(items), notes) == (["x"], [])


def test_prepared_from_end_to_end(tmp_path: Path, declare) -> None:
    raw = declare(TABLE + 'text_fields = ["title", "features"]')
    rows = [review(f"u{u}", f"i{i}", LATE + 86_400_000 * i) for u in range(6) for i in range(6)]
    write_lines(raw / "Demo.jsonl.gz", rows)
    write_lines(raw / "meta_Demo.jsonl.gz", [meta(parent_asin=f"i{i}") for i in range(6)])
    record = made(tmp_path).item_records[0]
    assert (record["text"], record["image"], record["image_url"]) == (
        "Brush & Comb. Soft. Light.",
        "i0.jpg",
        "l1",
    )
    assert "description" not in record
