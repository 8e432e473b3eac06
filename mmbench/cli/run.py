"""`mmbench run` and `mmbench train`."""

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmbench.choices import DEFAULT_LISTS, FLOORS
from mmbench.cli import complete
from mmbench.cli.options import EnergyOption, SlurmOption, TrackOption, read_slurm
from mmbench.cli.state import State
from mmbench.cli.words import key_values, words
from mmbench.errors import MmbenchError, RunError, UsageError

if TYPE_CHECKING:
    from mmbench.reporting.runs import Runs
    from mmbench.runs.experiment_file import ExperimentFile, ReportOptions
    from mmbench.runs.overrides import Overrides
    from mmbench.runs.store import RunRecord
    from mmbench.runs.workers import Backend

MOST_SEEDS = 10_000  # limits a range, so that a typo does not fill the memory
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="[MODEL.]KEY=VALUE", help="Override a setting, for all models or MODEL; repeatable."
    ),
]
StackOption = Annotated[
    str,
    typer.Option(
        metavar="auto|N|off",
        help="Seeds of a model trained together: N at a time, or auto, which stacks on a GPU only.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
ListsOption = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="K",
        help="How many of each user's best items to store for the test targets; 0 stores none.",
    ),
]


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: mmbench run hm4sr tmmsrec sasrec --dataset amazon-beauty --seeds 3")(run)
    app.command(epilog="Example: mmbench train sasrec --dataset demo --seed 1 --set lr=0.003")(train)


def parse_seeds(text: str) -> list[int]:
    """Return the seeds that `--seeds` means: `10` -> 1..10; `3,5,8` -> those; `4-6,9` -> 4, 5, 6, 9."""
    from mmbench.runs.request import seed_list

    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 1 and re.fullmatch(r"-?[0-9]{1,9}", parts[0]):
        return seed_list(int(parts[0]))
    matches = [re.fullmatch(r"(-?[0-9]{1,9})(?:-([0-9]{1,9}))?", part) for part in parts]
    ends = [(int(match[1]), int(match[2] or match[1])) for match in matches if match]
    if len(ends) < len(parts) or any(not 0 <= last - first < MOST_SEEDS for first, last in ends):
        raise UsageError(
            f"--seeds {text!r}: give a number of seeds (10), a list (3,5,8) or a range (4-6, at most {MOST_SEEDS})"
        )
    return seed_list([seed for first, last in ends for seed in range(first, last + 1)])


def read_sets(texts: list[str] | None) -> dict[str, Any]:
    """Return the settings of `--set key=value` and `--set model.key=value`; the last value of a key counts."""
    from mmbench.settings.config import parse_value

    return {key: parse_value(value) for key, value in key_values(texts, form="KEY=VALUE or MODEL.KEY=VALUE")}


def parse_sets(texts: list[str] | None, *, epochs: int | None, device: str) -> "Overrides":
    """Return the settings of `--set` and `--epochs`, for trainings on a device."""
    from mmbench.runs.overrides import Overrides

    return Overrides.of(read_sets(texts), epochs=epochs, device=device)


def run(
    ctx: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="Model names, with :variant if wanted; or an experiment file (exp.toml).",
            autocompletion=complete.models,
        ),
    ],
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset",
            "-d",
            show_default="the last prepared",
            help="Prepared data set; repeatable.",
            autocompletion=complete.prepared,
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="How many seeds (10 = 1..10) or which (3,5,8 or 4-6).")] = "1",
    set_: SetOption = None,
    tuned: Annotated[
        bool,
        typer.Option(
            "--tuned", help="Use the best settings that `mmbench tune` found; --set overrides them."
        ),
    ] = False,
    study: Annotated[
        str | None, typer.Option(metavar="ID", help="Use those of this study; implies --tuned.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Largest number of epochs.")] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Runs computed at the same time, each in its own process.")
    ] = 1,
    backend: Annotated[str, typer.Option(help="Who computes the runs: local, dask, ray or slurm.")] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="A running Dask scheduler or Ray cluster; by default started on this machine."),
    ] = None,
    slurm: SlurmOption = None,
    device: DeviceOption = "auto",
    stack: StackOption = "auto",
    floors: Annotated[bool, typer.Option(help=f"Also run {', '.join(FLOORS)}.")] = True,
    controls: Annotated[
        bool,
        typer.Option(
            "--controls",
            help="Also run the controls of multi-modal models: late fusion, ids alone, shuffled features, ...",
        ),
    ] = False,
    lists: ListsOption = DEFAULT_LISTS,
    tie_orders: Annotated[
        str | None,
        typer.Option(
            metavar="ORDER,...",
            help="Prepare and run under each of these orders of equal times: file, reverse, random:1, ...",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            show_default="NDCG@5 NDCG@10 MRR@5 MRR@10 HR@10",
            help="A column of the table that closes the run, as in mmbench report; repeatable.",
            autocompletion=complete.metrics,
        ),
    ] = None,
    track: TrackOption = None,
    energy: EnergyOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs and which of them exist; compute nothing.")
    ] = False,
) -> None:
    """Train and evaluate every missing run of models x data sets x seeds, then print the table."""
    state: State = ctx.obj
    from mmbench import api
    from mmbench.cli.watching import run_view, watchers
    from mmbench.evaluation.metrics import as_metrics
    from mmbench.runs.experiment_file import (
        ExperimentFile,
        ReportOptions,
        Tuning,
        is_experiment_file,
        read_experiment_file,
    )

    if any(map(is_experiment_file, models)):
        _check_alone(ctx, models)
        experiment = read_experiment_file(Path(models[0]))
    else:
        experiment = ExperimentFile(
            models=tuple(words(models)), datasets=tuple(words(dataset)), seeds=tuple(parse_seeds(seeds)),
            epochs=epochs or 0, floors=floors, controls=controls, lists=lists, settings=_by_model(read_sets(set_)),
            tuning=Tuning(tuned=tuned, study=study or ""),
            report=ReportOptions(metrics=tuple(map(str, as_metrics(words(metric))))),
        )  # fmt: skip
    with run_view(state).watching() as view:
        runs = api.run(
            **experiment.run_options, jobs=jobs, backend=backend, address=address, slurm=read_slurm(slurm),
            device=device, stack=stack, tie_orders=words([tie_orders] if tie_orders else None),
            lists=experiment.lists, track=words(track), energy=energy, dry_run=dry_run,
            debug=state.debug, data_dir=state.data_dir, results_dir=state.results_dir,
            progress=watchers(state, view),
        )  # fmt: skip
    if not dry_run:
        _keep(state, experiment, runs)
        close_with_table(state, runs, experiment.report)


