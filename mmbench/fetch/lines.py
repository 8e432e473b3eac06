"""Progress of downloads as plain lines: at the beginning, then now and then."""

import time
from collections.abc import Callable

from mmbench.fetch.files import Fetched, size_text
from mmbench.fetch.pictures import Progress

FILE_EVERY_S = 10.0  # between two lines about a raw file
PICTURES_EVERY_S = 30.0  # between two lines about pictures
Note = Callable[[str], object]  # takes a line


class DownloadLines:
    """Reports the raw files that `fetch_raw` fetches."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self._meters: dict[str, Meter] = {}

    def note(self, name: str, text: str) -> None:
        self._note(f"{name}: {text}")

    def bytes(self, name: str, n_bytes: int, total: int | None) -> None:
        line = self.meter(name, n_bytes).line(n_bytes, total)
        if line:
            self.note(name, line)

    def done(self, name: str, fetched: Fetched) -> None:
        meter = self._meters.get(name)
        seconds = f" in {time.monotonic() - meter.started:.1f} s" if meter else ""
        self.note(name, f"fetched, {size_text(fetched.size)}{seconds}, sha256 {fetched.sha256}")

    def meter(self, name: str, n_bytes: int) -> "Meter":
        """Return the meter of a file; a new meter begins with `n_bytes` bytes."""
        return self._meters.setdefault(name, Meter(n_bytes))


class Meter:
    """Measures the rate and the time left of a file, over what came since the beginning of this process."""

    def __init__(self, n_bytes: int) -> None:
        self.first, self.started = n_bytes, time.monotonic()
        self.shown = self.started

    def line(self, n_bytes: int, total: int | None) -> str:
        """Return a line of progress, or "" when the last is not old enough."""
        now = time.monotonic()
        if now - self.shown < FILE_EVERY_S:
            return ""
        self.shown = now
        rate = max(n_bytes - self.first, 0) / (now - self.started)
        text = f"{size_text(n_bytes)} of {size_text(total)}" if total else size_text(n_bytes)
        left = f", {(total - n_bytes) / rate:.0f} s left" if total and rate > 0 else ""
        return f"{text}, {size_text(int(rate))}/s{left}"


def picture_lines(note: Note) -> Callable[[Progress], None]:
    """Return a callback for `fetch_pictures` that notes where it stands."""
    last = 0.0

    def on_progress(progress: Progress) -> None:
        nonlocal last
        if last and time.monotonic() - last < PICTURES_EVERY_S:
            return
        what = f"{progress.done:,} of {progress.total:,}" if last else f"fetching {progress.total:,}"
        last = time.monotonic()
        rate = (
            f", {progress.done / progress.seconds:.0f}/s, {progress.failed:,} failed" if progress.done else ""
        )
        note(f"pictures: {what}{rate}")

    return on_progress
