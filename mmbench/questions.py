"""Questions to stored runs, for scripts and notebooks: what they use, what they can tell apart, why they differ."""

from collections.abc import Iterable, Sequence

from mmbench.arguments import Folder, data_folder, names_of, results_folder
from mmbench.choices import Correction, SplitName
from mmbench.evaluation.knockouts import KNOCKOUTS, parse_knockouts
from mmbench.evaluation.metrics import Metric, as_metrics
from mmbench.reporting.knock_outs import RowOfDrops, rows_of_drops
from mmbench.reporting.labels import group_runs
from mmbench.reporting.power import Power, power_of_runs
from mmbench.reporting.why import Why
from mmbench.reporting.why import why as explain
from mmbench.reproduce.why_printed import WhyPrinted, why_printed
from mmbench.runs.knock_out import knock_out
from mmbench.runs.loading import load_runs
from mmbench.runs.store import RunRecord


def knockout(
    runs: RunRecord | Iterable[RunRecord],
    what: str | Sequence[str] = tuple(KNOCKOUTS),
    *,
    metric: str | Metric = "NDCG@10",
    split: SplitName = "test",
    device: str = "auto",
    data_dir: Folder = None,
) -> list[RowOfDrops]:
    """Rank finished runs again without one thing that they read; return the drops of each configuration's runs.

    what  "text", "image", "time", "order", "history", or single ones such as "image=shuffled:3"

    Raises UsageError for a knock-out that is none, RunError for a run that cannot be ranked again.
    """
    wanted, chosen = as_metrics(metric)[0], parse_knockouts(names_of(what, "knock-out", example="text"))
    records = [runs] if isinstance(runs, RunRecord) else list(runs)
    folder = data_folder(data_dir)
    results = {record.title: knock_out(record, chosen, data_dir=folder, device=device) for record in records}
    return rows_of_drops(group_runs(records)[0], results, metric=wanted, split=split)


def power(
    runs: Iterable[RunRecord],
    dataset: str,
    *,
    metric: str | Metric = "NDCG@10",
    a: str | None = None,
    b: str | None = None,
    difference: float | None = None,
    correction: Correction = "holm",
) -> Power | None:
    """Return which differences the runs of a data set can show; see `power_of_runs`. None below two rows."""
    wanted = as_metrics(metric)[0]
    return power_of_runs(
        list(runs), dataset, metric=wanted, a=a, b=b, difference=difference, correction=correction
    )


def why(
    a: RunRecord,
    b: RunRecord | str,
    *,
    metric: str | Metric = "NDCG@10",
    results_dir: Folder = None,
) -> Why | WhyPrinted:
    """Return in which fields two runs differ and what each difference is worth by the stored runs.

    b  another run, or a printed table such as "hm4sr/table1": then the stored run that is nearest to its number
    """
    chosen, stored = as_metrics(metric)[0], load_runs(results_folder(results_dir), datasets=[], models=[])[0]
    if isinstance(b, str):
        return why_printed(a, b, stored, metric=chosen)
    return explain(a, b, stored, metric=chosen)
