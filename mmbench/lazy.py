"""Packages whose names are imported when they are asked for, so that importing the package costs nothing."""

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def attach(
    package: str,
    homes: Mapping[str, Iterable[str]],
    *,
    packages: Iterable[str] = (),
    moved: Mapping[str, str] | None = None,
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` of a package (PEP 562).

    homes     module -> the names that the package takes from it
    packages  sub-packages that are imported when they are asked for
    moved     former module -> its place now, which an ImportError names

    The package also writes the same imports under TYPE_CHECKING, for mypy and editors; a test compares both.
    """
    home_of = {name: home for home, names in homes.items() for name in names}
    folders = tuple(packages)

    def get(name: str) -> Any:
        if moved and name in moved:
            raise ImportError(f"{package}.{name} is {moved[name]} now; import that")
        if name in folders:
            return import_module(f"{package}.{name}")
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(home_of[name]), name)
        setattr(sys.modules[package], name, value)  # the next access costs nothing
        return value

    def names() -> list[str]:
        special = [name for name in vars(sys.modules[package]) if name.startswith("__")]
        return sorted({*special, *home_of, *folders})

    return get, names, sorted(home_of)
