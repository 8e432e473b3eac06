"""JSON as frozen dataclasses and back, checked strictly: no missing, unknown or mistyped key passes."""

import json
from contextlib import suppress
from functools import lru_cache
from typing import Any, Self, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from mmbench.faults import first_fault

T = TypeVar("T")


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
        raise ValueError(_explain(error, text)) from None


def dump(value: Any) -> Any:
    """Return a dataclass as JSON content: dictionaries, lists, texts and numbers."""
    return _adapter(value.__class__).dump_python(value, mode="json")


def dump_text(kind: type[T], value: T) -> bytes:
    """Return a value of a type as the text of a JSON file, for `read_text`."""
    return _adapter(cast("Any", kind)).dump_json(value)


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _explain(error: ValidationError, text: str | bytes) -> str:
    """Return the first fault of the text of a JSON file as a line: where, what is expected, what stands there."""
    content = None
    with suppress(ValueError, RecursionError):  # a text that is not JSON has no places
        content = json.loads(text)
    return first_fault(error, content).sentence(show=lambda value: json.dumps(value, default=str))
