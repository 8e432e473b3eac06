"""Questions to stored runs and to models: what a number rests on."""

from collections.abc import Iterable, Iterator, Sequence

from mmbench.api.arguments import Folder, Names, data_folder, names_of, one_of, results_folder
from mmbench.api.watching import watchers_of
from mmbench.choices import DEFAULT_LISTS, Correction, SplitName
from mmbench.contract.every import findings_of
from mmbench.contract.report import Finding
from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.evaluation.fusion import WEIGHT_KINDS
from mmbench.evaluation.knockout_kinds import KNOCKOUTS, parse_knockouts
from mmbench.evaluation.metrics import MAIN_METRIC, Metric, as_metrics, asked_metric
from mmbench.models import registry
from mmbench.nn.score_scales import SCALES
from mmbench.reporting.knockout_drops import RowOfDrops, rows_of_drops
from mmbench.reporting.labels import group_runs
from mmbench.reporting.power import Power, power_of_runs
from mmbench.reporting.why import Why
from mmbench.reporting.why import why as explain
from mmbench.reproduce.why_printed import WhyPrinted, why_printed
from mmbench.runs.fuse import fuse_runs
from mmbench.runs.knockout import knock_out
from mmbench.runs.loading import load_runs
from mmbench.runs.look_log import note_looks
from mmbench.runs.request import choose_datasets
from mmbench.runs.store import RunRecord


def knockout(
    runs: RunRecord | Iterable[RunRecord],
    what: str | Sequence[str] = tuple(KNOCKOUTS),
    *,
    metric: str | Metric | None = None,
    split: SplitName = "test",
    device: str = "auto",
    data_dir: Folder = None,
) -> list[RowOfDrops]:
    """Rank finished runs again without a part of what they read; return the drops of each configuration's runs.

    what    "text", "image", "time", "order", "history", or single ones such as "image=shuffled:3"
    metric  by default NDCG@10, or of all items where they are fewer

    Raises UsageError for an unknown knock-out, RunError for a run that cannot be ranked again.
    """
    chosen = parse_knockouts(names_of(what, "knock-out", example="text"))
    records = [runs] if isinstance(runs, RunRecord) else list(runs)
    wanted = asked_metric(metric, (record.n_items for record in records))
    folder = data_folder(data_dir)
    results = {record.title: knock_out(record, chosen, data_dir=folder, device=device) for record in records}
    if split == "test":
        note_looks(records, data_dir=folder)
    return rows_of_drops(group_runs(records)[0], results, metric=wanted, split=split)


def power(
    runs: Iterable[RunRecord],
    dataset: str,
    *,
    metric: str | Metric | None = None,
    a: str | None = None,
    b: str | None = None,
    difference: float | None = None,
    correction: Correction = "holm",
    data_dir: Folder = None,
) -> Power | None:
    """Return which differences the runs of a data set can show; see `power_of_runs`. None below two rows.

    metric  by default NDCG@10, or of all items where they are fewer
    """
    records = list(runs)
    wanted = asked_metric(metric, (record.n_items for record in records if record.dataset == dataset))
    shown = power_of_runs(
        records, dataset, metric=wanted, a=a, b=b, difference=difference, correction=correction
    )
    if shown is not None:
        note_looks((r for r in records if r.dataset == dataset), data_dir=data_folder(data_dir))
    return shown


def why(
    a: RunRecord,
    b: RunRecord | str,
    *,
    metric: str | Metric | None = None,
    data_dir: Folder = None,
    results_dir: Folder = None,
) -> Why | WhyPrinted:
    """Return the fields in which two runs differ, and what stored runs say each difference is worth.

    b       another run, or a printed table such as "hm4sr/table1", which means the stored run nearest to its number
    metric  by default NDCG@10, or of all items where they are fewer
    """
    stored = load_runs(results_folder(results_dir), datasets=[], models=[])[0]
    if isinstance(b, str):
        printed = MAIN_METRIC if metric is None else as_metrics(metric)[0]
        beside = why_printed(a, b, stored, metric=printed)
        note_looks([a, beside.nearest], data_dir=data_folder(data_dir))
        return beside
    explained = explain(a, b, stored, metric=asked_metric(metric, (a.n_items, b.n_items)))
    note_looks([a, b], data_dir=data_folder(data_dir))
    return explained


def check(
    models: Names,
    *,
    dataset: str | Prepared | None = None,
    canary: bool = False,
    data_dir: Folder = None,
) -> Iterator[Finding]:
    """Check models as mmbench.contract does; yield the findings.

    dataset  whose catalogue, features and first users the models get; by default a toy data set
    canary   train for a few epochs on targets that nobody can predict, instead of the checks

    A finding's `is_fault` says that something is wrong, its `advice` what to do. Raises UsageError for unknown names.
    """
    names = names_of(models, "model", example="sasrec")
    if not names:
        raise UsageError("no model is named; say for example 'sasrec'")
    for name in names:
        registry.find(name)
    folder = data_folder(data_dir)
    prepared = None if dataset is None else choose_datasets([dataset], folder, watchers=watchers_of(False))[0]
    return findings_of(names, prepared, canary=canary)


def fuse(
    runs: Sequence[RunRecord],
    *,
    scale: str = "zscore",
    weights: str = "validation",
    device: str = "auto",
    lists: int = DEFAULT_LISTS,
    data_dir: Folder = None,
    results_dir: Folder = None,
) -> RunRecord:
    """Sum the scores of finished runs of a protocol, on a common scale; store the fusion as a run and return it.

    scale    "raw", "zscore", "minmax", "prob", "logit" or "rank"
    weights  "validation" (the best in steps of .1), "equal", "learned" or "gated" (by user); never by test targets

    Raises UsageError for runs that do not share data and protocol, RunError for a run that has not finished.
    """
    return fuse_runs(
        list(runs), results_dir=results_folder(results_dir), data_dir=data_folder(data_dir),
        scale=one_of(scale, SCALES, "scale"), weights=one_of(weights, WEIGHT_KINDS, "weights"), device=device,
        lists=lists,
    )  # fmt: skip
