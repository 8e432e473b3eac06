"""What can be checked of a bundle without its data: hashes, ranks, lists, curves, seeds. Each check gives a line."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from mmbench.board.known import known_data
from mmbench.board.opened import Bundle
from mmbench.errors import MmbenchError, counted
from mmbench.evaluation.evidence import LIST_RULES, Ranking
from mmbench.evaluation.metrics import DEFAULT_METRICS, Metric, parse_metric
from mmbench.models import registry
from mmbench.runs.plan import ENCODERS, configuration_id, effective_settings
from mmbench.runs.store import RunRecord
from mmbench.training.progress import kept_epoch
from mmbench.tuning.records import best_of
from mmbench.tuning.stored import studies_of

Status = Literal["ok", "fault", "not checked", "note"]
SAME = 1e-9  # relative difference of two computations of the same mean
FAR = 3.0  # ratio of the metric on valid and test from which it is a fault; see _distance
MOST_ITEMS = 10**7  # tables of gains are as long
MANY_ERRORS = 5.0  # the difference must also have so many standard errors


@dataclass(frozen=True)
class Check:
    """What a check of a bundle gave. A note is worth reading and no fault."""

    name: str
    status: Status
    text: str


class FaultError(Exception):
    """Raised by a check that fails, with the reason."""


class UncheckedError(Exception):
    """Raised by a check that cannot be made, with the reason."""


class NotedError(Exception):
    """Raised by a check that has something to say that is not a fault."""


def offline_checks(bundle: Bundle) -> Iterator[Check]:
    """Yield the checks of an opened bundle. What a fault makes pointless is not checked and not named."""
    manifest = bundle.manifest
    yield Check(
        "hashes", "ok", f"{len(manifest.files)} files are those of the manifest; bundle {bundle.sha256[:16]}"
    )
    schema = _run("schema", _schema, bundle)
    yield schema
    if schema.status == "fault":
        return
    for name, check in CHECKS.items():
        yield _run(name, check, bundle)


def _run(name: str, check: Callable[[Bundle], str], bundle: Bundle) -> Check:
    try:
        return Check(name, "ok", check(bundle))
    except FaultError as fault:
        return Check(name, "fault", str(fault))
    except UncheckedError as unchecked:
        return Check(name, "not checked", str(unchecked))
    except NotedError as note:
        return Check(name, "note", str(note))
    except (MmbenchError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError) as error:
        # Records of others may hold anything that JSON can.
        reason = " ".join(str(error).replace(f"{bundle.results}/", "").split())[:200]
        return Check(name, "fault", f"cannot be read ({type(error).__name__}: {reason})")
    except (MemoryError, RecursionError) as error:
        return Check(name, "fault", f"cannot be read ({type(error).__name__})")


# -- records ----------------------------------------------------------------------------------------------


def _schema(bundle: Bundle) -> str:
    """Check that the records are finished runs of the manifest's configuration."""
    manifest, first = bundle.manifest, bundle.records[0]
    if not 0 < first.n_items <= MOST_ITEMS:
        raise FaultError(f"{first.n_items:,} items: more than {MOST_ITEMS:,}, or none")
    expected = (manifest.dataset, manifest.model, manifest.config_id, manifest.fingerprint, manifest.display)
    for record in bundle.records:
        if record.status != "finished":
            raise FaultError(f"seed {record.seed} did not finish")
        if (
            record.dataset,
            record.model,
            record.config_id,
            record.fingerprint,
            record.display,
        ) != expected:
            raise FaultError(f"the record of seed {record.seed} is of another run than the manifest says")
        if key := _other_setting(first, record):
            raise FaultError(f"seeds {first.seed} and {record.seed} differ in the setting {key}")
        for name in ("features", "sources", "n_items", "deterministic", "leaky", "external"):
            if getattr(record, name) != getattr(first, name):
                raise FaultError(f"seeds {first.seed} and {record.seed} differ in {name}")
        for split in bundle.splits:
            bundle.ranking(record, split)
    runs = counted(len(bundle.records), "finished run")
    return f"{runs} of {manifest.model} on {manifest.dataset}, protocol {first.fingerprint}"


