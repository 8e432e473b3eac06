"""`mmbench run` and `mmbench train`."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmbench.choices import DEFAULT_LISTS
from mmbench.cli import complete
from mmbench.cli.options import EnergyOption, SlurmOption, TrackOption, read_slurm
from mmbench.cli.requested import (
    ControlsOption,
    DatasetsOption,
    EpochsOption,
    FloorsOption,
    ModelsArgument,
    SeedsOption,
    SetOption,
    StudyOption,
    TunedOption,
    read_sets,
    requested,
)
from mmbench.cli.state import State
from mmbench.cli.words import words
from mmbench.errors import MmbenchError, RunError

if TYPE_CHECKING:
    from mmbench.reporting.runs import Runs
    from mmbench.runs.experiment_file import ExperimentFile, ReportOptions
    from mmbench.runs.store import RunRecord
    from mmbench.runs.workers import Backend

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


def run(
    ctx: typer.Context,
    models: ModelsArgument,
    dataset: DatasetsOption = None,
    seeds: SeedsOption = "1",
    set_: SetOption = None,
    tuned: TunedOption = False,
    study: StudyOption = None,
    epochs: EpochsOption = None,
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
    floors: FloorsOption = True,
    controls: ControlsOption = False,
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

    experiment = requested(
        ctx, models, datasets=dataset, seeds=seeds, sets=set_, tuned=tuned, study=study, epochs=epochs, floors=floors,
        controls=controls, lists=lists, metrics=metric,
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
    epochs: EpochsOption = None,
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
