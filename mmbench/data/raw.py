"""What parsers return, and the careful reading of lines that they share.

A damaged file raises a DataError. A damaged line is skipped, counted and shown with its number, as long as such
lines are few: at most 0.1% of the lines, or at most 10 lines that are no more than 10% of them.
"""

import gzip
import io
import math
import zlib
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmbench.data.text import is_utf8
from mmbench.data.timestamps import ORDER, check_period, shown
from mmbench.errors import DataError

MAX_LINE = 16 * 2**20  # bytes; no record is longer, but a bomb is
SHARE, FEW, FEW_SHARE = 0.001, 10, 0.1
_SHOWN = 5


@dataclass(frozen=True)
class RawEvents:
    """Interactions in file order; user and item are codes into the name lists. All arrays int64 [E].

    ticks      microseconds since 1970, or positions where `has_times` is False
    rating     float32 [E], plays no part in preparing; NaN if an event has none, None if no event has any
    """

    user_names: list[str]
    item_names: list[str]
    user: np.ndarray
    item: np.ndarray
    ticks: np.ndarray
    has_times: bool = True
    rating: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.user)


@dataclass
class RawItem:
    """An item of the raw catalogue; texts are cleaned, `fields` holds further columns by name."""

    id: str
    title: str = ""
    brand: str = ""
    categories: list[list[str]] = field(default_factory=list)
    image_url: str = ""
    image: str | None = None
    fields: dict[str, str] = field(default_factory=dict)

    def fill_from(self, other: "RawItem") -> None:
        """Fill blanks from another entry of the same item."""
        for name in ("title", "brand", "categories", "image_url", "image"):
            if not getattr(self, name):
                setattr(self, name, getattr(other, name))
        for key, value in other.fields.items():
            if not self.fields.get(key):
                self.fields[key] = value


@dataclass
class RawData:
    """Everything read from the raw files of a data set."""

    events: RawEvents
    items: dict[str, RawItem]
    notes: list[str]  # lines that say what was skipped or merged


class EventBuilder:
    """Collects interactions in compact arrays, in the order in which they are added."""

    def __init__(self) -> None:
        self._users: dict[str, int] = {}
        self._items: dict[str, int] = {}
        self._columns = (array("q"), array("q"), array("q"))
        self._rating = array("f")

    def add(self, user: str, item: str, ticks: int, rating: float = math.nan) -> None:
        users, items = self._users, self._items
        self._columns[0].append(users.setdefault(user, len(users)))
        self._columns[1].append(items.setdefault(item, len(items)))
        self._columns[2].append(ticks)
        self._rating.append(rating)

    def build(self, *, unit: str, file: Path) -> RawEvents:
        """Return the interactions; DataError when there are none, or when their times cannot be meant in the unit."""
        if not self._columns[0]:
            raise DataError(f"{file} holds no interaction; check that this is the right file")
        user, item, ticks = (np.frombuffer(column, dtype=np.int64).copy() for column in self._columns)
        rating = np.frombuffer(self._rating, dtype=np.float32).copy()
        if unit != ORDER:
            check_period(file, ticks, unit)
        return RawEvents(
            list(self._users),
            list(self._items),
            user,
            item,
            ticks,
            unit != ORDER,
            None if np.isnan(rating).all() else rating,
        )


class Faults:
    """The malformed lines of a file. The reader counts all lines in `n_lines`."""

    def __init__(self, file: Path, *, unit: str = "line") -> None:
        self.file = file
        self.unit = unit
        self.n_lines = 0
        self.count = 0
        self.shown: list[str] = []

    def add(self, line: int, reason: str, *, lines: int = 1) -> None:
        """Add a fault, which spoils `lines` lines (an unclosed quote swallows several)."""
        self.count += lines
        if len(self.shown) < _SHOWN:
            self.shown.append(f"{self.unit} {line}: {reason}")

    def finish(self) -> list[str]:
        """Return [] or a note; DataError when the file has no line or too many malformed lines."""
        n_lines = self.n_lines
        if n_lines == 0:
            raise DataError(f"{self.file} is empty; get the file again")
        if self.count == 0:
            return []
        text = "; ".join(self.shown) + ("; ..." if self.count > len(self.shown) else "")
        few = self.count <= FEW and self.count <= FEW_SHARE * n_lines
        if not few and self.count > SHARE * n_lines:
            raise DataError(
                f"{self.file}: {self.count:,} of {n_lines:,} {self.unit}s are malformed ({text}); "
                "check that this is the right file and get it again"
            )
        return [f"{self.file.name}: {self.count} of {n_lines:,} {self.unit}s malformed, skipped ({text})"]


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn errors about a damaged file into a DataError of a single line."""
    try:
        yield
    except EOFError as error:
        raise DataError(f"{file} is cut off: its gzip stream has no end; get the file again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{file} is damaged: {error}; get the file again") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error


@contextmanager
def open_raw(file: Path) -> Iterator[IO[bytes]]:
    """Yield the file's bytes, unpacked if its first two bytes (not its name) are gzip's. Read inside the context."""
    with _reading(file), file.open("rb") as plain:
        magic = plain.read(2)
        plain.seek(0)
        if magic == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=plain) as unpacked:
                yield io.BufferedReader(unpacked)
        else:
            yield plain


def read_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (1-based number, bytes) of each line that is not blank, streaming; DataError for an endless line."""
    with open_raw(file) as stream:
        number = 0
        while line := stream.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise too_long(file, number)
            if stripped := line.strip():
                yield number, stripped


def too_long(file: Path, number: int) -> DataError:
    """Return the error about a line that is longer than MAX_LINE."""
    return DataError(
        f"{file}: line {number} is longer than {MAX_LINE // 2**20} MiB, so this is not a file of lines; "
        "check that it is the right file and get it again"
    )


def parse_id(value: Any, what: str) -> str:
    """Return a raw id as text, exactly as written (leading zeros stay); ValueError says what is wrong with it."""
    if type(value) is str and value.isascii() and value.isprintable() and value and not value.isspace():
        return value  # the fast way for nearly every id
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"{what} {shown(value)} is not text")
    if not value.strip():
        raise ValueError(f"{what} is empty")
    if len(value.splitlines()) != 1:
        raise ValueError(f"{what} {shown(value)} holds a line break")
    if not is_utf8(value):
        raise ValueError(f"{what} {shown(value)} is not Unicode text")
    return value


def group_of(item: str, groups: Mapping[str, str]) -> str:
    """Return the group that an item belongs to; ValueError for an item that is not in the item table."""
    if item not in groups:
        raise ValueError(
            f"item {shown(item)} is not in the item table (which has {shown(next(iter(groups)))}), "
            "so its group is unknown"
        )
    return groups[item]


def parse_rating(value: Any) -> float:
    """Return a rating as float, NaN if it is missing or not a number: it never decides whether an event is kept."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def missing_name(name: str, known: list[str], what: str) -> str:
    """Return a message such as `no column 'usr'; did you mean 'user'?`."""
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
    return f"no {what} {name!r}; {hint}"
