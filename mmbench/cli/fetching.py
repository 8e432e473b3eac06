"""How a download is shown: a bar on a terminal, a line now and then elsewhere, nothing with --quiet."""

import time
from typing import TYPE_CHECKING, Any

from mmbench.cli.state import State

if TYPE_CHECKING:
    from mmbench.data.raw_files import RawFilesMissingError
    from mmbench.fetch.files import Fetched

EVERY_S = 10.0  # between two lines of progress if there is no terminal


def fetch_missing(state: State, missing: "RawFilesMissingError") -> None:
    """Fetch the files that have an address; DataError if one of them cannot be fetched."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from mmbench.fetch.raw import fetch_raw

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    shown = state.err.is_terminal and not state.quiet
    with Progress(*columns, console=state.err, transient=True, disable=not shown) as bars:
        watcher = _Watcher(state, missing.spec.name, bars if shown else None)
        fetch_raw(
            missing.spec,
            missing.files,
            state.data_dir,
            on_bytes=watcher.bytes,
            on_note=watcher.note,
            on_done=watcher.done,
        )


class _Watcher:
    """Shows what `fetch_raw` reports."""

    def __init__(self, state: State, dataset: str, bars: Any) -> None:
        self.state, self.dataset, self.bars = state, dataset, bars
        self.tasks: dict[str, Any] = {}
        self.meters: dict[str, _Meter] = {}

    def note(self, name: str, text: str) -> None:
        self.state.err.print(f"{self.dataset}: {name}: {text}", markup=False)

    def bytes(self, name: str, received: int, total: int | None) -> None:
        meter = self.meters.setdefault(name, _Meter(received))
        if self.bars is None:
            line = meter.line(received, total)
            if line:
                self.note(name, line)
            return
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name, total=total)
            self.bars.update(self.tasks[name], completed=received)
            # The rate is measured from here.
            self.bars.reset(self.tasks[name], total=total, completed=received)
        self.bars.update(self.tasks[name], completed=received, total=total)

    def done(self, name: str, fetched: "Fetched") -> None:
        from mmbench.fetch.files import size_text

        meter = self.meters.get(name)
        seconds = f" in {time.monotonic() - meter.started:.1f} s" if meter else ""
        self.note(name, f"fetched, {size_text(fetched.size)}{seconds}, sha256 {fetched.sha256}")


class _Meter:
    """Rate and remaining time of a file, from the bytes that arrived since this process began."""

    def __init__(self, received: int) -> None:
        self.first, self.started = received, time.monotonic()
        self.shown = self.started

    def line(self, received: int, total: int | None) -> str:
        """Return a line of progress, or "" if the last line is too recent."""
        from mmbench.fetch.files import size_text

        now = time.monotonic()
        if now - self.shown < EVERY_S:
            return ""
        self.shown = now
        rate = max(received - self.first, 0) / (now - self.started)
        text = f"{size_text(received)} of {size_text(total)}" if total else size_text(received)
        left = f", {(total - received) / rate:.0f} s left" if total and rate > 0 else ""
        return f"{text}, {size_text(int(rate))}/s{left}"
