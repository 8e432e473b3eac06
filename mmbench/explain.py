"""Exceptions of parsers, and of code in a user's files, as a line that says what is wrong and where."""

import os
import sys
import tomllib
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmbench.errors import MmbenchError, UsageError
from mmbench.visible import one_line

LONGEST = 300  # characters of what an exception says


def explain(error: BaseException, *, folders: Sequence[Path] = ()) -> str:
    """Return an exception as a single line.

    folders  where the code lies that may be at fault: the innermost line of the first folder that the exception passed
             through is named ("my_line.py:38 in query(): ValueError: ..."); without any it is an exception of a parser
    """
    if isinstance(error, MmbenchError):
        return str(error)
    place = next(filter(None, (_place(error, folder) for folder in folders)), "")
    if not folders:
        return _cut(_of_parser(error))
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    what = ": ".join(filter(None, [type(error).__name__, text]))
    return _cut(f"{place}: {what}" if place else what)


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, its type where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def comes_from(error: BaseException, folders: Sequence[Path]) -> bool:
    """Return whether an exception passed through a file in any of these folders."""
    return any(_place(error, folder) for folder in folders)


def _cut(text: str) -> str:
    line = one_line(without_folders(text))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


def _place(error: BaseException, folder: Path) -> str:
    """Return file, line and function of the innermost frame in a folder; "" when there is none."""
    inside = os.path.join(os.path.realpath(folder), "")
    if isinstance(error, SyntaxError) and os.path.realpath(error.filename or "").startswith(inside):
        return f"{Path(error.filename or '').name}:{error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        is_file = not frame.filename.startswith(
            "<"
        )  # Python's own frozen modules have names like <frozen ...>
        if is_file and os.path.realpath(frame.filename).startswith(inside):
            function = "" if frame.name == "<module>" else f" in {frame.name}()"
            return f"{Path(frame.filename).name}:{frame.lineno}{function}"
    return ""


def _of_parser(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 (byte {error.start})"
    if isinstance(error, MemoryError):
        return "it is too large for the memory"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    if isinstance(error, ValueError) and "integer string conversion" in str(error):
        return f"a number has more than {sys.get_int_max_str_digits():,} digits"
    return str(error) or type(error).__name__


@contextmanager
def reading(file: Path | str, kind: type[MmbenchError] = UsageError, *, advice: str = "") -> Iterator[None]:
    """Raise whatever a parser raises about a file as a line of `kind`, which begins with what the file is called."""
    try:
        yield
    except MmbenchError:
        raise
    except Exception as error:
        raise kind(f"{file}: {explain(error)}{'; ' * bool(advice)}{advice}") from error


def read_toml(file: Path, kind: type[MmbenchError] = UsageError, *, called: str = "") -> dict[str, Any]:
    """Return the content of a TOML file, with or without a byte order mark; `kind` says in a line what is wrong.

    called  what the line calls the file, by default its path
    """
    with reading(called or file, kind, advice="correct the file"):
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))


def full_traceback(error: BaseException) -> str:
    """Return the whole traceback of an exception without folders of this machine, so that it can be sent to others."""
    return without_folders("".join(traceback.format_exception(error)))


def without_folders(text: str) -> str:
    """Return a text in which the folders of Python, of the user and of the moment are left out or become ~."""
    for folder in sorted({entry for entry in (*sys.path, os.getcwd()) if entry not in ("", os.sep)}, key=len)[
        ::-1
    ]:
        text = text.replace(os.path.join(folder, ""), "")
    home = os.path.expanduser("~")
    return text if home in ("", os.sep, "~") else text.replace(os.path.join(home, ""), os.path.join("~", ""))
