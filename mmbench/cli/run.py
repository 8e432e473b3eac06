"""`mmbench run`, `train` and `evaluate`."""

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmbench.choices import DEFAULT_LISTS, MaskRule
from mmbench.cli.state import State
from mmbench.errors import DataError, RunError, UsageError, suggest

if TYPE_CHECKING:
    from mmbench.data.store import Prepared
    from mmbench.evaluation.evidence import Ranking
    from mmbench.evaluation.metrics import Metric
    from mmbench.runs.plan import Cell
    from mmbench.runs.schedule import Overrides
    from mmbench.runs.store import RunRecord
    from mmbench.runs.workers import Backend

# Models that come along by themselves -> the largest catalogue on which they do; None = any.
FLOORS = {
    "pop": None, "recent-pop": None, "repeat-last": None, "random": None, "itemknn": None, "rp3beta": None,
    "ease": 15_000,
}  # fmt: skip
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="[MODEL.]KEY=VALUE", help="Override a setting, for all models or one; repeatable."
    ),
]
StackOption = Annotated[
    str,
    typer.Option(
        metavar="auto|N|off",
        help="Seeds of one model trained as one: N at a time, or auto, which stacks on a GPU only.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
ListsOption = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="K",
        help="Best items of each user that are stored for the test targets; 0 stores none.",
    ),
]


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: mmbench run hm4sr tmmsrec sasrec --dataset amazon-beauty --seeds 3")(run)
    app.command(epilog="Example: mmbench train sasrec --dataset demo --seed 1 --set lr=0.003")(train)
    app.command(epilog="Example: mmbench evaluate results/demo/sasrec/*/seed_1 --metric HR@20")(evaluate)


