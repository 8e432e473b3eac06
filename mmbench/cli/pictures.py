"""`mmbench datasets pictures`: where the pictures of a data set are, and which are missing."""

from typing import Annotated

import typer

from mmbench.cli.options import PreparedDataset
from mmbench.cli.state import State
from mmbench.cli.tables import open_to_look, print_table


def list_pictures(
    ctx: typer.Context,
    name: PreparedDataset,
    missing: Annotated[
        bool, typer.Option("--missing", help="List every item without a picture, and why.")
    ] = False,
) -> None:
    """Print where a prepared data set's pictures are, how many items have none, and why."""
    from mmbench.cli.preparation import print_reasons
    from mmbench.fetch.pictures import item_pictures

    state: State = ctx.obj
    prepared = open_to_look(state, name)
    pictures = item_pictures(prepared)
    lacking = [picture for picture in pictures if picture.reason is not None]
    if missing:
        rows = [[picture.item, picture.reason or "", picture.name, picture.url] for picture in lacking]
        print_table(state, ["item", "why", "picture", "address"], rows)
        return
    images = prepared.manifest.images
    source = f"{images.kind} {images.path}" if images else "no pictures yet"
    state.out.print(
        f"{prepared.name}: {len(pictures) - len(lacking):,} of {len(pictures):,} items have a picture ({source})",
        markup=False,
    )
    reasons: dict[str, list[str]] = {}
    for picture in lacking:
        reasons.setdefault(str(picture.reason), []).append(picture.item)
    if reasons:
        print_reasons(state, dict(sorted(reasons.items(), key=lambda entry: (-len(entry[1]), entry[0]))))
