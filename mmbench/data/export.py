"""Prepared data as files that other programs read: RecBole's atomic files, CSV, Parquet.

Events are written in the prepared order, user by user. That order matters more than the times: a program that sorts
by time with a stable sort (RecBole does) keeps it, even if it reads times as float32 and different times become
equal, because rounding never swaps two times. So leave-one-out gives the same split. For a program whose sort is not
stable, write `times="rank"`: whole numbers that float32 holds exactly, all different.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.atomic import write_text, write_with
from mmbench.data.protocol import OWN_FILTERS, PROTOCOLS
from mmbench.data.store import Prepared
from mmbench.errors import DataError, UsageError, suggest

FORMATS = ("recbole", "csv", "parquet")
TIMES = ("seconds", "rank")
EXACT = 2**24  # float32 holds every whole number up to here
_OWN = ("id", "title", "brand", "categories", "image", "image_url", "text")


@dataclass(frozen=True)
class ExportReport:
    """The files, and what reading times as float32 does: the number of steps (neighbouring events of a user that
    differ in time) and how many of them it merges."""

    files: list[Path]
    n_steps: int
    n_merged: int


def export(prepared: Prepared, folder: Path, *, form: str, times: str = "seconds") -> ExportReport:
    """Write events, items and a table for reading them back into `folder`."""
    for value, known, what in ((form, FORMATS, "format"), (times, TIMES, "kind of times")):
        if value not in known:
            raise UsageError(suggest(value, known, what=what))
    stem = re.sub(r"[^a-z0-9_-]+", "-", prepared.name)
    written = prepared.times if times == "seconds" else rank_times(prepared)
    write = {"recbole": _write_recbole, "csv": _write_csv, "parquet": _write_parquet}[form]
    if form == "recbole":
        folder = folder / stem  # RecBole reads <data_path>/NAME/NAME.inter
    files, table = write(prepared, folder / stem, written)
    toml = folder / f"{stem}.toml"
    write_text(toml, _reading_table(prepared, stem, table))
    return ExportReport([*files, toml], *_float32_steps(prepared, written))


def rank_times(prepared: Prepared) -> np.ndarray:
    """Return int64 [E], from 1: the rank of each event by time; equal times rank in the prepared order.

    All ranks differ, so any sort by user and time gives the prepared order, and a global split by time the same
    events up to ties. Beyond 2^24 events float32 would merge some; then it is the rank in the user's history.
    """
    n_events = len(prepared.items)
    if n_events <= EXACT:
        rank = np.empty(n_events, dtype=np.int64)
        rank[np.argsort(prepared.times, kind="stable")] = np.arange(1, n_events + 1)
        return rank
    lengths = np.diff(prepared.offsets)
    return np.arange(1, n_events + 1) - np.repeat(prepared.offsets[:-1], lengths)


def _float32_steps(prepared: Prepared, times: np.ndarray) -> tuple[int, int]:
    user = np.repeat(np.arange(prepared.n_users), np.diff(prepared.offsets))
    steps = (np.diff(times) > 0) & (np.diff(user) == 0)
    merged = steps & (np.diff(times.astype(np.float32)) == 0)
    return int(steps.sum()), int(merged.sum())


def _events(prepared: Prepared, times: np.ndarray) -> Iterator[tuple[str, str, int]]:
    """Yield (raw user id, raw item id, time) in the prepared order."""
    item_ids = [record["id"] for record in prepared.item_records]
    ends = prepared.offsets.tolist()
    for user, start, end in zip(prepared.user_ids, ends, ends[1:], strict=False):
        for item, time in zip(prepared.items[start:end].tolist(), times[start:end].tolist(), strict=True):
            yield user, item_ids[item - 1], time


def _extra(prepared: Prepared) -> list[str]:
    """Return the names of the catalogue's further text columns."""
    return sorted({key for record in prepared.item_records for key in record if key not in _OWN})


def _named_pictures(prepared: Prepared) -> list[str]:
    """Return which of the two names of a picture, in a folder and on the web, some item has."""
    names = ("image", "image_url")
    return [name for name in names if any(record.get(name) for record in prepared.item_records)]


def _write_recbole(prepared: Prepared, stem: Path, times: np.ndarray) -> tuple[list[Path], dict[str, Any]]:
    """Write `<name>.inter` and `<name>.item`. Blanks separate tokens, so those inside a category become _."""
    extra = {name: re.sub(r"[\s:]+", "_", name) for name in [*_extra(prepared), *_named_pictures(prepared)]}
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in ("inter", "item")]
    header = ["user_id:token", "item_id:token", "timestamp:float"]
    _write_rows(files[0], header, _events(prepared, times))
    header = ["item_id:token", "title:token_seq", "categories:token_seq", "brand:token"]
    rows = (
        [
            record["id"],
            record["title"],
            " ".join(node.replace(" ", "_") for path in record["categories"] for node in path),
            record["brand"],
            *(record.get(name) or "" for name in extra),
        ]
        for record in prepared.item_records
    )
    _write_rows(files[1], [*header, *(f"{name}:token_seq" for name in extra.values())], rows)
    columns: dict[str, Any] = {"title": "title", "categories": "categories", "brand": "brand"}
    columns |= {"image_url": "image_url"} if "image_url" in extra else {}
    columns["extra"] = [name for name in extra.values() if name != "image_url"]
    return files, {"parser": "recbole", "files": files, "columns.items": columns}


