"""`mmbench datasets`: what the catalogue knows and will fetch, what is prepared, statistics."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbench.cli import drafting, exchange
from mmbench.cli.groups import NameOrCommand
from mmbench.cli.looks import stats
from mmbench.cli.options import DeclaredDataset
from mmbench.cli.pictures import list_pictures
from mmbench.cli.state import State
from mmbench.cli.tables import note_outdated, print_table
from mmbench.errors import UsageError, suggest

if TYPE_CHECKING:
    from mmbench.data.store import Prepared

ROOM_FOR = {"title": 130, "features": 100}  # columns of a terminal below which a column is left out

datasets_app = typer.Typer(
    cls=NameOrCommand,
    invoke_without_command=True,
    help="Data sets: list or show them (mmbench datasets NAME), add your own, show statistics.",
    epilog="Example: mmbench datasets amazon-beauty",
)


def register(app: typer.Typer) -> None:
    exchange.register(datasets_app)
    app.add_typer(datasets_app, name="datasets")


datasets_app.command(epilog=drafting.EPILOG)(drafting.init)
datasets_app.command("pictures", epilog="Example: mmbench datasets pictures amazon-beauty --missing")(
    list_pictures
)


@datasets_app.callback()
def list_datasets(ctx: typer.Context) -> None:
    """List the data sets: which are prepared, with which features."""
    if ctx.invoked_subcommand is None:
        _print_list(ctx.obj)


@datasets_app.command("list", epilog="Example: mmbench datasets list")
def list_command(ctx: typer.Context) -> None:
    """List the data sets, those that are prepared first; the same as mmbench datasets."""
    _print_list(ctx.obj)


def _print_list(state: State) -> None:
    from mmbench.data.catalog import load_catalog, plugged
    from mmbench.data.store import list_prepared
    from mmbench.features.store import list_features

    rows = []
    prepared = {data.name: data for data in list_prepared(state.data_dir, on_error=state.skip_data)}
    known = load_catalog(state.data_dir)
    for name in [*prepared, *(name for name in known if name not in prepared)]:
        title = known[name].title if name in known else prepared[name].manifest.title
        if name not in prepared:
            rows.append([name, "not prepared", "", "", "", "", title])
            continue
        data = prepared[name]
        counts = [f"{count:,}" for count in (data.n_users, data.n_items, data.n_events)]
        stored = list_features(data, on_error=state.skip_features).values()
        features = ", ".join(
            f"{manifest.modality} {manifest.encoder}" for group in stored for manifest in group
        )
        is_outdated = note_outdated(state, data)
        state_text = "outdated" if is_outdated else "prepared"
        rows.append([name, state_text, *counts, features or "none", title])
    _print_columns(state, ["data set", "state", "users", "items", "interactions", "features", "title"], rows)
    state.warn_plugins(plugged(state.data_dir).faults)


def _print_columns(state: State, header: list[str], rows: list[list[str]]) -> None:
    """Print the columns that have a content and for which there is room."""
    width = state.out.width if state.out.is_terminal else 10_000
    kept = [
        index
        for index, name in enumerate(header)
        if any(row[index] for row in rows) and width >= ROOM_FOR.get(name, 0)
    ]
    print_table(state, [header[index] for index in kept], [[row[index] for index in kept] for row in rows])


@datasets_app.command(epilog="Example: mmbench datasets remove my-shop")
def remove(
    ctx: typer.Context,
    name: DeclaredDataset,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
) -> None:
    """Remove a data set's prepared data and features, and its table if it was added; raw files and runs stay."""
    from mmbench.cli.asking import confirm
    from mmbench.data.catalog import added_datasets, forget_dataset
    from mmbench.data.removal import prepared_bytes, remaining, remove_prepared
    from mmbench.fetch.files import size_text

    state: State = ctx.obj
    is_added, n_bytes = name in added_datasets(state.data_dir), prepared_bytes(name, state.data_dir)
    if not is_added and n_bytes is None:
        known = [*added_datasets(state.data_dir), *(prepared.name for prepared in _prepared(state))]
        raise UsageError(f"{suggest(name, known, what='prepared or added data set')}; nothing was removed")
    parts = [] if n_bytes is None else [f"the prepared data of {name} ({size_text(n_bytes)})"]
    parts += [f"the table of {name}"] if is_added else []
    if not yes:
        confirm(f"Remove {' and '.join(parts)}?")
    stays = remaining(name, state.data_dir, state.results_dir)
    if n_bytes is not None:
        remove_prepared(name, state.data_dir)
    if is_added:
        forget_dataset(name, state.data_dir)
    state.out.print(f"removed {' and '.join(parts)}", markup=False)
    for text in stays:
        state.out.print(f"stays: {text}", markup=False)


def _prepared(state: State) -> "list[Prepared]":
    from mmbench.data.store import list_prepared

    return list_prepared(state.data_dir, on_error=lambda error: None)


@datasets_app.command(epilog="Example: mmbench datasets add my-shop.toml && mmbench prepare my-shop")
def add(
    ctx: typer.Context, file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="See docs/data.md.")]
) -> None:
    """Check your data set's table, also against the headers of its files, and copy it into <data-dir>/datasets.toml."""
    from mmbench.data import adding

    state: State = ctx.obj
    for name, missing in adding.add(file, state.data_dir).items():
        before = f"put {' and '.join(map(str, missing))} there, then: " if missing else ""
        state.out.print(f"{name}: added; next: {before}mmbench prepare {name}", markup=False)


datasets_app.command(epilog="Example: mmbench datasets stats amazon-beauty --html beauty.html")(stats)


@datasets_app.command(epilog="Example: mmbench datasets amazon-toys   (the word show may be left out)")
def show(
    ctx: typer.Context,
    name: DeclaredDataset,
    ask: Annotated[bool, typer.Option("--ask", help="Ask the servers for unknown sizes.")] = False,
) -> None:
    """Show what will be fetched, its size, address and terms; the protocol; published counts and errors in them."""
    from mmbench.cli.dataset_page import page
    from mmbench.data.catalog import resolve_name

    state: State = ctx.obj
    spec, canonical, rules = resolve_name(name, state.data_dir)
    print_table(state, ["key", "value"], page(spec, canonical, rules, state.data_dir, ask=ask))


@datasets_app.command(epilog="Example: mmbench datasets unlock amazon-toys")
def unlock(ctx: typer.Context, name: DeclaredDataset) -> None:
    """Forget the recorded hashes of a data set's raw files, so that changed files are accepted."""
    from mmbench.data.catalog import resolve_name
    from mmbench.data.raw_hashes import forget_files

    state: State = ctx.obj
    spec, _, _ = resolve_name(name, state.data_dir)
    files = forget_files(state.data_dir, spec.name)
    state.out.print(f"{spec.name}: forgotten: {', '.join(files) or 'nothing was recorded'}", markup=False)
