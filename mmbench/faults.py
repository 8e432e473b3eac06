"""What a validation refused, in words of ours: where it lies, what must stand there, and what stands there.

pydantic checks the content of files, options and settings. Its errors name types of Python and labels of its own;
here each kind of error has a clause that begins with "must", "is" or "has" and can be read after a key.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from mmbench.errors import counted, suggest

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

SHOWN = 80  # characters of a wrong value that a message repeats
Kind = Literal["missing", "unknown", "refused", "unfit"]
_MISSING = (
    "missing",
    "missing_argument",
    "missing_keyword_only_argument",
    "missing_positional_only_argument",
)
_UNKNOWN = (
    "extra_forbidden",
    "unexpected_keyword_argument",
    "unexpected_positional_argument",
    "frozen_field",
)
_REFUSED = ("value_error", "assertion_error")
_LIST, _TABLE, _STRING, _INTEGER, _NUMBER = "a list", "a table", "a string", "an integer", "a number"
# What must stand there, by pydantic's name of the error or its first word; the longest name that fits decides.
_MUST_BE: dict[str, str] = {
    "string": _STRING, "string_not_ascii": "a string of ASCII characters", "bytes": _STRING,
    "int": _INTEGER, "int_parsing_size": "an integer of fewer digits", "float": _NUMBER, "bool": "true or false",
    "finite_number": "a finite number", "decimal": _NUMBER, "fraction": _NUMBER, "complex": _NUMBER,
    "list": _LIST, "tuple": _LIST, "set": _LIST, "frozen_set": _LIST, "deque": _LIST, "iterable": _LIST,
    "iteration_error": _LIST, "set_item_not_hashable": "a string, a number, or true or false",
    "dict": _TABLE, "mapping": _TABLE, "model": _TABLE, "dataclass": _TABLE, "frozen_dict": _TABLE,
    "ordered_dict": _TABLE, "counter": _TABLE, "named_tuple": "a list or a table", "arguments": "a list or a table",
    "invalid_key": "a table whose keys are strings", "none_required": "none",
    "date": "a date such as 2014-07-23", "date_past": "a date in the past", "date_future": "a date in the future",
    "time": "a time of day such as 12:30", "datetime": "a date with a time such as 2014-07-23T12:00:00",
    "datetime_past": "in the past", "datetime_future": "in the future", "time_delta": "a duration in seconds",
    "timezone_naive": "a time without a time zone", "timezone_aware": "a time with a time zone",
    "timezone_offset": "in another time zone", "url": "an http:// or https:// address", "uuid": "a UUID",
}  # fmt: skip
_HEX = re.compile(r"\^\[0-9a-f\]\{(\d+)\}\$")
_FORMS = {
    r"^[a-z0-9][a-z0-9-]*$": "must be made of lower-case letters, digits and hyphens",
    r"^[a-z0-9][a-z0-9_-]*$": "must be made of lower-case letters, digits, hyphens and underscores",
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """The first thing that a validation refused.

    path  keys and positions that lead to it
    kind  a key is "missing" or "unknown", a check of ours "refused" a value, or a value is "unfit"
    text  what must stand there, "must be an integer"; what the check said
    """

    path: tuple[str | int, ...]
    kind: Kind
    text: str
    value: Any

    @property
    def where(self) -> str:
        return ".".join(map(str, self.path))

    def sentence(self, *, show: Callable[[Any], str] | None = None, inside: str = "") -> str:
        """Return the fault as a line: "lists.lr: must be a list (got 3)".

        show    returns the wrong value as the user wrote it, by default as TOML has it
        inside  the key of the whole content, for a line that would begin with nothing
        """
        where = ".".join(filter(None, [inside, self.where]))
        if self.kind in ("missing", "unknown"):
            return f"{where} is {self.kind}"
        text = (
            self.text if self.kind == "refused" else f"{self.text} (got {cut((show or shown)(self.value))})"
        )
        return f"{where}: {text}" if where else text


def shown(value: Any) -> str:
    """Return a value as TOML has it: dates, true, false; text in quotes."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return value.isoformat() if isinstance(value, date | time) else repr(value)


