"""From raw files to prepared data: protocols, identity, idempotence, errors."""

import errno
import json
import os
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mmbench.data import prepare as module
from mmbench.data.prepare import RawFilesMissingError, category_vocabulary, prepare
from mmbench.data.store import Prepared
from mmbench.errors import DataError, UsageError
from tests.data.raw_files import (
    AMAZON_2014,
    DAY,
    START,
    TABLE,
    Event,
    grid,
    review,
    write_2014,
    write_lines,
    write_toml,
)


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Declare the data set `mine` by the body of its table; its raw files lie in tmp_path / "raw"."""

    def write(body: str) -> Path:
        file = write_toml(tmp_path / "toml", f'{body}\nraw = "../raw"\n')
        monkeypatch.setenv("MMBENCH_DATASETS", str(file))
        return tmp_path / "raw"

    return write


def made(tmp_path: Path, name: str = "mine", **options: object) -> Prepared:
    return prepare(name, tmp_path / "data", **options).prepared  # type: ignore[arg-type]


def history(prepared: Prepared, user: str) -> list[str]:
    """Raw item ids of a user, in order."""
    place = prepared.user_ids.index(user)
    events = prepared.items[prepared.offsets[place] : prepared.offsets[place + 1]]
    return [prepared.item_records[item - 1]["id"] for item in events]


def test_arrays_ids_and_manifest(tmp_path: Path, declare) -> None:
    raw = declare(AMAZON_2014)
    events = grid()
    write_2014(raw, [*events, ("stray", "i0", START), ("u0", "rare", START)])
    one = made(tmp_path)
    assert (one.n_users, one.n_items, len(one.items)) == (6, 6, 36)
    assert one.user_ids == [f"u{number}" for number in range(6)]
    assert [record["id"] for record in one.item_records] == [f"i{number}" for number in range(6)]
    assert (one.items.dtype, one.times.dtype, one.offsets.tolist()) == (
        "int32",
        "int64",
        list(range(0, 37, 6)),
    )
    for user in one.user_ids:
        assert history(one, user) == [item for who, item, _ in events if who == user]
    assert one.times[:6].tolist() == [START + step * DAY for step in range(6)]
    manifest = one.manifest
    assert manifest["statistics"]["raw"]["interactions"] == 38
    assert {file["file"] for file in manifest["raw"]} == {"reviews_Demo_5.json.gz", "meta_Demo.json.gz"}
    assert (manifest["name"], manifest["dataset"], manifest["printed"], manifest["images"]) == (
        "mine",
        "mine",
        {},
        None,
    )
    assert one.item_records[0]["text"] == "Title i0. Root, Node i0."
    one.verify()


def test_ids_are_numbered_as_text_whatever_the_order_of_the_file(tmp_path: Path, declare) -> None:
    raw = declare(AMAZON_2014)
    events = [(user.replace("u", "1" if user == "u3" else "10"), item, time) for user, item, time in grid()]
    write_2014(raw, events)
    first = made(tmp_path)
    assert first.user_ids == sorted(first.user_ids) == ["100", "101", "102", "104", "105", "13"]
    write_2014(raw, events[::-1])
    second = made(tmp_path)
    assert first.manifest["raw"] != second.manifest["raw"]
    assert first.hash == second.hash


TIED: list[Event] = [(user, item, START) for user in "abcdef" for item in "pqrstu"]


def test_tie_rules_make_data_sets_side_by_side(tmp_path: Path, declare) -> None:
    write_2014(declare(AMAZON_2014), TIED)
    ties = ["file", "reverse", "random:1", "random:2"]
    found = {one: made(tmp_path, ties=one) for one in ties}
    assert [one.name for one in found.values()] == ["mine", "mine@reverse", "mine@random:1", "mine@random:2"]
    orders = {one: history(prepared, "a") for one, prepared in found.items()}
    assert orders["file"] == list("pqrstu")
    assert orders["reverse"] == list("utsrqp")
    assert len({tuple(order) for order in orders.values()}) == 4
    assert all(sorted(order) == list("pqrstu") for order in orders.values())
    assert len({one.hash for one in found.values()}) == 4
    assert len({one.items_hash for one in found.values()}) == 1
    assert found["file"].manifest["statistics"]["tied_neighbours"] == 1.0
    assert made(tmp_path, "mine@random:1").hash == found["random:1"].hash


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
    one = made(tmp_path, ties="random:1")
    assert history(one, "a") == list("pqrstu")
    assert set(one.times.tolist()) == {START}
    assert one.manifest["statistics"]["tied_neighbours"] == 0.0


def test_exact_duplicates_go_or_stay_by_protocol(tmp_path: Path, declare) -> None:
    events = [*grid(), ("u0", "i0", START), ("u0", "i0", START + 1)]
    raw = declare(AMAZON_2014)
    write_2014(raw, events)
    assert len(made(tmp_path).items) == 37
    declare(AMAZON_2014 + 'filters = { duplicates = "keep" }')
    kept = made(tmp_path)
    assert len(kept.items) == 38
    assert kept.manifest["statistics"]["raw"]["duplicates"] == 1


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
    one = made(tmp_path, protocol="tmmsrec")
    assert one.name == "mine@tmmsrec"
    assert one.user_ids == ["full"]
    assert history(one, "full") == [f"i{number}" for number in range(5)]
    assert one.manifest["statistics"]["raw"]["items_dropped_incomplete"] == 2
    assert one.item_records[0]["image"] == "i0.jpg"
    assert one.manifest["statistics"]["coverage"]["image"] == 0.0


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
    assert after.prepared.manifest["images"]["kind"] == "folder"
    assert after.prepared.manifest["statistics"]["coverage"]["n_without_image"] == 5


def test_pictures_in_a_zip(tmp_path: Path, declare) -> None:
    raw = declare(AMAZON_2014 + 'images = { name = "images", member = "{id}.png" }')
    write_2014(raw, grid())
    with zipfile.ZipFile(raw / "images.zip", "w") as archive:
        archive.writestr("i2.png", b"x")
    one = made(tmp_path)
    assert [record["image"] for record in one.item_records] == [None, None, "i2.png", None, None, None]
    assert one.manifest["images"]["path"] == str(raw / "images.zip")
    (raw / "images.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="no readable zip"):
        made(tmp_path)


def test_picture_names_cannot_leave_their_folder(tmp_path: Path, declare) -> None:
    raw = declare(TABLE + 'images = { name = "images", member = "{title}" }')
    rows = [f"{user}\t{item}\t{time}" for user, item, time in grid()]
    write_lines(raw / "events.tsv", ["user\titem\ttimestamp", *rows])
    names = ["../../secret", "/etc/passwd", "a\\..\\b", "C:x", "", "sub/ok.jpg"]
    items = [f"i{number}\t{name}\t" for number, name in enumerate(names)]
    write_lines(raw / "items.tsv", ["item\ttitle\tgenres", *items])
    assert [one["image"] for one in made(tmp_path).item_records] == [None] * 5 + ["sub/ok.jpg"]


def test_second_call_does_nothing(tmp_path: Path, declare, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = declare(AMAZON_2014)
    write_2014(raw, grid())
    first = prepare("mine", tmp_path / "data")
    before = {file: file.stat().st_mtime_ns for file in first.prepared.path.iterdir()}
    second = prepare("mine", tmp_path / "data")
    assert (first.fresh, second.fresh) == (True, False)
    assert {file: file.stat().st_mtime_ns for file in first.prepared.path.iterdir()} == before
    assert prepare("mine", tmp_path / "data", force=True).fresh
    assert not prepare("mine", tmp_path / "data").fresh
    monkeypatch.setattr(module, "CODE", module.CODE + 1)
    assert prepare("mine", tmp_path / "data").fresh


@pytest.mark.parametrize("change", ["raw", "spec", "printed", "damage", "foreign"])
def test_what_makes_a_second_call_work_again(tmp_path: Path, declare, change: str) -> None:
    raw = declare(AMAZON_2014)
    write_2014(raw, grid())
    first = made(tmp_path)
    if change == "raw":
        write_2014(raw, grid(7))
    elif change == "spec":
        declare(AMAZON_2014 + 'text_fields = ["title"]')
    elif change == "printed":
        declare(AMAZON_2014 + 'printed = { users = 6, items = 6, interactions = 36, source = "a page" }')
    elif change == "damage":
        (first.path / "items.npy").write_bytes(b"")
    else:
        (first.path / "manifest.json").write_text('{"format": 0}')
    second = prepare("mine", tmp_path / "data")
    assert second.fresh
    assert not prepare("mine", tmp_path / "data").fresh
    assert (second.prepared.hash == first.hash) == (change not in ("raw", "spec"))


def test_prepared_data_outlive_their_raw_files(tmp_path: Path, declare) -> None:
    raw = declare(AMAZON_2014)
    write_2014(raw, grid())
    made(tmp_path)
    (raw / "meta_Demo.json.gz").unlink()
    report = prepare("mine", tmp_path / "data")
    assert not report.fresh
    assert "no longer there" in report.notes[0]
    for options in ({"force": True}, {"raw": raw}, {"ties": "reverse"}):
        with pytest.raises(RawFilesMissingError, match=r"raw file meta_Demo\.json\.gz not found"):
            prepare("mine", tmp_path / "data", **options)  # type: ignore[arg-type]


def test_raw_option_takes_the_folder_or_one_named_like_the_data_set(tmp_path: Path, declare) -> None:
    declare(AMAZON_2014)
    write_2014(tmp_path / "a", grid())
    write_2014(tmp_path / "b" / "mine", grid())
    assert made(tmp_path, raw=tmp_path / "a").hash == made(tmp_path, raw=tmp_path / "b", force=True).hash
    with pytest.raises(DataError, match="is no folder"):
        made(tmp_path, raw=tmp_path / "c")


def test_missing_raw_files_say_where_from_and_where_to(tmp_path: Path) -> None:
    with pytest.raises(RawFilesMissingError) as caught:
        prepare("amazon-toys", tmp_path)
    text = str(caught.value)
    assert "reviews_Toys_and_Games_5.json.gz and meta_Toys_and_Games.json.gz not found in" in text
    assert str(tmp_path / "raw" / "amazon-toys") in text
    assert "https://snap.stanford.edu/" in text
    assert "--raw DIR" in text
    assert "\n" not in text
    with pytest.raises(RawFilesMissingError, match="put them there"):
        prepare("hm-fashion", tmp_path)


def test_nothing_left_after_the_filters(tmp_path: Path, declare) -> None:
    write_2014(declare(AMAZON_2014), grid(4, 4))
    with pytest.raises(
        DataError, match=r"no interaction is left of 16 after .*'clean' \(users >= 5, items >= 5\)"
    ):
        made(tmp_path)
    with pytest.raises(DataError, match="with text and image"):
        made(tmp_path, protocol="tmmsrec")
    assert not list((tmp_path / "data" / "prepared").glob("mine*"))


def test_histories_too_short_to_evaluate(tmp_path: Path, declare) -> None:
    write_2014(
        declare(AMAZON_2014 + "filters = { min_user = 0, min_item = 0 }"),
        [("a", "x", START), ("b", "y", START)],
    )
    with pytest.raises(DataError, match="no user with a validation target"):
        made(tmp_path)


def test_damaged_raw_file_leaves_the_old_data(tmp_path: Path, declare) -> None:
    raw = declare(AMAZON_2014)
    write_2014(raw, grid())
    first = made(tmp_path)
    file = raw / "reviews_Demo_5.json.gz"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"reviews_Demo_5\.json\.gz is cut off"):
        made(tmp_path)
    first.verify()
    assert [
        one.name for one in (tmp_path / "data" / "prepared").iterdir() if not one.name.startswith(".")
    ] == ["mine"]


def test_full_disk_leaves_the_old_data(tmp_path: Path, declare, monkeypatch: pytest.MonkeyPatch) -> None:
    write_2014(declare(AMAZON_2014), grid())
    first = made(tmp_path)

    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(DataError, match="No space left on device; free some space"):
            made(tmp_path, force=True)
    first.verify()
    assert not list((tmp_path / "data" / "prepared").glob(".writing-*"))


def test_checksum_of_the_catalogue(tmp_path: Path, declare) -> None:
    body = AMAZON_2014.replace('"reviews_Demo_5.json.gz"', f'"reviews_Demo_5.json.gz", sha256 = "{"0" * 64}"')
    write_2014(declare(body), grid())
    with pytest.raises(DataError, match="sha256 differs"):
        made(tmp_path)


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'amazon-beauty'"):
        prepare("amazon-beuty", tmp_path)
    with pytest.raises(UsageError, match="did you mean 'tmmsrec'"):
        prepare("demo", tmp_path, protocol="tmsrec")


def test_malformed_lines_are_noted_in_the_manifest(tmp_path: Path, declare) -> None:
    raw = declare(AMAZON_2014)
    write_2014(raw, grid())
    write_lines(raw / "reviews_Demo_5.json.gz", [*(review(*one) for one in grid()), "{"])
    report = prepare("mine", tmp_path / "data")
    assert "line 37: no JSON" in report.notes[0]
    assert report.prepared.manifest["notes"] == report.notes


SCRIPT = """
import sys
from pathlib import Path
from mmbench.data.prepare import prepare
print(prepare("mine@random:3", Path(sys.argv[1])).prepared.hash)
"""


def test_hash_does_not_depend_on_process_or_folder(tmp_path: Path, declare) -> None:
    write_2014(declare(AMAZON_2014), TIED)
    hashes = {made(tmp_path, "mine@random:3").hash}
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path / f"data{seed}")],
            env={**os.environ, "PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo"},
            capture_output=True,
            text=True,
            check=True,
        )
        hashes.add(run.stdout.strip())
    assert len(hashes) == 1


def test_two_at_once_do_the_work_once(tmp_path: Path, declare) -> None:
    write_2014(declare(AMAZON_2014), TIED)
    script = SCRIPT.replace(".prepared.hash", ".fresh")
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    assert sorted(one.communicate(timeout=60)[0].strip() for one in both) == ["False", "True"]


def test_category_vocabulary() -> None:
    """All nodes of all paths, without the one that every item with categories has."""
    paths = [[["Root", "A", "B"], ["Root", "C"]], [["Root", "A"]], [], [["Root"]]]
    names, ids, offsets = category_vocabulary([{"categories": one} for one in paths])
    assert names == ["A", "B", "C"]
    assert [ids[a:b].tolist() for a, b in pairwise(offsets)] == [[0, 1, 2], [0], [], []]
    names, ids, offsets = category_vocabulary([{"categories": []}])
    assert (names, ids.tolist(), offsets.tolist(), ids.dtype) == ([], [], [0, 0], np.int32)


def test_time_split_protocol(tmp_path: Path, declare) -> None:
    write_2014(declare(AMAZON_2014), grid(6, 10))
    one = made(tmp_path, protocol="clean-time")
    assert one.name == "mine@clean-time"
    assert (one.protocol["split"], one.protocol["valid_share"]) == ("time", 0.1)
    assert one.manifest["statistics"]["test_users"] == 6


def test_manifest_holds_no_local_path(tmp_path: Path, declare) -> None:
    write_2014(declare(AMAZON_2014), grid())
    assert str(tmp_path) not in json.dumps(made(tmp_path).manifest)


def test_demo_goes_through_the_whole_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMBENCH_DATASETS", raising=False)
    one = made(tmp_path, "demo")
    assert one.synthetic
    assert one.protocol["name"] == "clean"
    assert one.manifest["statistics"]["coverage"]["image"] == 1.0
    assert all(record["title"] and record["categories"] for record in one.item_records)
    (
        tmp_path / "data" / "raw" / "demo" / "images.zip"
    ).unlink()  # a folder that was cut short is written again
    again = prepare("demo", tmp_path / "data")
    assert (again.fresh, again.prepared.hash) == (False, one.hash)
