"""Files that can be read and do not mean what their table says: ids, times, pictures, missing texts."""

import os
import re
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmbench.data.catalog import load_catalog
from mmbench.data.matching import FILE_RULES, ID_RULES, match_names
from mmbench.data.pictures import _read_member
from mmbench.data.split import make_split
from mmbench.data.statistics import Statistics
from mmbench.data.store import Prepared
from mmbench.errors import DataError, MmbenchError, UsageError
from mmbench.look.gather import as_json, look
from mmbench.look.page import html
from mmbench.look.plots import charts
from mmbench.look.terminal import shape_rows
from tests.data.preparing import history, made
from tests.data.raw_files import AMAZON_2014, START, TABLE, grid, write_2014, write_lines

TEXTS = TABLE + 'filters = { require = ["text"] }\n'
PICTURES = TABLE + 'images = { name = "images", member = "{item}.JPG" }\nfilters = { require = ["image"] }\n'


def write_events(raw: Path, *, item: str = "{}", time: str = "{}", start: int = START) -> None:
    """Six users who have all six items, a day apart; `item` and `time` are how the file writes them."""
    rows = [(user, item.format(name[1:]), time.format(stamp - START + start)) for user, name, stamp in grid()]
    write_lines(raw / "events.tsv", ["user\titem\ttimestamp", *map("\t".join, rows)])


def write_items(raw: Path, *, item: str = "{}") -> None:
    rows = [f"{item.format(number)}\tTitle {number}\tA|B" for number in range(6)]
    write_lines(raw / "items.tsv", ["item\ttitle\tgenres", *rows])


