"""Titles of MicroLens: `item,title` lines, with a header and quotes (50k) or without either (100k)."""

import csv
from collections.abc import Collection
from pathlib import Path

from mmbench.data.raw import Faults, RawItem, parse_id, read_lines
from mmbench.data.text import clean


def read_titles(file: Path, wanted: Collection[str]) -> tuple[dict[str, RawItem], list[str]]:
    """Return the wanted items by id, and notes. Everything after a line's first comma is the title."""
    items: dict[str, RawItem] = {}
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
            repeated += key in items
            item = RawItem(id=key, title=title)
            items.setdefault(key, item).fill_from(item)
    notes = faults.finish()
    if repeated:
        notes.append(
            f"{file.name}: {repeated:,} lines repeat an item; blanks of the first were filled from them"
        )
    return items, notes


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
        title = cells[1] if len(cells) == 2 else title  # else the title merely begins with a quotation
    return parse_id(key.strip(), "item"), clean(title)
