"""The Yelp Open Dataset: JSON lines of reviews, businesses and photos. The item is the business."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from mmbench.data.images import ImageListing, member_name
from mmbench.data.raw import (
    EventBuilder,
    Faults,
    RawEvents,
    RawItem,
    parse_id,
    parse_rating,
    read_lines,
)
from mmbench.data.records import get, json_object, text_of
from mmbench.data.timestamps import parse_ticks


def read_reviews(file: Path) -> tuple[RawEvents, list[str]]:
    """Return the interactions in file order, with stars as ratings, and notes. Dates are taken as UTC."""
    builder, faults = EventBuilder(), Faults(file)
    for number, line in read_lines(file):
        faults.n_lines += 1
        try:
            record = json_object(line)
            builder.add(
                parse_id(get(record, "user_id"), "user_id"),
                parse_id(get(record, "business_id"), "business_id"),
                parse_ticks(get(record, "date"), "iso"),
                parse_rating(record.get("stars")),
            )
        except ValueError as error:
            faults.add(number, str(error))
    notes = faults.finish()
    return builder.build(unit="iso", file=file), notes


def read_businesses(
    file: Path, wanted: Collection[str], *, fields: Collection[str] = ()
) -> tuple[dict[str, RawItem], list[str]]:
    """Return the wanted businesses by id, and notes. Categories are a string, split at ", "; each is a path."""
    items: dict[str, RawItem] = {}
    faults, repeated = Faults(file), 0
    for number, line in read_lines(file):
        faults.n_lines += 1
        try:
            record = json_object(line)
            key = parse_id(get(record, "business_id"), "business_id")
        except ValueError as error:
            faults.add(number, str(error))
            continue
        if key not in wanted:
            continue
        item = RawItem(
            id=key,
            title=text_of(record.get("name")),
            categories=[[node] for node in _categories(record.get("categories"))],
            fields={name: text_of(record.get(name)) for name in fields},
        )
        repeated += key in items
        items.setdefault(key, item).fill_from(item)
    notes = faults.finish()
    if repeated:
        notes.append(
            f"{file.name}: {repeated:,} entries repeat a business_id; blanks of the first were filled from them"
        )
    return items, notes


def _categories(value: Any) -> list[str]:
    """Return the category names, which some releases write as a single string and older releases as a list."""
    nodes = value.split(", ") if isinstance(value, str) else value
    return [name for name in map(text_of, nodes) if name] if isinstance(nodes, list) else []


def read_photos(
    file: Path, items: dict[str, RawItem], template: str, listing: ImageListing | None
) -> list[str]:
    """Give each business its first photo in the file (with a listing, the first that exists); return notes."""
    faults = Faults(file)
    for number, line in read_lines(file):
        faults.n_lines += 1
        try:
            record = json_object(line)
            photo = parse_id(get(record, "photo_id"), "photo_id")
            item = items.get(parse_id(get(record, "business_id"), "business_id"))
        except ValueError as error:
            faults.add(number, str(error))
            continue
        if item is None or (item.image is not None and (listing is None or item.image in listing.members)):
            continue
        member = _member(template, photo)
        if item.image is None or (listing is not None and member in listing.members):
            item.image = member
    return faults.finish()


def _member(template: str, photo: str) -> str | None:
    return member_name(template, lambda _: photo)
