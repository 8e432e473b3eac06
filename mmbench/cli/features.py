"""`mmbench import-features`: ready-made feature arrays into a prepared data set."""

from pathlib import Path
from typing import Annotated

import typer

from mmbench.cli.state import State


def import_command(
    ctx: typer.Context,
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="A prepared data set, e.g. amazon-beauty.")
    ],
    modality: Annotated[str, typer.Option(help="text or image.")],
    name: Annotated[str, typer.Option(help="Name to store the features under, e.g. bert-base.")],
    array: Annotated[Path, typer.Option(help="One [rows, D] array: .npy, .npz or .pt.")],
    ids: Annotated[
        Path, typer.Option(help="Raw item id of each row: .txt (one a line), .json or .csv (id,row).")
    ],
) -> None:
    """Store ready-made feature arrays for a prepared data set.

    Items without a row, or with a row of zeros, count as absent and are reported.

    Example: mmbench import-features amazon-beauty --modality text --name bert --array bert.npy --ids ids.txt
    """
    from mmbench.data.store import open_prepared
    from mmbench.features.imported import import_features

    state: State = ctx.obj
    report = import_features(open_prepared(dataset, state.data_dir), modality, name, array, ids)
    state.out.print(report.line())


def register(app: typer.Typer) -> None:
    app.command("import-features")(import_command)
