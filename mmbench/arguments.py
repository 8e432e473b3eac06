"""Arguments of the Python interface made definite: folders, names, settings. Errors are single lines."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmbench import paths
from mmbench.data.store import Prepared
from mmbench.errors import UsageError

Folder = str | Path | None
Names = str | Sequence[str]


def data_folder(folder: Folder) -> Path:
    """Return the folder of raw and prepared data; by default that of the environment, as for the commands."""
    return paths.data_dir() if folder is None else Path(folder)


def results_folder(folder: Folder) -> Path:
    """Return the folder of results; by default that of the environment, as for the commands."""
    return paths.results_dir() if folder is None else Path(folder)


def as_names(names: Names | None, what: str, *, example: str) -> list[str]:
    """Return one name or several as a list; UsageError for what is no text."""
    chosen = _several(names)
    for name in chosen:
        check_name(name, what, example=example)
    return chosen


def as_datasets(datasets: str | Prepared | Sequence[str | Prepared] | None) -> list[str | Prepared]:
    """Return names of data sets and opened data sets as a list; UsageError for anything else."""
    chosen = _several(datasets)
    for dataset in chosen:
        if not isinstance(dataset, Prepared):
            check_name(dataset, "data set", example="demo")
    return chosen


def _several(members: Any) -> list[Any]:
    """Return a sequence as a list, a single thing as a list of it, None as an empty one."""
    if members is None:
        return []
    return [members] if isinstance(members, str) or not isinstance(members, Iterable) else list(members)


def check_name(name: object, what: str, *, example: str) -> None:
    """Raise UsageError for what is no text."""
    if not isinstance(name, str):
        raise UsageError(f"{what} {name!r} is no name; say for example {example!r}")


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with numbers of numpy as Python's; UsageError for a key that is no text."""
    for key in settings:
        check_name(key, "setting", example="lr")
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in settings.items()}
