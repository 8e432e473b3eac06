"""Why a run is not at a printed number: the stored run that is nearest to the number, and in what it differs."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmbench.choices import RULES, MaskRule
from mmbench.errors import DataError, RunError, UsageError
from mmbench.evaluation.metrics import Metric
from mmbench.reporting.why import Field, why
from mmbench.reproduce.spec import Experiment, Scores, find_experiment
from mmbench.runs.store import RunRecord


@dataclass(frozen=True)
class WhyPrinted:
    """A run beside the number that a paper prints for its model.

    nearest  the stored run of the model whose value, under the mask rule `rule`, is nearest to the printed value
    fields   in which the nearest run differs from the run; what explains the number if anything known does
    """

    run: float
    printed: float
    nearest: RunRecord
    rule: MaskRule
    nearest_value: float
    fields: tuple[Field, ...]


def why_printed(run: RunRecord, name: str, records: Sequence[RunRecord], *, metric: Metric) -> WhyPrinted:
    """Return how a run stands to the number that the table `name` ("hm4sr/table1") prints for its model.

    records  stored runs, of which the nearest is looked for among those of the model on the data set, under every
             mask rule and every order of equal times

    Raises UsageError where the table has no such number, RunError for a run that did not finish.
    """
    if run.status != "finished":
        raise RunError(f"{run.path} did not finish ({run.reason}); run it again first")
    metric.check_of_ranks("mmbench why")
    printed = _printed(run, find_experiment(name), metric)
    value = metric.value(run.ranking("test"), run.mask_seen)
    known = [(run, run.mask_seen, value), *_known(run, records, metric)]
    nearest, rule, nearest_value = min(known, key=lambda row: abs(row[2] - printed))
    fields = why(run, nearest, records, metric=metric).fields
    if rule != nearest.mask_seen:
        change = metric.value(run.ranking("test"), rule) - value
        fields = (Field("mask rule", run.mask_seen, rule, f"{change:+.4f} on the run's weights"), *fields)
    return WhyPrinted(value, printed, nearest, rule, nearest_value, fields)


def _printed(run: RunRecord, experiment: Experiment, metric: Metric) -> float:
    dataset = run.dataset.partition("@")[0]
    rows = experiment.content.all_rows if isinstance(experiment.content, Scores) else ()
    methods = [row.method for row in rows if row.model == run.model]
    for method in methods:
        if (dataset, method, str(metric)) in experiment.printed:
            return experiment.printed[dataset, method, str(metric)]
    known = sorted({key[2] for key in experiment.printed if key[0] == dataset and key[1] in methods})
    reason = f"prints {', '.join(known)} of it" if known else "prints nothing of it"
    raise UsageError(f"{experiment.name} has no {metric} of {run.model} on {dataset}; it {reason}")


def _known(
    run: RunRecord, records: Sequence[RunRecord], metric: Metric
) -> list[tuple[RunRecord, MaskRule, float]]:
    """Return the values of the model's stored runs on the data set under every rule; unreadable runs are left out."""
    base = run.model.partition(":")[0], run.dataset.partition("@")[0]
    values: list[tuple[RunRecord, MaskRule, float]] = []
    for record in records:
        is_of_model = (record.model.partition(":")[0], record.dataset.partition("@")[0]) == base
        if record.status != "finished" or not is_of_model:
            continue
        try:
            ranking = record.ranking("test")
        except DataError:
            continue
        values += [(record, rule, metric.value(ranking, rule)) for rule in RULES]
    return values
