"""What shells complete: names of models, data sets, experiments, encoders, metrics and stored runs.

Each function gets the beginning of a word and returns the names that begin so. Nothing is imported before a shell asks,
and whatever is broken completes nothing, because an error would stand in the middle of what somebody types.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mmbench.errors import MmbenchError

Completer = Callable[[Any, str], list[str]]


def _beginning(names: Iterable[str], word: str) -> list[str]:
    return [name for name in names if name.casefold().startswith(word.casefold())]


def _safely(names: Callable[[Any], Iterable[str]]) -> Completer:
    def complete(ctx: Any, incomplete: str) -> list[str]:
        try:
            return _beginning(names(ctx), incomplete)
        except (MmbenchError, OSError):
            return []

    return complete


def _folder(ctx: Any, key: str) -> Path:
    """Return a global folder: as it is typed, else by its environment variable or default."""
    from mmbench import paths

    typed = ctx.find_root().params.get(key)
    default = paths.data_dir() if key == "data_dir" else paths.results_dir()
    return Path(typed) if typed else default


def _models(ctx: Any) -> list[str]:
    from mmbench.models import registry

    return registry.all_names()


def _known_datasets(ctx: Any) -> list[str]:
    from mmbench.data.catalog import load_catalog

    return list(load_catalog(_folder(ctx, "data_dir")))


def _prepared(ctx: Any) -> list[str]:
    from mmbench.data.store import list_prepared

    return [
        prepared.name for prepared in list_prepared(_folder(ctx, "data_dir"), on_error=lambda error: None)
    ]


def _encoders(ctx: Any) -> list[str]:
    from mmbench.features.encoders import ENCODERS, encoder_names

    return [name for modality in ENCODERS for name in encoder_names(modality)]


def _experiments(ctx: Any) -> list[str]:
    from mmbench.reproduce.spec import experiments

    return list(experiments())


def _metrics(ctx: Any) -> list[str]:
    from mmbench.evaluation.metrics import NAMES

    return [f"{name}@{k}" for name in NAMES for k in (5, 10, 20)]


def _runs(ctx: Any) -> list[str]:
    from mmbench.runs.inventory import list_runs

    return [run.name for run in list_runs(_folder(ctx, "results_dir"))]


def _pages(ctx: Any) -> list[str]:
    return [*_models(ctx), *_known_datasets(ctx)]


models, datasets, prepared, experiments = map(_safely, (_models, _known_datasets, _prepared, _experiments))
encoders, metrics, runs, pages = map(_safely, (_encoders, _metrics, _runs, _pages))
