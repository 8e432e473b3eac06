"""Results that others can check: bundles, their verification, lists of other programs, a leaderboard."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmbench.api.arguments import Folder, check_name, data_folder, results_folder
from mmbench.api.watching import watchers_of
from mmbench.board import entries as made
from mmbench.board.checks import Check
from mmbench.board.external import Entry, score_lists
from mmbench.board.manifest import SUFFIX
from mmbench.board.site import Built, build_site
from mmbench.board.verification import Verdict, Work, check_date, today, write_verdict
from mmbench.board.verification import verify as check_bundle
from mmbench.board.writing import Written, write_bundle
from mmbench.choices import MaskRule
from mmbench.data.store import Prepared
from mmbench.errors import DataError, UsageError
from mmbench.runs.look_log import note_looks
from mmbench.runs.naming import configuration_named
from mmbench.runs.request import choose_datasets
from mmbench.runs.store import RunRecord


@dataclass(frozen=True)
class Site:
    """A leaderboard that was written: its files, what is not on it and why, and how many configurations are."""

    built: Built
    left_out: tuple[made.LeftOut, ...]
    n_configurations: int


def bundle(
    run: RunRecord | str | Path,
    output: str | Path,
    *,
    lists: bool = True,
    weights: bool = False,
    results_dir: Folder = None,
) -> Written:
    """Pack all seeds of a run's configuration into a file that others can check; return its manifest, size and notes.

    run      a run, the name of a configuration as `mmbench runs` shows it, or its folder
    output   FILE.mmb.zip; one that exists is replaced
    lists    False leaves out lists and targets, for data that may not be passed on
    weights  with the weights, for `verify(rescore=True)`

    Raises UsageError for an unknown name, RunError where no run finished, DataError for damaged runs.
    """
    file = Path(output)
    if not file.name.endswith(SUFFIX):
        raise UsageError(f"-o {file}: the name must end in {SUFFIX}")
    named = run.path.parent if isinstance(run, RunRecord) else run
    folder = configuration_named(results_folder(results_dir), named)
    return write_bundle(folder, file, with_lists=lists, with_weights=weights)


def verify(
    path: str | Path,
    *,
    rescore: bool = False,
    retrain: int = 0,
    date: str | None = None,
    trust_code: bool = False,
    device: str = "auto",
    data_dir: Folder = None,
    on_check: Callable[[Check], object] = lambda check: None,
    say: Callable[[str], object] = lambda text: None,
) -> Verdict:
    """Check a bundle without trusting it; `level` and `checks` of the verdict say what was shown.

    rescore     rank its weights again, which needs the data
    retrain     train so many seeds, drawn by the bundle and `date` (YYYY-MM-DD, by default today), which needs the data
    trust_code  run the code of a model that the bundle brings
    on_check    is called with each check as soon as it is made, `say` with lines about longer work

    The verdict of `rescore` and `retrain` is stored beside the bundle. Raises DataError where there is no such file,
    UsageError for what cannot be done with this bundle; its faults are checks whose status is "fault".
    """
    work = Work(
        data_dir=data_folder(data_dir), rescore=rescore, retrain=retrain, device=device, trusts_code=trust_code,
        date=today() if date is None else check_date(date),
    )  # fmt: skip
    verdict = check_bundle(Path(path), work, on_check=on_check, say=say)
    if work.needs_data:
        say(f"wrote {write_verdict(Path(path), verdict)}")
    return verdict


def score(
    lists: str | Path,
    name: str,
    *,
    dataset: str | Prepared,
    seed: int = 1,
    mask_seen: MaskRule | None = None,
    replace: bool = False,
    data_dir: Folder = None,
    results_dir: Folder = None,
) -> RunRecord:
    """Rank the test targets by another program's lists; store them as a run like others, and return it.

    lists      CSV, TSV or Parquet with columns user,item,score or user,rank (of the target); ids of the raw data
    name       what tables call it
    mask_seen  the rule of its numbers, by default that of the protocol
    replace    overwrite other lists that are stored under this name and seed

    Raises DataError, with the line, for lists that do not fit the data set, UsageError for other stored lists.
    """
    check_name(name, "name", example="my model")
    folder = data_folder(data_dir)
    prepared = choose_datasets([dataset], folder, watchers=watchers_of(False))[0]
    return score_lists(
        Path(lists), Entry(name=name, seed=seed, mask_seen=mask_seen), dataset=prepared.name, data_dir=folder,
        results_dir=results_folder(results_dir), replaces=replace,
    )  # fmt: skip


def leaderboard(
    output: str | Path,
    *,
    bundles: Folder = None,
    results: bool = True,
    lists: bool = True,
    title: str = "Leaderboard",
    date: str | None = None,
    data_dir: Folder = None,
    results_dir: Folder = None,
    on_left_out: Callable[[made.LeftOut], object] = lambda each: None,
) -> Site:
    """Write a leaderboard as plain pages; open `output`/index.html. Building again adds to its log.

    bundles  a folder of bundles, with the verdicts of `verify`; those with a fault are left out and named
    results  also the runs of the results folder
    lists    False shows no slices and no lists of users, for data that may not be passed on
    date     of this version, YYYY-MM-DD, by default today
    on_left_out  is called with what is not on the board, before anything is written

    Pages of runs of the results folder are a look at their test targets, and noted as such.

    Raises DataError where `bundles` is no folder, UsageError when there is nothing to show.
    """
    folder = None if bundles is None else Path(bundles)
    if folder is not None and not folder.is_dir():
        raise DataError(
            f"{folder} is no folder; mmbench bundle RESULT -o {folder}/NAME.mmb.zip makes bundles"
        )
    day = today() if date is None else check_date(date)
    left_out: list[made.LeftOut] = []
    shown_data = data_folder(data_dir) if lists else None
    entries = (
        list(made.entries_of_bundles(folder, on_left_out=left_out.append, data_dir=shown_data))
        if folder
        else []
    )
    if results:
        entries += made.entries_of_results(
            results_folder(results_dir), on_left_out=left_out.append, data_dir=shown_data
        )
    entries = made.without_repeats(entries, on_left_out=left_out.append)
    for each in left_out:
        on_left_out(each)
    built = build_site(entries, Path(output), left_out=left_out, date=day, title=title)
    note_looks((entry.record for entry in entries if entry.bundle is None), data_dir=data_folder(data_dir))
    return Site(built, tuple(left_out), len(entries))
