"""The page of one data set: what it is, what will be fetched and from where, under which terms, what is there."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmbench.data.protocol import Protocol
    from mmbench.data.raw_hashes import Recorded
    from mmbench.data.spec import DatasetSpec, RawFile

Rows = list[list[str]]


def page(spec: "DatasetSpec", canonical: str, rules: "Protocol", data_dir: Path, *, ask: bool) -> Rows:
    """Rows (key, value). `ask`: ask the servers for sizes that nobody knows; otherwise no connection is opened."""
    from mmbench.data.protocol import SUMMARIES

    rows = [["name", canonical], ["title", spec.title], ["parser", spec.parser]]
    rows += [["synthetic", "yes: generated, not real users"]] if spec.synthetic else []
    rows += _raw_rows(spec, data_dir, ask=ask)
    rows += [["pictures", f"{spec.images.name}, one {spec.images.member} each"]] if spec.images else []
    rows += [["terms", spec.terms]] if spec.terms else []
    rows += [["protocol", SUMMARIES[rules.name]]]
    rows += [[f"  {key}", _plain(value)] for key, value in rules.to_json().items() if key != "name"]
    rows += [["text", ", ".join(spec.text_fields)]]
    if spec.printed:
        one = spec.printed
        rows.append(["printed", f"{one.users:,} / {one.items:,} / {one.interactions:,} ({one.source})"])
    rows += [
        ["slip", f"{one.statistic} {one.printed:g}, not {one.correct:g}: {one.why}"] for one in spec.slips
    ]
    return rows + ([["notes", spec.notes]] if spec.notes else [])


def _raw_rows(spec: "DatasetSpec", data_dir: Path, *, ask: bool) -> Rows:
    from mmbench.data.raw_hashes import read_recorded

    folder = spec.raw_dir(data_dir)
    recorded = read_recorded(data_dir).get(spec.name, {})
    rows = [["raw folder", str(folder)]]
    for one in spec.raw_files:
        entry = recorded.get(one.name)
        rows.append(["raw file", one.name])
        rows.append(["  state", _state(one, folder, generated=spec.synthetic)])
        rows += [["  size", _size(one, entry, ask=ask)]] if one.urls else []
        rows += [["  from" if place == 0 else "  or", url] for place, url in enumerate(one.urls)]
        if one.sha256:
            rows.append(["  sha256", one.sha256])
        elif entry:
            rows.append(["  sha256", f"{entry.sha256} (first download, {entry.date})"])
    return rows


def _state(one: "RawFile", folder: Path, *, generated: bool) -> str:
    from mmbench.fetch.files import size_text
    from mmbench.fetch.part import Part

    file = folder / one.name
    if file.is_file():
        return f"there, {size_text(file.stat().st_size)}"
    if generated:
        return "not there; prepare generates it"
    if not one.urls:
        return f"not there; no public address: put it into {folder} or name its folder with --raw DIR"
    part = Part(file).size
    return f"{size_text(part)} fetched so far; prepare goes on" if part else "not there; prepare fetches it"


def _size(one: "RawFile", entry: "Recorded | None", *, ask: bool) -> str:
    from mmbench.fetch.client import new_session
    from mmbench.fetch.files import ask_size, size_text

    exact = one.size or (entry.size if entry else None)
    if exact:
        return f"{size_text(exact)} ({exact:,} bytes)"
    guess = f"about {size_text(one.about)}" if one.about else ""
    if not ask:
        return guess or "not known before its server is asked (--ask)"
    with new_session() as session:
        told = ask_size(one.urls, session)
    if told is None:
        return f"{guess or 'not known'} (no server told it)"
    return f"{size_text(told)} ({told:,} bytes, the server says)"


def _plain(value: Any) -> str:
    return ", ".join(value) or "nothing" if isinstance(value, list) else str(value)
