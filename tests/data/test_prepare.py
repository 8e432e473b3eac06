"""From raw files to prepared data: protocols, identity, idempotence, errors."""

import json
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mmbench.data.prepare import category_vocabulary, prepare
from mmbench.errors import DataError
from tests.data.preparing import history, made
from tests.data.raw_files import AMAZON_2014, DAY, START, TABLE, TIED, grid, write_2014, write_lines


def test_arrays_ids_and_manifest(tmp_path: Path, declare) -> None:
    raw = declare(AMAZON_2014)
    events = grid()
    write_2014(raw, [*events, ("stray", "i0", START), ("u0", "rare", START)])
    prepared = made(tmp_path)
    assert (prepared.n_users, prepared.n_items, len(prepared.items)) == (6, 6, 36)
    assert prepared.user_ids == [f"u{number}" for number in range(6)]
    assert [record["id"] for record in prepared.item_records] == [f"i{number}" for number in range(6)]
    assert (prepared.items.dtype, prepared.times.dtype, prepared.offsets.tolist()) == (
        "int32",
        "int64",
        list(range(0, 37, 6)),
    )
    for user in prepared.user_ids:
        assert history(prepared, user) == [item for who, item, _ in events if who == user]
    assert prepared.times[:6].tolist() == [START + step * DAY for step in range(6)]
    manifest = prepared.manifest
    assert manifest.statistics.raw.interactions == 38
    assert {file.file for file in manifest.raw} == {"reviews_Demo_5.json.gz", "meta_Demo.json.gz"}
    assert (manifest.name, manifest.dataset, manifest.printed, manifest.images) == (
        "mine",
        "mine",
        None,
        None,
    )
    assert prepared.item_records[0]["text"] == "Title i0. Root, Node i0."
    prepared.verify()


def test_ids_are_numbered_as_text_whatever_the_order_of_the_file(tmp_path: Path, declare) -> None:
    raw = declare(AMAZON_2014)
    events = [(user.replace("u", "1" if user == "u3" else "10"), item, time) for user, item, time in grid()]
    write_2014(raw, events)
    first = made(tmp_path)
    assert first.user_ids == sorted(first.user_ids) == ["100", "101", "102", "104", "105", "13"]
    write_2014(raw, events[::-1])
    second = made(tmp_path)
    assert first.manifest.raw != second.manifest.raw
    assert first.hash == second.hash


def test_tie_rules_make_data_sets_side_by_side(tmp_path: Path, declare) -> None:
    write_2014(declare(AMAZON_2014), TIED)
    ties = ["file", "reverse", "random:1", "random:2"]
    actual = {tie: made(tmp_path, ties=tie) for tie in ties}
    assert [prepared.name for prepared in actual.values()] == [
        "mine",
        "mine@reverse",
        "mine@random:1",
        "mine@random:2",
    ]
    orders = {order: history(prepared, "a") for order, prepared in actual.items()}
    assert orders["file"] == list("pqrstu")
    assert orders["reverse"] == list("utsrqp")
    assert len({tuple(order) for order in orders.values()}) == 4
    assert all(sorted(order) == list("pqrstu") for order in orders.values())
    assert len({prepared.hash for prepared in actual.values()}) == 4
    assert len({prepared.items_hash for prepared in actual.values()}) == 1
    assert actual["file"].manifest.statistics.tied_neighbours == 1.0
    assert made(tmp_path, "mine@random:1").hash == actual["random:1"].hash


def test_tie_rule_does_not_touch_different_times(tmp_path: Path, declare) -> None:
    """int64 end to end: events one second apart keep their order under every tie rule."""
    events = [(user, item, START + step) for user in "abcdef" for step, item in enumerate("pqrstu")]
    write_2014(declare(AMAZON_2014), events[::-1])
    for ties in ("file", "reverse", "random:1"):
        assert history(made(tmp_path, ties=ties), "a") == list("pqrstu")


def test_milliseconds_decide_the_order_and_are_no_ties(tmp_path: Path, declare) -> None:
    raw = declare(TABLE + 'columns.interactions = { unit = "ms" }')
    rows = [
        f"{user}\t{item}\t{START * 1000 + step}" for user in "abcdef" for step, item in enumerate("pqrstu")
    ]
    write_lines(raw / "events.tsv", ["user\titem\ttimestamp", *rows[::-1]])
    write_lines(raw / "items.tsv", ["item\ttitle\tgenres", "p\tP\t"])
    prepared = made(tmp_path, ties="random:1")
    assert history(prepared, "a") == list("pqrstu")
    assert set(prepared.times.tolist()) == {START}
    assert prepared.manifest.statistics.tied_neighbours == 0.0


def test_exact_duplicates_go_or_stay_by_protocol(tmp_path: Path, declare) -> None:
    events = [*grid(), ("u0", "i0", START), ("u0", "i0", START + 1)]
    raw = declare(AMAZON_2014)
    write_2014(raw, events)
    assert len(made(tmp_path).items) == 37
    declare(AMAZON_2014 + 'filters = { duplicates = "keep" }')
    kept = made(tmp_path)
    assert len(kept.items) == 38
    assert kept.manifest.statistics.raw.duplicates == 1


