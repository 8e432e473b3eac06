"""TSV, CSV, Parquet and RecBole's atomic files."""

import csv
import gzip
import io
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbench.data.images import list_images
from mmbench.data.lines import RowReader
from mmbench.data.parsers import parse
from mmbench.data.raw import MAX_LINE, Faults, RawData, read_lines
from mmbench.data.tables import new_faults, read_rows
from mmbench.data.timestamps import TICKS
from mmbench.errors import DataError
from tests.data.raw_files import START, TABLE, spec_of, write_lines


def rows_of(file: Path, columns: list[str]) -> tuple[list[list[object]], list[str]]:
    faults = new_faults(file)
    rows = [row for _, row in read_rows(file, columns, faults)]
    return rows, faults.finish()


def parsed(folder: Path, body: str) -> RawData:
    spec = spec_of(folder, body)
    return parse(spec, folder, list_images(spec.images, folder), lambda message: None)


@pytest.mark.parametrize(
    ("name", "separator"), [("a.tsv", "\t"), ("a.csv", ","), ("a.csv.gz", ","), ("a.TSV", "\t")]
)
def test_text_tables(tmp_path: Path, name: str, separator: str) -> None:
    lines = [("id", "text", "n"), ("007", '"a ""b""' + separator + 'c"', "1"), ("x", "", "2")]
    file = write_lines(tmp_path / name, (separator.join(line) for line in lines))
    rows, notes = rows_of(file, ["n", "id", "text"])
    assert (rows, notes) == ([["1", "007", f'a "b"{separator}c'], ["2", "x", ""]], [])


def test_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"\xef\xbb\xbfid,n\r\na,1\r\n")
    assert rows_of(file, ["id"])[0] == [["a"]]


def test_missing_and_doubled_columns(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.tsv", ["user_id\titem\titem", "a\tb\tc"])
    with pytest.raises(DataError, match="no column 'user'; did you mean 'user_id'"):
        rows_of(file, ["user"])
    with pytest.raises(DataError, match="'item' appears twice"):
        rows_of(file, ["item"])


def test_wrong_number_of_fields(tmp_path: Path) -> None:
    lines = ["u\ti", *("a\tb" for _ in range(20)), "a\tb\tc"]
    rows, (note,) = rows_of(write_lines(tmp_path / "a.tsv", lines), ["u", "i"])
    assert len(rows) == 20
    assert "line 22: 3 fields instead of 2" in note


def test_a_quote_that_is_not_closed_spoils_its_own_line_only(tmp_path: Path) -> None:
    lines = ["u,i", "a,b", '"open', *("a,b" for _ in range(30))]
    rows, (note,) = rows_of(write_lines(tmp_path / "a.csv", lines), ["u", "i"])
    assert rows == [["a", "b"]] * 31
    assert "1 of 32 lines malformed, skipped (line 3: bad quoting: a quote is not closed)" in note


@pytest.mark.parametrize(("separator", "last"), [("\t", 'End"'), ("\t", "End"), (",", "End")])
def test_a_title_that_begins_with_a_quote_keeps_its_row_and_the_next(
    tmp_path: Path, separator: str, last: str
) -> None:
    """Up to a last title that ends with a quote, the swallowed rows would have the right width."""
    table = [
        ("i", "title", "brand"),
        ("1", '"Best', "b"),
        ("2", "Good", "c"),
        ("3", last, "d"),
        ("4", '"Q" x', "e"),
    ]
    name = "a.csv" if separator == "," else "a.tsv"
    file = write_lines(tmp_path / name, map(separator.join, table))
    rows, notes = rows_of(file, ["i", "title", "brand"])
    assert (rows, notes) == ([list(row) for row in table[1:]], [])


def cells(signs: str) -> st.SearchStrategy[str]:
    letters = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]) | st.sampled_from(signs)
    return st.text(letters, max_size=8)


@given(
    st.tuples(st.just(","), st.lists(st.tuples(*[cells('",\t\n')] * 3), max_size=6))
    | st.tuples(st.just("\t"), st.lists(st.tuples(*[cells('",\n')] * 3), max_size=6))
)
def test_whatever_is_quoted_comes_back(written: tuple[str, list[tuple[str, ...]]]) -> None:
    """What csv.writer quotes, also over several lines, is read as it was written."""
    separator, table = written
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=separator, quoting=csv.QUOTE_ALL).writerows([("a", "b", "c"), *table])
    faults = Faults(Path("x.csv"))
    stream.seek(0)
    rows = [tuple(row) for _, row in RowReader(Path("x.csv"), stream, separator, faults, quoting=True).rows()]
    assert (rows[1:], faults.count) == (table, 0)


