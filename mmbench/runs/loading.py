"""Stored runs by data set and model, and what of them could not be read."""

from collections.abc import Collection, Sequence
from pathlib import Path

from mmbench.errors import MmbenchError, UsageError, suggest
from mmbench.runs.store import RunRecord, lies_in, read_all, select
from mmbench.runtime import without_collector


def load_runs(
    results_dir: Path, *, datasets: Sequence[str] = (), models: Sequence[str] = ()
) -> tuple[list[RunRecord], list[str]]:
    """Return the records of the named data sets and models, and a line about each that is left out; () means all.

    Raises UsageError for a name that no result has, with the nearest, and when there is no result. A damaged record of
    the named data sets and models is left out with a line; when nothing else is left, it is the error.
    """
    records, damaged = _read(results_dir, datasets, models)
    if not _holds(records, datasets, models):  # the nearest name is looked for among all
        records, damaged = _read(results_dir, (), ())
    if not records and not damaged:
        raise UsageError(
            f"no results in {results_dir}; make some, for example: mmbench run sasrec pop --seeds 3, "
            "or name their folder with --results-dir"
        )
    paths = [path for path, _ in damaged]
    where = f"among the results in {results_dir}"
    check_names(records, datasets=datasets, models=models, where=where, unreadable=paths)
    faults = [error for path, error in damaged if lies_in(path, datasets=datasets, models=models)]
    chosen = select(records, datasets=datasets, models=models)
    if not chosen:
        raise faults[0] if faults else without_results(datasets, models)
    return chosen, list(map(str, faults))


def _read(
    results_dir: Path, datasets: Sequence[str], models: Sequence[str]
) -> tuple[list[RunRecord], list[tuple[Path, MmbenchError]]]:
    """Return the records in the folders of these data sets and models, and those that cannot be read."""
    damaged: list[tuple[Path, MmbenchError]] = []

    def note(path: Path, error: MmbenchError) -> None:
        damaged.append((path, error))

    with without_collector():
        return list(read_all(results_dir, datasets=datasets, models=models, on_error=note)), damaged


def _holds(records: Sequence[RunRecord], datasets: Sequence[str], models: Sequence[str]) -> bool:
    """Return whether there are records, and one of each of these data sets and models."""
    has_datasets = {record.dataset for record in records}.issuperset(datasets)
    return bool(records) and has_datasets and {record.model for record in records}.issuperset(models)


def check_names(
    records: Sequence[RunRecord],
    *,
    datasets: Sequence[str],
    models: Sequence[str],
    where: str,
    unreadable: Collection[Path] = (),
) -> None:
    """Raise UsageError for a data set or model that no run is of, with the nearest name.

    where       the runs in words
    unreadable  folders of runs of which only the folder is known
    """
    for key, names, known, what in (
        ("datasets", datasets, {record.dataset for record in records}, "data set"),
        ("models", models, {record.model for record in records}, "model"),
    ):
        for name in names:
            if name not in known and not any(lies_in(path, **{key: [name]}) for path in unreadable):
                raise UsageError(f"{suggest(name, known, what=what)} ({where})")


def without_results(datasets: Sequence[str], models: Sequence[str]) -> UsageError:
    """Return the error for models that have runs, and data sets that have runs, of which none is of both."""
    return UsageError(f"{', '.join(models)} has no results on {', '.join(datasets)}; run it first")
