"""What studies found, for runs and tables: the settings of a study's best trial, and how a run's came about."""

from collections.abc import Sequence
from pathlib import Path

from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.models import registry
from mmbench.runs.overrides import Overrides
from mmbench.runs.plan import make_cell
from mmbench.settings.config import Layer, Origin
from mmbench.tuning.records import best_of
from mmbench.tuning.space import space_of
from mmbench.tuning.stored import chosen_study


def tuned_layers(
    results_dir: Path,
    datasets: Sequence[Prepared],
    models: Sequence[str],
    *,
    requested: Sequence[str],
    overrides: Overrides,
    study_id: str | None = None,
) -> dict[tuple[str, str], Layer]:
    """Return the best settings of the studies that fit, by data set and model.

    Of several studies of a model, that with the most trials counts. UsageError for a requested model without a study;
    models that come along by themselves keep their recipe then.
    """
    layers = {}
    for prepared in datasets:
        for model in models:
            try:
                layers[prepared.name, model] = _layer(results_dir, prepared, model, overrides, study_id)
            except UsageError:
                if model in requested and (study_id is None or len(requested) == 1):
                    raise
    if study_id is not None and not layers:
        raise UsageError(f"no model of this run has the study {study_id}")
    return layers


def row_layer(results_dir: Path, prepared: Prepared, model: str, overrides: Overrides) -> Layer | None:
    """Return the best settings for a row of a declared table; None for a model that has nothing to search.

    Only a study counts whose trials had the declared settings, or searched them. UsageError where there is none.
    """
    if not space_of(registry.find(model), dataset=prepared.name):
        return None
    return _layer(results_dir, prepared, model, overrides, None)


def _layer(
    results_dir: Path, prepared: Prepared, model: str, overrides: Overrides, study_id: str | None
) -> Layer:
    known = registry.find(model).known_settings()
    cell = make_cell(
        results_dir=results_dir,
        prepared=prepared,
        model=model,
        seed=1,
        overrides=overrides.layers(model, known),
    )
    ledger = chosen_study(
        results_dir,
        prepared,
        model,
        protocol=cell.protocol,
        features=cell.input_identities,
        declared={key: value for key, value in overrides.declared.items() if key in known},
        study_id=study_id,
    )
    best = best_of(ledger.trials())
    assert best is not None
    values = {**ledger.plan.fixed, **best.values}
    return Layer(Origin.tuned, values, f"study {ledger.plan.study_id}, trial {best.number}")
