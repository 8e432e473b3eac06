"""Arguments and options that several commands share: a data set; who computes, who hears of it, what is measured."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mmbench.cli import complete
from mmbench.cli.words import key_values

DeclaredDataset = Annotated[
    str,
    typer.Argument(
        metavar="DATASET", help="A data set that mmbench datasets lists.", autocompletion=complete.datasets
    ),
]
PreparedDataset = Annotated[
    str,
    typer.Argument(
        metavar="DATASET", help="A prepared data set, e.g. amazon-beauty.", autocompletion=complete.prepared
    ),
]
RawOption = Annotated[Path | None, typer.Option("--raw", help="Folder of the raw files.")]
SlurmOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Set the jobs of --backend slurm: partition=gpu, timeout_min=120, ...; repeatable.",
    ),
]
TrackOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Tell a tracker of every epoch: tensorboard, wandb, mlflow, or module:Class; repeatable.",
    ),
]
EnergyOption = Annotated[
    str | None,
    typer.Option(
        metavar="COUNTRY",
        help=r"Measure each run's energy and CO2 (needs mmbench\[energy]) with its country's code, such as DEU or USA.",
    ),
]


def read_slurm(texts: list[str] | None) -> dict[str, Any]:
    """Return the settings of `--slurm key=value`."""
    from mmbench.settings.config import parse_value

    pairs = key_values(texts, option="--slurm", form="KEY=VALUE, for example partition=gpu")
    return {key: parse_value(value) for key, value in pairs}
