"""The pages of a leaderboard: plain files that open from the disk, load nothing and need no build step."""

import base64
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from mmbench import __version__
from mmbench.atomic import hash_file, write_text, write_with
from mmbench.board import views
from mmbench.board.entries import METRICS, Entry, LeftOut
from mmbench.board.history import History, Row, read_history, write_history
from mmbench.board.ordering import Board, boards_of, overall
from mmbench.board.verification import LEVELS
from mmbench.board.views import Pages, run_page
from mmbench.errors import MmbenchError, UsageError
from mmbench.reporting.labels import row_names
from mmbench.visible import visible_if_text

BUNDLES = "bundles"  # the folder of the site that holds copies of bundles


@dataclass(frozen=True)
class Built:
    """A site that was written."""

    index: Path
    n_pages: int
    boards: tuple[Board, ...]
    version: int


def build_site(
    entries: Sequence[Entry],
    site: Path,
    *,
    left_out: Sequence[LeftOut],
    date: str,
    title: str = "Leaderboard",
) -> Built:
    """Write or renew the pages of a board; pages of rows that were replaced stay.

    Raises UsageError when there is nothing to show, DataError for a folder that holds something else.
    """
    if not entries:
        raise UsageError(
            "no bundle passed its checks and there are no results; make one: mmbench bundle RESULT -o FILE.mmb.zip"
        )
    before = read_history(site)
    boards = boards_of(entries)
    pages = Pages({entry.key: run_page(entry) for entry in entries})
    rows = {
        entry.key: Row(pages.run(entry), entry.content, f"{entry.name} on {board.dataset}", board.page)
        for board in boards
        for entry in board.entries
    }
    history = before.with_rows(rows, date=date)
    writer = _Writer(site, boards, pages, history, title)
    writer.write_all(left_out)
    _copy_bundles(entries, site)
    write_history(site, history)
    return Built(site / "index.html", writer.n_pages, tuple(boards), history.number)


def _copy_bundles(entries: Sequence[Entry], site: Path) -> None:
    for entry in entries:
        if entry.bundle is not None:
            target = site / BUNDLES / entry.bundle.name
            if not (target.is_file() and hash_file(target) == hash_file(entry.bundle)):
                source = entry.bundle
                write_with(target, lambda temporary, source=source: shutil.copyfile(source, temporary))  # type: ignore[misc]


class _Writer:
    """Renders templates into a folder."""

    def __init__(
        self, site: Path, boards: Sequence[Board], pages: Pages, history: History, title: str
    ) -> None:
        self.site, self.boards, self.pages, self.history, self.title = site, boards, pages, history, title
        self.n_pages = 0

    @cached_property
    def _environment(self) -> Any:
        from jinja2 import Environment, FunctionLoader, StrictUndefined

        environment = Environment(
            loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined, finalize=visible_if_text,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        script = _source("board.js")
        environment.globals |= {
            "site_title": self.title, "version": self.history.number, "date": self.history.date,
            "mmbench": __version__, "style": _markup(_source("board.css")), "script": _markup(script),
            "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            "meanings": views.MEANINGS, "levels": LEVELS,
        }  # fmt: skip
        return environment

    def _write(self, name: str, template: str, **context: Any) -> None:
        text = self._environment.get_template(template).render(page_name=name, **context)
        try:
            write_text(self.site / name, text)
        except MmbenchError as error:
            raise MmbenchError(f"{error} (-o {self.site})") from error
        self.n_pages += 1

    def write_all(self, left_out: Sequence[LeftOut]) -> None:
        self._write(
            "index.html", "index.html.j2", boards=views.index_view(self.boards, self.pages),
            metrics=[str(metric) for metric in METRICS], overall=views.overall_view(overall(self.boards)),
            left_out=left_out, n_bundles=sum(entry.bundle is not None for entry in self._entries),
        )  # fmt: skip
        for board in self.boards:
            self._write(board.page, "board.html.j2", board=views.board_view(board, self.pages))
            for entry in board.entries:
                page = self.pages.run(entry)
                view = views.run_view(entry, board, self.pages, before=self.history.replaced_by(page))
                self._write(page, "run.html.j2", run={**view, "curve": _markup(view["curve"])})
        self._write_models()
        self._write("log.html", "log.html.j2", versions=list(reversed(self.history.versions)))

    @property
    def _entries(self) -> list[Entry]:
        return [entry for board in self.boards for entry in board.entries]

    def _write_models(self) -> None:
        names = row_names([entry.record for entry in self._entries])
        placed: dict[str, list[tuple[Board, Entry]]] = {}
        for board in self.boards:
            for place in board.places[board.rules[0]]:
                placed.setdefault(place.entry.record.model, []).append((board, place.entry))
        for model, rows in placed.items():
            self._write(
                self.pages.model(rows[0][1]), "model.html.j2",
                model=views.model_view(model, rows, self.pages, names),
            )  # fmt: skip


def _source(name: str) -> str:
    return (files("mmbench.board") / "pages" / name).read_text(encoding="utf-8")


def _markup(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)
