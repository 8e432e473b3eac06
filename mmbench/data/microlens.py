"""Titles of MicroLens: `item,title` lines, once with a header and quotes (50k), once without either (100k)."""

import csv
from collections.abc import Collection
from pathlib import Path

from mmbench.data.raw import Faults, RawItem, parse_id, read_lines
from mmbench.data.text import clean


def read_titles(file: Path, wanted: Collection[str]) -> tuple[dict[str, RawItem], list[str]]:
    """The wanted items by id, and notes. Everything after a line's first comma is the title."""
    found: dict[str, RawItem] = {}
    faults, repeated = Faults(file), 0
    for number, line in read_lines(file):
        try:
            key, title = _cells(line)
        except ValueError as error:
            faults.n_lines += 1
            faults.add(number, str(error))
            continue
        if number == 1 and key == "item":
            continue  # the header
        faults.n_lines += 1
        if key in wanted:
            repeated += key in found
            item = RawItem(id=key, title=title)
            found.setdefault(key, item).fill_from(item)
    notes = faults.finish()
    if repeated:
        notes.append(
            f"{file.name}: {repeated:,} lines repeat an item; blanks of the first were filled from them"
        )
    return found, notes


def _cells(line: bytes) -> tuple[str, str]:
    text = line.decode("utf-8-sig")
    key, comma, title = text.partition(",")
    if not comma:
        raise ValueError("no comma between item and title")
    if title.lstrip().startswith('"'):
        try:
            cells = next(csv.reader([text], skipinitialspace=True))
        except csv.Error as error:
            raise ValueError(f"bad quoting: {error}") from None
        title = cells[1] if len(cells) == 2 else title  # a title that only begins with a quotation is no cell
    return parse_id(key.strip(), "item"), clean(title)
