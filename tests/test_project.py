"""What stands around the code: one owner, one version, and files for those who come to the repository."""

import re
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import mmbench
from mmbench.models import registry

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))
OWNED = (
    "README.md", "CITATION.cff", ".github/CONTRIBUTING.md", "docs/index.md", "docs/site/mkdocs.yml",
)  # fmt: skip


def test_the_owner_is_the_same_everywhere() -> None:
    """Whoever publishes the project changes the owner in pyproject.toml; this test finds the other places."""
    url = PROJECT["urls"]["Repository"]
    for name in OWNED:
        named = set(
            re.findall(r"https://github\.com/[\w-]+/mmbench", (ROOT / name).read_text(encoding="utf-8"))
        )
        assert named == {url}, name


def test_the_version_is_the_same_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert PROJECT["version"] == mmbench.__version__
    assert re.findall(r"^version: (.*)$", citation, flags=re.M) == [mmbench.__version__]
    assert re.findall(r"^## (\S+)", changelog, flags=re.M)[0] == mmbench.__version__


def test_the_readme_names_every_model() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, entry in registry.entries().items():
        assert re.search(rf"\b{re.escape(entry.recipe.display.partition(' (')[0])}\b", text), name


def test_the_readme_is_short_and_its_pictures_load_nothing() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert 60 <= len(text.splitlines()) <= 90
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(pictures) == 2
    for name in pictures:
        drawing = (ROOT / name).read_text(encoding="utf-8")
        ElementTree.fromstring(drawing)
        assert not re.search(r"(?:href|src|url)\s*[=(]\s*[\"']?https?:", drawing)


def test_every_page_is_listed() -> None:
    """Compare docs/ with the list in docs/index.md, and with the navigation of the site."""
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    navigation = (ROOT / "docs" / "site" / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    assert pages - {"index.md"} == set(re.findall(r"\]\(([\w/-]+\.md)\)", index.partition("## All pages")[2]))
    assert pages <= set(re.findall(r": ([\w/-]+\.md)$", navigation, flags=re.M))


def test_types_are_shipped() -> None:
    assert (ROOT / "mmbench" / "py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_the_workflow_covers_what_the_project_declares() -> None:
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    declared = {
        line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", line)
    }
    for line in re.findall(r"python: \[(.*)\]", workflow):
        assert set(re.findall(r"3\.\d+", line)) == declared
    assert min(declared, key=lambda text: int(text.partition(".")[2])) == PROJECT["requires-python"].lstrip(
        ">="
    )
    for system in ("ubuntu", "macos", "windows"):
        assert f"{system}-latest" in workflow


def test_every_library_has_an_oldest_version_and_the_workflow_tests_these_together() -> None:
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    assert not [
        line for line in [*PROJECT["dependencies"], *extras] if ">=" not in line and "mmbench[" not in line
    ]
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    assert "--resolution lowest-direct" in workflow


@pytest.mark.parametrize("page", [".github/CONTRIBUTING.md", *PAGES])
def test_pages_that_a_page_names_exist(page: str) -> None:
    file = ROOT / page
    for target in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", file.read_text(encoding="utf-8")):
        assert (file.parent / target).exists(), target


def test_the_top_of_the_repository_holds_what_it_is_meant_to_hold() -> None:
    allowed = {
        "mmbench", "baselines", "datasets.toml", "results", "tests", "pyproject.toml", "README.md", "docs",
        "benchmarks",
        "CHANGELOG.md", "LICENSE", "CITATION.cff",
    }  # fmt: skip
    made_here = {"data", "dist", "build"}  # ignored by git
    present = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert present - made_here <= allowed


@pytest.mark.parametrize("page", ["README.md", ".github/CONTRIBUTING.md", *PAGES])
def test_lines_of_documents_are_short(page: str) -> None:
    """At most 100 columns; a row of a table is as long as it must be."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    long = [number for number, line in enumerate(lines, 1) if len(line) > 100 and not line.startswith("|")]
    assert not long, f"{page}: wrap lines {long}"


def test_the_hooks_have_a_ruff_that_the_checks_may_have() -> None:
    """Rules that a later ruff dropped would refuse code that continuous integration accepts."""
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    (hook,) = re.findall(r"ruff-pre-commit\n    rev: v(\S+)", hooks)
    (least,) = [line for line in PROJECT["optional-dependencies"]["dev"] if line.startswith("ruff")]
    assert hook in Requirement(least).specifier