def _write_rows(file: Path, header: list[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write tab-separated lines without quoting, as RecBole does; no cell may contain a separator."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write("\t".join(header) + "\n")
            for row in rows:
                cells = [str(cell) for cell in row]
                bad = next((cell for cell in cells if "\t" in cell or '"' in cell), None)
                if bad is not None:
                    raise DataError(
                        f"{file.name}: {bad!r} holds a tab or a quote, which RecBole's files cannot hold; "
                        "export as csv or parquet"
                    )
                stream.write("\t".join(cells) + "\n")

    write_with(file, write)


def _write_csv(prepared: Prepared, stem: Path, times: np.ndarray) -> tuple[list[Path], dict[str, Any]]:
    """Write two CSV files; paths are joined by "|" and their nodes by ">", both of which become "/" inside a node."""
    files = [stem.with_name(f"{stem.name}.{kind}.csv") for kind in ("interactions", "items")]
    extra = _extra(prepared)

    def write_events(temporary: Path) -> None:
        _csv(temporary, ["user", "item", "timestamp"], _events(prepared, times))

    def write_items(temporary: Path) -> None:
        rows = (
            [record["id"], record["title"], record["brand"], _joined(record["categories"]), record["image"] or "",
             record.get("image_url", ""), *(record.get(name, "") for name in extra)]
            for record in prepared.item_records
        )  # fmt: skip
        _csv(temporary, ["item", "title", "brand", "categories", "image", "image_url", *extra], rows)

    write_with(files[0], write_events)
    write_with(files[1], write_items)
    columns = {**_columns(extra), "category_separator": "|", "path_separator": ">"}
    return files, {"parser": "table", "files": files, "columns.items": columns}


def _csv(file: Path, header: list[str], rows: Iterable[Sequence[Any]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _joined(paths: list[list[str]]) -> str:
    return "|".join(">".join(node.replace("|", "/").replace(">", "/") for node in path) for path in paths)


def _columns(extra: list[str]) -> dict[str, Any]:
    names = {name: name for name in ("item", "title", "brand", "categories", "image_url")}
    return {**names, "extra": ["image", *extra]}


def _write_parquet(prepared: Prepared, stem: Path, times: np.ndarray) -> tuple[list[Path], dict[str, Any]]:
    """Write two Parquet files; categories are lists of lists, times int64."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [stem.with_name(f"{stem.name}.{kind}.parquet") for kind in ("interactions", "items")]
    records, extra = prepared.item_records, _extra(prepared)
    item_ids = pa.array([record["id"] for record in records], pa.string())
    users = np.repeat(np.arange(prepared.n_users), np.diff(prepared.offsets))
    events = {
        "user": pa.array(prepared.user_ids, pa.string()).take(pa.array(users)),
        "item": item_ids.take(pa.array(np.asarray(prepared.items) - 1)),
        "timestamp": pa.array(np.asarray(times), pa.int64()),
    }
    texts = {
        name: [record.get(name) or "" for record in records]
        for name in ("title", "brand", "image", "image_url", *extra)
    }
    items: dict[str, Any] = {
        "item": item_ids,
        **{name: pa.array(values, pa.string()) for name, values in texts.items()},
    }
    items["categories"] = pa.array(
        [record["categories"] for record in records], pa.list_(pa.list_(pa.string()))
    )
    for file, columns in zip(files, (events, items), strict=True):
        table = pa.table(columns)
        write_with(file, partial(pq.write_table, table))
    return files, {"parser": "table", "files": files, "columns.items": _columns(extra)}


def _reading_table(prepared: Prepared, stem: str, table: dict[str, Any]) -> str:
    """Return a datasets.toml that reads the files back unchanged: no filter, ties in the order of the file."""
    inter, items = (file.name for file in table["files"])
    columns = table["columns.items"]
    known = ("title", "categories", "brand", *columns["extra"])
    fields = [name for name in prepared.manifest.text_fields if name in known]
    protocol = next(name for name in OWN_FILTERS if PROTOCOLS[name].split == prepared.protocol.split)
    lines = [
        f"[{stem}-export]",
        f"title = {_quoted(prepared.manifest.title + ' (exported)')}",
        f'parser = "{table["parser"]}"',
        f'protocol = "{protocol}"',
        'filters = { duplicates = "keep", min_user = 0, min_item = 0 }',
        f"files.interactions = {{ name = {_quoted(inter)} }}",
        f"files.items = {{ name = {_quoted(items)} }}",
        f"columns.items = {{ {', '.join(f'{key} = {_quoted(value)}' for key, value in columns.items())} }}",
        f"text_fields = {_quoted(fields or ['title', 'categories', 'brand'])}",
    ]
    if pictures := prepared.manifest.images:
        folder = pictures.path.removesuffix(".sqlite") if pictures.kind == "store" else pictures.path
        lines.append(f'images = {{ name = {_quoted(folder)}, member = "{{image}}" }}')
    if not prepared.manifest.has_times:
        lines.append('columns.interactions = { unit = "order" }')
    return "\n".join(lines) + "\n"


def _quoted(value: str | list[str]) -> str:
    """Return a TOML string or list of strings, which is written as in JSON."""
    return json.dumps(value, ensure_ascii=False)
