"""The history of a site: its rows and pages, a log of changes. A rebuilt site keeps the pages of replaced rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmbench import sealed, strict
from mmbench.errors import DataError

FORMAT = 1
FILE = "history.json"


@dataclass(frozen=True)
class Row(strict.Strict):
    """A row of some board: its page, what is on it (a hash), and what it is called."""

    page: str
    content: str
    name: str
    board: str  # the page of its board


@dataclass(frozen=True)
class Event(strict.Strict):
    """A row that was added, replaced or removed. `page` shows the row as it is now, `before` what it replaced."""

    kind: str  # "added", "replaced", "removed"
    name: str
    board: str
    page: str = ""
    before: str = ""


@dataclass(frozen=True, kw_only=True)
class Version(strict.Strict):
    """A version of the site: what changed with it."""

    number: int
    date: str
    events: tuple[Event, ...]


@dataclass(frozen=True, kw_only=True)
class History(strict.Strict):
    """All versions, oldest first, and the rows of the last by key."""

    versions: tuple[Version, ...] = ()
    rows: dict[str, Row] = field(default_factory=dict)

    @property
    def number(self) -> int:
        return self.versions[-1].number if self.versions else 0

    @property
    def date(self) -> str:
        return self.versions[-1].date if self.versions else ""

    def with_rows(self, rows: Mapping[str, Row], *, date: str) -> "History":
        """Return the history after a build with these rows; the same history where nothing changed."""
        events = [
            Event("replaced", row.name, row.board, row.page, self.rows[key].page)
            if key in self.rows
            else Event("added", row.name, row.board, row.page)
            for key, row in rows.items()
            if key not in self.rows or self.rows[key].content != row.content
        ]
        events += [
            Event("removed", row.name, row.board, before=row.page)
            for key, row in self.rows.items()
            if key not in rows
        ]
        if not events:
            return History(versions=self.versions, rows=dict(rows))
        version = Version(number=self.number + 1, date=date, events=tuple(events))
        return History(versions=(*self.versions, version), rows=dict(rows))

    def replaced_by(self, page: str) -> str:
        """Return the page that a row's page replaced; "" where it is the first."""
        events = (event for version in reversed(self.versions) for event in version.events)
        return next((event.before for event in events if event.page == page), "")


def read_history(site: Path) -> History:
    """Return the history of a site, empty for a new folder; DataError for a damaged file."""
    file = site / FILE
    advice = f"choose another -o, or remove {site} to begin a new history"
    try:
        return History.from_json(sealed.read_json(file, advice=advice, version=FORMAT))
    except FileNotFoundError:
        if site.is_dir() and any(site.iterdir()):
            raise DataError(
                f"{site} holds files and is not a board (it has no {FILE}); choose an empty folder"
            ) from None
        return History()
    except ValueError as error:
        raise sealed.damaged(file, error, advice) from error


def write_history(site: Path, history: History) -> None:
    sealed.write_json(site / FILE, history.to_json(), version=FORMAT)
