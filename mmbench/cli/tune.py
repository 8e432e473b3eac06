"""`mmbench tune`: settings searched under a budget that is the same for every model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmbench.cli.options import SlurmOption, TrackOption, read_slurm
from mmbench.cli.requested import DatasetsOption
from mmbench.cli.run import DeviceOption
from mmbench.cli.state import State
from mmbench.cli.tables import print_table
from mmbench.cli.words import single_values, words
from mmbench.errors import RunError, UsageError

if TYPE_CHECKING:
    from mmbench.reporting.studies import Study

_EPILOG = """\b
Examples:
  mmbench tune hm4sr sasrec --dataset amazon-beauty --trials 30
  mmbench tune sasrec --space recipe --set lr=0.001,0.003 --hours 2
  mmbench tune sasrec --show --html sasrec.html"""


def register(app: typer.Typer) -> None:
    app.command(epilog=_EPILOG)(tune)


def tune(
    ctx: typer.Context,
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help="Models, with :variant if wanted.")],
    dataset: DatasetsOption = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, show_default="30", help="Trials of each model, the recipe's own among them."),
    ] = None,
    hours: Annotated[
        float | None, typer.Option(min=0.0, help="Instead of --trials: hours of training of each model.")
    ] = None,
    sampler: Annotated[
        str, typer.Option(metavar="tpe|random|grid", help=r"tpe needs mmbench\[tune].")
    ] = "tpe",
    space: Annotated[
        str,
        typer.Option(
            metavar="shared|recipe|FILE",
            help=r"shared: equal lists of lr, dropout, weight_decay for all models; FILE: TOML with a table \[search].",
        ),
    ] = "shared",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[MODEL.]KEY=VALUE[,...]",
            help="One value is given to all trials, several are searched; repeatable.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Largest number of epochs of a training.")] = None,
    seeds_per_trial: Annotated[
        int, typer.Option(min=1, max=100, help="Seeds of each trial, whose mean is its value.")
    ] = 1,
    prune: Annotated[
        bool, typer.Option(help="Stop trials early that are worse than two thirds of the others.")
    ] = True,
    jobs: Annotated[int, typer.Option(min=1, help="Trials at a time, each in a process.")] = 1,
    backend: Annotated[
        str, typer.Option(help="Who computes the trials: local, dask, ray or slurm.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="A running Dask scheduler or Ray cluster; by default started on this machine."),
    ] = None,
    slurm: SlurmOption = None,
    device: DeviceOption = "auto",
    track: TrackOption = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print what the stored studies found; compute nothing.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the studies as an HTML page.")
    ] = None,
) -> None:
    """Search settings on the validation targets, with the same budget for every model; `run --tuned` uses the best.

    Test targets are not ranked. The same command resumes after an interruption, or with more trials later.
    """
    state: State = ctx.obj
    from mmbench import api
    from mmbench.cli.watching import watchers

    if html is not None and html.is_dir():
        raise UsageError(f"--html {html} is a folder; name a file in it, e.g. {html / 'tuning.html'}")
    if show:
        studies = api.studies(
            models, datasets=dataset or [], data_dir=state.data_dir, results_dir=state.results_dir
        )
        for study in studies:
            print_study(state, study)
    else:
        settings, search = parse_lists(set_)
        studies = api.tune(
            models, datasets=dataset or [], trials=trials, hours=hours, sampler=sampler, space=space, settings=settings,
            search=search, epochs=epochs, seeds_per_trial=seeds_per_trial, prune=prune, jobs=jobs, backend=backend,
            address=address, slurm=read_slurm(slurm), device=device, track=words(track),
            data_dir=state.data_dir, results_dir=state.results_dir,
            progress=watchers(state), ended=lambda study: _close(state, study),
        )  # fmt: skip
    if html is not None:
        _write_page(state, studies, html)
    _check_finished(studies)


def parse_lists(texts: list[str] | None) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return what `--set` says: settings with a value, and lists of values to search."""
    from mmbench.settings.config import parse_value

    settings: dict[str, Any] = {}
    lists: dict[str, list[Any]] = {}
    form = "KEY=VALUE, KEY=A,B,C or MODEL.KEY=..."
    for key, text in single_values(
        texts, form=form, advice="with a comma between them both are searched"
    ).items():
        value = parse_value(text)
        if isinstance(value, str) and "," in value:
            lists[key] = [parse_value(part.strip()) for part in text.split(",")]
        else:
            settings[key] = value
    return settings, lists


def print_study(state: State, study: "Study") -> None:
    """Print the best trials, the recipe's own, and what each setting matters."""
    from mmbench.reporting.studies import HEADER

    state.out.print(study.title(), markup=False)
    header = [study.plan.metric if name == "value" else name for name in HEADER]
    print_table(state, header, study.rows())
    for line in study.remarks():
        state.out.print(line, markup=False)


def _close(state: State, study: "Study") -> None:
    print_study(state, study)
    if study.best is not None:
        state.out.print(
            f"next: mmbench run {study.plan.model} --dataset {study.plan.dataset} --tuned", markup=False
        )


def _write_page(state: State, studies: "list[Study]", file: Path) -> None:
    from mmbench.atomic import write_text
    from mmbench.reporting.study_page import html

    write_text(file, html(studies))
    state.err.print(f"wrote {file}", markup=False)


def _check_finished(studies: "list[Study]") -> None:
    """Raise RunError when every trial of a study failed."""
    for study in studies:
        failed = [trial for trial in study.trials if trial.status == "failed"]
        if failed and len(failed) == len(study.trials):
            raise RunError(f"{study.plan.model}: every trial failed; the first: {failed[0].reason}")
