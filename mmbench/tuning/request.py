"""The request for a search, resolved: the studies of some models on some data sets, all with the same budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.models import registry
from mmbench.runs.overrides import Overrides, check_overrides
from mmbench.tuning.records import Plan
from mmbench.tuning.sampling import SAMPLERS, SamplerName, import_optuna
from mmbench.tuning.space import Kind, read_space_file
from mmbench.tuning.study import Budget, plan_study

DEFAULT_TRIALS = 30
MOST_SEEDS = 100


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search, the same for all models.

    kind      the space that what the user lists is added to
    settings  given to all trials
    listed    what the user lists to be searched, besides or instead of what `kind` says
    """

    budget: Budget
    sampler: SamplerName
    kind: Kind
    settings: Overrides
    listed: Overrides
    n_seeds: int
    prunes: bool


def make_search(
    models: Sequence[str],
    *,
    trials: int | None = None,
    hours: float | None = None,
    sampler: str = "tpe",
    space: str | Path = "shared",
    settings: Mapping[str, Any] | None = None,
    listed: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    seeds_per_trial: int = 1,
    prune: bool = True,
    device: str = "auto",
) -> Search:
    """Return the search of these options of `mmbench tune`; UsageError for an option that is wrong or no model has."""
    if trials is not None and hours is not None:
        raise UsageError("give --trials or --hours: one unit is the same for all models")
    budget = Budget(seconds=hours * 3600) if hours is not None else Budget(trials or DEFAULT_TRIALS)
    chosen = next((known for known in SAMPLERS if known == sampler), None)
    if chosen is None:
        raise UsageError(f"--sampler {sampler!r}: write {', '.join(SAMPLERS[:-1])} or {SAMPLERS[-1]}")
    if not isinstance(seeds_per_trial, int) or not 1 <= seeds_per_trial <= MOST_SEEDS:
        raise UsageError(
            f"--seeds-per-trial {seeds_per_trial}: must be a whole number from 1 to {MOST_SEEDS}"
        )
    if chosen == "tpe":
        import_optuna()
    kind, of_file = _space(space)
    fixed = Overrides.of(settings or {}, epochs=epochs, device=device)
    of_user = Overrides.of(listed or {})
    from_file = Overrides.of(of_file)
    check_overrides(from_file, models, option=f"--space {space}:")
    for overrides in (fixed, of_user):
        check_overrides(overrides, models)
    return Search(
        budget=budget, sampler=chosen, kind=kind, settings=fixed, listed=_stronger(from_file, of_user),
        n_seeds=seeds_per_trial, prunes=prune,
    )  # fmt: skip


def _space(space: str | Path) -> tuple[Kind, dict[str, Any]]:
    """Return the kind of a search space, and what a file lists."""
    if space == "shared":
        return "shared", {}
    if space == "recipe":
        return "recipe", {}
    file = Path(str(space))
    if not file.is_file():
        raise UsageError(f"--space {str(space)!r}: write shared, recipe or a TOML file with a table [search]")
    return "listed", dict(read_space_file(file))


def _stronger(weak: Overrides, strong: Overrides) -> Overrides:
    """Return two sets of overrides merged."""
    models = {*weak.by_model, *strong.by_model}
    by_model = {model: {**weak.by_model.get(model, {}), **strong.by_model.get(model, {})} for model in models}
    return Overrides({**weak.everywhere, **strong.everywhere}, by_model)


def plan_studies(
    search: Search, datasets: Sequence[Prepared], models: Sequence[str], *, results_dir: Path
) -> list[tuple[Prepared, Plan]]:
    """Return the study of each model on each data set, with the data set."""
    return [
        (
            prepared,
            plan_study(
                prepared, model, results_dir=results_dir, budget=search.budget, sampler=search.sampler,
                kind=search.kind, settings=_of_model(search.settings, model), lists=_of_model(search.listed, model),
                n_seeds=search.n_seeds, prunes=search.prunes,
            ),
        )
        for prepared in datasets
        for model in dict.fromkeys(models)
    ]  # fmt: skip


def _of_model(overrides: Overrides, model: str) -> dict[str, Any]:
    return overrides.of_user(model, registry.find(model).known_settings())
