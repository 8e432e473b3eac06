"""Yelp and MicroLens from small files of their formats."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmbench.data.catalog import read_catalog
from mmbench.data.images import list_images
from mmbench.data.parsers import parse
from mmbench.data.prepare import prepare
from mmbench.data.raw import RawData
from mmbench.data.raw_files import RawFilesMissingError
from mmbench.errors import DataError
from mmbench.paths import datasets_file
from tests.data.preparing import history
from tests.data.raw_files import write_lines

REVIEWS, BUSINESSES = "yelp_academic_dataset_review.json", "yelp_academic_dataset_business.json"


def review(user: str, business: str, date: str, **change: Any) -> str:
    record = {
        "review_id": f"{user}-{business}", "user_id": user, "business_id": business, "stars": 3.0, "useful": 0,
        "funny": 0, "cool": 0, "text": "Nice.\nBig portions.", "date": date,
    }  # fmt: skip
    return json.dumps({**record, **change})


def business(key: str, **change: Any) -> str:
    record = {
        "business_id": key, "name": f"Joe &amp; {key}", "address": "1 Main St", "city": "Reno", "state": "NV",
        "postal_code": "89501", "latitude": 39.5, "longitude": -119.8, "stars": 4.0, "review_count": 9, "is_open": 1,
        "attributes": {"WiFi": "u'free'"}, "categories": "Food, Coffee & Tea", "hours": None,
    }  # fmt: skip
    return json.dumps({**record, **change})


def write_yelp(folder: Path, photos: bool = False) -> Path:
    write_lines(
        folder / REVIEWS,
        [
            review(f"u{u}", f"b{b}", f"2018-07-0{b + 1} 22:09:1{u}", stars=u)
            for u in range(6)
            for b in range(6)
        ],
    )
    write_lines(folder / BUSINESSES, [business(f"b{b}") for b in range(5)] + [business("closed")])
    if photos:
        shots = [("p1", "b1"), ("p2", "b1"), ("p3", "b0"), ("p4", "closed")]
        lines = [
            json.dumps({"photo_id": p, "business_id": b, "caption": "", "label": "food"}) for p, b in shots
        ]
        write_lines(folder / "photos.json", lines)
    return folder


def shipped(name: str, folder: Path) -> RawData:
    spec = read_catalog(datasets_file())[name]
    return parse(spec, folder, list_images(spec.images, folder), lambda message: None)


def test_yelp(tmp_path: Path) -> None:
    data = shipped("yelp", write_yelp(tmp_path))
    assert len(data.events) == 36
    assert (data.events.user_names[0], data.events.item_names[:2]) == ("u0", ["b0", "b1"])
    assert data.events.ticks[0] == 1_530_482_950_000_000  # 2018-07-01 22:09:10 UTC
    assert data.events.rating is not None
    assert data.events.rating[6] == 1.0
    item = data.items["b0"]
    assert (item.title, item.categories, item.image) == ("Joe & b0", [["Food"], ["Coffee & Tea"]], None)
    assert "closed" not in data.items
    assert data.items["b5"].title == ""  # reviewed, but not in the business file


def test_yelp_photos(tmp_path: Path) -> None:
    """The first photo of a business; once pictures are there, the first of those."""
    folder = write_yelp(tmp_path, photos=True)
    images = {key: item.image for key, item in shipped("yelp", folder).items.items()}
    assert images == {"b0": "p3.jpg", "b1": "p1.jpg", "b2": None, "b3": None, "b4": None, "b5": None}
    (folder / "photos").mkdir()
    (folder / "photos" / "p2.jpg").write_bytes(b"x")
    assert shipped("yelp", folder).items["b1"].image == "p2.jpg"


def test_yelp_is_prepared_again_when_photos_come(tmp_path: Path) -> None:
    folder = write_yelp(tmp_path / "raw")
    first = prepare("yelp", tmp_path / "data", raw=folder).prepared
    assert history(first, "u3") == [f"b{b}" for b in range(6)]
    assert not prepare("yelp", tmp_path / "data", raw=folder).fresh
    write_yelp(folder, photos=True)
    second = prepare("yelp", tmp_path / "data", raw=folder)
    assert second.fresh
    assert [record["image"] for record in second.prepared.item_records[:3]] == ["p3.jpg", "p1.jpg", None]
    assert [facts.file for facts in second.prepared.manifest.raw] == [REVIEWS, BUSINESSES, "photos.json"]


def test_yelp_fields_of_other_types(tmp_path: Path) -> None:
    folder = write_yelp(tmp_path)
    odd = [business("b0", categories=None), business("b1", categories=["A", "B"]), business("b2", name=None)]
    write_lines(folder / BUSINESSES, [*odd, business("b0", name="other", categories="C")])
    data = shipped("yelp", folder)
    assert (data.items["b0"].title, data.items["b0"].categories) == ("Joe & b0", [["C"]])
    assert data.items["b1"].categories == [["A"], ["B"]]
    assert data.items["b2"].title == ""
    assert f"{BUSINESSES}: 1 entries repeat a business_id" in data.notes[0]


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        (REVIEWS, review("u", "b", "yesterday"), "line 37: timestamp 'yesterday' is not an ISO date"),
        (REVIEWS, review("u", "", "2018-07-07 22:09:11"), "line 37: business_id is empty"),
        (BUSINESSES, "{", "line 7: not JSON"),
        ("photos.json", '{"photo_id": "p"}', "line 5: no field 'business_id'"),
    ],
)
def test_yelp_malformed_lines(tmp_path: Path, name: str, line: str, message: str) -> None:
    """Few among many are skipped and noted; one of three is too many."""
    folder = write_yelp(tmp_path, photos=True)
    lines = (folder / name).read_text(encoding="utf-8").splitlines()
    write_lines(folder / name, [*lines, line, *lines[:1] * 40])
    assert message in " ".join(shipped("yelp", folder).notes)
    write_lines(folder / name, [*lines[:2], line])
    with pytest.raises(DataError, match="1 of 3 lines are malformed"):
        shipped("yelp", folder)


def write_pairs(folder: Path, size: str) -> list[str]:
    pairs = [("u1", "7", 1_600_000_000_001), ("u1", "10", 1_600_000_000_000), ("u2", "7", 1_600_000_000_002)]
    lines = ["user,item,timestamp", *(",".join(map(str, pair)) for pair in pairs)]
    write_lines(folder / f"MicroLens-{size}_pairs.csv", lines)
    covers = folder / f"MicroLens-{size}_covers"
    covers.mkdir()
    (covers / "7.jpg").write_bytes(b"x")
    return ["7", "10"]


def test_microlens_50k(tmp_path: Path) -> None:
    write_pairs(tmp_path, "50k")
    write_lines(tmp_path / "MicroLens-50k_titles.csv", ["item,title", '7,"One, two"', "10,Ten"])
    data = shipped("microlens-50k", tmp_path)
    assert data.events.ticks.tolist() == [1_600_000_000_001_000, 1_600_000_000_000_000, 1_600_000_000_002_000]
    assert (data.items["7"].title, data.items["10"].title) == ("One, two", "Ten")
    assert data.items["7"].image == "7.jpg"


@pytest.mark.parametrize("header", [[], ["item,title"]])
def test_microlens_100k_titles_are_all_after_the_first_comma(tmp_path: Path, header: list[str]) -> None:
    write_pairs(tmp_path, "100k")
    lines = [*header, "7,One, two, &amp; three", '10,"Quoted, title"', "99,unseen"]
    text = "".join(f"{line}\n" for line in lines)
    (tmp_path / "MicroLens-100k_title_en.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    data = shipped("microlens-100k", tmp_path)
    assert (data.items["7"].title, data.items["10"].title) == ("One, two, & three", "Quoted, title")
    assert (data.items["7"].image, data.items["10"].image) == ("7.jpg", None)
    assert "99" not in data.items


def test_microlens_titles_that_only_begin_with_a_quotation(tmp_path: Path) -> None:
    write_pairs(tmp_path, "100k")
    good = [f"{number},title" for number in range(100, 130)]
    lines = ['7,"Wow" he said, twice', "no comma", '10,"open, never closed', *good, "7,again"]
    write_lines(tmp_path / "MicroLens-100k_title_en.csv", lines)
    data = shipped("microlens-100k", tmp_path)
    assert data.items["7"].title == "Wow he said, twice"
    assert data.items["10"].title == "open, never closed"
    assert "line 2: no comma between item and title" in data.notes[0]
    assert "1 lines repeat an item" in data.notes[1]


@pytest.mark.parametrize("name", ["yelp", "microlens-50k", "microlens-100k"])
def test_missing_files_come_with_instructions(tmp_path: Path, name: str) -> None:
    with pytest.raises(RawFilesMissingError) as caught:
        prepare(name, tmp_path)
    assert "https://" in caught.value.spec.notes
    assert "raw folder" in caught.value.spec.notes
    assert "\n" not in str(caught.value)
