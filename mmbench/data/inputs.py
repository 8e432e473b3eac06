"""What encoders read of a catalogue, and its hash, which differs for features made from other texts or pictures."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmbench.data.manifest import Inputs, Pictures
from mmbench.data.pictures import PictureFiles

Record = Mapping[str, Any]


def input_text(record: Record) -> str | None:
    """Return an item's text with white space collapsed; None when it has no letter and no digit."""
    joined = " ".join(str(record.get("text") or "").split())
    return joined if any(letter.isalnum() for letter in joined) else None


def input_picture(record: Record) -> str | None:
    """Return the name of an item's picture file, None when it has none."""
    return record.get("image") or None


def hash_texts(texts: Iterable[str | None]) -> str:
    """Return the sha256 of all texts in item order."""
    total = hashlib.sha256()
    for text in texts:
        total.update(json.dumps(text).encode() + b"\n")
    return total.hexdigest()


def hash_marks(marks: Iterable[str]) -> str:
    """Return the sha256 of the marks of all pictures (see PictureFiles.mark) in item order."""
    return hashlib.sha256("".join(f"{mark}\n" for mark in marks).encode()).hexdigest()


def read_inputs(records: Sequence[Record], pictures: Pictures | None, name: str) -> Inputs:
    """Return the hashes of a catalogue's texts and pictures; every picture file of a folder or zip is read.

    Raises DataError when the pictures cannot be opened.
    """
    members = [input_picture(record) for record in records]
    with PictureFiles(pictures if any(members) else None, name) as files:
        return Inputs(
            text=hash_texts(map(input_text, records)),
            image=hash_marks(files.mark(member) for member in members),
        )
