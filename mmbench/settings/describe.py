"""What a setting may be, and values, in words for a reader."""

import json
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from mmbench.settings.config import LARGEST

_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_NAMES = {int: "whole number", float: "number", bool: "true | false", str: "text", type(None): "none"}


def legal_values(cls: type, key: str) -> str:
    """Return what the setting `key` of a configuration dataclass may be: "whole number > 0", "ce | bce"."""
    return _describe(get_type_hints(cls, include_extras=True)[key])


def value_text(value: Any) -> str:
    """Return a setting's value as `--set` takes it."""
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def _describe(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bounds = [bound for constraint in arguments[1:] for bound in _bounds(constraint)]
        return _bounded(_describe(arguments[0]), bounds)
    if origin is Literal:
        return " | ".join(value_text(value) for value in arguments)
    if origin is tuple:
        return f"list of {_describe(arguments[0])}"
    if origin in (Union, types.UnionType):
        return " | ".join(map(_describe, arguments))
    return _NAMES.get(kind, getattr(kind, "__name__", str(kind)))


def _bounds(constraint: Any) -> list[tuple[str, Any]]:
    """Return the bounds of a pydantic field, without that which only keeps integers inside 32 bits."""
    parts = getattr(constraint, "metadata", [constraint])
    pairs = [
        (sign, getattr(part, name)) for part in parts for name, sign in _SIGNS.items() if hasattr(part, name)
    ]
    return [(sign, bound) for sign, bound in pairs if bound != LARGEST]


def _bounded(name: str, bounds: list[tuple[str, Any]]) -> str:
    """Return "0 <= number < 1" for two bounds, "number > 0" for a single bound."""
    lower = [(sign, bound) for sign, bound in bounds if sign.startswith(">")]
    upper = [f" {sign} {bound:g}" for sign, bound in bounds if sign.startswith("<")]
    if lower and upper:
        sign, bound = lower[0]
        return f"{bound:g} {sign.replace('>', '<')} {name}{upper[0]}"
    return name + "".join([f" {sign} {bound:g}" for sign, bound in lower] + upper)