def test_a_cell_of_any_length_is_read(tmp_path: Path) -> None:
    """The csv module refuses cells above 131,072 letters."""
    long = "word " * 50_000
    rows, notes = rows_of(write_lines(tmp_path / "a.csv", ["i,t", f"1,{long}", f'2,"{long},"']), ["t"])
    assert (rows, notes) == ([[long], [f"{long},"]], [])


@pytest.mark.parametrize(("file_name", "name"), [("a.csv", "user_id:token"), ("a.inter", "user_id")])
def test_an_endless_line_is_refused(tmp_path: Path, file_name: str, name: str) -> None:
    file = tmp_path / file_name
    with gzip.open(file, "wb") as stream:
        stream.write(b"user_id:token\n")
        for _ in range(MAX_LINE // 2**20 + 1):
            stream.write(b"x" * 2**20)
    for read in (lambda: rows_of(file, [name]), lambda: list(read_lines(file))):
        with pytest.raises(DataError, match="line 2 is longer than 16 MiB"):
            read()


def test_a_badly_quoted_line_is_skipped(tmp_path: Path) -> None:
    lines = ["u,i", *("a,b" for _ in range(20)), '"a"x,b,c', "c,d"]
    rows, (note,) = rows_of(write_lines(tmp_path / "a.csv", lines), ["u", "i"])
    assert (len(rows), rows[-1]) == (21, ["c", "d"])
    assert "line 22: bad quoting" in note


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    empty = tmp_path / "a.csv"
    empty.write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        rows_of(empty, ["u"])
    with pytest.raises(DataError, match="is empty"):
        rows_of(write_lines(tmp_path / "b.csv", ["u,i"]), ["u"])
    (tmp_path / "c.csv").write_bytes(b"u,i\na,\xff\n")
    with pytest.raises(DataError, match="not UTF-8 near line"):
        rows_of(tmp_path / "c.csv", ["u"])
    with pytest.raises(DataError, match=r"must end in \.tsv"):
        rows_of(tmp_path / "d.xlsx", ["u"])
    (tmp_path / "e.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="not a readable Parquet"):
        rows_of(tmp_path / "e.parquet", ["u"])


def write_parquet(file: Path, columns: dict[str, object]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), file)
    return file


def test_parquet(tmp_path: Path) -> None:
    moment = datetime(2014, 7, 23, 12, 0, 0, 5, tzinfo=UTC)
    file = write_parquet(
        tmp_path / "a.parquet",
        {
            "u": ["007", "x"],
            "i": [1, 2],
            "t": [moment, None],
            "d": [date(2014, 7, 23)] * 2,
            "c": [["a", "b"], []],
        },
    )
    rows, _ = rows_of(file, ["i", "u", "t", "d", "c"])
    day = "2014-07-23T00:00:00+00:00"
    assert rows == [[1, "007", moment.isoformat(), day, ["a", "b"]], [2, "x", None, day, []]]
    with pytest.raises(DataError, match="no column 'user'"):
        rows_of(file, ["user"])


def test_parquet_data_set(tmp_path: Path) -> None:
    write_parquet(
        tmp_path / "events.parquet", {"user": [1, 2], "item": ["01", "01"], "timestamp": [START, START + 1]}
    )
    write_parquet(
        tmp_path / "items.parquet", {"item": ["01"], "title": ["One"], "genres": [[["Root", "A"], ["B"]]]}
    )
    data = parsed(tmp_path, TABLE.replace(".tsv", ".parquet"))
    assert (data.events.user_names, data.events.item_names) == (["1", "2"], ["01"])
    assert data.events.ticks.tolist() == [START * TICKS, (START + 1) * TICKS]
    assert data.items["01"].categories == [["Root", "A"], ["B"]]


def test_parquet_rows_are_numbered(tmp_path: Path) -> None:
    users = ["a"] * 20 + [None]
    write_parquet(tmp_path / "events.parquet", {"user": users, "item": ["x"] * 21, "timestamp": [START] * 21})
    write_lines(tmp_path / "items.tsv", ["item\ttitle\tgenres", "x\tX\t"])
    data = parsed(tmp_path, TABLE.replace("events.tsv", "events.parquet"))
    assert "row 21: user id None is not text" in data.notes[0]


def test_table_data_set(tmp_path: Path) -> None:
    """Leading zeros stay, unknown items are kept without text, categories are cut at the separator."""
    write_lines(tmp_path / "events.tsv", ["timestamp\tuser\titem", f"{START}\t01\t007", f"{START}\t1\t7"])
    write_lines(tmp_path / "items.tsv", ["item\ttitle\tgenres", "007\tBond &amp; Co\tA | B", "007\tagain\t"])
    data = parsed(tmp_path, TABLE)
    assert (data.events.user_names, data.events.item_names) == (["01", "1"], ["007", "7"])
    assert data.items["007"].title == "Bond & Co"
    assert data.items["007"].categories == [["A"], ["B"]]
    assert data.items["7"].title == ""
    assert data.notes[:-1] == ["items.tsv: 1 rows repeat an item id; the first row of each counts"]
    assert "1 of 2 item ids of events.tsv are in items.tsv: '7' is not there, but '007' is" in data.notes[-1]


@pytest.mark.parametrize(
    ("unit", "texts"),
    [
        ("s", ["1400000000", "1400000001"]),
        ("ms", ["1400000000000", "1400000000001"]),
        ("iso", ["2014-05-13T16:53:20", "2014-05-13T16:53:21Z"]),
    ],
)
def test_units_of_time(tmp_path: Path, unit: str, texts: list[str]) -> None:
    write_lines(tmp_path / "events.tsv", ["user\titem\ttimestamp", *(f"u\ti\t{text}" for text in texts)])
    write_lines(tmp_path / "items.tsv", ["item\ttitle\tgenres", "i\tI\t"])
    events = parsed(tmp_path, TABLE + f'columns.interactions = {{ unit = "{unit}" }}').events
    assert events.ticks[0] == 1_400_000_000 * TICKS
    assert events.ticks[0] < events.ticks[1]


GROUPED = """
title = "Mine"
parser = "table"
text_fields = ["title", "colour"]
files.interactions = { name = "events.tsv" }
files.items = { name = "items.tsv" }
images = { name = "images", member = "{item}.jpg" }
columns.items = { item = "item", group = "product", title = "title", categories = ["kind", "colour"] }
"""


def test_groups_are_items_and_take_the_first_picture_there_is(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "events.tsv",
        ["user\titem\ttimestamp", f"u\t02\t{START}", f"u\t01\t{START}", f"u\t09\t{START}"],
    )
    write_lines(
        tmp_path / "items.tsv",
        [
            "item\tproduct\ttitle\tkind\tcolour",
            "01\tA\t\tdress\tred",
            "02\tA\tDress\tdress\tblue",
            "09\tB\tHat\that\t",
        ],
    )
    data = parsed(tmp_path, GROUPED)
    assert data.events.item_names == ["A", "B"]
    assert data.events.item.tolist() == [0, 0, 1]
    first = data.items["A"]
    assert (first.title, first.fields["colour"], first.image) == ("Dress", "red", "01.jpg")
    assert first.categories == [["dress"], ["red"]]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "02.jpg").write_bytes(b"x")
    assert parsed(tmp_path, GROUPED).items["A"].image == "02.jpg"