IN_FILES = ("dataset", "seeds", "set_", "tuned", "study", "epochs", "floors", "controls", "lists", "metric")


def _check_alone(ctx: typer.Context, models: list[str]) -> None:
    """Raise UsageError for arguments beside an experiment's file that the file states."""
    if len(models) > 1:
        raise UsageError(f"{', '.join(models)}: name either models or a single experiment file")
    for name in IN_FILES:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = name.rstrip("_").replace("_", "-")
            raise UsageError(f"--{option}: {models[0]} says what is run; write it there")


def _by_model(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings as an experiment's file has them: those of single models in a table of each."""
    tables: dict[str, Any] = {}
    for name, value in settings.items():
        model, _, key = name.rpartition(".")
        if model:
            tables.setdefault(model, {})[key] = value
        else:
            tables[name] = value
    return tables


def _keep(state: State, experiment: "ExperimentFile", runs: "Runs") -> None:
    """Write the experiment beside its results, with the data sets that were read, and say where."""
    from mmbench.runs.experiment_file import write_experiment_file

    datasets = tuple(dict.fromkeys(record.dataset for record in runs))
    try:
        file = write_experiment_file(state.results_dir, replace(experiment, datasets=datasets))
    except MmbenchError as error:  # the results are stored all the same
        state.warn(f"no experiment file: {error}")
        return
    state.err.print(f"the same again, and its table: mmbench run {file}", markup=False)


def compute(
    state: State,
    cells: list[Any],
    *,
    device: str,
    backend: "Backend | None" = None,
    stack: int = 1,
    lists: int = DEFAULT_LISTS,
) -> "list[RunRecord]":
    """Run the cells of a `reproduce` under the live view; what is finished stays, whatever happens."""
    from mmbench.cli.watching import run_view
    from mmbench.runs.schedule import execute

    with run_view(state).watching() as view:
        return execute(
            cells, watcher=view, device=device, backend=backend, stack=stack, debug=state.debug, lists=lists
        )


def close_with_table(state: State, runs: "Runs", options: "ReportOptions") -> None:
    """Print the table of these runs; a run in which nothing worked is an error."""
    from mmbench import api
    from mmbench.evaluation.metrics import DEFAULT_METRICS
    from mmbench.reporting import render
    from mmbench.reporting.layout import Layout

    failed = runs.failed
    if len(failed) == len(runs):
        raise RunError(f"every run failed; the first: {failed[0].model}: {failed[0].failure}")
    report = api.report(
        runs, metrics=options.metrics or DEFAULT_METRICS, compare=options.compare or None, test=options.test,
        correction=options.correction, split=options.split, ties=options.ties, mask_seen=options.mask_seen,
        unequal_budgets=options.unequal_budgets, sort=options.sort, top=options.top, floors=options.floors,
        data_dir=state.data_dir,
    )  # fmt: skip
    state.warn_left_out(report.left_out)
    layout = Layout(
        style=options.style, notes=options.notes, tests=options.tests, transposed=options.transpose
    )
    render(report.table, "terminal", state.out, layout)
    if failed:
        raise RunError(f"{len(failed)} of {len(runs)} runs failed; the same command tries them again")


def train(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Model name, with :variant if wanted.", autocompletion=complete.models
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", "-d", help="Prepared data set.", autocompletion=complete.prepared),
    ] = None,
    seed: Annotated[int, typer.Option(min=1, help="Seed of the run.")] = 1,
    set_: SetOption = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Largest number of epochs.")] = None,
    device: DeviceOption = "auto",
    lists: ListsOption = DEFAULT_LISTS,
    energy: EnergyOption = None,
) -> None:
    """Train a model with a seed, rank valid and test, and print where the result lies."""
    state: State = ctx.obj
    from mmbench import api
    from mmbench.cli.watching import run_view, watchers

    with run_view(state).watching() as view:
        runs = api.run(
            model, datasets=[dataset] if dataset else [], seeds=[seed], settings=read_sets(set_), epochs=epochs,
            device=device, stack="off", floors=False, lists=lists, energy=energy, debug=state.debug,
            data_dir=state.data_dir, results_dir=state.results_dir, progress=watchers(state, view),
        )  # fmt: skip
    record = runs[0]
    if record.status == "failed":
        raise RunError(f"{model} on {record.dataset}: {record.failure}")
    state.out.print(str(record.path), markup=False)
