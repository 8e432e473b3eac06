"""`mmbench new-model`: the two files of a new model, ready to be changed."""

import os
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from mmbench.cli.state import State
from mmbench.cli.words import words
from mmbench.errors import UsageError
from mmbench.paths import NEW_MODELS, split_paths

Modality = Literal["text", "image"]
_EPILOG = """\b
Examples:
  mmbench new-model markov-mf
  mmbench new-model shop-rec --reads text,image --models-dir models"""


def register(app: typer.Typer) -> None:
    app.command("new-model", epilog=_EPILOG)(new_model)


def new_model(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Small letters, digits and hyphens: markov-mf.")
    ],
    reads: Annotated[
        list[str] | None,
        typer.Option(help="Let it read the items' text, image, or both (text,image)."),
    ] = None,
) -> None:
    """Write the code and the recipe of a new model; they pass mmbench check at once, and are yours to change.

    They go into the folder of --models-dir (or MMBENCH_MODELS), else into my-models; nothing is written over.
    """
    state: State = ctx.obj
    from mmbench.api.arguments import one_of
    from mmbench.models.new_model import write_model

    modalities = [one_of(word, get_args(Modality), "reads") for word in words(reads)]
    folder = _folder()
    for file in write_model(name, folder, reads=modalities):
        state.out.print(f"wrote {file}", markup=False)
    state.out.print(f"next: mmbench --models-dir {folder} check {name}", markup=False)


def _folder() -> Path:
    """Return the folder of the user's models, or the default where none is named; UsageError for several."""
    folders = split_paths(os.environ.get("MMBENCH_MODELS", ""))
    if len(folders) > 1:
        raise UsageError(
            f"{len(folders)} folders of models are named ({', '.join(map(str, folders))}); "
            "name the folder of the new model with --models-dir"
        )
    folder = folders[0] if folders else NEW_MODELS
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder with --models-dir")
    return folder