def test_an_item_without_a_group_is_a_malformed_line(tmp_path: Path) -> None:
    write_lines(tmp_path / "events.tsv", ["user\titem\ttimestamp", f"u\t3\t{START}"])
    write_lines(tmp_path / "items.tsv", ["item\tproduct\ttitle\tkind\tcolour", "01\tA\tDress\tdress\tred"])
    with pytest.raises(DataError, match="line 2: item '3' is not in the item table"):
        parsed(tmp_path, GROUPED)


def test_empty_item_table(tmp_path: Path) -> None:
    write_lines(tmp_path / "items.tsv", ["item\ttitle\tgenres"])
    with pytest.raises(DataError, match=r"items\.tsv holds no item"):
        parsed(tmp_path, TABLE)


RECBOLE = """
title = "Mine"
parser = "recbole"
files.interactions = { name = "mine.inter" }
files.items = { name = "mine.item" }
columns.items = { title = "title", categories = "categories" }
"""


def test_recbole_atomic_files(tmp_path: Path) -> None:
    """Peers' float timestamps are read as the whole seconds they stand for; quotes are plain letters."""
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    write_lines(tmp_path / "mine.inter", [header, "01\tx\t5.0\t978302109.0", "01\ty\t1.0\t978302110"])
    write_lines(
        tmp_path / "mine.item",
        ["item_id:token\ttitle:token_seq\tcategories:token_seq", 'x\t"open title\tFood Drink', "y\tY\tFood"],
    )
    data = parsed(tmp_path, RECBOLE)
    assert data.events.ticks.tolist() == [978302109 * TICKS, 978302110 * TICKS]
    assert data.events.user_names == ["01"]
    assert data.items["x"].title == "open title"
    assert data.items["x"].categories == [["Food"], ["Drink"]]


def test_recbole_header_needs_types(tmp_path: Path) -> None:
    write_lines(tmp_path / "mine.inter", ["user_id\titem_id:token\ttimestamp:float", "a\tx\t1"])
    write_lines(tmp_path / "mine.item", ["item_id:token\ttitle:token_seq\tcategories:token_seq", "x\tX\tA"])
    with pytest.raises(DataError, match="'user_id' is not name:type"):
        parsed(tmp_path, RECBOLE)
