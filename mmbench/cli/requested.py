"""Arguments and options that say what is run: models or an experiment's file, data sets, seeds, settings."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmbench.choices import DEFAULT_LISTS, FLOORS
from mmbench.cli import complete
from mmbench.cli.words import single_values, words
from mmbench.errors import UsageError

if TYPE_CHECKING:
    from mmbench.runs.experiment_file import ExperimentFile
    from mmbench.runs.overrides import Overrides

MOST_SEEDS = 10_000  # limits a range, so that a typo does not fill the memory
ModelsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL",
        help="Model names, with :variant if wanted; or an experiment file (exp.toml).",
        autocompletion=complete.models,
    ),
]
DatasetsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dataset",
        "-d",
        show_default="the last prepared",
        help="Prepared data set; repeatable.",
        autocompletion=complete.prepared,
    ),
]
SeedsOption = Annotated[str, typer.Option(help="How many seeds (10 = 1..10) or which (3,5,8 or 4-6).")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="[MODEL.]KEY=VALUE", help="Override a setting, for all models or MODEL; repeatable."
    ),
]
TunedOption = Annotated[
    bool,
    typer.Option("--tuned", help="Use the best settings that `mmbench tune` found; --set overrides them."),
]
StudyOption = Annotated[
    str | None, typer.Option(metavar="ID", help="Use those of this study; implies --tuned.")
]
EpochsOption = Annotated[int | None, typer.Option(min=1, help="Largest number of epochs.")]
FloorsOption = Annotated[bool, typer.Option(help=f"Also run {', '.join(FLOORS)}.")]
ControlsOption = Annotated[
    bool,
    typer.Option(
        "--controls",
        help="Also run the controls of multi-modal models: late fusion, ids alone, shuffled features, ...",
    ),
]
IN_FILES = ("dataset", "seeds", "set_", "tuned", "study", "epochs", "floors", "controls", "lists", "metric")


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
    """Return the settings of `--set key=value` and `--set model.key=value`; UsageError for two values of a key."""
    from mmbench.settings.config import parse_value

    form, advice = "KEY=VALUE or MODEL.KEY=VALUE", "give one value, and run once for each"
    return {key: parse_value(value) for key, value in single_values(texts, form=form, advice=advice).items()}


def parse_sets(texts: list[str] | None, *, epochs: int | None, device: str) -> "Overrides":
    """Return the settings of `--set` and `--epochs`, for trainings on a device."""
    from mmbench.runs.overrides import Overrides

    return Overrides.of(read_sets(texts), epochs=epochs, device=device)


def requested(
    ctx: typer.Context,
    models: list[str],
    *,
    datasets: list[str] | None,
    seeds: str,
    sets: list[str] | None,
    tuned: bool,
    study: str | None,
    epochs: int | None,
    floors: bool,
    controls: bool,
    lists: int = DEFAULT_LISTS,
    metrics: list[str] | None = None,
) -> "ExperimentFile":
    """Return what a command's arguments ask for; UsageError for options that its file states."""
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
        return read_experiment_file(Path(models[0]))
    return ExperimentFile(
        models=tuple(words(models)), datasets=tuple(words(datasets)), seeds=tuple(parse_seeds(seeds)),
        epochs=epochs or 0, floors=floors, controls=controls, lists=lists, settings=_by_model(read_sets(sets)),
        tuning=Tuning(tuned=tuned, study=study or ""),
        report=ReportOptions(metrics=tuple(map(str, as_metrics(words(metrics))))),
    )  # fmt: skip


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