def parse_seeds(text: str) -> list[int]:
    """`10` -> 1..10; `3,5,8` -> those. Seeds are positive integers, each once."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"-?[0-9]{1,9}", part) for part in parts):
        raise UsageError(f"--seeds {text!r}: give a number of seeds (10) or a list of seeds (3,5,8)")
    numbers = [int(part) for part in parts]
    if min(numbers) < 1:
        raise UsageError(f"--seeds {text!r}: seeds and their number must be 1 or more")
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"--seeds {text!r}: a seed stands there twice; it would count as two runs")
    return list(range(1, numbers[0] + 1)) if len(numbers) == 1 else numbers


def parse_sets(given: list[str] | None, *, epochs: int | None = None) -> "Overrides":
    """`--set key=value` and `--set model.key=value`."""
    from mmbench.runs.schedule import Overrides
    from mmbench.settings.config import parse_value

    everywhere: dict[str, Any] = {}
    by_model: dict[str, dict[str, Any]] = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals or not key or not value:
            raise UsageError(f"--set {text!r}: write it as KEY=VALUE or MODEL.KEY=VALUE")
        model, _, name = key.rpartition(".")
        (by_model.setdefault(model, {}) if model else everywhere)[name] = parse_value(value)
    if epochs is not None:
        everywhere["max_epochs"] = epochs
    return Overrides(everywhere, by_model)


def chosen_datasets(state: State, names: list[str] | None) -> "list[Prepared]":
    """Return the named prepared data sets; without a name the one prepared last, with none prepared the demo.

    Raises DataError for one whose definition or raw files changed since it was prepared.
    """
    from mmbench.data.definition import check_current

    chosen = _open_chosen(state, names)
    for prepared in chosen:
        check_current(prepared)
    return chosen


def _open_chosen(state: State, names: list[str] | None) -> "list[Prepared]":
    from mmbench.data.store import list_prepared, open_prepared

    if names:
        return [open_prepared(name, state.data_dir) for name in dict.fromkeys(names)]
    faults: list[DataError] = []
    known = list_prepared(state.data_dir, on_error=faults.append)
    if faults and not known:
        raise faults[0]  # somebody prepared data, so the demo is not what is wanted
    for fault in faults:
        state.skip_data(fault)
    if not known:
        from mmbench.cli.data import prepare_one

        state.err.print("no data set is prepared; preparing the built-in synthetic 'demo'")
        prepare_one(state, "demo")
        known = list_prepared(state.data_dir)
    state.err.print(f"data set: {known[0].name} (the one prepared last; --dataset chooses another)")
    return known[:1]


def model_list(models: list[str], *, floors: bool) -> list[str]:
    """The models to run, each once; the floors come along unless they are not wanted."""
    from mmbench.models import registry

    for name in models:
        registry.find(name)
    extra = [one for one in FLOORS if one in registry.entries()] if floors else []
    return list(dict.fromkeys([*models, *extra]))


def without_costly_floors(
    state: State, cells: "list[Cell]", datasets: "list[Prepared]", *, asked: list[str]
) -> "list[Cell]":
    """Return the cells without floors that nobody asked for on a catalogue that is too large for them, and say so."""
    planned = {(cell.dataset, cell.model) for cell in cells}
    left_out = set()
    for prepared in datasets:
        for name, most in FLOORS.items():
            if most is None or prepared.n_items <= most or name in asked:
                continue
            if (prepared.name, name) in planned:
                left_out.add((prepared.name, name))
                state.err.print(
                    f"{name} is left out: {prepared.name} has {prepared.n_items:,} items, and above {most:,} its time "
                    f"and memory are large; name it to run it (mmbench run {name} ...)", markup=False,
                )  # fmt: skip
    return [cell for cell in cells if (cell.dataset, cell.model) not in left_out]


def run(
    ctx: typer.Context,
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Model names, with :variant if wanted.")
    ],
    dataset: Annotated[list[str] | None, typer.Option(help="Prepared data set; repeatable.")] = None,
    seeds: Annotated[str, typer.Option(help="How many seeds (10 = 1..10) or which (3,5,8).")] = "1",
    set_: SetOption = None,
    tuned: Annotated[
        bool,
        typer.Option("--tuned", help="With the best settings that `mmbench tune` found; --set is stronger."),
    ] = False,
    study: Annotated[
        str | None, typer.Option(metavar="ID", help="Those of this study; implies --tuned.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Largest number of epochs.")] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Cells computed at the same time, each in its own process.")
    ] = 1,
    backend: Annotated[str, typer.Option(help="Who computes the cells: local, dask or ray.")] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="A running Dask scheduler or Ray cluster; without it one is started here."),
    ] = None,
    device: DeviceOption = "auto",
    stack: StackOption = "auto",
    floors: Annotated[bool, typer.Option(help=f"Also run {', '.join(FLOORS)}.")] = True,
    lists: ListsOption = DEFAULT_LISTS,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the cells and which exist; compute nothing.")
    ] = False,
) -> None:
    """Train and evaluate every missing cell of models x data sets x seeds, then print the table."""
    state: State = ctx.obj
    from mmbench.reporting.protocols import check_planned
    from mmbench.runs.schedule import finished, plan
    from mmbench.runs.workers import KINDS, Backend
    from mmbench.runtime import pick_device
    from mmbench.training.devices import stack_size

    kind = next((one for one in KINDS if one == backend), None)
    if kind is None:
        raise UsageError(suggest(backend, KINDS, what="backend"))
    place = Backend(kind, address, jobs)
    overrides, numbers = parse_sets(set_, epochs=epochs), parse_seeds(seeds)
    # The workers of a cluster have devices of their own: "auto" does not stack there.
    n_stacked = stack_size(stack, pick_device(device) if address is None else "cpu")
    names = model_list(models, floors=floors)
    prepared = chosen_datasets(state, dataset)
    if tuned or study is not None:
        from mmbench.tuning.tuned import tuned_layers

        layers = tuned_layers(
            state.results_dir, prepared, names, asked=models, overrides=overrides, study_id=study
        )
        overrides = replace(overrides, tuned=layers)
    cells = plan(
        results_dir=state.results_dir, datasets=prepared, models=names, seeds=numbers, overrides=overrides
    )
    cells = without_costly_floors(state, cells, prepared, asked=models)
    check_planned(cells)
    if dry_run:
        for cell in cells:
            found = finished(cell)
            state.out.print(f"{'finished' if found else 'missing ':8}  {cell.path}", markup=False)
        return
    records = compute(state, cells, device=device, backend=place, stack=n_stacked, lists=lists)
    close_with_table(state, records)


def compute(
    state: State,
    cells: list[Any],
    *,
    device: str,
    backend: "Backend | None" = None,
    stack: int = 1,
    lists: int = DEFAULT_LISTS,
) -> "list[RunRecord]":
    """Run the cells under the live view; what is finished stays, whatever happens."""
    from mmbench.cli.live import RunView
    from mmbench.runs.schedule import execute

    view = RunView(state.err)
    with view.watching():
        return execute(
            cells, watcher=view, device=device, backend=backend, stack=stack, debug=state.debug, lists=lists
        )


def close_with_table(state: State, records: "list[RunRecord]") -> None:
    """Print the table of this run's cells; a run in which nothing worked is an error."""
    from mmbench.reporting import build_table, render

    failed = [record for record in records if record.status == "failed"]
    if len(failed) == len(records):
        raise RunError(f"every cell failed; the first: {failed[0].model}: {failed[0].reason}")
    table = build_table(records)
    state.warn_left_out(table.left_out)
    render(table, "terminal", state.out)
    if failed:
        raise RunError(f"{len(failed)} of {len(records)} cells failed; the same command tries them again")


