"""What the command line shows of a preparation: bars on a terminal, lines elsewhere; results go to stdout."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmbench.cli.fetching import DownloadBars
from mmbench.cli.state import State
from mmbench.cli.tables import print_statistics, print_table
from mmbench.data.prepare import PrepareReport
from mmbench.data.raw_files import RawFilesMissingError
from mmbench.features.pipeline import Bars, PrepareWatcher
from mmbench.fetch.lines import DownloadLines
from mmbench.fetch.pictures import PicturesReport, Progress

EXAMPLES = 3  # are shown of the pictures that are missing for the same reason


class PreparationView(PrepareWatcher):
    """Shows a preparation on the command line.

    brief  print a line instead of the statistics and the features' counts: the data are prepared on the way to a run
    """

    def __init__(self, state: State, *, brief: bool = False) -> None:
        super().__init__(lambda text: state.err.print(text, markup=False))
        self.state, self.brief = state, brief

    @property
    def has_bars(self) -> bool:
        return self.state.err.is_terminal and not self.state.err.quiet

    def result(self, dataset: str, text: str) -> None:
        (self.state.err if self.brief else self.state.out).print(f"{dataset}: {text}", markup=False)

    def missing(self, error: RawFilesMissingError) -> None:
        """Print what to fetch, from where, and where to put it: the long form of the error's line."""
        self.say("These raw files are needed:")
        for file in error.files:
            sources = file.urls or ["no public download: request it from the owner of the data"]
            self.say(f"  {file.name}")
            for index, source in enumerate(sources):
                self.say(f"    {'from' if index == 0 else 'or  '} {source}")
            self.say(f"    to   {error.folder / file.name}")
        if error.spec.notes:
            self.say(error.spec.notes)

    @contextmanager
    def downloads(self, dataset: str) -> Iterator[DownloadLines]:
        if not self.has_bars:
            with super().downloads(dataset) as lines:
                yield lines
            return
        with DownloadBars(self.state.err, lambda text: self.note(dataset, text)) as bars:
            yield bars

    def prepared(self, report: PrepareReport) -> None:
        super().prepared(report)
        if report.fresh and self.brief:
            data = report.prepared
            self.say(
                f"{data.name}: {data.n_users:,} users, {data.n_items:,} items, {data.n_events:,} interactions; "
                f"mmbench datasets stats {data.name} shows more"
            )
        elif report.fresh:
            print_statistics(self.state, report.prepared)

    @contextmanager
    def pictures(self, dataset: str) -> Iterator[Callable[[Progress], None]]:
        if not self.has_bars:
            with super().pictures(dataset) as lines:
                yield lines
            return
        from rich import progress as rich

        columns = (
            rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn(),
            rich.TextColumn("{task.fields[rate]:.0f}/s, {task.fields[failed]:,} failed,"),
            rich.TimeRemainingColumn(),
        )  # fmt: skip
        with rich.Progress(*columns, console=self.state.err, transient=True) as bars:

            def on_progress(progress: Progress) -> None:
                if not bars.tasks:
                    bars.add_task(f"{dataset}: pictures", total=progress.total, rate=0.0, failed=0)
                rate = progress.done / max(progress.seconds, 1e-9)
                bars.update(bars.tasks[0].id, completed=progress.done, rate=rate, failed=progress.failed)

            yield on_progress

    def pictures_done(self, dataset: str, report: PicturesReport) -> None:
        super().pictures_done(dataset, report)
        if report.missing:
            print_reasons(self.state, report.missing)
            self.state.out.print(f"all of them: mmbench datasets pictures {dataset} --missing", markup=False)

    @contextmanager
    def extraction(self, dataset: str) -> Iterator[Bars]:
        from rich.progress import Progress as RichProgress

        err = self.state.err
        with RichProgress(console=err, transient=True, disable=not err.is_terminal) as bars:
            tasks: dict[str, Any] = {}

            def on_progress(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = bars.add_task(what, total=total)
                bars.update(tasks[what], completed=done)

            yield on_progress


def print_reasons(state: State, missing: Mapping[str, Sequence[str]]) -> None:
    """Print how many pictures are missing for each reason, with a few examples."""
    rows = [
        [f"{len(names):,}", reason, ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")]
        for reason, names in missing.items()
    ]
    print_table(state, ["missing", "why", "for example"], rows)