def _other_setting(a: RunRecord, b: RunRecord) -> str:
    """Return a setting whose values differ, "" where there is none.

    Who gave a value (the recipe, --set, a search) may differ, and so may the names of encoders: features identify a
    result by what made them.
    """
    for key in sorted({*a.settings, *b.settings} - {*ENCODERS}):
        values = [record.settings[key].value if key in record.settings else None for record in (a, b)]
        if values[0] != values[1]:
            return key
    return ""


def _configuration(bundle: Bundle) -> str:
    """Check that the configuration's id is the hash of its settings."""
    record = bundle.records[0]
    if record.external:
        raise UncheckedError("lists of another program have no settings")
    if bundle.code is not None:
        raise UncheckedError("the model's code is in the bundle and is not run (--trust-code)")
    if record.model.partition(":")[0] not in registry.entries():
        raise UncheckedError(f"this version has no model {record.model}")
    entry = registry.find(record.model)
    keys = effective_settings(entry) - set(ENCODERS)
    if missing := keys - set(record.settings):
        raise NotedError(
            f"this version's {record.model} has the setting {min(missing)}, which the runs do not have"
        )
    values = {key: record.settings[key].value for key in keys}
    plugin = record.environment.get("code", {}).get("plugin")
    identity = configuration_id(
        record.model, values, record.features, protocol=record.protocol, plugin=plugin, sources=record.sources
    )
    if identity != record.config_id:
        if set(record.settings) - set(entry.known_settings()):
            raise NotedError(f"the settings are those of another version of {record.model}")
        raise FaultError(f"the settings give configuration {identity}, not {record.config_id}")
    return f"the settings give configuration {identity}"


def _data(bundle: Bundle) -> str:
    """Check that data and protocol are those that this version knows."""
    record = bundle.records[0]
    known = known_data().get(record.dataset)
    if known is None:
        raise NotedError(f"this version knows no hash of {record.dataset} (data {record.data_hash[:12]})")
    if known.hash != record.data_hash:
        raise FaultError(
            f"{record.dataset} has the hash {known.hash[:12]}, the runs were on {record.data_hash[:12]}"
        )
    n_users = len(bundle.ranking(record, "test").user)
    if (n_users, record.n_items) != (known.test_users, known.items):
        raise FaultError(
            f"{record.dataset} has {known.test_users:,} users and {known.items:,} items, the ranks {n_users:,} "
            f"and {record.n_items:,}"
        )
    return f"data {known.hash[:12]} of {record.dataset}, as known"


# -- ranks ------------------------------------------------------------------------------------------------


def _ranks(bundle: Bundle) -> str:
    """Check that all seeds rank the same users and targets, and that fewer candidates never give a worse rank."""
    n = 0
    for split in bundle.splits:
        first = bundle.ranking(bundle.records[0], split)
        for record in bundle.records:
            ranking = bundle.ranking(record, split)
            if not np.array_equal(ranking.user, first.user):
                raise FaultError(f"seed {record.seed} ranks other {split} users than the first seed")
            if not np.array_equal(ranking.target, first.target):
                raise FaultError(f"seed {record.seed} ranks other {split} targets than the first seed")
            _check_rules(ranking, f"seed {record.seed}, {split}")
            n += len(ranking.user)
    return f"{n:,} ranks are possible under every mask rule"


def _check_rules(ranking: Ranking, where: str) -> None:
    if ranking.user.size and ranking.user.min() < 0:
        raise FaultError(f"{where}: a user has a negative number")
    for rule in ("train", "input"):
        if rule in ranking.counts and "none" in ranking.counts:
            for masked, full in zip(ranking.counts[rule], ranking.counts["none"], strict=True):
                if (masked > full).any():
                    row = int(np.argmax(masked > full))
                    raise FaultError(
                        f"{where}: user {ranking.user[row]} has a worse rank under mask rule {rule} than under none"
                    )


