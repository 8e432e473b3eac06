"""Collect the pages of the site in one folder: those of docs/, notebooks as pages, and the reference.

python docs/site/assemble.py build/site
mkdocs build --strict -f build/site/mkdocs.yml      # or: zensical build --strict -f build/site/mkdocs.yml

The reference is written from the command line, the recipes and the docstrings, so it cannot be out of date.
"""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def assemble(folder: Path) -> None:
    """Write mkdocs.yml and docs/ into the folder; what lay there is replaced."""
    from docs.site import notebooks

    pages = folder / "docs"
    if pages.exists():
        shutil.rmtree(pages)
    shutil.copytree(DOCS, pages, ignore=shutil.ignore_patterns("site", "*.ipynb", "__pycache__"))
    shutil.copy(DOCS / "site" / "mkdocs.yml", folder / "mkdocs.yml")
    shutil.copy(DOCS / "site" / "site.css", pages / "site.css")
    shutil.copy(ROOT / "CHANGELOG.md", pages / "changes.md")
    index = pages / "index.md"
    index.write_text(index.read_text(encoding="utf-8").replace(".ipynb)", ".md)"), encoding="utf-8")
    (pages / "tutorials").mkdir(exist_ok=True)
    for notebook in (DOCS / "tutorials").glob("*.ipynb"):
        (pages / "tutorials" / f"{notebook.stem}.md").write_text(notebooks.page(notebook), encoding="utf-8")
    for name, text in reference().items():
        file = pages / "reference" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def reference() -> dict[str, str]:
    """Return the pages of the reference by their names."""
    from docs.site import commands, models, python, settings

    known = settings.all_pages()
    numbers = models.measured(DOCS)
    return {
        "commands.md": commands.page(),
        "models.md": models.zoo(known, DOCS),
        "settings.md": settings.page(known.values()),
        "metrics.md": settings.metrics_page(),
        "python.md": python.page(),
        **{f"models/{name}.md": models.model(page, numbers) for name, page in known.items()},
    }


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "build/site")
    target.mkdir(parents=True, exist_ok=True)
    assemble(target)
    print(f"{target / 'mkdocs.yml'}: build it with mkdocs build --strict -f {target / 'mkdocs.yml'}")
