"""Item texts: the cleaning of raw fields, and the joined text that text encoders read."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<!--.*?-->")


def clean(value: str) -> str:
    """Unescape HTML, remove tags and double quotes, and replace every run of white space by a single blank.

    Some of Amazon's 2018 pages are escaped twice, so unescaping is repeated until nothing changes. The result has no
    line break of any kind; apostrophes stay, since they belong to words. Halves of a surrogate pair, which JSON and
    Python literals can hold but no file can, are joined or replaced.
    """
    if not is_utf8(value):
        value = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    while (plain := html.unescape(value)) != value:
        value = plain
    return " ".join(_TAG.sub(" ", value).replace('"', "").split())


def is_utf8(value: str) -> bool:
    """Return whether the text can be written to a file, that is, holds no half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_page_script(title: str) -> bool:
    """Return whether a title is the script of its product page, as some titles of 2018 are."""
    return "getTime(" in title or "<script" in title.lower()


def sentence(text: str) -> str:
    """End `text` with a single full stop; empty text stays empty."""
    text = text.rstrip(" .")
    return f"{text}." if text else ""


def category_nodes(paths: Sequence[Sequence[str]]) -> list[str]:
    """Return all nodes of all paths, each once, in order of first appearance."""
    return list(dict.fromkeys(node for path in paths for node in path))


def join_text(record: Mapping[str, Any], fields: Sequence[str]) -> str:
    """Join the named fields of an item record in order, each as a sentence; empty fields are left out.

    Text of any length is kept: an encoder knows its limit and counts what it cuts.
    """
    parts = []
    for field in fields:
        value = record.get(field, "")
        parts.append(sentence(", ".join(category_nodes(value)) if field == "categories" else value))
    return " ".join(part for part in parts if part)
