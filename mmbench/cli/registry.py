"""`mmbench models`: what there is."""

from typing import Annotated, Optional

import typer

from mmbench.cli.state import State
from mmbench.errors import UsageError, suggest


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: mmbench models --tag multimodal")(models)


def models(
    ctx: typer.Context,
    tag: Annotated[Optional[str], typer.Option(help="Only models with this tag, e.g. multimodal.")] = None,  # noqa: UP045
    variants: Annotated[bool, typer.Option("--variants", help="List the variants too.")] = False,
) -> None:
    """List the models: what they read, where they come from, how many variants they have."""
    from rich.table import Table

    from mmbench.models import registry
    from mmbench.models.entry import SHIPPED

    state: State = ctx.obj
    entries = list(registry.entries().values())
    tags = {label for entry in entries for label in entry.recipe.tags}
    if tag is not None and tag not in tags:
        raise UsageError(suggest(tag, tags, what="tag"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    from_elsewhere = any(entry.origin != SHIPPED for entry in entries)
    for name in ("model", "reads", "source", *(["from"] if from_elsewhere else []), "variants", "what"):
        table.add_column(name, overflow="fold")
    for entry in entries:
        recipe = entry.recipe
        if tag is not None and tag not in recipe.tags:
            continue
        source = f"{recipe.paper.venue} {recipe.paper.year}" if recipe.paper else "sanity floor"
        origin = [entry.origin] if from_elsewhere else []
        count = str(len(recipe.variants) or "")
        table.add_row(recipe.name, " ".join(recipe.inputs), source, *origin, count, recipe.summary)
        for name, variant in recipe.variants.items() if variants else ():
            blank = [""] * len(origin)
            table.add_row(f"  {recipe.name}:{name}", "", variant.source, *blank, "", variant.summary)
    state.out.print(table)
    state.warn_plugins(registry.plugged().faults)
