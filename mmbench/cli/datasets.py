"""`mmbench datasets`: what the catalogue knows, what is prepared, statistics."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mmbench.cli.pictures import list_pictures
from mmbench.cli.state import State
from mmbench.cli.tables import open_named, print_statistics, print_table

datasets_app = typer.Typer(
    invoke_without_command=True,
    help="Data sets: list them, add your own, show statistics.",
    epilog="Example: mmbench datasets add my-shop.toml",
)


def register(app: typer.Typer) -> None:
    app.add_typer(datasets_app, name="datasets")


datasets_app.command("pictures", epilog="Example: mmbench datasets pictures amazon-beauty --missing")(
    list_pictures
)


@datasets_app.callback()
def list_datasets(ctx: typer.Context) -> None:
    """List the data sets: which are prepared, with which features."""
    if ctx.invoked_subcommand is not None:
        return
    from mmbench.data.catalog import load_catalog
    from mmbench.data.store import list_prepared
    from mmbench.features.store import list_features

    state: State = ctx.obj
    rows = []
    prepared = {one.name: one for one in list_prepared(state.data_dir)}
    known = load_catalog(state.data_dir)
    for name in [*known, *(one for one in prepared if one not in known)]:
        title = known[name].title if name in known else prepared[name].manifest["title"]
        if name not in prepared:
            rows.append([name, title, "not prepared", "", "", "", ""])
            continue
        one = prepared[name]
        counts = [f"{one.manifest['counts'][key]:,}" for key in ("users", "items", "interactions")]
        features = ", ".join(f"{kind} {name}" for kind, names in list_features(one).items() for name in names)
        rows.append([name, title, "prepared", *counts, features or "none"])
    print_table(state, ["data set", "title", "state", "users", "items", "interactions", "features"], rows)


@datasets_app.command(epilog="Example: mmbench datasets add my-shop.toml && mmbench prepare my-shop")
def add(
    ctx: typer.Context, file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="See docs/data.md.")]
) -> None:
    """Check your own data set's table and copy it into <data-dir>/datasets.toml."""
    from mmbench.data.catalog import add_datasets

    state: State = ctx.obj
    for name in add_datasets(file, state.data_dir):
        state.out.print(f"{name}: added; next: mmbench prepare {name}", markup=False)


@datasets_app.command(epilog="Example: mmbench datasets stats amazon-beauty@random:1")
def stats(ctx: typer.Context, name: Annotated[str, typer.Argument(metavar="DATASET")]) -> None:
    """Statistics of a prepared data set beside the printed counts."""
    state: State = ctx.obj
    print_statistics(state, open_named(state, name))


@datasets_app.command(epilog="Example: mmbench datasets show amazon-toys")
def show(ctx: typer.Context, name: Annotated[str, typer.Argument(metavar="DATASET")]) -> None:
    """What the catalogue says about a data set: raw files, protocol, texts, printed counts, slips."""
    from mmbench.data.catalog import resolve_name
    from mmbench.data.protocol import SUMMARIES

    state: State = ctx.obj
    spec, canonical, rules = resolve_name(name, state.data_dir)
    rows = [["name", canonical], ["title", spec.title], ["parser", spec.parser]]
    rows += [["synthetic", "yes: generated, not real users"]] if spec.synthetic else []
    rows += [["raw folder", str(spec.raw_dir(state.data_dir))]]
    rows += [["raw file", " ".join([one.name, *one.urls])] for one in spec.raw_files]
    rows += [["pictures", f"{spec.images.name}, one {spec.images.member} each"]] if spec.images else []
    rows += [["protocol", SUMMARIES[rules["name"]]]]
    rows += [[f"  {key}", _plain(value)] for key, value in rules.items() if key != "name"]
    rows += [["text", ", ".join(spec.text_fields)]]
    if spec.printed:
        one = spec.printed
        rows.append(["printed", f"{one.users:,} / {one.items:,} / {one.interactions:,} ({one.source})"])
    rows += [
        ["slip", f"{one.statistic} {one.printed:g}, not {one.correct:g}: {one.why}"] for one in spec.slips
    ]
    rows += [["notes", spec.notes]] if spec.notes else []
    print_table(state, ["key", "value"], rows)


def _plain(value: Any) -> str:
    return ", ".join(value) or "nothing" if isinstance(value, list) else str(value)
