"""Amazon review data, read line by line. Reviews are JSON in every edition:

edition  reviews                                           metadata
2014     reviewerID, asin, unixReviewTime (s), overall     Python literals: asin, categories (paths), imUrl
2018     the same                                          JSON: asin, category (a path), imageURLHighRes
2023     user_id, parent_asin, timestamp (ms), rating      JSON: parent_asin, store, categories, images

An item of the 2023 edition is a parent_asin, the page that all colours and sizes share: the metadata has no other
id, the release's own 5-core files count it, and it is (says the release) what older editions call asin.
"""

import re
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbench.data.raw import (
    EventBuilder,
    Faults,
    RawEvents,
    RawItem,
    parse_id,
    parse_rating,
    read_lines,
)
from mmbench.data.records import get, json_object, literal_object, path_of, text_of, url_of
from mmbench.data.text import is_page_script
from mmbench.data.timestamps import parse_ticks

Record = dict[str, Any]


@dataclass(frozen=True)
class _Edition:
    """How an edition writes reviews and metadata."""

    user: str
    item: str
    time: str
    unit: str
    rating: str
    parse: Callable[[bytes], Record]  # reads a line of metadata
    find_id: Callable[[bytes], re.Match[bytes] | None]  # finds the item id of a line without parsing it
    convert: Callable[[Record, Collection[str]], RawItem]


def read_reviews(file: Path, *, edition: str) -> tuple[RawEvents, list[str]]:
    """Return the interactions in file order, with ratings, and notes."""
    form = EDITIONS[edition]
    builder, faults = EventBuilder(), Faults(file)
    for number, line in read_lines(file):
        faults.n_lines += 1
        try:
            record = json_object(line)
            builder.add(
                parse_id(get(record, form.user), form.user),
                parse_id(get(record, form.item), form.item),
                parse_ticks(get(record, form.time), form.unit),
                parse_rating(record.get(form.rating)),
            )
        except ValueError as error:
            faults.add(number, str(error))
    notes = faults.finish()
    return builder.build(unit=form.unit, file=file), notes


def read_meta(
    file: Path, wanted: Collection[str], *, edition: str, fields: Collection[str] = ()
) -> tuple[dict[str, RawItem], list[str]]:
    """Return the wanted items by id, and notes.

    fields  names the long texts ("description") to keep

    Entries with the same id are the same item: the first entry counts, and the others fill in what is blank in it.
    """
    form = EDITIONS[edition]
    items: dict[str, RawItem] = {}
    faults, repeated, scripts = Faults(file), 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a literal '\d' is read correctly, but Python warns about it
        for number, line in read_lines(file):
            faults.n_lines += 1
            match = form.find_id(line)
            if match and match[1].decode("utf-8", "replace") not in wanted:
                continue  # metadata of a whole category is ten times larger than its 5-core: skip before parsing
            try:
                record = form.parse(line)
                item = form.convert(record, fields)
            except ValueError as error:
                faults.add(number, str(error))
                continue
            if item.id not in wanted:
                continue
            if is_page_script(str(record.get("title") or "")):
                item.title, scripts = "", scripts + 1
            if item.id in items:
                repeated += 1
                items[item.id].fill_from(item)
            else:
                items[item.id] = item
    return items, faults.finish() + _remarks(file, form.item, repeated, scripts)


def _remarks(file: Path, key: str, repeated: int, scripts: int) -> list[str]:
    notes = []
    if repeated:
        notes.append(
            f"{file.name}: {repeated:,} entries repeat an {key}; blanks of the first were filled from them"
        )
    if scripts:
        notes.append(f"{file.name}: {scripts:,} titles are page script and were left blank")
    return notes


def _long_texts(record: Record, fields: Collection[str]) -> dict[str, str]:
    return {name: text_of(record.get(name)) for name in fields}


def _item_2014(record: Record, fields: Collection[str]) -> RawItem:
    paths = record.get("categories")
    return RawItem(
        id=parse_id(get(record, "asin"), "asin"),
        title=text_of(record.get("title")),
        brand=text_of(record.get("brand")),
        categories=[path for path in map(path_of, paths if isinstance(paths, list) else []) if path],
        image_url=url_of(record.get("imUrl")),
        fields=_long_texts(record, fields),
    )


def _item_2018(record: Record, fields: Collection[str]) -> RawItem:
    path = path_of(record.get("category"))
    return RawItem(
        id=parse_id(get(record, "asin"), "asin"),
        title=text_of(record.get("title")),
        brand=text_of(record.get("brand")),
        categories=[path] if path else [],
        image_url=url_of(record.get("imageURLHighRes")),  # TMMSRec reads no other picture
        fields=_long_texts(record, fields),
    )


def _item_2023(record: Record, fields: Collection[str]) -> RawItem:
    path = path_of(record.get("categories")) or path_of([record.get("main_category")])
    return RawItem(
        id=parse_id(get(record, "parent_asin"), "parent_asin"),
        title=text_of(record.get("title")),
        brand=text_of(record.get("store")),
        categories=[path] if path else [],
        image_url=_picture_2023(record.get("images")),
        fields=_long_texts(record, fields),
    )


def _picture_2023(images: Any) -> str:
    """Return the address of the MAIN picture, else of the first, in about 500 pixels where that size exists.

    The raw files hold a list of pictures with their sizes. The release's Python loader turns it into a list per
    size; files saved from it are read as well.
    """
    sizes = ("large", "hi_res", "thumb")
    if isinstance(images, dict):
        columns = {
            key: value if isinstance(value, list) else []
            for key, value in images.items()
            if isinstance(key, str)
        }
        n = max(map(len, columns.values()), default=0)
        images = [{key: value[i] for key, value in columns.items() if i < len(value)} for i in range(n)]
    if not isinstance(images, list):
        return ""
    pictures = sorted(
        (photo for photo in images if isinstance(photo, dict)),
        key=lambda photo: photo.get("variant") != "MAIN",
    )
    return next((url for photo in pictures for size in sizes if (url := url_of(photo.get(size)))), "")


# The id is the first key in the 2014 files. In JSON it may be anywhere; the opening quote of a key cannot be part of
# a string, in which it would follow a backslash.
EDITIONS = {
    "amazon-2014": _Edition(
        "reviewerID", "asin", "unixReviewTime", "s", "overall",
        literal_object, re.compile(rb"""\{\s*['"]asin['"]\s*:\s*['"]([^'"\\]+)['"]""").match, _item_2014,
    ),
    "amazon-2018": _Edition(
        "reviewerID", "asin", "unixReviewTime", "s", "overall",
        json_object, re.compile(rb'[{,]\s*"asin"\s*:\s*"([^"\\]+)"').search, _item_2018,
    ),
    "amazon-2023": _Edition(
        "user_id", "parent_asin", "timestamp", "ms", "rating",
        json_object, re.compile(rb'[{,]\s*"parent_asin"\s*:\s*"([^"\\]+)"').search, _item_2023,
    ),
}  # fmt: skip
