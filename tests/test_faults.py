"""What a validation refused, in words of ours: no error of pydantic, whichever it is, speaks in its own voice.

Run: python -m pytest tests/test_faults.py
"""

import re
from collections.abc import Callable
from datetime import date
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails
from pydantic_core import _pydantic_core as core

from mmbench import strict
from mmbench.faults import first_fault, must, unknown_key

PHRASES = re.compile(
    r"input|should|permitted|valid |unable|required|argument|pydantic|extra|instance|mapping|dictionar|array|object"
    r"|hashable|sentinel|literal|iterable|extract|tuple|json-or|NoneType|\{\w*\}|Value error|Assertion",
    re.IGNORECASE,
)
ERRORS = {entry["type"]: entry for entry in core.list_all_errors()}
EXAMPLES: dict[str, Any] = {
    "gt": 0, "ge": 1, "lt": 1, "le": 2**31 - 1, "multiple_of": 2, "min_length": 3, "max_length": 8, "actual_length": 1,
    "field_type": "Tuple", "expected": "'a' or 'b'", "discriminator": "'kind'", "tag": "tabel",
    "expected_tags": "'table', 'lines'", "pattern": "^[a-z]+$", "class": "Colour", "class_name": "Colour",
    "error": "no reason", "max_digits": 3, "decimal_places": 2, "whole_digits": 4, "tz_expected": 0, "tz_actual": 60,
    "expected_schemes": "'https'", "expected_version": 4, "encoding": "utf-8", "encoding_error": "no", "attribute": "x",
    "method_name": "m",
}  # fmt: skip


def fault_of(name: str) -> Any:
    """An error of pydantic as it comes out of a validation."""
    context = {key: EXAMPLES[key] for key in ERRORS[name].get("example_context") or {}}
    if name in ("value_error", "assertion_error"):
        context = {"error": ValueError("no such colour")}
    details = InitErrorDetails(type=name, loc=("key",), input=3, ctx=context)
    return ValidationError.from_exception_data("Content", [details])


@pytest.mark.parametrize("name", ERRORS)
def test_no_error_speaks_in_a_foreign_voice(name: str) -> None:
    error = fault_of(name)
    line = first_fault(error, {"key": 3}).sentence()
    assert line.startswith("key")
    assert "\n" not in line
    assert not PHRASES.search(line), line
    assert must(error.errors()[0]).split()[0] in ("must", "is", "no")  # a clause about the key, or ours


class Point(BaseModel):
    model_config = ConfigDict(extra="forbid")
    x: int = Field(gt=0)
    kind: Literal["a", "b"] = "a"
    title: str = Field(default="t", min_length=1)
    hash: str = Field(default="0" * 4, pattern=r"^[0-9a-f]{4}$")
    tags: tuple[str, ...] = Field(default=("a",), min_length=1)
    seeds: int | tuple[int, ...] = 1
    inner: "dict[str, Point] | None" = None


GOOD: dict[str, Any] = {"x": 1}
LINES: dict[str, tuple[dict[str, Any], str]] = {
    "text for a number": ({"x": "two"}, "x: must be an integer (got 'two')"),
    "a fraction": ({"x": 1.5}, "x: must be an integer (got 1.5)"),
    "below a bound": ({"x": 0}, "x: must be greater than 0 (got 0)"),
    "none of the words": ({"kind": "c"}, "kind: must be 'a' or 'b' (got 'c')"),
    "an empty text": ({"title": ""}, "title: must not be empty (got '')"),
    "no hash": ({"hash": "xyz"}, "hash: must be 4 hexadecimal digits (got 'xyz')"),
    "an empty list": ({"tags": []}, "tags: must not be empty (got [])"),
    "neither of two types": ({"seeds": "x"}, "seeds: must be an integer or a list (got 'x')"),
    "a place in a list of a union": ({"seeds": [1, "x"]}, "seeds.1: must be an integer (got 'x')"),
    "no table": ({"inner": {"int": 3}}, "inner.int: must be a table (got 3)"),
    "a key that is called like a type": ({"inner": {"str": {"x": "y"}}}, "inner.str.x: must be an integer (got 'y')"),
    "a date": ({"x": date(2014, 7, 23)}, "x: must be an integer (got 2014-07-23)"),
    "a truth": ({"title": True}, "title: must be a string (got true)"),
    "a missing key": ({"inner": {"p": {}}}, "inner.p.x is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_a_fault_is_named_with_its_key_and_nothing_else(name: str) -> None:
    changes, line = LINES[name]
    content = GOOD | changes
    with pytest.raises(ValidationError) as caught:
        Point.model_validate(content)
    assert first_fault(caught.value, content).sentence() == line


def test_a_misspelt_key_comes_before_what_it_causes() -> None:
    content = {"inner": {"p": {"y": 1}}}
    with pytest.raises(ValidationError) as caught:
        Point.model_validate(content)
    fault = first_fault(caught.value, content)
    assert fault.kind == "unknown"
    assert unknown_key(fault, Point) == "in inner.p: unknown key 'y'; did you mean 'x'?"


class Grid(BaseModel):
    model_config = ConfigDict(extra="forbid")
    points: "tuple[Point, ...] | dict[str, dict[str, Point]]" = ()
    origin: Point | str = ""


@pytest.mark.parametrize("name", ["p", "x", "kind", "inner"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda name, point: {"origin": {"x": 1, "inner": {name: point}}},
        lambda name, point: {"points": {"a": {name: point}}},
        lambda name, point: {"points": [GOOD, point]},
    ],
)
def test_a_name_in_a_table_of_tables_may_be_that_of_a_key(name: str, wrap: Callable[..., Any]) -> None:
    content = wrap(name, {**GOOD, "titel": "t"})
    with pytest.raises(ValidationError) as caught:
        Grid.model_validate(content)
    assert "unknown key 'titel'; did you mean 'title'?" in unknown_key(
        first_fault(caught.value, content), Grid
    )


def test_a_text_that_is_no_json_is_called_so() -> None:
    with pytest.raises(ValueError, match=r"^is not JSON: "):
        strict.read_text(dict, "{")


OTHERS = {
    "callable_type", "default_factory_not_called", "ellipsis_error", "frozen_instance", "get_attribute_error",
    "missing_sentinel_error", "multiple_argument_values", "needs_python_object", "no_such_attribute",
}  # fmt: skip


def test_only_errors_that_content_of_ours_does_not_make_have_the_clause_of_all_others() -> None:
    """A new release of pydantic with a new error fails here and not before a user."""
    lines = {name: first_fault(fault_of(name), {"key": 3}) for name in ERRORS}
    others = {
        name for name, fault in lines.items()
        if fault.kind == "unfit" and fault.text == "is not a value that can stand here"
    }  # fmt: skip
    assert others == OTHERS & set(ERRORS)
