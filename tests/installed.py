"""Tiny installed packages: a folder on the search path with modules and a .dist-info that names entry points."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest


def write_package(
    site: Path, name: str, *, points: str, files: Mapping[str, str], version: str = "1.0"
) -> None:
    """Install a package into a folder, as pip does: files by path, and the text of entry_points.txt."""
    for path, text in files.items():
        file = site / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(points)


@contextmanager
def on_path(*sites: Path) -> Iterator[None]:
    """Put folders of installed packages on the search path, and forget their modules afterwards."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        for site in sites:
            patch.syspath_prepend(str(site))
        try:
            yield
        finally:
            for name in set(sys.modules) - before:
                file = getattr(sys.modules[name], "__file__", None) or ""
                if any(Path(file).is_relative_to(site) for site in sites):
                    del sys.modules[name]