def train(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model name, with :variant if wanted.")],
    dataset: Annotated[str | None, typer.Option(help="Prepared data set.")] = None,
    seed: Annotated[int, typer.Option(min=1, help="Seed of the run.")] = 1,
    set_: SetOption = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Largest number of epochs.")] = None,
    device: DeviceOption = "auto",
    lists: ListsOption = DEFAULT_LISTS,
) -> None:
    """Train one model with one seed, rank valid and test, and say where the result lies."""
    state: State = ctx.obj
    from mmbench.runs.schedule import plan
    from mmbench.runtime import pick_device

    pick_device(device)
    prepared = chosen_datasets(state, [dataset] if dataset else None)
    overrides = parse_sets(set_, epochs=epochs)
    model_list([model], floors=False)
    cells = plan(
        results_dir=state.results_dir, datasets=prepared, models=[model], seeds=[seed], overrides=overrides
    )
    record = compute(state, cells, device=device, lists=lists)[0]
    if record.status == "failed":
        raise RunError(f"{model} on {record.dataset}: {record.reason}")
    state.out.print(str(record.path), markup=False)


def evaluate(
    ctx: typer.Context,
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs (seed_<n>).")
    ],
    metric: Annotated[
        list[str] | None, typer.Option(help="Metric to print, e.g. HR@20 or Coverage@10; repeatable.")
    ] = None,
    rescore: Annotated[
        bool,
        typer.Option(help="Rank the stored checkpoint again; --no-rescore only reads the stored rankings."),
    ] = True,
    mask_seen: Annotated[
        MaskRule | None,
        typer.Option(
            show_default="the run's own rule",
            help="The rule for items that a user already has whose numbers are printed; all rules are stored.",
        ),
    ] = None,
    lists: ListsOption = DEFAULT_LISTS,
    device: DeviceOption = "auto",
) -> None:
    """Rank stored checkpoints again, store the rankings under every mask rule, print metrics; nothing is trained."""
    state: State = ctx.obj
    from mmbench.evaluation.metrics import parse_metric
    from mmbench.runs.store import read_record

    wanted = [parse_metric(name) for name in metric or ["HR@10", "NDCG@10", "MRR@10"]]
    records = [read_record(path) for path in runs]
    for name in wanted:
        name.check(min(record.n_items for record in records))
    typer.echo("\t".join(["run", "split", *map(str, wanted)]))  # not rich, which turns tabs into spaces
    for record in records:
        for ranking in _rankings_to_print(state, record, rescore, device, lists):
            rule = mask_seen or record.mask_seen
            values = [_value_text(name, ranking, rule, record) for name in wanted]
            typer.echo("\t".join([str(record.path), ranking.name, *values]))


def _rankings_to_print(
    state: State, record: "RunRecord", rescore: bool, device: str, lists: int
) -> "list[Ranking]":
    """Return valid and test, and those of an ensemble's members when they are ranked again."""
    from mmbench.runs.schedule import rank_again

    if not rescore:
        return [record.ranking("valid"), record.ranking("test")]
    evaluated = rank_again(record, data_dir=state.data_dir, device=device, lists=lists)
    if evaluated.n_changed:
        state.err.print(
            f"{record.path}: {evaluated.n_changed:,} ranks are others than those stored before; "
            "run.json says what ranked them (environment.ranked_again)", markup=False,
        )  # fmt: skip
    return evaluated.rankings


def _value_text(metric: "Metric", ranking: "Ranking", rule: MaskRule, record: "RunRecord") -> str:
    """Return a metric of a ranking; n/a where lists are not made."""
    from mmbench.evaluation.evidence import ListsError

    if metric.needs == "lists" and ranking.name != "test":
        return "n/a"
    try:
        return f"{metric.value(ranking, rule):.6f}"
    except ListsError as error:
        raise UsageError(
            f"{metric} of {record.path}: {error}; run: mmbench evaluate {record.path} --lists {metric.k}"
        ) from error
