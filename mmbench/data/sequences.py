"""Sequence files, a line for each user: `user item item item`, separated by blanks, oldest first (S3-Rec's format).

They have an order and no times, so models that read times refuse them.
"""

from collections.abc import Mapping
from pathlib import Path

from mmbench.data.raw import EventBuilder, Faults, RawEvents, group_of, parse_id, read_lines
from mmbench.data.timestamps import ORDER, shown


def read(file: Path, groups: Mapping[str, str] | None) -> tuple[RawEvents, list[str]]:
    """Return the interactions and notes on malformed lines; DataError for a file that is no such file.

    groups  the group of each item, which stands for it; None for items that stand for themselves
    """
    builder, faults = EventBuilder(), Faults(file)
    users: set[str] = set()
    for number, line in read_lines(file):
        faults.n_lines += 1
        try:
            user, items = _parse(line, groups)
            if user in users:
                raise ValueError(f"user {shown(user)} already has a line")
        except ValueError as error:
            faults.add(number, str(error))
            continue
        users.add(user)
        for position, item in enumerate(items):
            builder.add(user, item, position)
    notes = faults.finish()
    return builder.build(unit=ORDER, file=file), notes


def check_first(file: Path) -> None:
    """Raise DataError when the first line of a file is no sequence."""
    faults = Faults(file)
    for number, line in read_lines(file):
        faults.n_lines += 1
        try:
            _parse(line, None)
        except ValueError as error:
            faults.add(number, str(error))
        break
    faults.finish()


def _parse(line: bytes, groups: Mapping[str, str] | None) -> tuple[str, list[str]]:
    """Return a user and the items of a line; ValueError says what is wrong with it."""
    try:
        user, *items = line.decode("utf-8-sig").split()
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.start})") from error
    if not items:
        raise ValueError(
            f"user {shown(user)} has no items; a line is a user and its items, separated by blanks"
        )
    names = [parse_id(item, "item id") for item in items]
    return parse_id(user, "user id"), [
        group_of(name, groups) for name in names
    ] if groups is not None else names
