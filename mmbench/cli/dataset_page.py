"""The page of a data set: what it is, what will be fetched and from where, under which terms, what is on disk."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmbench.data.protocol import Protocol
    from mmbench.data.raw_hashes import Recorded
    from mmbench.data.spec import DatasetSpec, RawFile

Rows = list[list[str]]


def page(spec: "DatasetSpec", canonical: str, rules: "Protocol", data_dir: Path, *, ask: bool) -> Rows:
    """Return rows (key, value). With `ask`, ask the servers for unknown sizes; otherwise no connection is opened."""
    from mmbench.data.protocol import SUMMARIES

    rows = [["name", canonical], ["title", spec.title], ["parser", spec.parser]]
    rows += [["from", f"{spec.reader.package} {spec.reader.version}"]] if spec.reader else []
    rows += [["synthetic", "yes: generated, not real users"]] if spec.synthetic else []
    rows += [["", ""], ["FILES", ""], *_raw_rows(spec, data_dir, ask=ask)]
    rows += (
        [["pictures", f"{spec.pictures.name}, a file {spec.pictures.member} for each item"]]
        if spec.pictures
        else []
    )
    rows += [["terms", spec.terms]] if spec.terms else []
    rows += [["", ""], ["PROTOCOL", SUMMARIES[rules.name]]]
    rows += [[key, _plain(value)] for key, value in rules.to_json().items() if key != "name"]
    rows += [["text", ", ".join(spec.text_fields)]]
    if spec.printed or spec.slips:
        rows += [["", ""], ["PAPER", ""]]
    if spec.printed:
        printed = spec.printed
        rows.append(
            [
                "printed",
                f"{printed.users:,} / {printed.items:,} / {printed.interactions:,} ({printed.source})",
            ]
        )
    rows += [
        ["slip", f"{slip.statistic} {slip.printed:g}, not {slip.correct:g}: {slip.why}"]
        for slip in spec.slips
    ]
    return rows + ([["notes", spec.notes]] if spec.notes else [])


def _raw_rows(spec: "DatasetSpec", data_dir: Path, *, ask: bool) -> Rows:
    from mmbench.data.raw_hashes import read_recorded

    folder = spec.raw_dir(data_dir)
    recorded = read_recorded(data_dir).get(spec.name, {})
    rows = [["raw folder", str(folder)]]
    for file in spec.raw_files:
        entry = recorded.get(file.name)
        rows.append(["raw file", file.name])
        rows.append(["  state", _state(file, folder, generated=spec.synthetic)])
        rows += [["  size", _size(file, entry, ask=ask)]] if file.urls else []
        rows += [["  from" if index == 0 else "  or", url] for index, url in enumerate(file.urls)]
        if file.sha256:
            rows.append(["  sha256", file.sha256])
        elif entry:
            rows.append(["  sha256", f"{entry.sha256} (first download, {entry.date})"])
    return rows


def _state(raw_file: "RawFile", folder: Path, *, generated: bool) -> str:
    from mmbench.fetch.files import size_text
    from mmbench.fetch.part import Part

    file = folder / raw_file.name
    if file.is_file():
        return f"on disk, {size_text(file.stat().st_size)}"
    if generated:
        return "missing; prepare generates it"
    if not raw_file.urls:
        return f"missing; no public address: put it into {folder} or name its folder with --raw DIR"
    part = Part(file).size
    return f"{size_text(part)} fetched so far; prepare resumes" if part else "missing; prepare fetches it"


def _size(raw_file: "RawFile", entry: "Recorded | None", *, ask: bool) -> str:
    from mmbench.fetch.client import new_session
    from mmbench.fetch.files import ask_size, size_text

    exact = raw_file.size or (entry.size if entry else None)
    if exact:
        return f"{size_text(exact)} ({exact:,} bytes)"
    guess = f"about {size_text(raw_file.about)}" if raw_file.about else ""
    if not ask:
        return guess or "unknown unless its server is asked (--ask)"
    with new_session() as session:
        size = ask_size(raw_file.urls, session)
    if size is None:
        return f"{guess or 'unknown'} (no server announces it)"
    return f"{size_text(size)} ({size:,} bytes, says the server)"


def _plain(value: Any) -> str:
    return ", ".join(value) or "nothing" if isinstance(value, list) else str(value)
