"""`mmbench tune`: settings searched under a budget that is the same for every model."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmbench.cli.run import DeviceOption, split_sets
from mmbench.cli.state import State
from mmbench.cli.tables import print_table
from mmbench.errors import RunError, UsageError

if TYPE_CHECKING:
    from mmbench.training.progress import EpochReport
    from mmbench.tuning.ledger import Ledger, Plan, Trial
    from mmbench.tuning.study import Budget

BEST_SHOWN = 5
LINE_EVERY_S = 30.0  # of a trial under way


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: mmbench tune hm4sr sasrec --dataset amazon-beauty --trials 30")(tune)


def tune(
    ctx: typer.Context,
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help="Models, with :variant if wanted.")],
    dataset: Annotated[list[str] | None, typer.Option(help="Prepared data set; repeatable.")] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, show_default="30", help="Trials of each model, the recipe's own among them."),
    ] = None,
    hours: Annotated[
        float | None, typer.Option(min=0.0, help="In place of --trials: hours of training of each model.")
    ] = None,
    sampler: Annotated[str, typer.Option(metavar="tpe|random|grid", help="tpe needs mmbench[tune].")] = "tpe",
    space: Annotated[
        str,
        typer.Option(
            metavar="shared|recipe", help="shared: equal lists of lr, dropout, weight_decay for all models."
        ),
    ] = "shared",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[MODEL.]KEY=VALUE[,...]",
            help="One value: for all trials. Several: searched; repeatable.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Largest number of epochs of a training.")] = None,
    seeds_per_trial: Annotated[int, typer.Option(min=1, max=100, help="A trial's value is their mean.")] = 1,
    prune: Annotated[
        bool, typer.Option(help="Stop trials early that are worse than two thirds of the others.")
    ] = True,
    jobs: Annotated[int, typer.Option(min=1, help="Trials at a time, each in a process.")] = 1,
    device: DeviceOption = "auto",
    show: Annotated[
        bool, typer.Option("--show", help="Print what the studies found; compute nothing.")
    ] = False,
) -> None:
    """Search settings on the validation targets, with one budget for every model; `run --tuned` uses the best.

    Test targets are not ranked. The same command goes on after an interruption, or with more trials later.
    """
    state: State = ctx.obj
    from mmbench.cli.watching import watchers
    from mmbench.runs.request import choose_datasets
    from mmbench.tuning.ledger import Ledger
    from mmbench.tuning.study import Budget

    if trials is not None and hours is not None:
        raise UsageError("give --trials or --hours: one unit is the same for all models")
    if hours == 0:
        raise UsageError("--hours 0: give a time above 0")
    budget = Budget(seconds=hours * 3600) if hours is not None else Budget(trials=trials or 30)
    plans = [
        (
            prepared,
            _plan(state, prepared, model, budget, sampler, space, set_, epochs, seeds_per_trial, prune),
        )
        for prepared in choose_datasets(dataset or [], state.data_dir, watchers=watchers(state))
        for model in dict.fromkeys(models)
    ]
    if show:
        for _, plan in plans:
            _show_stored(state, plan)
        return
    for prepared, plan in plans:
        _run(state, Ledger.open(state.results_dir, plan), prepared, budget, device=device, jobs=jobs)


def _plan(
    state: State, prepared: Any, model: str, budget: "Budget", sampler: str, space: str, given: list[str] | None,
    epochs: int | None, n_seeds: int, prunes: bool,
) -> "Plan":  # fmt: skip
    from mmbench.tuning.sampling import SAMPLERS, import_optuna
    from mmbench.tuning.study import plan_study

    if sampler not in SAMPLERS:
        raise UsageError(f"--sampler {sampler!r}: write {', '.join(SAMPLERS[:-1])} or {SAMPLERS[-1]}")
    if space not in ("shared", "recipe"):
        raise UsageError(f"--space {space!r}: write shared or recipe")
    if sampler == "tpe":
        import_optuna()
    settings, lists = parse_lists(given, model)
    if epochs is not None:
        settings["max_epochs"] = epochs
    return plan_study(
        prepared, model, results_dir=state.results_dir, budget=budget, sampler=sampler, kind=space,  # type: ignore[arg-type]
        settings=settings, lists=lists, n_seeds=n_seeds, prunes=prunes,
    )  # fmt: skip


def parse_lists(given: list[str] | None, model: str) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return what `--set` gives a model: settings with one value, and lists of values to search."""
    from mmbench.settings.config import parse_value

    settings: dict[str, Any] = {}
    lists: dict[str, list[Any]] = {}
    for name, value in split_sets(given, form="KEY=VALUE, KEY=A,B,C or MODEL.KEY=..."):
        owner, _, key = name.rpartition(".")
        if owner and owner not in (model, model.partition(":")[0]):
            continue
        whole = parse_value(value)
        if isinstance(whole, str) and "," in whole:
            lists[key] = [parse_value(part.strip()) for part in value.split(",")]
        else:
            settings[key] = whole
    return settings, lists


