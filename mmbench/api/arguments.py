"""What Python callers write, made uniform: a name or several, folders, numbers of numpy."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mmbench import paths
from mmbench.data.store import Prepared
from mmbench.errors import UsageError, suggest

Folder = str | Path | None
Names = str | Sequence[str]
W = TypeVar("W", bound=str)


def data_folder(folder: Folder) -> Path:
    """Return the folder of data: the argument, else what the environment says."""
    return paths.data_dir() if folder is None else Path(folder)


def results_folder(folder: Folder) -> Path:
    """Return the folder of results: the argument, else what the environment says."""
    return paths.results_dir() if folder is None else Path(folder)


def names_of(names: Names | None, what: str, *, example: str) -> list[str]:
    """Return a name or several as a list; UsageError for what is not a text."""
    members = several(names)
    for name in members:
        check_name(name, what, example=example)
    return members


def datasets_of(datasets: str | Prepared | Sequence[str | Prepared] | None) -> list[str | Prepared]:
    """Return names of data sets and opened data sets as a list; UsageError for anything else."""
    chosen = several(datasets)
    for dataset in chosen:
        if not isinstance(dataset, Prepared):
            check_name(dataset, "data set", example="demo")
    return chosen


def several(members: Any) -> list[Any]:
    """Return a sequence as a list, a single thing as a list of it, None as an empty list."""
    if members is None:
        return []
    return [members] if isinstance(members, str) or not isinstance(members, Iterable) else list(members)


def check_name(name: object, what: str, *, example: str) -> None:
    """Raise UsageError for a name that is not a text."""
    if not isinstance(name, str):
        raise UsageError(f"{what} {name!r} is not a name; say for example {example!r}")


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with numbers of numpy as Python's; UsageError for what is not a dictionary of texts."""
    if not isinstance(settings, Mapping):
        raise UsageError(f"settings {settings!r} are not a dictionary; write for example {{'lr': 0.001}}")
    for key in settings:
        check_name(key, "setting", example="lr")
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in settings.items()}


def one_of(word: str, words: Sequence[W], option: str) -> W:
    """Return a word of an option's vocabulary; UsageError, with the nearest word, for any other."""
    for known in words:
        if known == word:
            return known
    raise UsageError(f"--{option}: {suggest(str(word), words, what=option)}")