def test_tmmsrec_drops_incomplete_items_before_counting_users(tmp_path: Path, declare) -> None:
    """A user with five events of which one is of an item without a picture has four."""
    raw = declare(AMAZON_2014 + 'images = { name = "images", member = "{id}.jpg" }')
    events = [("full", f"i{number}", START + number) for number in range(5)]
    events += [("short", f"i{number}", START + number) for number in (0, 1, 2, 3)] + [
        ("short", "bare", START + 9)
    ]
    events += [("full", "mute", START + 7)]
    meta = [{"asin": f"i{number}", "title": "T", "imUrl": "http://x"} for number in range(5)]
    meta += [{"asin": "bare", "title": "T"}, {"asin": "mute", "imUrl": "http://x"}]
    write_2014(raw, events, meta)
    prepared = made(tmp_path, protocol="tmmsrec")
    assert prepared.name == "mine@tmmsrec"
    assert prepared.user_ids == ["full"]
    assert history(prepared, "full") == [f"i{number}" for number in range(5)]
    assert prepared.manifest.statistics.raw.items_dropped_incomplete == 2
    assert prepared.item_records[0]["image"] == "i0.jpg"
    assert prepared.manifest.statistics.coverage.image == 0.0


def test_fetched_pictures_do_not_change_the_data(tmp_path: Path, declare) -> None:
    raw = declare(AMAZON_2014 + 'images = { name = "images", member = "{id}.jpg" }')
    meta = [{"asin": f"i{number}", "title": "T", "imUrl": "http://x"} for number in range(6)]
    write_2014(raw, grid(), meta)
    before = made(tmp_path, protocol="tmmsrec")
    (raw / "images").mkdir()
    (raw / "images" / "i1.jpg").write_bytes(b"x")
    after = prepare("mine@tmmsrec", tmp_path / "data")
    assert after.fresh
    assert after.prepared.hash == before.hash
    assert after.prepared.manifest.images.kind == "folder"
    assert after.prepared.manifest.statistics.coverage.n_without_image == 5


def test_pictures_in_a_zip(tmp_path: Path, declare) -> None:
    raw = declare(AMAZON_2014 + 'images = { name = "images", member = "{id}.png" }')
    write_2014(raw, grid())
    with zipfile.ZipFile(raw / "images.zip", "w") as archive:
        archive.writestr("i2.png", b"x")
    prepared = made(tmp_path)
    assert [record["image"] for record in prepared.item_records] == [None, None, "i2.png", None, None, None]
    assert prepared.manifest.images.path == str(raw / "images.zip")
    (raw / "images.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="not a readable zip"):
        made(tmp_path)


def test_picture_names_cannot_leave_their_folder(tmp_path: Path, declare) -> None:
    raw = declare(TABLE + 'images = { name = "images", member = "{title}" }')
    rows = [f"{user}\t{item}\t{time}" for user, item, time in grid()]
    write_lines(raw / "events.tsv", ["user\titem\ttimestamp", *rows])
    names = ["../../secret", "/etc/passwd", "a\\..\\b", "C:x", "", "sub/ok.jpg"]
    items = [f"i{number}\t{name}\t" for number, name in enumerate(names)]
    write_lines(raw / "items.tsv", ["item\ttitle\tgenres", *items])
    assert [record["image"] for record in made(tmp_path).item_records] == [None] * 5 + ["sub/ok.jpg"]


def test_category_vocabulary() -> None:
    """All nodes of all paths, without the one that every item with categories has."""
    paths = [[["Root", "A", "B"], ["Root", "C"]], [["Root", "A"]], [], [["Root"]]]
    names, ids, offsets = category_vocabulary([{"categories": path} for path in paths])
    assert names == ["A", "B", "C"]
    assert [ids[a:b].tolist() for a, b in pairwise(offsets)] == [[0, 1, 2], [0], [], []]
    names, ids, offsets = category_vocabulary([{"categories": []}])
    assert (names, ids.tolist(), offsets.tolist(), ids.dtype) == ([], [], [0, 0], np.int32)


@pytest.mark.parametrize("target", ["", "-last", "-random"])
def test_time_split_protocols(target: str, tmp_path: Path, declare) -> None:
    write_2014(declare(AMAZON_2014), grid(6, 10))
    prepared = made(tmp_path, protocol=f"clean-time{target}")
    assert prepared.name == f"mine@clean-time{target}"
    assert (prepared.protocol.split, prepared.protocol.valid_share) == (f"time{target}", 0.1)
    assert prepared.manifest.statistics.test_users == 6


def test_manifest_holds_no_local_path(tmp_path: Path, declare) -> None:
    write_2014(declare(AMAZON_2014), grid())
    assert str(tmp_path) not in json.dumps(made(tmp_path).manifest.to_json())


def test_demo_goes_through_the_whole_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMBENCH_DATASETS", raising=False)
    prepared = made(tmp_path, "demo")
    assert prepared.synthetic
    assert prepared.protocol.name == "clean"
    assert prepared.manifest.statistics.coverage.image == 1.0
    assert all(record["title"] and record["categories"] for record in prepared.item_records)
    (
        tmp_path / "data" / "raw" / "demo" / "images.zip"
    ).unlink()  # a folder that was cut short is written again
    again = prepare("demo", tmp_path / "data")
    assert (again.fresh, again.prepared.hash) == (False, prepared.hash)
