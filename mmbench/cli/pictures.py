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

EXAMPLES = 3  # of the pictures that are missing for one reason
LINE_EVERY_S = 30.0  # of progress where there is no terminal to draw a bar on


def fetch_pictures_of(
    state: State,
    report: "PrepareReport",
    *,
    raw: Path | None = None,
    retry: bool = False,
    private_hosts: bool = False,
) -> "Prepared":
    """Fetch the pictures that items have an address of and that are not on disk; print what is missing and why.

    Does nothing, and opens no connection, when no item has an address, or when the data set's pictures lie in a
    folder or zip of the user's. Returns the prepared data with their manifest naming the pictures.
    """
    from mmbench.fetch.hosts import Limits
    from mmbench.fetch.pictures import attach, fetch_pictures, wanted_pictures

    prepared = report.prepared
    images = prepared.manifest.images
    if report.spec.images is None or (images is not None and images.kind != "store"):
        return prepared
    if not wanted_pictures(prepared):
        return prepared
    path = Path(images.path) if images else _store_of(state, report, raw)

    def on_wait() -> None:
        state.err.print(f"{prepared.name}: waiting for another process that fetches pictures", markup=False)

    with _shown(state, prepared.name) as on_progress:
        done = fetch_pictures(
            prepared, path, retry=retry, limits=Limits(allows_private=private_hosts), on_progress=on_progress,
            on_wait=on_wait,
        )  # fmt: skip
    _print_report(state, prepared.name, done)
    return attach(prepared, path)


def _store_of(state: State, report: "PrepareReport", raw: Path | None) -> Path:
    """The store beside the raw files, or where they would be if they are gone."""
    from mmbench.data.images import store_path
    from mmbench.data.raw_files import RawFilesMissingError, find_raw

    assert report.spec.images is not None  # the caller checks
    try:
        folder = find_raw(report.spec, state.data_dir, raw=raw, progress=lambda message: None)
    except RawFilesMissingError as error:
        folder = error.folder
    return store_path(report.spec.images, folder)


@contextmanager
def _shown(state: State, name: str) -> Iterator[Callable[["Progress"], None]]:
    """A bar on a terminal, a line now and then elsewhere, nothing with --quiet."""
    if not state.err.is_terminal or state.err.quiet:
        yield _lines(state, name)
        return
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[rate]:.0f}/s, {task.fields[failed]:,} failed,"), rich.TimeRemainingColumn(),
    )  # fmt: skip
    with rich.Progress(*columns, console=state.err, transient=True) as bars:

        def on_progress(one: "Progress") -> None:
            if not bars.tasks:
                bars.add_task(f"{name}: pictures", total=one.total, rate=0.0, failed=0)
            rate = one.done / max(one.seconds, 1e-9)
            bars.update(bars.tasks[0].id, completed=one.done, rate=rate, failed=one.failed)

        yield on_progress


def _lines(state: State, name: str) -> Callable[["Progress"], None]:
    last = 0.0

    def on_progress(one: "Progress") -> None:
        nonlocal last
        if last and time.monotonic() - last < LINE_EVERY_S:
            return
        what = f"{one.done:,} of {one.total:,}" if last else f"fetching {one.total:,}"
        last = time.monotonic()
        rate = f", {one.done / one.seconds:.0f}/s, {one.failed:,} failed" if one.done else ""
        state.err.print(f"{name}: pictures: {what}{rate}", markup=False)

    return on_progress


def _print_report(state: State, name: str, report: "PicturesReport") -> None:
    """How many there are, and what is missing and why, with a few examples of each reason."""
    took = f"; {report.seconds:.1f} s" if report.seconds else ""
    state.out.print(
        f"{name}: pictures: {report.fetched:,} fetched, {report.there:,} already there, "
        f"{report.n_missing:,} missing of {report.wanted:,} with an address{took}",
        markup=False,
    )
    for note in report.notes:
        state.out.print(f"{name}: {note}", markup=False)
    if report.missing:
        _print_reasons(state, report.missing)
        state.out.print(f"all of them: mmbench datasets pictures {name} --missing", markup=False)


def _print_reasons(state: State, missing: Mapping[str, Sequence[str]]) -> None:
    rows = [
        [f"{len(names):,}", reason, ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")]
        for reason, names in missing.items()
    ]
    print_table(state, ["missing", "why", "for example"], rows)


def list_pictures(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="DATASET")],
    missing: Annotated[bool, typer.Option("--missing", help="List every item without one, and why.")] = False,
) -> None:
    """Where a prepared data set's pictures are, how many items have none, and why."""
    from mmbench.fetch.pictures import item_pictures

    state: State = ctx.obj
    prepared = open_to_look(state, name)
    found = item_pictures(prepared)
    lacking = [one for one in found if one.reason is not None]
    if missing:
        rows = [[one.item, one.reason or "", one.name, one.url] for one in lacking]
        print_table(state, ["item", "why", "picture", "address"], rows)
        return
    images = prepared.manifest.images
    where = f"{images.kind} {images.path}" if images else "no pictures yet"
    state.out.print(
        f"{prepared.name}: {len(found) - len(lacking):,} of {len(found):,} items have a picture ({where})",
        markup=False,
    )
    reasons: dict[str, list[str]] = {}
    for one in lacking:
        reasons.setdefault(str(one.reason), []).append(one.item)
    if reasons:
        _print_reasons(state, dict(sorted(reasons.items(), key=lambda one: (-len(one[1]), one[0]))))
