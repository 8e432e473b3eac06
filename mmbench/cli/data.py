"""`mmbench prepare`, `preprocess`, `extract` and `datasets`: raw files in, statistics and coverage out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from mmbench.cli.state import State

if TYPE_CHECKING:
    from mmbench.data.prepare import PrepareReport, RawFilesMissingError
    from mmbench.data.store import Prepared

Names = Annotated[list[str], typer.Argument(metavar="DATASET...", help="NAME[@PROTOCOL][@TIES].")]
Raw = Annotated[Optional[Path], typer.Option(help="Folder of the raw files.")]  # noqa: UP045
Force = Annotated[bool, typer.Option("--force", help="Prepare again even if nothing changed.")]
Offline = Annotated[
    bool,
    typer.Option("--offline", help="Use local files only. (This version never fetches raw files itself.)"),
]
ProtocolOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="hm4sr, tmmsrec, clean or clean-time instead of the data set's own."),
]
Ties = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Order of equal timestamps: file, reverse or random:SEED."),
]
Text = Annotated[Optional[str], typer.Option(metavar="ENCODER", help="Text encoder; none = no text.")]  # noqa: UP045
Image = Annotated[Optional[str], typer.Option(metavar="ENCODER", help="Image encoder; none = no images.")]  # noqa: UP045

datasets_app = typer.Typer(
    invoke_without_command=True,
    help="Data sets: list them, add your own, show statistics.",
    epilog="Example: mmbench datasets add my-shop.toml",
)


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: mmbench prepare amazon-beauty --raw ~/amazon-2014")(prepare)
    app.command(epilog="Example: mmbench preprocess amazon-beauty --raw ~/amazon-2014 --ties random:1")(
        preprocess
    )
    app.command(epilog="Example: mmbench extract demo --text tfidf-svd --image none")(extract)
    app.add_typer(datasets_app, name="datasets")


def prepare(
    ctx: typer.Context,
    dataset: Names,
    raw: Raw = None,
    offline: Offline = False,
    force: Force = False,
    protocol: ProtocolOption = None,
    ties: Ties = None,
    text: Text = None,
    image: Image = None,
) -> None:
    """Preprocess and extract: raw files to prepared data with text and image features."""
    state: State = ctx.obj
    for name in dataset:
        report = _preprocess(state, name, raw=raw, force=force, protocol=protocol, ties=ties)
        _extract(state, report.prepared, text=text, image=image)


def prepare_one(state: State, name: str) -> None:
    """Prepare a data set with all defaults; for commands that need one and find none."""
    report = _preprocess(state, name, raw=None, force=False, protocol=None, ties=None)
    _extract(state, report.prepared, text=None, image=None)


def preprocess(
    ctx: typer.Context,
    dataset: Names,
    raw: Raw = None,
    force: Force = False,
    protocol: ProtocolOption = None,
    ties: Ties = None,
) -> None:
    """Raw files to interactions, catalogue and manifest; prints statistics beside printed counts."""
    state: State = ctx.obj
    for name in dataset:
        _preprocess(state, name, raw=raw, force=force, protocol=protocol, ties=ties)


def extract(ctx: typer.Context, dataset: Names, text: Text = None, image: Image = None) -> None:
    """Texts and pictures of prepared data to feature arrays, with a report of what is missing."""
    state: State = ctx.obj
    for name in dataset:
        _extract(state, _open(state, name), text=text, image=image)


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
    _print_table(state, ["data set", "title", "state", "users", "items", "interactions", "features"], rows)


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
    _print_statistics(state, _open(state, name))


def _open(state: State, name: str) -> "Prepared":
    """A prepared data set by any of its names; one whose table is gone from the catalogue still opens."""
    from mmbench.data.catalog import resolve_name
    from mmbench.data.store import folder_name, open_prepared, prepared_root

    if not (prepared_root(state.data_dir) / folder_name(name) / "manifest.json").is_file():
        _, name, _ = resolve_name(name, state.data_dir)
    return open_prepared(name, state.data_dir)


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
    _print_table(state, ["key", "value"], rows)


def _plain(value: Any) -> str:
    return ", ".join(value) or "nothing" if isinstance(value, list) else str(value)


def _preprocess(
    state: State,
    name: str,
    *,
    raw: Path | None = None,
    force: bool = False,
    protocol: str | None = None,
    ties: str | None = None,
) -> "PrepareReport":
    from mmbench.data import prepare as data

    def progress(message: str) -> None:
        state.err.print(f"{name}: {message}", markup=False)

    try:
        report = data.prepare(
            name, state.data_dir, raw=raw, force=force, protocol=protocol, ties=ties, progress=progress
        )
    except data.RawFilesMissingError as error:
        _print_instructions(state, error)
        raise
    for note in report.notes:
        state.err.print(f"{name}: {note}", markup=False)
    if report.fresh:
        state.err.print(f"{report.prepared.name}: prepared in {report.seconds:.1f} s", markup=False)
        _print_statistics(state, report.prepared)
    else:
        state.out.print(f"{report.prepared.name}: already prepared, nothing to do", markup=False)
    return report


def _print_instructions(state: State, error: "RawFilesMissingError") -> None:
    """What to fetch, from where, and where to put it: the long form of the error's one line."""
    state.err.print("These raw files are needed:", markup=False)
    for one in error.files:
        for source in one.urls or ["no public address: from the owner of the data"]:
            state.err.print(
                f"  {one.name}\n    from {source}\n    to   {error.folder / one.name}", markup=False
            )


def _extract(
    state: State, prepared: "Prepared", *, text: str | None = None, image: str | None = None
) -> None:
    from rich.progress import Progress

    from mmbench.features.extract import extract_default

    with Progress(console=state.err, transient=True, disable=not state.err.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        reports = extract_default(prepared, text, image, on_progress=progress)
    for one in reports:
        state.out.print(f"{prepared.name}: {one.line()}", markup=False)
    if image is None and prepared.manifest["images"] is None:
        state.out.print(
            f"{prepared.name}: no pictures beside the raw files, so no image features", markup=False
        )


def _print_statistics(state: State, prepared: "Prepared") -> None:
    from mmbench.cli.statistics import statistic_rows

    synthetic = " (synthetic)" if prepared.synthetic else ""
    state.out.print(f"{prepared.name}: {prepared.manifest['title']}{synthetic}", markup=False)
    source = prepared.manifest["printed"].get("source", "")
    header = ["statistic", "computed", f"printed ({source})" if source else "printed", "remark"]
    _print_table(state, header, statistic_rows(prepared.manifest))


def _print_table(state: State, header: list[str], rows: list[list[str]]) -> None:
    """A rich table on a terminal, aligned plain text elsewhere."""
    if state.out.is_terminal:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in header:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        state.out.print(table, soft_wrap=False)
        return
    from tabulate import tabulate

    state.out.print(tabulate(rows, headers=header, tablefmt="plain", disable_numparse=True), markup=False)
