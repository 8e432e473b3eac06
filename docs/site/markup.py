"""Markdown from plain values."""

from collections.abc import Iterable, Sequence


def cell(text: object) -> str:
    """Return a text as the cell of a table: on one line, with what Markdown would read as markup escaped."""
    line = " ".join(str(text).split())
    for mark in "\\|*_<[`":
        line = line.replace(mark, f"\\{mark}")
    return line


def code(text: object) -> str:
    """Return a text as code; "" stays empty. A | in code does not end a cell of Python-Markdown's tables."""
    line = " ".join(str(text).split())
    return f"`{line}`" if line else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose cells are Markdown already, without columns that are empty in all rows."""
    body = [list(row) for row in rows]
    shown = [i for i in range(len(header)) if any(row[i] for row in body)]
    lines = [[header[i] for i in shown], ["---"] * len(shown), *([row[i] for i in shown] for row in body)]
    return ["", *(f"| {' | '.join(line)} |" for line in lines), ""] if body else []
