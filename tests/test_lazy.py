"""Importing mmbench costs nothing, and its lazy names are what mypy and editors see.

Run: python -m pytest tests/test_lazy.py
"""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import mmbench
from mmbench import api, lazy
from tests.prepared import environment

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mmbench", "mmbench.data", "mmbench.models", "mmbench.nn")
HEAVY = ("torch", "pandas", "transformers", "scipy", "matplotlib")


def heavy_after(code: str) -> str:
    """The heavy libraries that a fresh process has imported after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print([name for name in {HEAVY} if name in sys.modules])"],
        capture_output=True, text=True, env=environment(), timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()[-1]


def declared(package: str) -> dict[str, str]:
    """name -> module of the imports that a package writes under TYPE_CHECKING."""
    file = Path(str(importlib.import_module(package).__file__))
    block = next(
        node
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )
    return {
        name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        for name in (importlib.import_module(str(node.module)).__all__ if alias.name == "*" else [alias.name])
        if name != "__all__"
    }


@pytest.mark.parametrize(
    "code",
    [
        "import mmbench; dir(mmbench); mmbench.__version__",
        "import mmbench; mmbench.report, mmbench.load, mmbench.recommend",
        "import mmbench.reporting.run_list, mmbench.reporting.run_page\n"
        "from mmbench.models import registry; registry.find('hm4sr').stated_values('demo')",
        "import mmbench.data, mmbench.models, mmbench.nn; dir(mmbench.models)",
        "import sys; sys.argv = ['mmbench', '--help']\n"
        "from mmbench.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0",
    ],
    ids=["import", "report", "runs", "packages", "help"],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    assert heavy_after(code) == "[]"


SHOP = """
[shop]
title = "Shop"
parser = "table"
files.interactions = { name = "orders.csv" }
files.items = { name = "products.csv" }
columns.interactions = { user = "user", item = "item", timestamp = "time", unit = "s" }
columns.items = { item = "id", title = "name" }
"""


def test_preparing_needs_no_torch_where_no_encoder_does(tmp_path: Path) -> None:
    (tmp_path / "shop.toml").write_text(SHOP, encoding="utf-8")
    orders = [
        f"u{user},i{(user + step) % 7},{1_700_000_000 + 86_400 * step + user}"
        for user in range(8)
        for step in range(6)
    ]
    (tmp_path / "orders.csv").write_text("\n".join(["user,item,time", *orders]), encoding="utf-8")
    products = [f"i{number},lamp of kind {number}" for number in range(7)]
    (tmp_path / "products.csv").write_text("\n".join(["id,name", *products]), encoding="utf-8")
    code = (
        "import mmbench\nfrom pathlib import Path\nfrom mmbench.data.catalog import add_datasets\n"
        f"add_datasets(Path({str(tmp_path / 'shop.toml')!r}), Path({str(tmp_path / 'data')!r}))\n"
        "for _ in range(2):\n"
        f"    data = mmbench.prepare('shop', text='tfidf-svd', data_dir={str(tmp_path / 'data')!r}, progress=True)\n"
        "assert list(data.features_dir.iterdir())"
    )
    assert "torch" not in heavy_after(code)


def test_the_probe_sees_what_is_imported() -> None:
    assert heavy_after("import mmbench; mmbench.models.Recommender") != "[]"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_names_are_those_that_are_declared_for_types(package: str) -> None:
    module = importlib.import_module(package)
    names = declared(package)
    assert sorted(names) == sorted(set(module.__all__) - {"__version__"})
    for name, home in names.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
        assert name in dir(module)


@pytest.mark.parametrize("package", PACKAGES)
def test_an_unknown_name_is_an_attribute_error(package: str) -> None:
    module = importlib.import_module(package)
    assert not hasattr(module, "nothing")
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec(f"from {package} import nothing")


def test_the_package_has_the_interface_and_no_more() -> None:
    assert set(api.__all__) == {
        "bundle",
        "check",
        "fuse",
        "knockout",
        "leaderboard",
        "load",
        "power",
        "prepare",
        "recommend",
        "report",
        "run",
        "score",
        "studies",
        "tune",
        "verify",
        "why",
    }
    public = {name for name in dir(mmbench) if not name.startswith("_")}
    assert public == {*api.__all__, "data", "errors", "models", "nn"}


MOVED = [
    ("registry", "models.registry"), ("config", "settings.config"), ("train", "training.trainer"),
    ("evaluate", "evaluation.ranking"), ("experiment", "runs.execute"), ("results", "runs.store"),
    ("memory", "training.out_of_memory"), ("stats", "evaluation.significance"), ("cell", "runs.plan"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "place"), MOVED)
def test_a_module_that_moved_names_its_place(name: str, place: str) -> None:
    with pytest.raises(ImportError) as error:
        exec(f"from mmbench import {name}")
    assert str(error.value) == f"mmbench.{name} is mmbench.{place} now; import that"
    importlib.import_module(f"mmbench.{place}")


def test_every_place_that_is_named_exists() -> None:
    for name, place in vars(mmbench)["_MOVED"].items():
        assert importlib.util.find_spec(place) is not None, name
        assert importlib.util.find_spec(f"mmbench.{name}") is None, name


def test_a_name_is_imported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    package = type(sys)("lazy_toy")
    monkeypatch.setitem(sys.modules, "lazy_toy", package)
    asked: list[str] = []

    def imported(name: str) -> object:
        asked.append(name)
        return importlib.import_module(name)

    monkeypatch.setattr(lazy, "import_module", imported)
    get, _, names = lazy.attach("lazy_toy", {"math": ("pi", "tau")})
    package.__getattr__ = get  # type: ignore[method-assign]
    assert (names, asked) == (["pi", "tau"], [])
    assert (package.pi, package.pi) == (importlib.import_module("math").pi,) * 2
    assert asked == ["math"]
