"""The picture step of `mmbench prepare`, and `mmbench datasets pictures`."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbench.cli.state import State
from mmbench.cli.tables import open_to_look, print_table

if TYPE_CHECKING:
    from mmbench.data.prepare import PrepareReport
    from mmbench.data.store import Prepared
    from mmbench.fetch.pictures import PicturesReport, Progress

EXAMPLES = 3  # names shown per reason
LINE_EVERY_S = 30.0  # between two lines of progress if there is no terminal


def fetch_pictures_of(
    state: State,
    report: "PrepareReport",
    *,
    raw: Path | None = None,
    retry: bool = False,
    private_hosts: bool = False,
) -> "Prepared":
    """Fetch the pictures that have an address and are not on disk; print what is missing and why.

    Does nothing, and opens no connection, if no item has an address, or if the data set's pictures are in a folder or
    zip of the user. Returns the prepared data, whose manifest then names the pictures.
    """
    from mmbench.fetch.hosts import Limits
    from mmbench.fetch.pictures import attach, fetch_pictures, wanted_pictures

    prepared = report.prepared
    images = prepared.manifest.images
    if report.spec.images is None or (images is not None and images.kind != "store"):
        return prepared
    if not wanted_pictures(prepared):
        return prepared
    path = Path(images.path) if images else _picture_store_path(state, report, raw)

    def on_wait() -> None:
        state.err.print(f"{prepared.name}: waiting for another process that fetches pictures", markup=False)

    with _showing(state, prepared.name) as on_progress:
        done = fetch_pictures(
            prepared, path, retry=retry, limits=Limits(allows_private=private_hosts), on_progress=on_progress,
            on_wait=on_wait,
        )  # fmt: skip
    _print_report(state, prepared.name, done)
    return attach(prepared, path)


def _picture_store_path(state: State, report: "PrepareReport", raw: Path | None) -> Path:
    """Return the path of the store beside the raw files, or where they would be if they are gone."""
    from mmbench.data.images import store_path
    from mmbench.data.raw_files import RawFilesMissingError, find_raw

    assert report.spec.images is not None  # checked by the caller
    try:
        folder = find_raw(report.spec, state.data_dir, raw=raw, progress=lambda message: None)
    except RawFilesMissingError as error:
        folder = error.folder
    return store_path(report.spec.images, folder)


@contextmanager
def _showing(state: State, name: str) -> Iterator[Callable[["Progress"], None]]:
    """Yield a callback that draws a bar on a terminal, prints lines elsewhere, and nothing with --quiet."""
    if not state.err.is_terminal or state.err.quiet:
        yield _lines(state, name)
        return
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[rate]:.0f}/s, {task.fields[failed]:,} failed,"), rich.TimeRemainingColumn(),
    )  # fmt: skip
    with rich.Progress(*columns, console=state.err, transient=True) as bars:

        def on_progress(step: "Progress") -> None:
            if not bars.tasks:
                bars.add_task(f"{name}: pictures", total=step.total, rate=0.0, failed=0)
            rate = step.done / max(step.seconds, 1e-9)
            bars.update(bars.tasks[0].id, completed=step.done, rate=rate, failed=step.failed)

        yield on_progress


def _lines(state: State, name: str) -> Callable[["Progress"], None]:
    last = 0.0

    def on_progress(step: "Progress") -> None:
        nonlocal last
        if last and time.monotonic() - last < LINE_EVERY_S:
            return
        what = f"{step.done:,} of {step.total:,}" if last else f"fetching {step.total:,}"
        last = time.monotonic()
        rate = f", {step.done / step.seconds:.0f}/s, {step.failed:,} failed" if step.done else ""
        state.err.print(f"{name}: pictures: {what}{rate}", markup=False)

    return on_progress


def _print_report(state: State, name: str, report: "PicturesReport") -> None:
    """Print how many pictures there are, and what is missing and why, with a few examples of each reason."""
    took = f"; {report.seconds:.1f} s" if report.seconds else ""
    state.out.print(
        f"{name}: pictures: {report.fetched:,} fetched, {report.stored:,} already stored, "
        f"{report.n_missing:,} missing of {report.wanted:,} with an address{took}",
        markup=False,
    )
    for note in report.notes:
        state.out.print(f"{name}: {note}", markup=False)
    if report.missing:
        _print_reasons(state, report.missing)
        state.out.print(f"list all: mmbench datasets pictures {name} --missing", markup=False)


def _print_reasons(state: State, missing: Mapping[str, Sequence[str]]) -> None:
    rows = [
        [f"{len(names):,}", reason, ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")]
        for reason, names in missing.items()
    ]
    print_table(state, ["missing", "why", "for example"], rows)


def list_pictures(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="DATASET")],
    missing: Annotated[
        bool, typer.Option("--missing", help="List every item without a picture, and why.")
    ] = False,
) -> None:
    """Show where a prepared data set's pictures are, how many items have none, and why."""
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
    where = f"{images.kind} {images.path}" if images else "no pictures yet"
    state.out.print(
        f"{prepared.name}: {len(pictures) - len(lacking):,} of {len(pictures):,} items have a picture ({where})",
        markup=False,
    )
    reasons: dict[str, list[str]] = {}
    for picture in lacking:
        reasons.setdefault(str(picture.reason), []).append(picture.item)
    if reasons:
        _print_reasons(state, dict(sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))))
