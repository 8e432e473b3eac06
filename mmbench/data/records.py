"""One line of a raw file -> one record, and careful reading of its fields. Shared by the parsers of line formats."""

import ast
import json
import re
from typing import Any

from mmbench.data.raw import missing_name
from mmbench.data.text import clean, is_utf8

# Plain strings with what stands between them, as long as that lasts; one other string; one name; a quote astray.
# No part is ever tried twice at one place, so that a hostile line costs no more than a long one.
_LITERAL = re.compile(
    r"""(?P<plain>'[^'"\\]*+'(?:[\s\d\[\]{},:.+-]*+'[^'"\\]*+')*+)"""
    r"""|(?P<string>'[^'\\]*+(?:\\.[^'\\]*+)*+'|"[^"\\]*+(?:\\.[^"\\]*+)*+")"""
    r"""|(?P<name>[^\W\d]\w*+)|(?P<astray>['"\\])"""
)
_decode_json = json.JSONDecoder().decode
_JSON_NAMES = {"True": "true", "False": "false", "None": "null"}


def json_object(line: bytes) -> dict[str, Any]:
    """The JSON object that a line holds; ValueError says why there is none."""
    try:
        try:
            record = _decode_json(line.decode())
        except ValueError:
            record = json.loads(line)  # slower; knows byte order marks and tells where a line is wrong
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError("no JSON object")
    return record


def literal_object(line: bytes) -> dict[str, Any]:
    """The dictionary that a line holds as a Python literal; ValueError says why there is none.

    The 2014 metadata is no JSON. It is read by the literal parser and never evaluated. That parser is slow, so what
    is a JSON object but for its quotes and the names of constants is rewritten and read as JSON: same values.
    """
    try:
        text = line.decode("utf-8")
        record = _literal_by_json(text)
        if record is None:
            record = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
        reason = getattr(error, "msg", None) or str(error).split(" <")[0].split(":")[0]
        raise ValueError(f"no Python literal: {reason}") from None
    if not isinstance(record, dict):
        raise ValueError("no dictionary")
    return record


def _literal_by_json(text: str) -> Any:
    """The value, or None where the rewritten text is no JSON; whatever is doubtful is left to the literal parser."""
    try:
        return _decode_json(_LITERAL.sub(_to_json, text))
    except (ValueError, SyntaxError, KeyError, RecursionError, MemoryError):
        return None


def _to_json(match: re.Match[str]) -> str:
    token = match[0]
    if match.lastgroup == "plain":
        return token.replace("'", '"')
    if match.lastgroup != "string":
        return _JSON_NAMES[token]  # KeyError: a prefix (u''), an exponent (1e5), a call, a quote astray
    if "\\" not in token:
        return '"' + token[1:-1].replace('"', '\\"') + '"'
    value = ast.literal_eval(token)
    if not is_utf8(value):
        raise ValueError("JSON would join the halves of a surrogate pair")
    return json.dumps(value)


def get(record: dict[str, Any], key: str) -> Any:
    """The field; ValueError names the nearest one that is there."""
    if key not in record:
        raise ValueError(missing_name(key, [str(one) for one in record], "field"))
    return record[key]


def text_of(value: Any) -> str:
    """Cleaned text of a field: a string or number, or a list of them joined by blanks; anything else is blank."""
    if isinstance(value, list):
        return " ".join(filter(None, (text_of(one) for one in value if not isinstance(one, list))))
    return clean(str(value)) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def path_of(nodes: Any) -> list[str]:
    """Cleaned category nodes from root to leaf, blank ones left out."""
    if not isinstance(nodes, list):
        return []
    return [node for node in (text_of(one) for one in nodes) if node]


def url_of(value: Any) -> str:
    """The address, or the first of a list of them; blank when there is none."""
    first = value[0] if isinstance(value, list) and value else value
    return clean(first) if isinstance(first, str) else ""
