"""What the header of a model's file says of its code must be true: every function that it names exists."""

import ast
import re
from pathlib import Path

import pytest

from mmbench.models import registry
from mmbench.settings.recipe import read_recipe

NAMED = re.compile(r"(?<![\w.])([A-Za-z_]\w*(?:\.\w+)?)\(\)")
FILES = sorted(
    {
        path
        for entry in registry.entries().values()
        for path in (entry.file, entry.file.with_name(f"{entry.file.stem}_released.py"))
        if path.is_file()
    }
)


def defined(tree: ast.Module) -> set[str]:
    """Return the names of functions and classes of a file, and what it imports, at any depth."""
    names = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return names | {alias.asname or alias.name for node in imports for alias in node.names}


def inherited(file: Path) -> set[str]:
    """Return the attributes of the file's model classes, those of their bases included."""
    stem = file.stem.removesuffix("_released").replace("_", "-")
    recipe = read_recipe(registry.find(stem).file.with_suffix(".toml"))
    entries = [registry.find(stem), *(registry.find(f"{stem}:{name}") for name in recipe.variants)]
    return {name for entry in entries for name in dir(entry.load())}


def unknown_functions(file: Path) -> list[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    known = defined(tree) | inherited(file)
    named = NAMED.findall(ast.get_docstring(tree) or "")
    return [name for name in named if not set(name.split(".")) <= known]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_function_that_a_header_names_exists(file: Path) -> None:
    assert unknown_functions(file) == []


def test_a_function_that_does_not_exist_is_found(tmp_path: Path) -> None:
    sasrec = registry.find("sasrec").file
    wrong = tmp_path / "sasrec.py"
    wrong.write_text(sasrec.read_text(encoding="utf-8").replace('"""', '"""Eq. 1 is no_such_function(). ', 1))
    assert unknown_functions(wrong) == ["no_such_function"]


def test_equations_of_the_flagships_have_functions() -> None:
    for name, least in (("hm4sr", 10), ("tmmsrec", 5)):
        header = ast.get_docstring(ast.parse(registry.find(name).file.read_text(encoding="utf-8"))) or ""
        assert len(NAMED.findall(header)) >= least
