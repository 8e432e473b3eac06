"""Lines of raw files: the literal parser and the careful reading of fields, fuzzed."""

import ast
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmbench.data.amazon import EDITIONS, read_meta
from mmbench.data.raw import RawItem
from mmbench.data.records import json_object, literal_object
from tests.data.raw_files import write_lines

ANY_TEXT = st.text(st.characters(exclude_categories=())) | st.sampled_from(
    [
        "it's",
        'a "quote"',
        "both ' and \"",
        "back\\slash",
        "\ud83d\ude00",
        "\ud800",
        "\u2028",
        "\x00",
        "True",
        "u'x'",
    ]
)
LEAVES = (
    ANY_TEXT | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()
)
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)
RECORDS = st.dictionaries(ANY_TEXT | st.integers(), NESTED, max_size=5)


def written(record: dict[Any, Any]) -> bytes:
    """The line as Python 3 writes it; what no file can hold is escaped, as repr() does."""
    return repr(record).encode("utf-8", "strict")


@given(RECORDS)
@settings(max_examples=150, deadline=None)
def test_whatever_repr_writes_comes_back(record: dict[Any, Any]) -> None:
    actual = literal_object(written(record))
    assert actual == record
    assert repr(actual) == repr(record)  # 1, 1.0 and True are equal, but not the same


@given(RECORDS)
@settings(max_examples=100, deadline=None)
def test_python_2_wrote_escapes(record: dict[Any, Any]) -> None:
    line = ascii(record).encode()
    assert literal_object(line) == record


PIECES = [
    *"'\"\\{}[]:,a1 ubf#-+.()_*\r\t\u00e9",
    *("true", "None", "NaN", "'x'", '"y"', "e5", "\\n", "\\u00e9", "\\x", "'''", "\\'"),
]


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | st.text(max_size=40))
@settings(max_examples=700, deadline=None)
@example("{'a': true}")
@example("{'a': NaN}")
@example("{'a' 'b': 1}")
@example("{'a': 1_000}")
@example("{'a': 007}")
@example("{'a': 'x''y'}")
@example("{'''a''': 'b'}")
@example("{u'a': b'c'}")
@example("{'5\" disc': 1}")
def test_the_quick_way_reads_what_the_literal_parser_reads(inside: str) -> None:
    """Same value or same refusal, for whole records and for what is nearly one."""
    for text in (inside, "{'k': " + inside + "}", "{'k': '" + inside + "'}"):
        line = text.encode("utf-8", "replace")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                expected = ast.literal_eval(line.decode())
            except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
                expected = None
            if isinstance(expected, dict):
                assert repr(literal_object(line)) == repr(expected)
            else:
                with pytest.raises(ValueError, match=r"not a Python literal|not a dictionary"):
                    literal_object(line)


HOSTILE = [
    "__import__('os').system('touch {mark}')",
    "{{'asin': __import__('os').system('touch {mark}')}}",
    "{{'asin': f'{{open(chr(120))}}'}}",
    "{{'asin': [x for x in open('{mark}', 'w')]}}",
    "{{**open('{mark}', 'w')}}",
    "{{open('{mark}', 'w'): 1}}",
    "(lambda: open('{mark}', 'w'))()",
    "{{'asin': 'x'.__class__}}",
    "{{'asin': 10 ** 10 ** 10}}",
    "{{'asin': 1 if True else 2}}",
    "{{'asin': " + "[" * 100_000,
    "{{'asin': " + "[" * 5_000 + "]" * 5_000 + "}}",
    "{{'asin': " + "-" * 100_000 + "1}}",
    "{{'asin': " + "9" * 100_000 + "}}",
    "{{'asin': '\\N{{no such letter}}'}}",
    "{{'asin': 'x'",
    "{{[]: 1}}",
    "{{'asin': b'x'}}",
    "\x00",
    "\ufeff{{'asin': 'x'}}",
]


@pytest.mark.parametrize("code", HOSTILE)
def test_hostile_lines_are_faults_with_their_number(tmp_path: Path, code: str) -> None:
    mark = tmp_path / "ran"
    line = code.format(mark=mark)
    good = [repr({"asin": "x", "title": f"t{number}"}) for number in range(20)]
    file = write_lines(tmp_path / "m.json", [*good[:7], line, *good[7:]])
    items, notes = read_meta(file, {"x", "10"}, edition="amazon-2014")
    assert not mark.exists()
    assert any("1 of 21 lines malformed, skipped (line 8: " in note for note in notes)
    assert items.keys() == {"x"}


def refusal(read: Callable[[bytes], Any], line: bytes) -> Any:
    """What was read, or the one line that says why nothing was."""
    try:
        return read(line)
    except ValueError as error:
        reason = str(error)
    assert len(reason.splitlines()) == 1
    return reason


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_refused_in_one_line(line: bytes) -> None:
    for reader in (literal_object, json_object):
        assert isinstance(refusal(reader, line), dict | str)


JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
KEYS = ["asin", "parent_asin", "title", "brand", "store", "category", "categories", "main_category", "imUrl",
        "imageURLHighRes", "images", "description", "features"]  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), JSON))
@settings(max_examples=150, deadline=None)
def test_fields_of_any_type_give_an_item_that_can_be_written(record: dict[str, Any]) -> None:
    """A list for a title, a number for a category, a dictionary for a picture: an item or a ValueError, no crash."""
    for edition, form in EDITIONS.items():
        line = json.dumps(record) if edition != "amazon-2014" else repr(record)
        parsed = refusal(form.parse, line.encode())
        item = refusal(lambda _: form.convert(parsed, ["description", "features"]), b"")  # noqa: B023
        if isinstance(item, str):
            assert "asin" in item
        else:
            check_writable(item)


def check_writable(item: RawItem) -> None:
    texts = [item.id, item.title, item.brand, item.image_url, *item.fields.values()]
    texts += [node for path in item.categories for node in path]
    for text in texts:
        assert isinstance(text, str)
        text.encode()
        assert len(text.splitlines()) <= 1
    assert all(path and all(path) for path in item.categories)


def test_halves_of_a_pair_are_joined_or_replaced(tmp_path: Path) -> None:
    """Python 2 wrote letters outside the basic plane as two escapes."""
    lines = [r"{'asin': 'x', 'title': u'smile \ud83d\ude00'}", r"{'asin': 'y', 'title': 'broken \ud83d'}"]
    items, _ = read_meta(write_lines(tmp_path / "m.json", lines), {"x", "y"}, edition="amazon-2014")
    assert items["x"].title == "smile \U0001f600"
    assert items["y"].title == "broken \ufffd"


def test_numbers_keep_their_kind() -> None:
    actual = literal_object(
        b"{'a': 1, 'b': 1.0, 'c': -0.0, 'd': 1e400, 'e': True, 'f': None, 'g': 10000000000000000001}"
    )
    assert [type(value) for value in actual.values()] == [int, float, float, float, bool, type(None), int]
    assert math.copysign(1, actual["c"]) == -1
    assert actual["g"] == 10**19 + 1
