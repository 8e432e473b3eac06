"""Imports go one way: a package imports only what stands before it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmbench.paths import PACKAGE

FOUNDATIONS = ("errors", "atomic", "paths", "locks", "runtime", "sealed", "strict")
LINE = ("data", "fetch", "features")  # each may import the foundations and what stands before it


def imports_of(file: Path) -> Iterator[str]:
    """The parts of mmbench that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("mmbench."))
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            if node.module == "mmbench":
                yield from (f"mmbench.{name.name}" for name in node.names if name.name != "__version__")
            elif node.module.startswith("mmbench."):
                yield node.module


@pytest.mark.parametrize("package", LINE)
def test_a_package_imports_only_what_stands_before_it(package: str) -> None:
    allowed = {*FOUNDATIONS, *LINE[: LINE.index(package) + 1]}
    files = sorted((PACKAGE / package).glob("*.py"))
    assert len(files) > 5
    wrong = {
        f"{file.name} imports {name}"
        for file in files
        for name in imports_of(file)
        if name.split(".")[1] not in allowed
    }
    assert wrong == set()


@pytest.mark.parametrize("package", LINE)
def test_no_circle_inside_a_package(package: str) -> None:
    files = {file.stem: file for file in (PACKAGE / package).glob("*.py") if file.stem != "__init__"}
    left = {
        stem: {name.split(".")[2] for name in imports_of(file) if name.startswith(f"mmbench.{package}.")}
        for stem, file in files.items()
    }
    while free := [stem for stem, needs in left.items() if not needs & left.keys()]:
        for stem in free:
            del left[stem]
    assert left == {}, "these import each other"
