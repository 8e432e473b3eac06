"""Amazon's two editions: reviews and metadata."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmbench.data.amazon import read_meta, read_reviews
from mmbench.data.timestamps import TICKS
from mmbench.errors import DataError
from tests.data.raw_files import START, review, write_lines


def test_reviews_in_file_order_as_int64(tmp_path: Path) -> None:
    events = [("b", "y", START + 1), ("a", "x", START), ("b", "x", START)]
    read, notes = read_reviews(
        write_lines(tmp_path / "r.json.gz", (review(*event) for event in events)), edition="amazon-2014"
    )
    actual = [
        (read.user_names[u], read.item_names[i], int(t) // TICKS)
        for u, i, t in zip(read.user, read.item, read.ticks, strict=True)
    ]
    assert (actual, notes, read.ticks.dtype, read.has_times) == (events, [], "int64", True)


BAD_REVIEWS = [
    ("{", "not JSON"),
    ("[1]", "not a JSON object"),
    ('{"reviewerID": "a", "asin": "x"}', "no field 'unixReviewTime'"),
    ('{"reviewerid": "a", "asin": "x", "unixReviewTime": 1}', "did you mean 'reviewerid'"),
    ('{"reviewerID": "", "asin": "x", "unixReviewTime": 1}', "reviewerID is empty"),
    ('{"reviewerID": "a", "asin": "x", "unixReviewTime": "soon"}', "timestamp 'soon' is not a number"),
    ("\xff", "not JSON"),
    ("[" * 100_000, "not JSON"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_REVIEWS)
def test_malformed_review_is_skipped_and_shown(tmp_path: Path, line: str, reason: str) -> None:
    lines = [review("a", f"x{number}", START) for number in range(20)]
    file = write_lines(tmp_path / "r.json", [*lines[:2], line, *lines[2:]])
    read, (note,) = read_reviews(file, edition="amazon-2014")
    assert len(read) == 20
    assert "line 3: " in note
    assert reason in note


def test_too_many_malformed_reviews(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "r.json", [review("a", "x", START), "{", "{"])
    with pytest.raises(DataError, match=r"r\.json: 2 of 3 lines are malformed \(line 2: not JSON"):
        read_reviews(file, edition="amazon-2014")
    with pytest.raises(DataError, match="is empty"):
        read_reviews(write_lines(tmp_path / "e.json.gz", []), edition="amazon-2014")


META_2014 = {
    "asin": "x",
    "title": 'Salt &amp; "Pepper"',
    "brand": "Acme",
    "categories": [["Root", "Food"], ["Root", "Kitchen &amp; Co"]],
    "imUrl": "http://a/x.jpg",
    "price": 3.5,
    "related": {"also_bought": ["y"]},
}


def test_meta_2014_is_python_literals(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "m.json.gz", [repr(META_2014), repr({"asin": "other", "title": "o"})])
    items, notes = read_meta(file, {"x", "absent"}, edition="amazon-2014")
    assert (list(items), notes) == (["x"], [])
    item = items["x"]
    assert (item.title, item.brand, item.image_url) == ("Salt & Pepper", "Acme", "http://a/x.jpg")
    assert item.categories == [["Root", "Food"], ["Root", "Kitchen & Co"]]


def test_meta_2014_never_runs_code(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    code = f"{{'asin': 'x', 'title': __import__('pathlib').Path({str(mark)!r}).touch()}}"
    good = [repr({"asin": "x", "title": f"t{number}"}) for number in range(20)]
    _, notes = read_meta(write_lines(tmp_path / "m.json", [*good, code]), {"x"}, edition="amazon-2014")
    assert not mark.exists()
    assert "line 21: not a Python literal" in notes[0]


def test_meta_of_unwanted_items_is_not_parsed(tmp_path: Path) -> None:
    """Most of a category's metadata is of items that nobody kept; damage there does not matter."""
    file = write_lines(
        tmp_path / "m.json", ["{'asin': 'other', 'title': ", repr({"title": "t", "asin": "x"})]
    )
    items, notes = read_meta(file, {"x"}, edition="amazon-2014")
    assert (items["x"].title, notes) == ("t", [])