class _Lines:
    """Tells of a study on stderr, a line for each trial that ended."""

    def __init__(self, state: State, plan: "Plan", budget: "Budget", ended: Sequence["Trial"]) -> None:
        self.state, self.plan, self.budget = state, plan, budget
        self.ended_trials = list(ended)
        self.told = time.monotonic()

    def began(self, number: int, values: Mapping[str, Any]) -> None:
        self.told = time.monotonic()

    def epoch(self, number: int, report: "EpochReport") -> None:
        if time.monotonic() - self.told > LINE_EVERY_S:
            self.told = time.monotonic()
            self.state.err.print(f"  trial {number}: epoch {report.epoch}, best {report.best:.4f}")

    def ended(self, trial: "Trial") -> None:
        from mmbench.tuning.ledger import best_of

        self.ended_trials.append(trial)
        best = best_of(self.ended_trials)
        value = "–" if trial.value is None else f"{trial.value:.4f}"
        record = f" (best {best.value:.4f}, trial {best.number})" if best else ""
        why = (
            f", {trial.status}{': ' + trial.reason if trial.reason else ''}"
            if trial.status != "finished"
            else ""
        )
        self.state.err.print(
            f"{len(self.ended_trials)} of {self.budget.text}: trial {trial.number} {value}{record}, "
            f"{trial.seconds:.0f} s{why}  {settings_text(trial.values)}"
        )


def settings_text(values: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in values.items())


def _run(state: State, ledger: "Ledger", prepared: Any, budget: "Budget", *, device: str, jobs: int) -> None:
    from mmbench.tuning.sampling import size_of
    from mmbench.tuning.study import run_study

    plan, ended = ledger.plan, ledger.trials()
    size = size_of(plan.dimensions)
    combinations = f"{size:,} combinations of" if size is not None else "ranges of"
    state.err.print(
        f"{plan.model} on {plan.dataset}: {budget.text}, {plan.sampler} over {combinations} {', '.join(plan.space)}; "
        f"{len(ended)} trials are done; study {plan.study_id}"
    )
    lines = _Lines(state, plan, budget, ended)
    trials = run_study(ledger, prepared, budget, device=device, jobs=jobs, watching=lines)  # type: ignore[arg-type]
    print_study(state, plan, trials)
    state.out.print(f"next: mmbench run {plan.model} --dataset {plan.dataset} --tuned")
    failed = [trial for trial in trials if trial.status == "failed"]
    if len(failed) == len(trials):
        raise RunError(f"{plan.model}: every trial failed; the first: {failed[0].reason}")


def _show_stored(state: State, plan: "Plan") -> None:
    """Print every study of the model on the data set, whatever was searched and how."""
    from mmbench.tuning.ledger import studies_of

    studies = studies_of(state.results_dir, plan.dataset, plan.model)
    if not studies:
        raise UsageError(f"{plan.model} has no study on {plan.dataset}; leave out --show to begin one")
    for ledger in studies:
        print_study(state, ledger.plan, ledger.trials())


def print_study(state: State, plan: "Plan", trials: Sequence["Trial"]) -> None:
    """Print the best trials, the recipe's own, and what each setting matters."""
    from mmbench.tuning.sampling import Tried, importance

    seconds = sum(trial.seconds for trial in trials)
    state.out.print(
        f"{plan.model} on {plan.dataset}: study {plan.study_id}, {len(trials)} trials, {seconds / 3600:.2f} h, "
        f"{plan.sampler}, validation {plan.metric}, {plan.n_seeds} seed{'s' if plan.n_seeds > 1 else ''} a trial"
    )
    ranked = sorted((trial for trial in trials if trial.value is not None), key=lambda trial: trial.order)
    shown = ranked[:BEST_SHOWN] + [trial for trial in ranked[BEST_SHOWN:] if trial.number == 0]
    rows = [
        [str(trial.number) + (" (recipe)" if trial.number == 0 else ""), f"{trial.value:.4f}", trial.status,
         f"{trial.seconds:.0f}", *(str(trial.values[key]) for key in plan.space)]
        for trial in shown
    ]  # fmt: skip
    print_table(state, ["trial", plan.metric, "", "s", *plan.space], rows)
    shares = importance(plan.dimensions, [Tried(trial.values, trial.value) for trial in trials])
    if shares:
        state.out.print("importance: " + ", ".join(f"{key} {share:.0%}" for key, share in shares.items()))
    state.out.print(_verdict(ranked))


def _verdict(ranked: Sequence["Trial"]) -> str:
    own = next((trial for trial in ranked if trial.number == 0), None)
    if own is None or own.value is None:
        return "the recipe's own settings have no value yet"
    best = ranked[0]
    assert best.value is not None
    if best.number == 0:
        return "no trial was better than the recipe's own settings"
    gain = best.value - own.value
    return (
        f"trial {best.number} is {gain:.4f} ({gain / max(abs(own.value), 1e-12):.1%}) above the recipe's own settings "
        f"on the validation targets; the best of many is partly luck, so compare on seeds of their own: run --tuned"
    )
