"""The order of the packages: each imports only from those that stand before it, and no two files import each other."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

from mmbench import api

ROOT = Path(__file__).parent.parent
ORDER = (
    "lazy", "errors", "faults", "choices", "visible", "explain", "plugins", "console", "locks", "atomic", "paths",
    "strict", "sealed", "runtime", "matrix_units", "settings", "tracking", "data", "fetch", "features", "nn",
    "models", "baselines", "training", "evaluation", "runs", "contract", "tuning", "look", "reporting",
    "reproduce", "audit", "board", "api", "doctor", "cli", "__main__",
)  # fmt: skip


@cache
def sources() -> list[Path]:
    return sorted(path for top in ("mmbench", "baselines") for path in (ROOT / top).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """Return which entry of ORDER a module belongs to: `mmbench.data.store` -> `data`."""
    first, *rest = module.split(".")
    return rest[0] if first == "mmbench" and rest else first


@cache
def modules() -> frozenset[str]:
    return frozenset(map(module_of, sources()))


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements below a node, those inside functions too; no expression holds one."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield child
            yield from statements(child)


@cache
def imports(path: Path) -> tuple[tuple[int, str], ...]:
    """Return line and module of each import of our own, those inside functions and for types only too."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = module_of(path).split(".")[: -node.level] if node.level else []
            origin = ".".join([*parents, *filter(None, [node.module])])
            names = [
                full if (full := f"{origin}.{alias.name}") in modules() else origin for alias in node.names
            ]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] in ("mmbench", "baselines"))


def backward_imports(path: Path) -> Iterator[str]:
    """Yield each import of a file from a package that comes after its own, or that has no place in ORDER."""
    importer = part_of(module_of(path))
    for line, module in imports(path):
        imported = part_of(module)
        if "mmbench" in (importer, imported):
            continue  # the front door; the version
        if imported not in ORDER:
            yield f"{path.relative_to(ROOT)}:{line}: {imported} has no place in ORDER"
        elif ORDER.index(imported) > ORDER.index(importer):
            yield f"{path.relative_to(ROOT)}:{line}: {importer} imports {imported}, which comes after it"


def test_a_file_imports_only_from_packages_before_its_own() -> None:
    assert [fault for path in sources() for fault in backward_imports(path)] == []


def test_no_two_files_import_each_other() -> None:
    graph = {module_of(path): {name for _, name in imports(path)} - {"mmbench"} for path in sources()}
    graph.pop("mmbench")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_every_folder_and_file_at_the_top_has_a_place_in_the_order() -> None:
    found = {part_of(module_of(path)) for path in sources()} - {"mmbench"}
    assert found == set(ORDER)


def test_nothing_has_the_name_of_a_function_of_the_interface() -> None:
    """Python binds an imported sub-module over the function of that name, and the second call fails."""
    taken = {path.stem for path in (ROOT / "mmbench").iterdir()}
    assert not taken & set(api.__all__)


@pytest.mark.parametrize("package", ["data", "models", "nn"])
def test_no_name_of_a_package_is_that_of_a_file_in_it(package: str) -> None:
    folder = ROOT / "mmbench" / package
    assert not {path.stem for path in folder.iterdir()} & set(import_module(f"mmbench.{package}").__all__)


def test_only_commands_and_the_package_itself_use_the_interface() -> None:
    users = {
        part_of(module_of(path)) for path in sources() for _, name in imports(path) if name == "mmbench.api"
    }
    assert users == {"mmbench", "cli"}