def _lists(bundle: Bundle) -> str:
    """Check that each target stands at the position of its rank in its user's list, or behind its end."""
    n = 0
    for record in bundle.records:
        ranking = bundle.ranking(record, "test")
        if not ranking.lists:
            raise UncheckedError(
                "the bundle has no lists and targets" if not ranking.has_targets else "no lists are stored"
            )
        for rule in LIST_RULES:
            if rule in ranking.lists:
                _check_lists(ranking, rule, f"seed {record.seed}, mask rule {rule}")  # type: ignore[arg-type]
                n += len(ranking.user)
    return f"{n:,} lists agree with their ranks"


def _check_lists(ranking: Ranking, rule: Literal["none", "input"], where: str) -> None:
    lists, (greater, equal) = ranking.lists[rule], ranking.counts[rule]
    items, width = lists.items, lists.items.shape[1]
    is_filled = items > 0
    if (is_filled[:, 1:] & ~is_filled[:, :-1]).any():
        raise FaultError(f"{where}: a list has a gap")
    ordered = np.sort(items, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)).any():
        raise FaultError(f"{where}: a list holds an item twice")
    scores = np.where(is_filled, lists.scores, -np.inf)
    if np.isnan(scores).any() or (scores[:, 1:] > scores[:, :-1]).any():
        raise FaultError(f"{where}: the scores of a list rise")
    is_target = items == ranking.target[:, None]
    position = is_target.argmax(1)
    is_listed = is_target.any(1)
    fits = np.where(
        is_listed, (greater <= position) & (position <= greater + equal), greater + equal >= width
    )
    if not fits.all():
        row = int(np.argmin(fits))
        listing = f"at position {position[row] + 1} of" if is_listed[row] else "not in"
        raise FaultError(
            f"{where}: the target of user {ranking.user[row]} has rank {greater[row] + 1} and is {listing} its list"
        )


def _metrics(bundle: Bundle) -> str:
    """Check that the values that are claimed follow from the ranks."""
    n = 0
    for name, values in bundle.manifest.metrics.items():
        metric = parse_metric(name)
        if metric not in DEFAULT_METRICS:
            raise FaultError(f"the manifest has values of {metric}, which no bundle has")
        if len(values) != len(bundle.records):
            raise FaultError(
                f"the manifest has {len(values)} values of {name} for {len(bundle.records)} seeds"
            )
        for record, claimed in zip(bundle.records, values, strict=True):
            _compare(metric, record, bundle, "test", claimed, "the manifest")
            n += 1
    for record in bundle.records:
        if record.selection is not None and "ranked_again" not in record.environment:
            split = "test" if record.leaky else "valid"
            metric = parse_metric(record.selection.metric)
            _compare(metric, record, bundle, split, record.selection.value, "the record")
            n += 1
    return f"{n} claimed values follow from the ranks"


def _compare(
    metric: Metric, record: RunRecord, bundle: Bundle, split: str, claimed: float, where: str
) -> None:
    value = metric.value(bundle.ranking(record, split), record.mask_seen)
    if abs(value - claimed) > SAME * max(1.0, abs(value)):
        raise FaultError(
            f"seed {record.seed}: {where} says {metric} {claimed:.6f} on {split}, the ranks give {value:.6f}"
        )


# -- trainings --------------------------------------------------------------------------------------------


def _curve(bundle: Bundle) -> str:
    """Check that the epoch that was ranked is the best of the validation curve, by the run's own rule for a gain."""
    if all(record.selection is None for record in bundle.records):
        raise UncheckedError("nothing was selected")
    for record in bundle.records:
        if record.selection is None:
            continue
        metric, epoch = record.selection.metric, record.selection.epoch
        stages = [point.get("stage") for point in record.curve]
        last = [
            point
            for point, stage in zip(record.curve, stages, strict=True)
            if stage == (stages or [None])[-1]
        ]
        values = {int(point["epoch"]): point[metric] for point in last if metric in point}
        if not values:
            raise FaultError(f"seed {record.seed}: the curve has no value of {metric}")
        rule = record.settings.get("patience_rule")
        best = kept_epoch(dict(sorted(values.items())), "strict" if rule is None else str(rule.value))
        if epoch != best:
            raise FaultError(f"seed {record.seed}: epoch {epoch} was ranked, the curve's best is {best}")
        if abs(values[best] - record.selection.value) > SAME:
            raise FaultError(f"seed {record.seed}: the curve's best is not the value of the selection")
    return "the epoch that was ranked is each curve's best"