def cut(text: str) -> str:
    """Return a text that fits into a message."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def first_fault(error: "ValidationError", content: Any) -> Fault:
    """Return the first fault of content; an unknown key, which is often misspelt, comes before what it causes.

    A value that fits no type of a union has a fault for each of them: what fits further decides where it lies, and
    equal places are one fault that expects either type.

    content  what was validated, which tells its keys from the labels that pydantic puts between them
    """
    faults = sorted(error.errors(), key=lambda fault: fault["type"] not in _UNKNOWN)
    paths = [_path(fault, content) for fault in faults]
    inside = [index for index, path in enumerate(paths) if path[: len(paths[0])] == paths[0]]
    deepest = max(inside, key=lambda index: len(paths[index]))
    texts = [must(faults[index]) for index in inside if paths[index] == paths[deepest]]
    fault = faults[deepest]
    return Fault(paths[deepest], _kind(fault["type"]), _either(texts), fault["input"])


def _kind(name: str) -> Kind:
    kinds: dict[Kind, tuple[str, ...]] = {"missing": _MISSING, "unknown": _UNKNOWN, "refused": _REFUSED}
    return next((kind for kind, names in kinds.items() if name in names), "unfit")


def _path(fault: "ErrorDetails", content: Any) -> tuple[str | int, ...]:
    """Return keys and positions that lead to a fault, without the labels of unions and of wrapped types."""
    *inner, last = fault["loc"] or [""]
    path: list[str | int] = []
    for part in inner:
        if _has(content, part):
            path.append(part)
            content = content[part]
    if _has(content, last) or (last != "" and fault["type"] in _MISSING + _UNKNOWN):
        path.append(last)
    return tuple(path)


def _has(content: Any, part: str | int) -> bool:
    """Return whether a part of a path is a key, or a position, of what lies there."""
    if isinstance(content, Mapping):
        return part in content
    return isinstance(content, list | tuple) and isinstance(part, int) and part < len(content)


def _either(clauses: Iterable[str]) -> str:
    """Join clauses of which any may hold: "must be an integer or a list"."""
    distinct = dict.fromkeys(clauses)
    if f"must be {_NUMBER}" in distinct:
        distinct.pop(f"must be {_INTEGER}", None)  # is a number, too
    first, *others = distinct
    return " or ".join([first, *(clause.removeprefix("must be ") for clause in others)])


def must(fault: "ErrorDetails") -> str:
    """Return what a kind of error says must hold, as a clause without a subject."""
    name, context = fault["type"], fault.get("ctx", {})
    if name in _REFUSED:
        return fault["msg"].partition(", ")[2] if "error" in context else fault["msg"]
    for explain in (_of_bounds, _of_lengths, _of_choices):
        if text := explain(name, context):
            return text
    known = max((word for word in _MUST_BE if f"{name}_".startswith(f"{word}_")), key=len, default=None)
    return f"must be {_MUST_BE[known]}" if known else _of_others(name, context)


_BOUNDS = {
    "gt": "greater than", "ge": "greater than or equal to", "lt": "less than", "le": "less than or equal to",
    "multiple_of": "a multiple of",
}  # fmt: skip


def _of_bounds(name: str, context: Mapping[str, Any]) -> str:
    for key, words in _BOUNDS.items():
        if key in context:
            return f"must be {words} {_plain(context[key])}"
    digits = {
        "max_digits": "digits",
        "decimal_places": "digits after the point",
        "whole_digits": "digits before the point",
    }
    return next(
        (f"must have at most {context[key]} {what}" for key, what in digits.items() if key in context), ""
    )


def _plain(bound: Any) -> str:
    """Return a bound of a number as a person writes it: 0 and not 0.0."""
    return str(int(bound)) if isinstance(bound, float) and bound.is_integer() else str(bound)


def _of_lengths(name: str, context: Mapping[str, Any]) -> str:
    if not name.endswith(("too_short", "too_long")):
        return ""
    unit = "entry" if name.startswith("too_") else "character"
    least = context.get("min_length")
    if least == 1:
        return "must not be empty"
    number, which = (context["max_length"], "most") if least is None else (least, "least")
    return f"must have at {which} {counted(number, unit)}"


def _of_choices(name: str, context: Mapping[str, Any]) -> str:
    if name in ("literal_error", "enum"):
        return f"must be {context['expected']}"
    if name in ("union_tag_invalid", "union_tag_not_found"):
        key = str(context["discriminator"]).strip("'")
        known = context.get("expected_tags", "")
        return f"must have a key {key} that says what it is{': ' * bool(known)}{known}"
    if name != "string_pattern_mismatch":
        return ""
    pattern = str(context["pattern"])
    if hexadecimal := _HEX.fullmatch(pattern):
        return f"must be {hexadecimal[1]} hexadecimal digits"
    return _FORMS.get(pattern, f"must have the form {pattern}")


def _of_others(name: str, context: Mapping[str, Any]) -> str:
    """Return the clause of an error that content of ours does not make; classes of users may have such types."""
    if name.startswith("json_"):
        return f"is not JSON{': ' * bool(context.get('error'))}{context.get('error', '')}"
    if name.startswith("recursion_"):
        return "is nested too deeply"
    if name in ("is_instance_of", "is_subclass_of", "dataclass_exact_type"):
        return f"must be a {context.get('class') or context.get('class_name')}"
    return "is not a value that can stand here"


def explained(error: "ValidationError", content: Any, model: Any, *, hidden: Sequence[str] = ()) -> str:
    """Return the line about the first fault of content that a pydantic model describes; see `unknown_key`."""
    fault = first_fault(error, content)
    return unknown_key(fault, model, hidden=hidden) if fault.kind == "unknown" else fault.sentence()


def unknown_key(fault: Fault, model: Any, *, hidden: Sequence[str] = ()) -> str:
    """Return the line about an unknown key of content that a pydantic model describes, with the nearest known key.

    hidden  keys of the whole content that nobody may write
    """
    *inside, key = fault.path
    known = [name for name in known_keys(model, inside) if inside or name not in hidden]
    where = f"in {'.'.join(map(str, inside))}: " if inside else ""
    return where + suggest(str(key), known, what="key")


def known_keys(model: Any, path: Sequence[str | int]) -> list[str]:
    """Return the keys allowed at `path` inside content that a pydantic model describes; [] if there are none."""
    kinds = [model]
    for part in path:
        kinds = [inner for kind in kinds for inner in _inside(kind, part)]
    models = [kind for kind in kinds if hasattr(kind, "model_fields")]
    return [field.alias or name for kind in models[:1] for name, field in kind.model_fields.items()]


def _inside(kind: Any, part: str | int) -> list[Any]:
    """Return the types that may stand at a key of a table, or at a position of a list, of this type."""
    if not hasattr(kind, "model_fields"):
        return [inner for entry in get_args(kind) for inner in _alternatives(entry)]
    fields = {field.alias or name: field for name, field in kind.model_fields.items()}
    return _alternatives(fields[str(part)].annotation) if part in fields else []


def _alternatives(annotation: Any) -> list[Any]:
    """Return the types of a union; the type itself where it is none, without what annotates it."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _alternatives(part)]
    return [annotation]
