"""`mmbench prepare`, `preprocess` and `extract`: raw files in, statistics and coverage out."""

from typing import Annotated, Optional

import typer

from mmbench.cli import complete
from mmbench.cli.options import RawOption
from mmbench.cli.state import State
from mmbench.cli.tables import open_current
from mmbench.errors import UsageError

Names = Annotated[
    list[str],
    typer.Argument(metavar="DATASET", help=r"NAME\[@PROTOCOL]\[@TIES].", autocompletion=complete.datasets),
]
SomeNames = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Argument(
        metavar="DATASET",
        help="Prepared data sets; none with --list.",
        show_default=False,
        autocompletion=complete.prepared,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Prepare again even if nothing changed.")]
Offline = Annotated[
    bool,
    typer.Option("--offline", help="Open no connection; missing raw files are an error."),
]
ProtocolOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="hm4sr, tmmsrec, clean or clean-time (-last, -random) instead of the data set's default."
    ),
]
Ties = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Order of equal timestamps: file, reverse or random:SEED."),
]
Text = Annotated[
    str | None,
    typer.Option(metavar="ENCODER", help="Text encoder; none = no text.", autocompletion=complete.encoders),
]
Image = Annotated[
    str | None,
    typer.Option(
        metavar="ENCODER", help="Image encoder; none = no images.", autocompletion=complete.encoders
    ),
]
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
    raw: RawOption = None,
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
    """Make a data set ready for runs: preprocess, fetch pictures, extract features."""
    from mmbench import api
    from mmbench.cli.watching import watchers

    state: State = ctx.obj
    for name in dataset:
        api.prepare(
            name, raw=raw, offline=offline, force=force, protocol=protocol, ties=ties, text=text, image=image,
            device=device, pictures=not no_pictures, retry_pictures=retry_pictures, private_hosts=private_hosts,
            data_dir=state.data_dir, progress=watchers(state),
        )  # fmt: skip


def preprocess(
    ctx: typer.Context,
    dataset: Names,
    raw: RawOption = None,
    offline: Offline = False,
    force: Force = False,
    protocol: ProtocolOption = None,
    ties: Ties = None,
) -> None:
    """Filter, sort and split raw files; compare the counts with the paper's."""
    from mmbench.cli.preparation import PreparationView
    from mmbench.features import pipeline

    state: State = ctx.obj
    how = pipeline.Preparation(raw=raw, offline=offline, force=force, protocol=protocol, ties=ties)
    for name in dataset:
        pipeline.preprocess(name, state.data_dir, how, watcher=PreparationView(state))


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
    """Encode the texts and pictures of items as features; report what is missing.

    An encoder is a registered name, a folder of a saved transformers model, or owner/name on the hub; :cls or
    :mean after it choose the pooling, +layers gives a state per layer. A killed extraction resumes.
    """
    state: State = ctx.obj
    if list_:
        _list_encoders(state, dataset or [])
        return
    if not dataset:
        raise UsageError("name a prepared data set, for instance: mmbench extract demo; or see --list")
    from mmbench.cli.preparation import PreparationView
    from mmbench.features.extract import Options
    from mmbench.features.pipeline import extract_features

    options = Options(device=device, batch_size=batch_size, precision=precision, float16=float16, force=force)
    for name in dataset:
        prepared = open_current(state, name)
        extract_features(prepared, text=text, image=image, options=options, watcher=PreparationView(state))


def _list_encoders(state: State, datasets: list[str]) -> None:
    """Print the registered encoders, or the stored features of data sets."""
    from mmbench.cli.encoders import print_encoders, print_stored

    if not datasets:
        print_encoders(state)
    for name in datasets:
        print_stored(state, name)
