"""JSON as frozen dataclasses and back, checked strictly: no missing, unknown or mistyped key passes."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

T = TypeVar("T")
SHOWN = 60  # characters of a wrong value that a message repeats
_MEMBER = re.compile(r"int|float|str|bool|(tuple|list|dict)\[.*")  # what pydantic calls a type of a union


class Strict:
    """Base of dataclasses that `read` makes: unknown keys, other types, NaN and infinity are refused."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON content."""
        content: dict[str, Any] = dump(self)
        return content

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Return what `to_json` gave as it was; ValueError names the first key that is not as it should be."""
        return read(cls, content)


def read(kind: type[T], content: Any) -> T:
    """Return JSON content as the dataclass `kind`, lists as tuples; ValueError says in a line what does not fit."""
    return read_text(kind, json.dumps(content))


def read_text(kind: type[T], text: str | bytes) -> T:
    """Return the text of a JSON file as `read` does its content."""
    try:
        adapter: TypeAdapter[T] = _adapter(cast("Any", kind))
        return adapter.validate_json(text)
    except ValidationError as error:
        raise ValueError(_explain(error)) from None


def dump(value: Any) -> Any:
    """Return a dataclass as JSON content: dictionaries, lists, texts and numbers."""
    return _adapter(value.__class__).dump_python(value, mode="json")


def dump_text(kind: type[T], value: T) -> bytes:
    """Return a value of a type as the text of a JSON file, for `read_text`."""
    return _adapter(cast("Any", kind)).dump_json(value)


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _explain(error: ValidationError) -> str:
    """Return the first fault as text: where, what is expected, what stands there."""
    where, expected, fault = first_fault(error.errors())
    if fault["type"] == "missing":
        return f"{where} is missing"
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{where} is unknown"
    value = json.dumps(fault["input"], default=str)
    shown = value if len(value) <= SHOWN else f"{value[:SHOWN]}..."
    return f"{where}: {expected} (got {shown})" if where else f"{expected} (got {shown})"


def first_fault(faults: "Sequence[ErrorDetails]") -> "tuple[str, str, ErrorDetails]":
    """Return where the first fault lies, what is expected there, and the fault itself.

    A value that fits no type of a union has a fault for each of them: what fits further decides where it
    lies, and equal places are one fault that expects either type.
    """
    paths = [_path(fault) for fault in faults]
    inside = [index for index, path in enumerate(paths) if path[: len(paths[0])] == paths[0]]
    deepest = max(inside, key=lambda index: len(paths[index]))
    messages = [faults[index]["msg"] for index in inside if paths[index] == paths[deepest]]
    first, *others = dict.fromkeys(message.removeprefix("Value error, ") for message in messages)
    expected = " or ".join([first, *(message.removeprefix("Input should be ") for message in others)])
    return ".".join(paths[deepest]), expected, faults[deepest]


def _path(fault: "ErrorDetails") -> list[str]:
    """Return keys and places that lead to a fault, without the types of unions."""
    return [str(part) for part in fault["loc"] if not _MEMBER.fullmatch(str(part))]
