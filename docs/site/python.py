"""The reference of the functions in Python, from their signatures and docstrings."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import mmbench

SEPARATOR = re.compile(r"\n\s*\n")
ALIGNED = re.compile(r"^\s|\S {2,}\S", flags=re.MULTILINE)  # columns, or code


def page() -> str:
    """Return the page of the functions of `mmbench`."""
    lines = [
        "# Functions in Python",
        "",
        "`import mmbench` has these functions; [From Python](../python.md) shows them at work.",
    ]
    for name in mmbench.__all__:
        value = getattr(mmbench, name)
        if inspect.isfunction(value):
            lines += _function(name, value)
    return "\n".join(lines) + "\n"


def _function(name: str, function: Any) -> Iterator[str]:
    yield from ("", f"## {name}", "", "```python", *_signature(name, function), "```", "")
    first, *others = SEPARATOR.split(inspect.getdoc(function) or "")
    yield " ".join(first.split())
    for paragraph in others:
        yield from ("", *(["```text", paragraph, "```"] if ALIGNED.search(paragraph) else [paragraph]))


def _signature(name: str, function: Any) -> Iterator[str]:
    """Yield the lines of a signature: one parameter a line."""
    signature = inspect.signature(function)
    yield f"mmbench.{name}("
    keyword_only = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            yield "    *,"
        yield f"    {re.sub(r'(?:mmbench|pathlib|collections|typing)(?:[.][a-z_]+)*[.]', '', str(parameter))},"
    result = signature.return_annotation
    yield ")" if result is signature.empty else f") -> {getattr(result, '__name__', result)}"
