"""Amazon review data: 2014 (JSON reviews, Python-literal metadata) and 2018 (JSON both). Read line by line."""

import ast
import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from mmbench.data.raw import (
    EventBuilder,
    Faults,
    RawEvents,
    RawItem,
    missing_name,
    parse_id,
    parse_ticks,
    read_lines,
)
from mmbench.data.text import clean, is_page_script

_ASIN_FIRST = re.compile(rb"""\{\s*['"]asin['"]\s*:\s*['"]([^'"\\]+)['"]""")


def read_reviews(file: Path) -> tuple[RawEvents, list[str]]:
    """Interactions in file order, and notes. Both editions have reviewerID, asin, unixReviewTime."""
    builder, faults = EventBuilder(), Faults(file)
    for number, line in read_lines(file):
        faults.n_lines += 1
        try:
            record = _json_object(line)
            builder.add(
                parse_id(_get(record, "reviewerID"), "reviewerID"),
                parse_id(_get(record, "asin"), "asin"),
                parse_ticks(_get(record, "unixReviewTime"), "s"),
            )
        except ValueError as error:
            faults.add(number, str(error))
    notes = faults.finish()
    return builder.build(unit="s", file=file), notes


def read_meta(file: Path, wanted: Collection[str], *, edition: str) -> tuple[dict[str, RawItem], list[str]]:
    """The wanted items by asin, and notes.

    An asin that stands twice is one item: the first entry counts, what is blank in it comes from the others.
    """
    parse, convert = _EDITIONS[edition]
    found: dict[str, RawItem] = {}
    faults, repeated, scripts = Faults(file), 0, 0
    for number, line in read_lines(file):
        faults.n_lines += 1
        asin = _ASIN_FIRST.match(line)
        if asin and asin[1].decode("utf-8", "replace") not in wanted:
            continue  # metadata of a whole category is ten times larger than its 5-core: skip before parsing
        try:
            record = parse(line)
            item = convert(record)
        except ValueError as error:
            faults.add(number, str(error))
            continue
        if item.id not in wanted:
            continue
        if is_page_script(str(record.get("title") or "")):
            item.title, scripts = "", scripts + 1
        if item.id in found:
            repeated += 1
            found[item.id].fill_from(item)
        else:
            found[item.id] = item
    notes = faults.finish()
    if repeated:
        notes.append(
            f"{file.name}: {repeated:,} entries repeat an asin; blanks of the first were filled from them"
        )
    if scripts:
        notes.append(f"{file.name}: {scripts:,} titles are page script and were left blank")
    return found, notes


def _get(record: dict[str, Any], key: str) -> Any:
    if key not in record:
        raise ValueError(missing_name(key, [str(one) for one in record], "field"))
    return record[key]


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError("no JSON object")
    return record


def _literal_object(line: bytes) -> dict[str, Any]:
    """One Python literal, by the literal parser: the 2014 metadata is no JSON and must never be evaluated."""
    try:
        record = ast.literal_eval(line.decode("utf-8"))
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
        reason = getattr(error, "msg", None) or str(error).split(" <")[0].split(":")[0]
        raise ValueError(f"no Python literal: {reason}") from None
    if not isinstance(record, dict):
        raise ValueError("no dictionary")
    return record


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = " ".join(str(one) for one in value)
    return "" if value is None else clean(str(value))


def _path(nodes: Any) -> list[str]:
    if not isinstance(nodes, list):
        return []
    return [node for node in (_text(one) for one in nodes) if node]


def _first(value: Any) -> str:
    first = value[0] if isinstance(value, list) and value else value
    return first.strip() if isinstance(first, str) else ""


def _item_2014(record: dict[str, Any]) -> RawItem:
    paths = record.get("categories")
    return RawItem(
        id=parse_id(_get(record, "asin"), "asin"),
        title=_text(record.get("title")),
        brand=_text(record.get("brand")),
        categories=[path for path in map(_path, paths if isinstance(paths, list) else []) if path],
        image_url=_first(record.get("imUrl")),
        fields={"description": _text(record.get("description"))},
    )


def _item_2018(record: dict[str, Any]) -> RawItem:
    path = _path(record.get("category"))
    return RawItem(
        id=parse_id(_get(record, "asin"), "asin"),
        title=_text(record.get("title")),
        brand=_text(record.get("brand")),
        categories=[path] if path else [],
        image_url=_first(record.get("imageURLHighRes")),  # TMMSRec reads no other picture
        fields={"description": _text(record.get("description"))},
    )


_EDITIONS: dict[str, tuple[Callable[[bytes], dict[str, Any]], Callable[[dict[str, Any]], RawItem]]] = {
    "amazon-2014": (_literal_object, _item_2014),
    "amazon-2018": (_json_object, _item_2018),
}
