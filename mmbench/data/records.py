"""A line of a raw file -> a record, and careful reading of its fields. Shared by the parsers of line formats."""

import ast
import json
import re
from typing import Any

from mmbench.data.raw import missing_name
from mmbench.data.text import clean, is_utf8
from mmbench.explain import explain

# The alternatives: plain strings with what separates them, as many as follow; another string; a name; a stray quote.
# No alternative is tried twice at the same position, so a hostile line costs no more than a long one.
_LITERAL = re.compile(
    r"""(?P<plain>'[^'"\\]*+'(?:[\s\d\[\]{},:.+-]*+'[^'"\\]*+')*+)"""
    r"""|(?P<string>'[^'\\]*+(?:\\.[^'\\]*+)*+'|"[^"\\]*+(?:\\.[^"\\]*+)*+")"""
    r"""|(?P<name>[^\W\d]\w*+)|(?P<astray>['"\\])"""
)
_decode_json = json.JSONDecoder().decode
_JSON_NAMES = {"True": "true", "False": "false", "None": "null"}


def json_object(line: bytes) -> dict[str, Any]:
    """Return the JSON object that a line holds; ValueError says why there is none."""
    try:
        try:
            record = _decode_json(line.decode())
        except ValueError:
            record = json.loads(line)  # is slower, but reads byte order marks and says where a line is wrong
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {explain(error)}") from None
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return record


def literal_object(line: bytes) -> dict[str, Any]:
    """Return the dictionary that a line holds as a Python literal; ValueError says why there is none.

    The 2014 metadata are not JSON. They are read by the literal parser and never evaluated. That parser is slow, so an
    object that differs from JSON only in its quotes and the names of constants is rewritten and read as JSON.
    """
    try:
        text = line.decode("utf-8")
        record = _literal_by_json(text)
        if record is None:
            record = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
        reason = getattr(error, "msg", None) or str(error).split(" <")[0].split(":")[0]
        raise ValueError(f"not a Python literal: {reason}") from None
    if not isinstance(record, dict):
        raise ValueError("not a dictionary")
    return record


def _literal_by_json(text: str) -> Any:
    """Return the value, or None if the rewritten text is not JSON; the literal parser reads whatever is doubtful."""
    try:
        return _decode_json(_LITERAL.sub(_to_json, text))
    except (ValueError, SyntaxError, KeyError, RecursionError, MemoryError):
        return None


def _to_json(match: re.Match[str]) -> str:
    token = match[0]
    if match.lastgroup == "plain":
        return token.replace("'", '"')
    if match.lastgroup != "string":
        return _JSON_NAMES[token]  # KeyError: a prefix (u''), an exponent (1e5), a call, a stray quote
    if "\\" not in token:
        return '"' + token[1:-1].replace('"', '\\"') + '"'
    value = ast.literal_eval(token)
    if not is_utf8(value):
        raise ValueError("JSON would join the halves of a surrogate pair")
    return json.dumps(value)


def get(record: dict[str, Any], key: str) -> Any:
    """Return a field; ValueError for a missing field, with the nearest."""
    if key not in record:
        raise ValueError(missing_name(key, [str(known) for known in record], "field"))
    return record[key]


def text_of(value: Any) -> str:
    """Return the cleaned text of a string, a number or a list of them (joined by blanks); anything else is blank."""
    if isinstance(value, list):
        return " ".join(filter(None, (text_of(part) for part in value if not isinstance(part, list))))
    return clean(str(value)) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def path_of(nodes: Any) -> list[str]:
    """Return the cleaned category nodes from root to leaf, without blank names."""
    if not isinstance(nodes, list):
        return []
    return [text for text in map(text_of, nodes) if text]


def url_of(value: Any) -> str:
    """Return the address, or the first in a list of addresses; blank when there is none."""
    first = value[0] if isinstance(value, list) and value else value
    return clean(first) if isinstance(first, str) else ""
