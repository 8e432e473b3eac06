"""What a person sees of a download: a bar on a terminal, lines elsewhere, nothing with --quiet."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from mmbench.cli.preparation import PreparationView
from mmbench.cli.state import State
from mmbench.data.raw_files import RawFilesMissingError
from mmbench.features.pipeline import fetch_missing
from mmbench.fetch import lines
from tests.fetch.faults import FILE
from tests.fetch.server import Answer, Server
from tests.fetch.test_raw import spec_at


def seen(server: Server, folder: Path, *, terminal: bool, quiet: bool = False) -> str:
    """What is written while both files are fetched, the first slowly enough to be watched."""
    server.add("/r", FILE, Answer(drip_s=0.02, drip_bytes=len(FILE) // 10))
    server.add("/m", FILE)
    spec = spec_at(server, folder)
    state = State(data_dir=folder, results_dir=folder, quiet=quiet)
    state.err = Console(file=io.StringIO(), force_terminal=terminal, width=100, quiet=quiet, soft_wrap=True)
    fetch_missing(
        RawFilesMissingError(spec, spec.raw_files, [folder]), folder, watcher=PreparationView(state)
    )
    return state.err.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "FILE_EVERY_S", 0.05)


def test_lines(server: Server, tmp_path: Path) -> None:
    text = seen(server, tmp_path, terminal=False)
    assert f"mine: r.json.gz: from {server.base}/r\n" in text
    assert " kB of " in text
    assert "B/s, " in text
    assert " s left\n" in text
    assert "\r" not in text
    assert "mine: m.json.gz: fetched, " in text


def test_bar(server: Server, tmp_path: Path) -> None:
    text = seen(server, tmp_path, terminal=True)
    assert "━" in text
    assert "B/s" in text
    assert "0:00:" in text
    assert "mine: m.json.gz: fetched, " in text


def test_quiet(server: Server, tmp_path: Path) -> None:
    assert seen(server, tmp_path, terminal=True, quiet=True) == ""
