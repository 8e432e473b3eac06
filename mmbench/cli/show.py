"""`mmbench show`: the page of a model, or of a data set."""

import json
import textwrap
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmbench.cli import complete
from mmbench.cli.state import State
from mmbench.errors import UsageError, suggest

if TYPE_CHECKING:
    from mmbench.reporting.model_page import ModelPage, SettingRow
    from mmbench.settings.config import Layer

ShowFormat = Literal["terminal", "json"]


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: mmbench show hm4sr")(show)


def show(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A model (with :variant), or a data set.", autocompletion=complete.pages
        ),
    ],
    dataset: Annotated[
        str | None, typer.Option("--dataset", "-d", help="Show the settings on this data set.")
    ] = None,
    every: Annotated[
        bool | None,
        typer.Option(
            "--all/--chosen",
            show_default="all, but not on a terminal",
            help="All settings, or only those that the recipe, the variant, the data set or its protocol chose.",
        ),
    ] = None,
    fmt: Annotated[
        ShowFormat, typer.Option("--format", "-f", help="How a model's page is written.")
    ] = "terminal",
) -> None:
    """Show a model: paper, every setting with its source, variants, differences from paper and code, search space."""
    from mmbench.models import registry
    from mmbench.reporting.model_page import page_of, to_json

    state: State = ctx.obj
    known = registry.entries()
    shown = {text.casefold() for key, entry in known.items() for text in (key, entry.recipe.display)}
    if name.partition(":")[0].casefold() not in shown:
        _show_dataset(ctx, name)
        return
    entry = registry.find(registry.canonical(name))
    dataset, protocol = _protocol_of(state, dataset) if dataset else ("", None)
    page = page_of(entry, dataset=dataset, protocol=protocol)
    if fmt == "json":
        typer.echo(json.dumps(to_json(page), indent=1))
        return
    _print_head(state, page)
    _print_settings(state, page, every=not state.out.is_terminal if every is None else every)
    _print_variants(state, page)
    _print_deviations(state, page)
    _print_search(state, page)
    _print_reported(state, page)
    _print_title(state, "run it")
    for command in page.commands:
        state.out.print(f"  {command}", markup=False)  # never wrapped, so that it can be copied


def _show_dataset(ctx: typer.Context, name: str) -> None:
    """Fall back to data sets, so that `show` takes any name of either registry."""
    from mmbench.cli.datasets import show as show_dataset
    from mmbench.data.catalog import load_catalog
    from mmbench.models import registry

    known = load_catalog(ctx.obj.data_dir)
    if name.split("@")[0] not in known:
        raise UsageError(suggest(name, [*registry.entries(), *known], what="model or data set"))
    show_dataset(ctx, name)


def _protocol_of(state: State, dataset: str) -> "tuple[str, Layer]":
    """Return the canonical name of a data set, prepared or not, and what its protocol sets."""
    from mmbench.data.catalog import resolve_name
    from mmbench.data.store import is_prepared, open_prepared
    from mmbench.runs.plan import protocol_layer

    if is_prepared(dataset, state.data_dir):
        prepared = open_prepared(dataset, state.data_dir)
        return prepared.name, protocol_layer(prepared.protocol)
    _, name, protocol = resolve_name(dataset, state.data_dir)
    return name, protocol_layer(protocol)


