"""`mmbench datasets init`: a draft of the table of your own data set."""

from pathlib import Path
from typing import Annotated

import typer

from mmbench.cli.state import State

EPILOG = """\b
Examples:
  mmbench datasets init orders.csv products.csv
  mmbench datasets init orders.parquet --name my-shop --output my-shop.toml
  mmbench datasets init hub:owner/reviews@4f2a9c1 --name reviews"""


def init(
    ctx: typer.Context,
    interactions: Annotated[
        str, typer.Argument(metavar="INTERACTIONS", help="Table of users, items and times.")
    ],
    items: Annotated[
        str | None, typer.Argument(metavar="ITEMS", help="Table of items: titles, categories, brands.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the data set.", show_default="that of the folder"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write.", show_default="<name>.toml beside the files"),
    ] = None,
) -> None:
    """Write a draft of a data set's table, guessed from headers and first rows; comments give the reason of each guess.

    Tables are .csv, .tsv (also .gz), .parquet, .inter and .item. What could not be guessed is marked in the file.
    A data set of the Hugging Face hub is hub:OWNER/NAME@REVISION, or hub:OWNER/NAME@REVISION#CONFIG:SPLIT.
    """
    from mmbench.data.draft import fetched, write_draft

    state: State = ctx.obj
    files = [None if text is None else fetched(text, name, state.data_dir) for text in (interactions, items)]
    assert files[0] is not None
    file, draft = write_draft(files[0], files[1], name=name, output=output)
    state.out.print(f"wrote {file}", markup=False)
    if draft.unknown:
        state.warn(f'{file}: not guessed: {", ".join(draft.unknown)}; write them in place of each "?"')
    state.out.print(
        f"next: check the file, then: mmbench datasets add {file} && mmbench prepare {draft.name}",
        markup=False,
    )
