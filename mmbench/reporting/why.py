"""Why two runs differ: every field in which they do, in the order in which fields are known to matter, with its effect.

The effect of a mask rule comes from the counts of the first run, which are stored under every rule. The effect of
another field is measured where stored runs differ in it alone, in the same two values: the mean over pairs of equal
seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmbench.errors import DataError, RunError
from mmbench.evaluation.metrics import Metric
from mmbench.evaluation.significance import mean_std
from mmbench.reporting.rounding import number
from mmbench.runs.store import RunRecord

# Fields of these names come first, in this order; then the others of their kind.
_ORDER = ("mask rule", "data set", "tie order", "data", "model", "samples", "loss")
_KINDS = ("", "protocol", "features", "setting", "version", "machine", "seed")
_ONE_CHANGE = ("data set", "tie order", "data")  # another data set has other data
_OF_THE_RULE = ("mask_seen",)  # stands in protocol and settings
_WITHOUT_EFFECT_ON_IDENTITY = ("version", "machine")
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Field:
    """A field in which two runs differ, both values as texts, and the effect of the second value in words."""

    name: str
    a: str
    b: str
    effect: str


@dataclass(frozen=True)
class Why:
    """Two runs: their values under their own mask rules and the fields in which they differ."""

    a: float
    b: float
    fields: tuple[Field, ...]


def why(a: RunRecord, b: RunRecord, records: Sequence[RunRecord], *, metric: Metric) -> Why:
    """Return how b differs from a.

    records  stored runs from which effects are measured

    Raises RunError for a run that did not finish.
    """
    for record in (a, b):
        if record.status != "finished":
            raise RunError(f"{record.path} did not finish ({record.reason}); run it again first")
    ours, theirs = fields_of(a), fields_of(b)
    names = sorted({*ours, *theirs}, key=_rank)
    differing = [name for name in names if ours.get(name) != theirs.get(name)]
    evidence = [(record, fields_of(record)) for record in records if record.status == "finished"]
    return Why(
        _value(a, metric), _value(b, metric),
        tuple(
            Field(name, ours.get(name, "none"), theirs.get(name, "none"), _effect(name, a, b, evidence, metric))
            for name in differing
        ),
    )  # fmt: skip


def fields_of(record: RunRecord) -> dict[str, str]:
    """Return everything that may explain a run's number, by name: "lr" is "setting lr"."""
    environment = record.environment
    protocol = {
        f"protocol {key}": str(value)
        for key, value in record.protocol.items()
        if key not in ("data", "ties", *_OF_THE_RULE)
    }
    settings = {
        _setting_name(key): str(setting.value)
        for key, setting in record.settings.items()
        if key not in (*_OF_THE_RULE, "text_encoder", "image_encoder")
    }
    features = {
        f"features {modality}": f"{use.encoder} ({use.identity[:8]})"
        for modality, use in record.features.items()
    }
    libraries = {f"version {name}": str(number) for name, number in environment.get("libraries", {}).items()}
    return {
        "mask rule": record.mask_seen, "data set": record.dataset, "tie order": str(record.protocol.get("ties", "")),
        "data": record.data_hash[:12], "model": record.model, **protocol, **features, **settings,
        "version mmbench": str(environment.get("code", {}).get("source_hash", "")),
        "version python": str(environment.get("python", "")), **libraries,
        **{f"machine {key}": str(environment.get(key, "")) for key in ("device", "threads", "system")},
        "seed": str(record.seed),
    }  # fmt: skip


def _setting_name(key: str) -> str:
    return key if key in _ORDER else f"setting {key}"


def _rank(name: str) -> tuple[int, int, str]:
    if name in _ORDER:
        return 0, _ORDER.index(name), name
    return 1, _KINDS.index(name.partition(" ")[0]), name


def _value(record: RunRecord, metric: Metric) -> float:
    return metric.value(record.ranking("test"), record.mask_seen)


def _effect(
    name: str,
    a: RunRecord,
    b: RunRecord,
    evidence: Sequence[tuple[RunRecord, Mapping[str, str]]],
    metric: Metric,
) -> str:
    if name == "mask rule":
        change = metric.value(a.ranking("test"), b.mask_seen) - _value(a, metric)
        return f"{number(change, sign=True)} on the first run's weights"
    if name == "seed":
        return _spread_of_seeds(a, evidence, metric)
    values = (fields_of(a).get(name), fields_of(b).get(name))
    changes = [
        after - before
        for first, second in _pairs(name, values, evidence)
        if (before := _readable(first, metric)) is not None
        and (after := _readable(second, metric)) is not None
    ]
    if not changes:
        return NOT_MEASURED
    pairs = "1 pair" if len(changes) == 1 else f"{len(changes)} pairs"
    return f"{number(float(np.mean(changes)), sign=True)} ({pairs} of runs)"


def _pairs(
    name: str, values: tuple[str | None, str | None], evidence: Sequence[tuple[RunRecord, Mapping[str, str]]]
) -> list[tuple[RunRecord, RunRecord]]:
    """Return runs of equal seeds that have these values of a field and else the same identity."""
    ignored = _ONE_CHANGE if name in _ONE_CHANGE else (name,)
    firsts = {
        _identity(fields, ignored): record for record, fields in evidence if fields.get(name) == values[0]
    }
    seconds = {
        _identity(fields, ignored): record for record, fields in evidence if fields.get(name) == values[1]
    }
    return [(record, seconds[key]) for key, record in firsts.items() if key in seconds]


def _identity(fields: Mapping[str, str], ignored: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the fields that must be equal, without those of code and machine unless they are the question."""
    is_about_machines = ignored[0].partition(" ")[0] in _WITHOUT_EFFECT_ON_IDENTITY
    return tuple(
        (name, value)
        for name, value in sorted(fields.items())
        if name not in ignored
        and (is_about_machines or name.partition(" ")[0] not in _WITHOUT_EFFECT_ON_IDENTITY)
    )


def _spread_of_seeds(
    a: RunRecord, evidence: Sequence[tuple[RunRecord, Mapping[str, str]]], metric: Metric
) -> str:
    values = [
        value
        for record, _ in evidence
        if (record.dataset, record.model, record.config_id) == (a.dataset, a.model, a.config_id)
        and (value := _readable(record, metric)) is not None
    ]
    deviation = mean_std(values)[1] if values else None
    return (
        NOT_MEASURED if deviation is None else f"± {number(deviation)} over {len(values)} seeds of the first"
    )


def _readable(record: RunRecord, metric: Metric) -> float | None:
    """Return a run's value; None where its ranking cannot be read, which must not keep the others from counting."""
    try:
        return _value(record, metric)
    except DataError:
        return None
