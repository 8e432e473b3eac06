"""`mmbench import-features`: ready-made feature arrays into a prepared data set."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from mmbench.cli.options import PreparedDataset
from mmbench.cli.state import State
from mmbench.cli.tables import open_current


def import_command(
    ctx: typer.Context,
    dataset: PreparedDataset,
    modality: Annotated[str, typer.Option(help="text or image.")],
    name: Annotated[str, typer.Option(help="Name to store the features under, e.g. bert-base.")],
    array: Annotated[Path, typer.Option(help=r"One \[rows, D] array: .npy, .npz, .pt, .feat1CLS.")],
    ids: Annotated[
        Path,
        typer.Option(
            help="Raw item id of each row: .txt (an id per line), .json, .csv/.tsv/.item2index (id, row)."
        ),
    ],
    dim: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1, help="Width of a row, which is then checked; useful for a .feat1CLS, which has no header."
        ),
    ] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Accept a file that covers less than half of the items.")
    ] = False,
) -> None:
    """Store ready-made feature arrays for a prepared data set.

    Items without a row, or with a row of zeros, count as absent and are reported.

    Example: mmbench import-features amazon-beauty --modality text --name bert --array bert.npy --ids ids.txt
    """
    from mmbench.features.imported import import_features
    from mmbench.features.store import default_encoder

    state: State = ctx.obj
    prepared = open_current(state, dataset)
    report = import_features(prepared, modality, name, array, ids, dim=dim, allow_partial=allow_partial)
    state.out.print(report.line(), markup=False)
    default = default_encoder(prepared, modality)
    if default != name:
        state.err.print(
            f"{dataset}: runs read {modality} {default} by default; --set {modality}_encoder={name} reads these",
            markup=False,
        )


def register(app: typer.Typer) -> None:
    app.command("import-features")(import_command)
