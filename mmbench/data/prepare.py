"""Raw files -> filtered, ordered, numbered events + item catalogue + manifest.

    raw files -> parse -> (drop items lacking text/image) -> duplicates -> filters -> order -> ids -> write

The result depends on the content of the raw files, the data set's table and the protocol, but not on folders,
dates, hash seeds or the machine. Preparing is idempotent and atomic. No torch here.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.atomic import hash_json, remove_leftovers
from mmbench.data.catalog import resolve_name
from mmbench.data.definition import definition_of
from mmbench.data.filters import event_order
from mmbench.data.images import ImageListing, deciding, list_at, list_images, point_at
from mmbench.data.manifest import FORMAT, Definition, Facts, Printed, RawFileFacts, write_manifest
from mmbench.data.parsers import parse
from mmbench.data.protocol import Protocol
from mmbench.data.raw import RawData, RawItem
from mmbench.data.raw_files import RawFilesMissingError, find_raw, raw_facts
from mmbench.data.raw_hashes import check_recorded
from mmbench.data.selection import nothing_left, picture_notes, select
from mmbench.data.spec import DatasetSpec
from mmbench.data.statistics import Statistics, coverage, describe
from mmbench.data.store import (
    DATA_DIR,
    Prepared,
    is_prepared,
    open_path,
    open_prepared,
    prepared_path,
)
from mmbench.data.text import category_nodes, join_text
from mmbench.data.timestamps import TICKS
from mmbench.data.writing import Content, write_prepared
from mmbench.errors import DataError, UsageError
from mmbench.locks import held_where_writable, lock_file

Progress = Callable[[str], None]


@dataclass(frozen=True)
class PrepareReport:
    """The result of `prepare`; `fresh` is False when there was nothing to do."""

    prepared: Prepared
    spec: DatasetSpec
    fresh: bool
    notes: list[str]
    seconds: float


def prepare(
    text: str,
    data_dir: Path,
    *,
    raw: Path | None = None,
    protocol: str | None = None,
    ties: str | None = None,
    force: bool = False,
    progress: Progress = lambda message: None,
) -> PrepareReport:
    """Prepare the data set called `NAME[@PROTOCOL][@TIES]` in `data_dir`, unless it is prepared already."""
    started = time.monotonic()
    spec, name, rules = resolve_name(text, data_dir, protocol=protocol, ties=ties)
    path = prepared_path(name, data_dir)
    with held_where_writable(lock_file(path), error=DataError, option=DATA_DIR):
        remove_leftovers(path)
        work = _Preparation(spec, name, rules, data_dir, raw, progress)
        prepared, is_fresh, notes = work.run(force=force)
    return PrepareReport(prepared, spec, is_fresh, notes, time.monotonic() - started)


@dataclass(frozen=True)
class _Preparation:
    """A call of `prepare`, after its name was resolved."""

    spec: DatasetSpec
    name: str
    rules: Protocol
    data_dir: Path
    raw: Path | None
    progress: Progress

    def run(self, *, force: bool) -> tuple[Prepared, bool, list[str]]:
        """Return the prepared data, whether they were made now, and notes on what was skipped in the raw files."""
        existing = None if force else self._existing()
        definition = definition_of(self.spec)
        if self.rules.needs_times and not self.spec.has_times:
            raise UsageError(
                f"{self.name} is split by time, but the interactions of {self.spec.name} have an order and no times "
                "(unit = 'order'); choose --protocol clean"
            )
        try:
            raw_dir = find_raw(self.spec, self.data_dir, raw=self.raw, force=force, progress=self.progress)
        except RawFilesMissingError:
            if existing is None or self.raw is not None or not self._has_definition(existing, definition):
                raise
            notes = ["its raw files are gone, so only the settings were compared", *_lack_of(existing)]
            return _update_pictures(existing), False, notes
        listing = list_images(self.spec.pictures, raw_dir)
        files = raw_facts(self.spec, raw_dir, self.data_dir)
        if self.raw is None:
            check_recorded(self.data_dir, self.spec.name, raw_dir, files)
        source = self._source(definition, files, listing)
        if existing is not None and existing.manifest.source == source and not _gets_fractions(existing):
            return _update_manifest(existing, files, listing), False, _lack_of(existing)
        return self._write(raw_dir, files, listing, definition, source)

    def _write(
        self,
        raw_dir: Path,
        files: tuple[RawFileFacts, ...],
        listing: ImageListing | None,
        definition: Definition,
        source: str,
    ) -> tuple[Prepared, bool, list[str]]:
        """Prepare the raw files of a folder and write the result; return what `run` returns."""
        data = parse(self.spec, raw_dir, deciding(listing), self.progress)
        self.progress("filtering and sorting")
        content, statistics = _build(self.spec, data, self.rules, listing)
        notes = [*data.notes, *picture_notes(content.item_records, listing)]
        facts = Facts(
            name=self.name,
            dataset=self.spec.name,
            title=self.spec.title,
            synthetic=self.spec.synthetic,
            protocol=self.rules,
            statistics=statistics,
            created=time.time(),
            printed=printed_of(self.spec),
            raw=files,
            images=listing.facts if listing else None,
            definition=definition,
            source=source,
            text_fields=tuple(self.spec.text_fields),
            notes=tuple(notes),
            has_times=self.spec.has_times,
        )
        return write_prepared(self.data_dir, facts, content), True, notes

    def _existing(self) -> Prepared | None:
        """Return what was prepared before and can still be used; damaged or foreign data are prepared again."""
        if not is_prepared(self.name, self.data_dir):
            return None
        try:
            prepared = open_prepared(self.name, self.data_dir)
            prepared.verify()
        except DataError:
            return None
        return prepared

    def _has_definition(self, existing: Prepared, definition: Definition) -> bool:
        return existing.manifest.definition == definition and existing.protocol == self.rules

    def _source(
        self, definition: Definition, files: tuple[RawFileFacts, ...], listing: ImageListing | None
    ) -> str:
        """Return the hash of everything that the prepared data are made from."""
        deciding_listing = deciding(listing)
        return hash_json(
            {
                "table": definition.table,
                "code": definition.code,
                "format": FORMAT,
                "protocol": self.rules.to_json(),
                "raw": [[file.file, file.sha256] for file in files],
                "images": deciding_listing.hash if deciding_listing else None,
            }
        )


def _gets_fractions(existing: Prepared) -> bool:
    """Return whether data lack fractions of seconds and may be replaced; data that may only be read stay usable."""
    folders = (existing.path, existing.path.parent)
    return existing.lacks_fractions and all(os.access(folder, os.W_OK) for folder in folders)


def _lack_of(existing: Prepared) -> list[str]:
    """Return a note on data without the fractions of seconds that an older mmbench left out; [] for all others."""
    return (
        ["its times stay whole seconds, though its raw files have finer ones"]
        if existing.lacks_fractions
        else []
    )


def _update_pictures(existing: Prepared) -> Prepared:
    """Return the same data, whose manifest counts and hashes the pictures again, if they still exist."""
    images = existing.manifest.images
    if images is None or not Path(images.path).exists():
        return existing
    return point_at(existing, list_at(images, existing.name))


def _update_manifest(
    existing: Prepared, files: tuple[RawFileFacts, ...], listing: ImageListing | None
) -> Prepared:
    """Return the same data, with a manifest that describes the present pictures and raw files.

    Data that may only be read keep the stamps of raw files whose content is known to be the same.
    """
    prepared = point_at(existing, listing)
    if prepared.manifest.raw == files or not os.access(prepared.path, os.W_OK):
        return prepared
    write_manifest(prepared.path, replace(prepared.manifest, raw=files))
    return open_path(prepared.path)


def _build(
    spec: DatasetSpec, data: RawData, rules: Protocol, listing: ImageListing | None
) -> tuple[Content, Statistics]:
    events = data.events
    item_records = {name: _record(spec, data.items[name]) for name in events.item_names}
    deciding_listing = deciding(listing)
    members = deciding_listing.members if deciding_listing else None
    keep, counted = select(events, item_records, rules, members)
    if not keep.any():
        raise DataError(nothing_left(spec, rules, counted, item_records, listing))
    user, user_ids = _numbered(events.user[keep], events.user_names)
    item, item_ids = _numbered(events.item[keep], events.item_names)
    ticks = events.ticks[keep]
    order = event_order(user, ticks, rules.ties)
    ticks = ticks[order]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=len(user_ids)))])
    records = [item_records[name] for name in item_ids]
    names, ids, category_offsets = category_vocabulary(records)
    content = Content(
        items=item[order] + 1,
        times=ticks // TICKS if events.has_times else positions(offsets),
        fractions=ticks % TICKS if events.has_times and (ticks % TICKS).any() else None,
        offsets=offsets,
        item_records=records,
        user_ids=user_ids,
        category_names=names,
        category_ids=ids,
        category_offsets=category_offsets,
    )
    statistics = describe(
        items=content.items, times=content.times, offsets=content.offsets, ticks=ticks, n_items=len(item_ids),
        protocol=rules, raw=counted, coverage=coverage(records, listing.members if listing else None),
        has_times=events.has_times,
    )  # fmt: skip
    return content, statistics


def positions(offsets: np.ndarray) -> np.ndarray:
    """Return int64 [E], the position of each event in its user's history, 0 = oldest."""
    return np.arange(int(offsets[-1])) - np.repeat(offsets[:-1], np.diff(offsets))


