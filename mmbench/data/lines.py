"""Lines of a text table -> rows of cells. A quote that nobody closes spoils its own line and no other."""

import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mmbench.data.raw import MAX_LINE, Faults, too_long
from mmbench.errors import DataError

MOST_LINES = 1000  # limits a cell in quotes
_QUOTED = re.compile(r'"((?:[^"]++|"")*+)"')


class UnclosedError(ValueError):
    """A line ends inside quotes."""


def split_plain(line: str, separator: str) -> list[str]:
    """Return the cells of a line in which a quote is a letter like any other."""
    return line.rstrip("\r\n").split(separator)


def split_quoted(line: str, separator: str) -> list[str]:
    """Return the cells of a line, some of them in quotes (a quote inside is doubled), as RFC 4180 has it.

    Raises UnclosedError when the last cell has no closing quote, ValueError when letters follow a closing quote.
    """
    line = line.rstrip("\r\n")
    if '"' not in line:
        return line.split(separator)
    cells, position = [], 0
    while True:
        if line.startswith('"', position):
            match = _QUOTED.match(line, position)
            if match is None:
                raise UnclosedError("a quote is not closed")
            cells.append(match[1].replace('""', '"'))
            position = match.end()
            if position < len(line) and line[position] != separator:
                raise ValueError(f"a {separator!r} must follow a closing quote")
        else:
            end = line.find(separator, position)
            end = len(line) if end < 0 else end
            cells.append(line[position:end])
            position = end
        if position >= len(line):
            return cells
        position += 1


class RowReader:
    """Reads the rows of a text table, which begin at any line and may cover several.

    A line is read with its quotes as quotes, together with the lines up to the closing quote. Where that does not give
    a row of the right width, the line without any quoting may: a title that begins with a quote. In a file with tabs,
    whose writers seldom quote, such a line is a row by itself if the next line is a row, too.
    """

    def __init__(self, file: Path, stream: IO[str], separator: str, faults: Faults, *, quoting: bool) -> None:
        self.file, self.separator, self.faults, self.quoting = file, separator, faults, quoting
        self.number = 0  # lines read so far, without those that wait
        self.width: int | None = None  # cells of a row; None until the header is read
        self._stream, self._waiting = stream, deque[str]()

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield (number of its last line, cells) of each row that is not blank; others are added to the faults."""
        while line := self._next():
            if not line.strip("\r\n"):
                continue
            self.faults.n_lines += self.width is not None
            try:
                cells = self._row(line)
            except ValueError as error:
                self.faults.add(self.number, str(error))
                continue
            self.width = self.width or len(cells)
            yield self.number, cells

    def _row(self, line: str) -> list[str]:
        if not self.quoting:
            return self._checked(split_plain(line, self.separator))
        try:
            cells = split_quoted(line, self.separator)
        except UnclosedError:
            return self._unclosed(line)
        except ValueError as error:
            plain = split_plain(line, self.separator)
            if len(plain) == self.width:
                return plain
            raise ValueError(f"bad quoting: {error}") from None
        plain = split_plain(line, self.separator)
        return plain if len(cells) != self.width == len(plain) else self._checked(cells)

    def _unclosed(self, line: str) -> list[str]:
        """Return the row of a line whose last quote is open: the line by itself, or with the lines up to the close."""
        plain = split_plain(line, self.separator)
        if self.separator == "\t" and len(plain) == self.width and self._is_row(self._peek(0)):
            return plain
        whole = line
        for index in range(MOST_LINES):
            following = self._peek(index)
            whole += following
            if '"' in following:
                try:
                    cells = split_quoted(whole, self.separator)
                except UnclosedError:
                    continue
                except ValueError:
                    break
                if self.width is not None and len(cells) != self.width:
                    break
                for _ in range(index + 1):
                    self._next()
                return cells
            if not following or len(whole) > MAX_LINE:
                break
        if len(plain) == self.width:
            return plain
        raise ValueError("bad quoting: a quote is not closed")

    def _is_row(self, line: str) -> bool:
        """Return whether a line is a row by itself (or the end of the file), so that no cell runs on into it."""
        return not line or len(split_plain(line, self.separator)) == self.width

    def _checked(self, cells: list[str]) -> list[str]:
        if self.width is not None and len(cells) != self.width:
            raise ValueError(f"{len(cells)} fields instead of {self.width}")
        return cells

    def _next(self) -> str:
        """Return the next line with its end, "" after the last."""
        line = self._waiting.popleft() if self._waiting else self._read()
        self.number += bool(line)
        return line

    def _peek(self, index: int) -> str:
        """Return the line `index` lines after the current line, without advancing."""
        while len(self._waiting) <= index:
            line = self._read()
            if not line:
                return ""
            self._waiting.append(line)
        return self._waiting[index]

    def _read(self) -> str:
        number = self.number + len(self._waiting) + 1
        try:
            line = self._stream.readline(MAX_LINE + 1)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.file} is not UTF-8 near line {number} ({error.reason}); convert it to UTF-8"
            ) from error
        if len(line) > MAX_LINE:
            raise too_long(self.file, number)
        return line