def write_picture(file: Path, number: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(values).save(file, format="JPEG")


@pytest.mark.parametrize(
    ("used", "known", "message"),
    [
        ("1{}.0", "1{}", "0 of 6 item ids of events.tsv are in items.tsv: '10.0' is not there, but '10' is, which "
         "differs in a decimal point"),
        (" 1{}", "1{}", "' 10' is not there, but '10' is, which differs in blanks"),
        ("78{}", "0078{}", "'780' is not there, but '00780' is, which differs in leading zeros"),
        ("b{}", "B{}", "which differs in capital letters"),
        (" 78{}.0", "078{}", "which differs in blanks and a decimal point and leading zeros"),
        ("u{}", "v{}", "'u0' is not there, where names look like 'v0'; write the ids of both files in the same way"),
    ],
)  # fmt: skip
def test_ids_that_do_not_meet_the_item_table(
    tmp_path: Path, declare, used: str, known: str, message: str
) -> None:
    raw = declare(TABLE)
    write_events(raw, item=used)
    write_items(raw, item=known)
    with pytest.raises(DataError, match=re.escape(message)):
        made(tmp_path)


def test_items_that_the_table_lacks_are_counted(tmp_path: Path, declare) -> None:
    raw = declare(TABLE)
    write_events(raw)
    write_lines(raw / "items.tsv", ["item\ttitle\tgenres", *(f"{n}\tTitle\tA" for n in ("0", "1", "02"))])
    (note,) = made(tmp_path).manifest.notes
    assert "2 of 6 item ids of events.tsv are in items.tsv: '2' is not there, but '02' is" in note


def test_metadata_of_other_items_are_refused(tmp_path: Path, declare) -> None:
    write_2014(declare(AMAZON_2014), grid(), [{"asin": f"0{n}", "title": "T"} for n in range(3)])
    with pytest.raises(DataError, match=r"0 of 6 item ids of reviews_Demo_5.*'i0' is not there.* like '00'"):
        made(tmp_path)


def test_near_names_are_found_in_whatever_way_they_differ() -> None:
    assert match_names(["a", "b"], {"a", "b"}, ID_RULES).is_whole
    match = match_names(["x", "p1.jpg"], {"top/P1.JPEG", "z"}, FILE_RULES)
    assert (match.n_met, match.missing, match.other) == (0, "p1.jpg", "top/P1.JPEG")
    assert match.difference == "the folder and capital letters and the ending"
    assert match_names(["x"], set(), ID_RULES).other is None


@pytest.mark.parametrize("inside", ["photos/{}.JPG", "{}.jpg"])
def test_pictures_under_other_names_are_named(tmp_path: Path, declare, inside: str) -> None:
    """The message says what was looked for, what is there, and that the required picture took everything."""
    raw = declare(PICTURES)
    write_events(raw)
    write_items(raw)
    with zipfile.ZipFile(raw / "images.zip", "w") as archive:
        for number in range(6):
            write_picture(tmp_path / "p.jpg", number)
            archive.write(tmp_path / "p.jpg", inside.format(number))
    with pytest.raises(DataError) as caught:
        made(tmp_path)
    text = str(caught.value)
    assert "36 are of items that lack what is required (6 of 6 items have no image)" in text
    assert f"'0.JPG' is not there, but '{inside.format(0)}' is" in text
    assert "lower bounds" not in text
    declare(PICTURES.replace('filters = { require = ["image"] }', ""))
    (note,) = made(tmp_path).manifest.notes
    assert "0 of 6 pictures of the items are in images.zip" in note


def test_an_address_without_an_images_key_is_fetched_into_images(tmp_path: Path, declare) -> None:
    raw = declare(
        TABLE.replace("title =", 'image_url = "url", title =', 2).replace('image_url = "url", ', "", 1)
    )
    write_events(raw)
    rows = [f"{n}\tTitle\tA\t{'http://example.org/a.jpg' if n else ''}" for n in range(6)]
    write_lines(raw / "items.tsv", ["item\ttitle\tgenres\turl", *rows])
    assert [record["image"] for record in made(tmp_path).item_records] == [
        None,
        *(f"{n}.jpg" for n in range(1, 6)),
    ]


def test_lists_missing_texts_and_structures_of_parquet(tmp_path: Path, declare) -> None:
    raw = declare(TABLE.replace("items.tsv", "items.parquet"))
    write_events(raw)
    titles = pa.array([["warm light", "oak foot"], [], None, ["x", None], ["lamp"], ["y"]])
    genres = pa.array([["A"], [], None, ["A", "B"], ["B"], ["B"]])
    ids = pa.array([str(number) for number in range(6)])
    pq.write_table(pa.table({"item": ids, "title": titles, "genres": genres}), raw / "items.parquet")
    records = made(tmp_path).item_records
    assert [record["title"] for record in records] == ["warm light oak foot", "", "", "x", "lamp", "y"]
    assert [record["categories"] for record in records[:4]] == [[["A"]], [], [], [["A"], ["B"]]]
    prices = pa.array([float("nan"), 1.5, None, 2.0, 3.0, 4.0])
    pq.write_table(pa.table({"item": ids, "title": prices, "genres": genres}), raw / "items.parquet")
    assert [record["title"] for record in made(tmp_path).item_records[:4]] == ["", "1.5", "", "2.0"]
    structures = pa.array([{"en": "Lamp"}] * 6)
    pq.write_table(pa.table({"item": ids, "title": structures, "genres": genres}), raw / "items.parquet")
    with pytest.raises(
        DataError, match=r"column 'title' holds \{'en': 'Lamp'\}, which is neither text nor a number"
    ):
        made(tmp_path)


@pytest.mark.parametrize(
    ("unit", "time", "start", "message"),
    [
        ("ms", "{}", START, "1970-01-17 .* looks like seconds: declare unit = 's'"),
        ("s", "20140514", 0, "1970-08-22 .*20140514 looks like a date: declare unit = 'iso'"),
        ("ms", "201405141230", 0, "1976-05-20"),
        ("s", "{}", 0, "looks like a position in a history: declare unit = 'order'"),
        ("ms", "20140514123000", 0, "2608-"),
        ("s", "201405141230", 0, "too large|malformed"),
    ],
)
def test_times_in_another_unit_are_refused(
    tmp_path: Path, declare, unit: str, time: str, start: int, message: str
) -> None:
    raw = declare(TABLE + f'columns.interactions = {{ unit = "{unit}" }}\n')
    write_events(raw, time=time, start=start)
    write_items(raw)
    with pytest.raises(DataError, match=message):
        made(tmp_path)


@pytest.fixture
def ordered(tmp_path: Path, declare) -> Prepared:
    raw = declare(TABLE + 'columns.interactions = { unit = "order" }\n')
    write_events(raw, start=0)
    write_items(raw)
    return made(tmp_path)


def test_an_order_orders_and_is_no_time(ordered: Prepared) -> None:
    timed = [item[1:] for user, item, _ in grid() if user == "u2"]
    assert history(ordered, "u2") == timed
    assert not ordered.has_times
    assert ordered.times.tolist() == [0, 1, 2, 3, 4, 5] * 6
    statistics: Statistics = ordered.manifest.statistics
    assert (statistics.first_time, statistics.last_time, statistics.long_intervals) == (None, None, None)
    assert (make_split(ordered.protocol, ordered.times, ordered.offsets).test_pos == 5).all()


def test_an_order_has_no_figure_of_time(ordered: Prepared) -> None:
    shown = look(ordered)
    assert {plot.name for plot in charts(shown)} == {"history-length", "popularity", "shares", "text-length"}
    assert as_json(shown)["over_time"] is as_json(shown)["intervals"] is as_json(shown)["pair"] is None
    assert not any("time" in row[0] for row in shape_rows(shown))
    assert "1970" not in html(shown, [])


def test_an_order_has_no_split_by_time(tmp_path: Path, ordered: Prepared, declare) -> None:
    with pytest.raises(UsageError, match=r"mine@clean-time is split by time, .*choose --protocol clean"):
        made(tmp_path, "mine@clean-time")
    declare(TABLE + 'protocol = "clean-time"\ncolumns.interactions = { unit = "order" }\n')
    with pytest.raises(MmbenchError, match="'clean-time' splits by time, but unit = 'order' has no times"):
        made(tmp_path)


def test_a_byte_order_mark_and_a_colon_in_a_path_of_a_toml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows editors write the mark; a colon parts paths, unless there is a file of that very name."""
    files = [tmp_path / "a:b" / "one.toml", tmp_path / "two.toml"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"[{file.stem}]\n{TABLE}", encoding="utf-8-sig")
    for order in (files, files[::-1]):
        monkeypatch.setenv("MMBENCH_DATASETS", os.pathsep.join(map(str, order)))
        assert {"one", "two"} <= set(load_catalog(tmp_path))


def test_nesting_in_a_toml_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "deep.toml"
    monkeypatch.setenv("MMBENCH_DATASETS", str(file))
    for content in (f"x = {'[' * 100_000}", f"x = {'9' * 5000}"):
        file.write_text(content)
        with pytest.raises(
            UsageError,
            match=r"deep\.toml: (it is nested too deeply|a number has more)",
        ):
            load_catalog(tmp_path)


def test_a_member_that_says_to_be_small_is_not_unpacked_beyond_that(tmp_path: Path) -> None:
    """Its 200 MB are never in memory; the sizes of the directory are what a hostile archive sets."""
    file = tmp_path / "images.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(200 * 2**20))
        archive.writestr("b.png", b"picture", compress_type=zipfile.ZIP_BZIP2)
        archive.writestr("c.png", b"picture")
    with zipfile.ZipFile(file) as archive:
        archive.getinfo("a.png").file_size = 100
        tracemalloc.start()
        assert _read_member(archive, "a.png") == "unreadable"  # its CRC is that of all bytes
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**20
        assert _read_member(archive, "b.png") == "unreadable"
        assert _read_member(archive, "c.png") == b"picture"


@pytest.mark.parametrize("kind", ["timestamp[s]", "timestamp[us]", "date64", "int64"])
def test_times_that_no_calendar_has_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    raw = tmp_path / "data" / "raw" / "mine"
    raw.mkdir(parents=True)
    types = {"timestamp[s]": pa.timestamp("s"), "timestamp[us]": pa.timestamp("us"), "date64": pa.date64()}
    per_second = {"timestamp[s]": 1, "timestamp[us]": 10**6, "date64": 1000, "int64": 1}[kind]
    stamps = pa.array([900_000_000_000 // 86_400 * 86_400 * per_second] * 36, pa.int64())
    users, items, _ = zip(*grid(), strict=True)
    times = stamps.cast(types[kind]) if kind in types else stamps
    pq.write_table(pa.table({"user": users, "item": items, "timestamp": times}), raw / "events.parquet")
    (tmp_path / "data" / "datasets.toml").write_text(
        '[mine]\ntitle = "Mine"\nparser = "table"\nfiles.interactions = { name = "events.parquet" }\n'
        f'columns.interactions = {{ unit = "{"s" if kind == "int64" else "iso"}" }}\n'
    )
    with pytest.raises(DataError, match=r"malformed \(row 1: timestamp .* (is not an ISO date|is too large)"):
        made(tmp_path)