def meta_2018(**change: object) -> str:
    record = {
        "asin": "x",
        "title": "T",
        "brand": "B",
        "category": ["Root", "Food"],
        "imageURLHighRes": ["u1", "u2"],
    }
    return json.dumps({**record, **change})


def test_meta_2018(tmp_path: Path) -> None:
    lines = [meta_2018(title="<span>T &amp;amp; T</span>", imageURL=["low"], description=["a", "b"])]
    file = write_lines(tmp_path / "m.json.gz", lines)
    items, _ = read_meta(file, {"x"}, edition="amazon-2018", fields=["description"])
    item = items["x"]
    assert (item.title, item.categories, item.image_url) == ("T & T", [["Root", "Food"]], "u1")
    assert item.fields == {"description": "a b"}


def test_meta_2018_blank_fields(tmp_path: Path) -> None:
    line = meta_2018(title="", brand=None, category=[], imageURLHighRes=[])
    items, _ = read_meta(write_lines(tmp_path / "m.json", [line]), {"x"}, edition="amazon-2018")
    item = items["x"]
    assert (item.title, item.brand, item.categories, item.image_url) == ("", "", [], "")


def test_same_asin_twice_is_one_item(tmp_path: Path) -> None:
    lines = [
        meta_2018(brand="", imageURLHighRes=[]),
        meta_2018(title="Other", brand="Late"),
        meta_2018(brand="Last"),
    ]
    items, notes = read_meta(write_lines(tmp_path / "m.json", lines), {"x"}, edition="amazon-2018")
    item = items["x"]
    assert (item.title, item.brand, item.image_url) == ("T", "Late", "u1")
    assert notes == ["m.json: 2 entries repeat an asin; blanks of the first were filled from them"]


def test_page_script_titles_are_blank_and_counted(tmp_path: Path) -> None:
    lines = [meta_2018(title="var aPageStart = (new Date()).getTime();")]
    items, notes = read_meta(write_lines(tmp_path / "m.json", lines), {"x"}, edition="amazon-2018")
    assert items["x"].title == ""
    assert notes == ["m.json: 1 titles are page script and were left blank"]


def test_ratings_are_read_but_decide_nothing(tmp_path: Path) -> None:
    """A review without a rating, or with a broken one, is an interaction like any other."""
    ratings = [
        {"overall": 5.0},
        {},
        {"overall": "4"},
        {"overall": None},
        {"overall": "good"},
        {"overall": [1]},
    ]
    lines = [
        json.dumps({"reviewerID": "a", "asin": f"x{number}", "unixReviewTime": START, **rating})
        for number, rating in enumerate(ratings)
    ]
    read, notes = read_reviews(write_lines(tmp_path / "r.json", lines), edition="amazon-2018")
    assert notes == []
    assert read.rating is not None
    assert read.rating.dtype == "float32"
    assert np.array_equal(read.rating, [5, np.nan, 4, np.nan, np.nan, np.nan], equal_nan=True)
    read, _ = read_reviews(write_lines(tmp_path / "r.json", lines[1:2]), edition="amazon-2018")
    assert read.rating is None


def test_meta_2018_as_published(tmp_path: Path) -> None:
    """Fields of the release's own description: HTML titles, low and high resolution lists, ids used twice, prices."""
    published = {
        "asin": "x", "title": "Girls Ballet Tutu &lt;b&gt;Zebra&lt;/b&gt; Hot Pink", "feature": ["Botiquecutie"],
        "price": 3.17, "imageURL": ["low"], "imageURLHighRes": ["high1", "high2"], "also_buy": ["y"],
        "salesRank": {"Toys & Games": 211836}, "brand": "Coxlures", "similar_item": "<div>{\"asin\": \"y\"}</div>",
        "categories": [["Sports & Outdoors", "Other Sports"]],
    }  # fmt: skip
    lines = [json.dumps({"category": [], **published}), json.dumps({**published, "asin": "y"})]
    items, notes = read_meta(write_lines(tmp_path / "m.json.gz", lines), {"x"}, edition="amazon-2018")
    assert (list(items), notes) == (["x"], [])
    assert (items["x"].title, items["x"].image_url) == ("Girls Ballet Tutu Zebra Hot Pink", "high1")
