"""`mmbench models` and `mmbench show`: what there is, and where every setting comes from."""

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from mmbench.cli.state import State
from mmbench.errors import UsageError, suggest

if TYPE_CHECKING:
    from mmbench.models.registry import ModelEntry
    from mmbench.settings.recipe import Recipe


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: mmbench models --tag multimodal")(models)
    app.command(epilog="Example: mmbench show hm4sr")(show)


def models(
    ctx: typer.Context,
    tag: Annotated[Optional[str], typer.Option(help="Only models with this tag, e.g. multimodal.")] = None,  # noqa: UP045
    variants: Annotated[bool, typer.Option("--variants", help="List the variants too.")] = False,
) -> None:
    """List the models: what they read, where they come from, how many variants they have."""
    from rich.table import Table

    from mmbench.models import registry

    state: State = ctx.obj
    entries = list(registry.entries().values())
    tags = {one for entry in entries for one in entry.recipe.tags}
    if tag is not None and tag not in tags:
        raise UsageError(suggest(tag, tags, what="tag"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("model", "reads", "source", "variants", "what"):
        table.add_column(name, overflow="fold")
    for entry in entries:
        recipe = entry.recipe
        if tag is not None and tag not in recipe.tags:
            continue
        source = f"{recipe.paper.venue} {recipe.paper.year}" if recipe.paper else "sanity floor"
        table.add_row(
            recipe.name, " ".join(recipe.inputs), source, str(len(recipe.variants) or ""), recipe.summary
        )
        for name, variant in recipe.variants.items() if variants else ():
            table.add_row(f"  {recipe.name}:{name}", "", variant.source, "", variant.summary)
    state.out.print(table)


def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model (with :variant), or a data set.")],
    dataset: Annotated[Optional[str], typer.Option(help="Show the settings on this data set.")] = None,  # noqa: UP045
) -> None:
    """Show a model: paper, inputs, every setting with its source, variants, differences from paper and code."""
    from mmbench.models import registry

    state: State = ctx.obj
    if name.partition(":")[0] not in registry.entries():
        _show_dataset(ctx, name)
        return
    entry = registry.find(name)
    _print_head(state, entry.recipe)
    _print_settings(state, entry, dataset or "")
    _print_variants(state, entry.recipe)
    _print_deviations(state, entry.recipe)


def _show_dataset(ctx: typer.Context, name: str) -> None:
    """Fall back to data sets, so that `show` takes any name of either registry."""
    from mmbench.cli.datasets import show as show_dataset
    from mmbench.data.catalog import load_catalog
    from mmbench.models import registry

    known = load_catalog(ctx.obj.data_dir)
    if name.split("@")[0] not in known:
        raise UsageError(suggest(name, [*registry.entries(), *known], what="model or data set"))
    show_dataset(ctx, name)


def _print_head(state: State, recipe: "Recipe") -> None:
    state.out.print(recipe.display, style="bold", end="  ")
    state.out.print(recipe.summary)
    if recipe.paper:
        paper = recipe.paper
        state.out.print(f"{paper.authors}: {paper.title}. {paper.venue} {paper.year}", markup=False)
        for link in (paper.url, paper.code):
            if link:
                state.out.print(link, markup=False)
    state.out.print(f"reads: {', '.join(recipe.inputs)}   tags: {', '.join(recipe.tags)}", markup=False)


def _print_settings(state: State, entry: "ModelEntry", dataset: str) -> None:
    """Every setting with the layer that set it; the recipe's own words stand beside its values."""
    from rich.table import Table

    from mmbench.settings.config import Layer, Origin, TrainConfig, defaults_of, resolve

    layers = [Layer(Origin.default, defaults_of(TrainConfig)), *entry.layers(dataset)]
    settings = resolve(layers, known=entry.known_settings(), where=entry.name)
    table = Table(title="settings", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("key", "value", "set by", "source"):
        table.add_column(column, overflow="fold")
    for key, setting in settings.items():
        table.add_row(key, str(setting.value), setting.origin, setting.note)
    state.out.print()
    state.out.print(table)


def _print_variants(state: State, recipe: "Recipe") -> None:
    from rich.table import Table

    if not recipe.variants:
        return
    table = Table(title="variants", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("name", "what", "settings", "source"):
        table.add_column(column, overflow="fold")
    for name, variant in recipe.variants.items():
        changed = ", ".join(f"{key}={value}" for key, value in variant.settings.items())
        table.add_row(f"{recipe.name}:{name}", variant.summary, changed, variant.source)
    state.out.print()
    state.out.print(table)


def _print_deviations(state: State, recipe: "Recipe") -> None:
    if not recipe.deviations:
        return
    state.out.print("\ndifferences from the paper and the released code", style="italic")
    for number, one in enumerate(recipe.deviations, start=1):
        sides = {"paper": one.paper, "code": one.code, "here": one.here}
        text = "; ".join(f"{side}: {said}" for side, said in sides.items() if said)
        switch = f"  ({one.switch})" if one.switch else ""
        state.out.print(f"{number:2}. {one.point} - {text}{switch}", markup=False)
