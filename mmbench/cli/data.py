"""`mmbench prepare`, `preprocess` and `extract`: raw files in, statistics and coverage out."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from mmbench.cli.pictures import fetch_pictures_of
from mmbench.cli.state import State
from mmbench.cli.tables import open_current, print_statistics
from mmbench.errors import UsageError

if TYPE_CHECKING:
    from mmbench.data.prepare import PrepareReport
    from mmbench.data.raw_files import RawFilesMissingError
    from mmbench.data.store import Prepared

Names = Annotated[list[str], typer.Argument(metavar="DATASET...", help=r"NAME\[@PROTOCOL]\[@TIES].")]
SomeNames = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Argument(metavar="DATASET...", help="Prepared data sets; none with --list.", show_default=False),
]
Raw = Annotated[Optional[Path], typer.Option(help="Folder of the raw files.")]  # noqa: UP045
Force = Annotated[bool, typer.Option("--force", help="Prepare again even if nothing changed.")]
Offline = Annotated[
    bool,
    typer.Option("--offline", help="Open no connection; missing raw files are an error."),
]
ProtocolOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="hm4sr, tmmsrec, clean or clean-time instead of the data set's default."),
]
Ties = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Order of equal timestamps: file, reverse or random:SEED."),
]
Text = Annotated[Optional[str], typer.Option(metavar="ENCODER", help="Text encoder; none = no text.")]  # noqa: UP045
Image = Annotated[Optional[str], typer.Option(metavar="ENCODER", help="Image encoder; none = no images.")]  # noqa: UP045
Device = Annotated[str, typer.Option(help="Device of pretrained encoders: auto, cpu, cuda, cuda:1, ...")]
BatchSize = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(min=1, help="Items per batch of pretrained encoders; chosen automatically by default."),
]
Precision = Annotated[
    str,
    typer.Option(
        help="auto, float32, bfloat16 or float16; auto = mixed precision on a GPU, float32 on a CPU."
    ),
]
Float16 = Annotated[bool, typer.Option("--float16", help="Store features in half the bytes.")]
ListOption = Annotated[
    bool, typer.Option("--list", help="List the encoders; with a data set, its stored features instead.")
]
Again = Annotated[bool, typer.Option("--force", help="Extract again even if the same features are stored.")]

NoPictures = Annotated[bool, typer.Option("--no-pictures", help="Fetch no pictures.")]
RetryPictures = Annotated[
    bool, typer.Option("--retry-pictures", help="Request pictures again that are known to be gone.")
]
PrivateHosts = Annotated[
    bool,
    typer.Option(
        "--private-hosts",
        envvar="MMBENCH_PRIVATE_HOSTS",
        help="Let pictures come from hosts of private networks.",
    ),
]


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: mmbench prepare amazon-beauty --raw ~/amazon-2014")(prepare)
    app.command(epilog="Example: mmbench preprocess amazon-beauty --raw ~/amazon-2014 --ties random:1")(
        preprocess
    )
    app.command(epilog="Example: mmbench extract demo --text tfidf-svd --image none")(extract)


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
    device: Device = "auto",
    no_pictures: NoPictures = False,
    retry_pictures: RetryPictures = False,
    private_hosts: PrivateHosts = False,
) -> None:
    """Preprocess, fetch pictures, extract: turn raw files into prepared data with text and image features."""
    state: State = ctx.obj
    for name in dataset:
        report = _preprocess(state, name, raw=raw, force=force, protocol=protocol, ties=ties, offline=offline)
        prepared = report.prepared
        if not (offline or no_pictures or image == "none"):
            prepared = fetch_pictures_of(
                state, report, raw=raw, retry=retry_pictures, private_hosts=private_hosts
            )
        _extract(state, prepared, text=text, image=image, device=device)


def prepare_one(state: State, name: str) -> None:
    """Prepare a data set with all defaults, for commands that need one and find none."""
    report = _preprocess(state, name, raw=None, force=False, protocol=None, ties=None)
    _extract(state, fetch_pictures_of(state, report), text=None, image=None)


def preprocess(
    ctx: typer.Context,
    dataset: Names,
    raw: Raw = None,
    offline: Offline = False,
    force: Force = False,
    protocol: ProtocolOption = None,
    ties: Ties = None,
) -> None:
    """Turn raw files into interactions, catalogue and manifest; print statistics beside printed counts."""
    state: State = ctx.obj
    for name in dataset:
        _preprocess(state, name, raw=raw, force=force, protocol=protocol, ties=ties, offline=offline)


def extract(
    ctx: typer.Context,
    dataset: SomeNames = None,
    text: Text = None,
    image: Image = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    precision: Precision = "auto",
    float16: Float16 = False,
    force: Again = False,
    list_: ListOption = False,
) -> None:
    """Turn texts and pictures of prepared data into feature arrays; report what is missing.

    An encoder is a registered name, a folder of a saved transformers model, or owner/name on the hub; :cls or
    :mean after it choose the pooling, +layers gives one state per layer. A killed extraction resumes.
    """
    state: State = ctx.obj
    if list_:
        _list_encoders(state, dataset or [])
        return
    if not dataset:
        raise UsageError("name a prepared data set, for example: mmbench extract demo; or see --list")
    how: dict[str, Any] = {"device": device, "batch_size": batch_size, "precision": precision}
    for name in dataset:
        prepared = open_current(state, name)
        _extract(state, prepared, text=text, image=image, float16=float16, force=force, **how)


def _list_encoders(state: State, datasets: list[str]) -> None:
    """Print the registered encoders, or the stored features of data sets."""
    from mmbench.cli.encoders import print_encoders, print_stored

    if not datasets:
        print_encoders(state)
    for name in datasets:
        print_stored(state, name)


def _preprocess(
    state: State,
    name: str,
    *,
    raw: Path | None = None,
    force: bool = False,
    protocol: str | None = None,
    ties: str | None = None,
    offline: bool = False,
) -> "PrepareReport":
    """Prepare a data set; fetch raw files that are needed and missing, unless `raw` or `offline` forbids it."""
    from mmbench.data import prepare as data

    def progress(message: str) -> None:
        state.err.print(f"{name}: {message}", markup=False)

    def attempt() -> "PrepareReport":
        return data.prepare(
            name, state.data_dir, raw=raw, force=force, protocol=protocol, ties=ties, progress=progress
        )

    report = _with_raw_files(state, attempt, fetch=not offline and raw is None)
    for note in report.notes:
        state.err.print(f"{name}: {note}", markup=False)
    if report.fresh:
        state.err.print(f"{report.prepared.name}: prepared in {report.seconds:.1f} s", markup=False)
        print_statistics(state, report.prepared)
    else:
        state.out.print(f"{report.prepared.name}: already prepared, nothing to do", markup=False)
    return report


def _with_raw_files(state: State, attempt: Callable[[], "PrepareReport"], *, fetch: bool) -> "PrepareReport":
    """Call `attempt`, and again after fetching the raw files that it misses, if `fetch` and they have an address."""
    from mmbench.cli.fetching import fetch_missing
    from mmbench.data.raw_files import RawFilesMissingError

    try:
        return attempt()
    except RawFilesMissingError as error:
        if not fetch or not any(file.urls for file in error.files):
            _print_instructions(state, error)
            raise
        fetch_missing(state, error)
    return _with_raw_files(state, attempt, fetch=False)


def _print_instructions(state: State, error: "RawFilesMissingError") -> None:
    """Print which files to get, from where, and where to put them: the long form of the error's line."""
    state.err.print("These raw files are needed:", markup=False)
    for file in error.files:
        for source in file.urls or ["no public address: from the owner of the data"]:
            state.err.print(
                f"  {file.name}\n    from {source}\n    to   {error.folder / file.name}", markup=False
            )
    if error.spec.notes:
        state.err.print(error.spec.notes, markup=False)


def _extract(
    state: State, prepared: "Prepared", *, text: str | None = None, image: str | None = None, **fields: Any
) -> None:
    """Extract features; `fields` are those of mmbench.features.extract.Options."""
    from rich.progress import Progress

    from mmbench.features.extract import Options, extract_default

    def say(message: str) -> None:
        state.err.print(f"{prepared.name}: {message}", markup=False)

    with Progress(console=state.err, transient=True, disable=not state.err.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        options = Options(**fields)
        reports = extract_default(prepared, text, image, on_progress=progress, options=options, say=say)
    for report in reports:
        state.out.print(f"{prepared.name}: {report.line()}", markup=False)
    if image is None and prepared.manifest.images is None:
        fetch = any("image_url" in record for record in prepared.item_records)
        hint = f"; mmbench prepare {prepared.name} fetches them" if fetch else ""
        state.out.print(f"{prepared.name}: no pictures, so no image features{hint}", markup=False)
