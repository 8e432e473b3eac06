"""`mmbench datasets`: what the catalogue knows and will fetch, what is prepared, statistics."""

from pathlib import Path
from typing import Annotated

import typer

from mmbench.cli import exchange
from mmbench.cli.groups import NameOrCommand
from mmbench.cli.looks import stats
from mmbench.cli.pictures import list_pictures
from mmbench.cli.state import State
from mmbench.cli.tables import note_outdated, print_table

datasets_app = typer.Typer(
    cls=NameOrCommand,
    invoke_without_command=True,
    help="Data sets: list them, show one (mmbench datasets NAME), add your own, show statistics.",
    epilog="Example: mmbench datasets amazon-beauty",
)


def register(app: typer.Typer) -> None:
    exchange.register(datasets_app)
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
    prepared = {data.name: data for data in list_prepared(state.data_dir, on_error=state.skip_data)}
    known = load_catalog(state.data_dir)
    for name in [*known, *(name for name in prepared if name not in known)]:
        title = known[name].title if name in known else prepared[name].manifest.title
        if name not in prepared:
            rows.append([name, title, "not prepared", "", "", "", ""])
            continue
        data = prepared[name]
        counts = [f"{count:,}" for count in (data.n_users, data.n_items, data.n_events)]
        stored = list_features(data, on_error=state.skip_features).values()
        features = ", ".join(
            f"{manifest.modality} {manifest.encoder}" for group in stored for manifest in group
        )
        is_outdated = note_outdated(state, data)
        rows.append([name, title, "outdated" if is_outdated else "prepared", *counts, features or "none"])
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


datasets_app.command(epilog="Example: mmbench datasets stats amazon-beauty --html beauty.html")(stats)


@datasets_app.command(epilog="Example: mmbench datasets amazon-toys   (the word show may be left out)")
def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="DATASET")],
    ask: Annotated[bool, typer.Option("--ask", help="Ask the servers for unknown sizes.")] = False,
) -> None:
    """Show what will be fetched, its size, address and terms; also protocol, printed counts, slips."""
    from mmbench.cli.dataset_page import page
    from mmbench.data.catalog import resolve_name

    state: State = ctx.obj
    spec, canonical, rules = resolve_name(name, state.data_dir)
    print_table(state, ["key", "value"], page(spec, canonical, rules, state.data_dir, ask=ask))


@datasets_app.command(epilog="Example: mmbench datasets unlock amazon-toys")
def unlock(ctx: typer.Context, name: Annotated[str, typer.Argument(metavar="DATASET")]) -> None:
    """Forget the recorded hashes of a data set's raw files, so that changed files are accepted."""
    from mmbench.data.catalog import resolve_name
    from mmbench.data.raw_hashes import forget_files

    state: State = ctx.obj
    spec, _, _ = resolve_name(name, state.data_dir)
    files = forget_files(state.data_dir, spec.name)
    state.out.print(f"{spec.name}: forgotten: {', '.join(files) or 'nothing was recorded'}", markup=False)