def _distance(bundle: Bundle) -> str:
    """Check that no metric on test is far from that on valid: more than FAR times as large, and not by chance."""
    if "valid" not in bundle.splits:
        raise UncheckedError("there is no ranking of the validation targets")
    metric, ratios = Metric("NDCG", min(10, bundle.records[0].n_items)), []
    for record in bundle.records:
        valid, test = (
            metric.values(bundle.ranking(record, split).ranks(record.mask_seen))
            for split in ("valid", "test")
        )
        difference = abs(valid.mean() - test.mean())
        error = np.sqrt(valid.var() / len(valid) + test.var() / len(test))
        low, high = sorted((float(valid.mean()), float(test.mean())))
        if high > FAR * low and difference > MANY_ERRORS * error:
            raise FaultError(
                f"seed {record.seed}: {metric} is {valid.mean():.4f} on valid and {test.mean():.4f} on test"
            )
        ratios.append(float(test.mean() / valid.mean()) if valid.mean() else 1.0)
    return f"{metric} on test is {min(ratios):.2f} to {max(ratios):.2f} times that on valid"


def _seeds(bundle: Bundle) -> str:
    """Check that no run appears under two seeds."""
    if bundle.records[0].deterministic or len(bundle.records) == 1:
        raise UncheckedError("a single run only")
    for first, second in combinations(bundle.records, 2):
        a, b = (bundle.ranking(record, "test") for record in (first, second))
        if a.made_by.weights and a.made_by.weights == b.made_by.weights:
            raise FaultError(f"seeds {first.seed} and {second.seed} have the same weights")
        if a.n_different(b) == 0:
            raise FaultError(f"seeds {first.seed} and {second.seed} have the same ranks")
    return f"{len(bundle.records)} seeds with different ranks"


def _tuning(bundle: Bundle) -> str:
    """Check that the ledgers of the searches are whole."""
    record = bundle.records[0]
    studies = studies_of(bundle.results, record.dataset, record.model)
    if not studies:
        raise UncheckedError("the bundle has no ledger of a search")
    counts = [len(study.trials()) for study in studies]
    if not any(best_of(study.trials()) for study in studies):
        raise NotedError("no trial of the searches finished")
    return f"{counted(len(studies), 'search')}, {counted(sum(counts), 'trial')}"


def _weights(bundle: Bundle) -> str:
    """Check that weights are those that were ranked; a safetensors file holds numbers only."""
    if not bundle.manifest.has_weights:
        raise UncheckedError("the bundle has no weights")
    raise UncheckedError("the weights are in the bundle; --rescore ranks them again")


def _code(bundle: Bundle) -> str:
    """Say whether the bundle brings code, which nothing runs."""
    recorded = bundle.records[0].environment.get("code", {}).get("own_model", "")
    if bundle.code is None:
        if recorded:
            raise NotedError("the model does not come with mmbench, and its code is not in the bundle")
        return "the model comes with mmbench" if not bundle.records[0].external else "of another program"
    files = counted(len(list(bundle.code.glob("*.py"))), "Python file")
    raise NotedError(f"{files} of the model; none was run")


CHECKS: dict[str, Callable[[Bundle], str]] = {
    "configuration": _configuration, "data": _data, "ranks": _ranks, "lists": _lists, "metrics": _metrics,
    "curve": _curve, "valid and test": _distance, "seeds": _seeds, "tuning": _tuning, "weights": _weights,
    "code": _code,
}  # fmt: skip


def has_fault(checks: Sequence[Check]) -> bool:
    return any(check.status == "fault" for check in checks)
