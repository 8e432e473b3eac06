"""Sequence files: an order without times, and lines that are none.

Run: python -m pytest tests/data/test_sequences.py
"""

from pathlib import Path

import pytest

from mmbench.data.adding import add
from mmbench.data.catalog import read_catalog
from mmbench.data.prepare import prepare
from mmbench.data.sequences import read
from mmbench.errors import DataError, UsageError
from mmbench.models import registry
from mmbench.runs.plan import make_cell
from tests.data.raw_files import write_lines

TABLE = """
[lines]
title = "A sequence file"
parser = "sequence"
files.interactions = { name = "Beauty.txt" }
files.items = { name = "items.csv" }
filters = { min_user = 0, min_item = 0 }
text_fields = ["title"]

[lines.columns.items]
title = "title"
"""
LINES = ["2 30 10 30 20", "1 10 20 30"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the files and the table of a data set."""
    write_lines(tmp_path / "Beauty.txt", LINES)
    write_lines(tmp_path / "items.csv", ["item,title", "10,Ten", "20,Twenty", "30,Thirty"])
    (tmp_path / "lines.toml").write_text(TABLE)
    return tmp_path


def test_a_line_is_a_history_in_its_order(folder: Path) -> None:
    assert add(folder / "lines.toml", folder / "data") == {"lines": []}
    data = prepare("lines", folder / "data").prepared
    names = [record["id"] for record in data.item_records]
    histories = {
        tuple(names[item - 1] for item in data.items[first:last])
        for first, last in zip(data.offsets[:-1], data.offsets[1:], strict=True)
    }
    assert histories == {("30", "10", "30", "20"), ("10", "20", "30")}
    assert {record["text"] for record in data.item_records} == {"Ten.", "Twenty.", "Thirty."}
    assert not data.has_times


def test_models_that_read_times_refuse_sequences_in_one_line(folder: Path) -> None:
    add(folder / "lines.toml", folder / "data")
    data = prepare("lines", folder / "data").prepared
    with pytest.raises(
        UsageError, match="tisasrec reads times, but the interactions of lines only have an order"
    ):
        make_cell(results_dir=folder, prepared=data, model="tisasrec", seed=1, overrides=[])
    assert make_cell(results_dir=folder, prepared=data, model="ease", seed=1, overrides=[]).model == "ease"
    assert "time" in registry.find("tisasrec").recipe.inputs


def test_groups_of_items_stand_for_them(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "x.txt", [f"u{n} a b" for n in range(20)] + ["v a z"])
    events, notes = read(file, {"a": "A", "b": "B"})
    assert (events.item_names, len(events)) == (["A", "B"], 40)
    assert "item 'z' is not in the item table" in notes[0]


@pytest.mark.parametrize(
    ("line", "why"),
    [(b"w", "user 'w' has no items"), (b"u1 a b", "user 'u1' already has a line"), (b"w \xff", "not UTF-8")],
)
def test_few_malformed_lines_are_skipped_and_named(line: bytes, why: str, tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_bytes(b"".join(b"u%d a b\n" % n for n in range(20)) + line + b"\n")
    events, notes = read(file, None)
    assert len(events.user_names) == 20
    assert "line 21" in notes[0]
    assert why in notes[0]


@pytest.mark.parametrize(("content", "why"), [(b"", "is empty"), (b"1,2,3\n4,5,6\n", "malformed")])
def test_a_file_of_another_kind_is_refused_when_it_is_added(content: bytes, why: str, folder: Path) -> None:
    (folder / "Beauty.txt").write_bytes(content)
    with pytest.raises(DataError, match=why):
        add(folder / "lines.toml", folder / "data")


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ('[lines.columns.interactions]\nuser = "u"\n', "have no columns"),
        ("", "has no times"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(extra: str, why: str, folder: Path) -> None:
    text = (
        TABLE + extra if extra else TABLE.replace('parser = "seq', 'protocol = "clean-time"\nparser = "seq')
    )
    (folder / "lines.toml").write_text(text)
    with pytest.raises(UsageError, match=why):
        read_catalog(folder / "lines.toml")