def _numbered(codes: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Return codes 0..n-1 in the order of the raw ids as text, and those ids: independent of file order and ties."""
    used = np.unique(codes)
    ranked = sorted(used.tolist(), key=names.__getitem__)
    number = np.zeros(len(names), dtype=np.int64)
    number[ranked] = np.arange(len(ranked))
    return number[codes], [names[code] for code in ranked]


def _record(spec: DatasetSpec, item: RawItem) -> dict[str, Any]:
    """Return the item as items.jsonl stores it; a description is kept only if it is part of the text."""
    fields = {
        key: value for key, value in item.fields.items() if key != "description" or key in spec.text_fields
    }
    record: dict[str, Any] = {
        **fields,
        "id": item.id,
        "title": item.title,
        "brand": item.brand,
        "categories": item.categories,
        "image": item.image,
    }
    if item.image_url:
        record["image_url"] = item.image_url
    record["text"] = join_text(record, spec.text_fields)
    return record


def category_vocabulary(records: list[dict[str, Any]]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return (sorted names, ids int32 [nnz], offsets int64 [N+1]); every node of every path of an item is a category.

    A node that all items with categories share (Amazon's root, "Beauty") is left out, because it distinguishes nothing.
    """
    nodes = [category_nodes(record["categories"]) for record in records]
    count: dict[str, int] = {}
    for item_nodes in nodes:
        for node in item_nodes:
            count[node] = count.get(node, 0) + 1
    n_with = sum(map(bool, nodes))
    names = sorted(node for node, n in count.items() if n < n_with)
    number = {name: index for index, name in enumerate(names)}
    kept = [sorted(number[node] for node in item_nodes if node in number) for item_nodes in nodes]
    offsets = np.concatenate([[0], np.cumsum(list(map(len, kept)))]).astype(np.int64)
    return names, np.array([index for ids in kept for index in ids], dtype=np.int32), offsets


def printed_of(spec: DatasetSpec) -> Printed | None:
    """Return the printed counts with their source, the protocol for which they hold, and the known slips."""
    if spec.printed is None:
        return None
    return Printed(**spec.printed.model_dump(), protocol=spec.protocol, slips=tuple(spec.slips))
