"""Which studies are stored, and which of them fits a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.models import registry
from mmbench.tuning.ledger import STUDY, Ledger, folder_of
from mmbench.tuning.records import Plan, best_of


def studies_of(results_dir: Path, dataset: str, model: str) -> list[Ledger]:
    """Return the studies of a model on a data set; DataError for a damaged study."""
    folder = folder_of(results_dir, dataset, model)
    ledgers = [Ledger.read(file.parent) for file in sorted(folder.glob(f"*/{STUDY}"))]
    return [ledger for ledger in ledgers if (ledger.plan.dataset, ledger.plan.model) == (dataset, model)]


def chosen_study(
    results_dir: Path,
    prepared: Prepared,
    model: str,
    *,
    protocol: dict[str, Any],
    features: dict[str, Any],
    declared: Mapping[str, Any] | None = None,
    study_id: str | None = None,
) -> Ledger:
    """Return the study of a model that fits the data, the protocol and the features, with the most trials.

    declared  settings that the trials must have had, or searched

    UsageError, with the command that makes such a study, when none fits or `study_id` names another.
    """
    declared = declared or {}
    fitting = [
        ledger
        for ledger in studies_of(results_dir, prepared.name, model)
        if (ledger.plan.protocol, ledger.plan.features) == (protocol, features)
        and _had(ledger.plan, declared)
        and best_of(ledger.trials())
    ]
    if study_id is not None:
        fitting = [ledger for ledger in fitting if ledger.plan.study_id == study_id]
    if not fitting:
        what = f"study {study_id}" if study_id else "study"
        sets = "".join(f" --set {key}={json.dumps(value)}" for key, value in declared.items())
        raise UsageError(
            f"no {what} of {model} fits {prepared.name} as it is now; "
            f"run: mmbench tune {model} --dataset {prepared.name}{sets}"
        )
    return max(fitting, key=lambda ledger: (len(ledger.trials()), ledger.plan.study_id))


def _had(plan: Plan, declared: Mapping[str, Any]) -> bool:
    """Return whether every trial of a study had these settings, or they were searched."""
    values = registry.find(plan.model).values(plan.dataset)
    return all(
        key in plan.space or _same(plan.fixed.get(key, values.get(key)), value)
        for key, value in declared.items()
    )


def _same(first: Any, second: Any) -> bool:
    return bool(json.loads(json.dumps(first)) == json.loads(json.dumps(second)))
