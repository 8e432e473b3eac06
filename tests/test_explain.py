"""mmbench.explain: exceptions in one line, with the place in the user's file and without folders of the machine."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from mmbench.errors import DataError, UsageError
from mmbench.explain import comes_from, explain, full_traceback, read_toml, reading, without_folders

CODE = "def outer(call):\n    return inner(call)\n\n\ndef inner(call):\n    return call()\n"


def fail() -> None:
    raise ValueError("two\nlines \x1b[2J")


def raised(work: Callable[[], object]) -> BaseException:
    try:
        work()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def test_the_innermost_line_of_the_users_folder_is_named(tmp_path: Path) -> None:
    names: dict[str, Callable[[Callable[[], None]], None]] = {}
    exec(compile(CODE, str(tmp_path / "mine.py"), "exec"), names)
    error = raised(lambda: names["outer"](fail))
    assert comes_from(error, [tmp_path])
    assert explain(error, folders=[tmp_path]) == "mine.py:6 in inner(): ValueError: two lines ␛[2J"
    # The first folder that has a frame wins, although this file is further inside.
    here = Path(__file__).parent
    assert explain(error, folders=[tmp_path, here]).startswith("mine.py:6 ")
    assert explain(error, folders=[here, tmp_path]).startswith("test_explain.py:")
    nowhere = tmp_path / "nowhere"
    assert not comes_from(error, [nowhere])
    assert explain(error, folders=[nowhere]) == "ValueError: two lines ␛[2J"


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (lambda: json.loads("[" * 100_000), "it is nested too deeply"),
        (lambda: json.loads("9" * 5000), "a number has more than 4,300 digits"),
        (lambda: b"ab\xff".decode(), "it is not UTF-8 (byte 2)"),
        (lambda: tomllib.loads("a = 1\nb ="), "Invalid value (at end of document)"),
        (lambda: Path("/").read_text(encoding="utf-8"), "cannot be read: Is a directory"),
        (lambda: exec("raise MemoryError"), "it is too large for the memory"),
        (lambda: exec("raise AssertionError"), "AssertionError"),
    ],
)
def test_what_parsers_say_becomes_words(parse: Callable[[], object], text: str) -> None:
    assert explain(raised(parse)) == text


def test_what_reads_a_file_names_it_once(tmp_path: Path) -> None:
    text = r"^a\.json: it is nested too deeply; get it again$"
    with pytest.raises(DataError, match=text), reading(Path("a.json"), DataError, advice="get it again"):
        json.loads("[" * 100_000)
    outer, inner = reading(Path("a.json"), UsageError), reading(Path("b.json"), DataError)
    with pytest.raises(DataError, match=r"^b\.json: it is not"), outer, inner:
        b"\xff".decode()
    file = tmp_path / "a.toml"
    file.write_bytes(b"\xef\xbb\xbfa = 1")
    assert read_toml(file) == {"a": 1}


def test_no_folder_of_this_machine_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert without_folders(f"cannot read {tmp_path}/secret/a.txt") == "cannot read ~/secret/a.txt"
    text = full_traceback(raised(lambda: json.loads("{")))
    assert 'File "json/decoder.py"' in text
    assert str(Path.cwd()) not in text