def _print_text(state: State, text: str, *, indent: int = 0, hang: int = 0) -> None:
    """Print a paragraph inside the terminal's width, later lines `hang` further in; else as a single line."""
    lines = textwrap.wrap(
        text, state.out.width, initial_indent=" " * indent, subsequent_indent=" " * (indent + hang),
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip
    for line in lines:
        state.out.print(line, markup=False)


def _print_title(state: State, text: str) -> None:
    state.out.print(f"\n{text}", style="bold")


def _print_head(state: State, page: "ModelPage") -> None:
    state.out.print(page.display, style="bold", end=" ")
    state.out.print(f"({page.name})")
    _print_text(state, page.summary)
    rows = [("reads", ", ".join(page.inputs)), ("tags", ", ".join(page.tags))]
    if paper := page.paper:
        cited = f"{paper.authors}: {paper.title}. {paper.venue} {paper.year}"
        rows = [("paper", cited), ("page", paper.url), ("code", paper.code), *rows]
    rows += [("from", page.origin if page.origin != "mmbench" else "")]
    rows += [("class", f"{page.model_class} in {page.file}"), ("trained", "yes" if page.is_trained else "no")]
    for label, text in rows:
        if text:
            _print_text(state, f"{label:8}{text}", hang=8)


def _print_settings(state: State, page: "ModelPage", *, every: bool) -> None:
    """Print tables of the model's settings and of those of training; without `every`, no defaults."""
    from mmbench.cli.tables import print_table
    from mmbench.settings.describe import value_text

    suffix = f" on {page.dataset}" if page.dataset else ""
    for of_model, title in ((True, "settings of the model"), (False, "settings of training and ranking")):
        rows = [
            [row.key, value_text(row.setting.value), row.may_be, _source(row)]
            for row in page.settings
            if row.of_model == of_model and (every or row.setting.origin != "default")
        ]
        if rows:
            _print_title(state, title + suffix)
            print_table(state, ["setting", "value", "may be", "source"], rows)
    n_defaults = sum(row.setting.origin == "default" for row in page.settings)
    if n_defaults and not every:
        _print_text(state, f"{n_defaults} more settings have their defaults: mmbench show {page.name} --all")


def _source(row: "SettingRow") -> str:
    """Return where a value comes from; a recipe's note is its source, any other note needs its origin."""
    setting = row.setting
    return setting.note if setting.origin == "recipe" else f"{setting.origin} {setting.note}".strip()


def _print_variants(state: State, page: "ModelPage") -> None:
    from mmbench.settings.describe import value_text

    if not page.variants:
        return
    _print_title(state, "variants")
    for row in page.variants:
        _print_text(state, f"{row.name}  {row.summary}", hang=4)
        changes = [f"class {row.model_class}"] if row.model_class else []
        changes += [
            f"{key} = {value_text(new)}" + ("" if old is None else f" (not {value_text(old)})")
            for key, (old, new) in row.changes.items()
        ]
        _print_text(state, ", ".join(changes), indent=4)
        _print_text(state, f"why: {row.source}" if row.source else "", indent=4)


def _print_deviations(state: State, page: "ModelPage") -> None:
    if not page.deviations:
        return
    _print_title(state, "differences from the paper and the released code")
    for number, deviation in enumerate(page.deviations, start=1):
        _print_text(state, f"{number:2}. {deviation.point}", hang=4)
        for label in ("paper", "code", "here", "switch"):
            if text := getattr(deviation, label):
                _print_text(state, f"{label:8}{text}", indent=4, hang=8)


def _print_search(state: State, page: "ModelPage") -> None:
    """Print what a search tries; a setting that the two spaces search differently has a row for each."""
    from mmbench.cli.tables import print_table

    if not page.search:
        return
    _print_title(state, "search space")
    legend = "shared: the recipe's, with the part of all trained models in it; recipe: the recipe's alone"
    _print_text(state, legend)
    rows = [[row.key, str(row.searched), ", ".join(row.spaces), row.searched.source] for row in page.search]
    print_table(state, ["setting", "tried", "space", "source"], rows)


def _print_reported(state: State, page: "ModelPage") -> None:
    from mmbench.cli.tables import print_table

    if not page.reported:
        return
    _print_title(state, f"published results ({page.reported_source})")
    metrics = list(dict.fromkeys(metric for values in page.reported.values() for metric in values))
    rows = [
        [dataset, *(f"{values[metric]:.4f}" if metric in values else "" for metric in metrics)]
        for dataset, values in page.reported.items()
    ]
    print_table(state, ["data set", *metrics], rows)
