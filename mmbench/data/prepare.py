"""Raw files -> filtered, ordered, numbered events + item catalogue + manifest.

    raw files -> parse -> (drop items lacking text/image) -> duplicates -> filters -> order -> ids -> write

The result depends on the content of the raw files, the data set's table and the protocol, and on nothing
else: not on folders, dates, hash seeds or the machine. Idempotent and atomic. No torch here.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.atomic import hash_file, hash_json
from mmbench.data.catalog import resolve_name
from mmbench.data.filters import event_order, first_of_duplicates, k_core
from mmbench.data.images import ImageListing, deciding, list_images, point_at
from mmbench.data.lock import check_locked
from mmbench.data.parsers import parse
from mmbench.data.raw import RawData, RawEvents, RawItem
from mmbench.data.spec import DatasetSpec, RawFile
from mmbench.data.statistics import COUNTS, coverage, describe
from mmbench.data.store import FORMAT, Prepared, folder_name, open_path, prepared_root, write_prepared
from mmbench.data.text import category_nodes, join_text
from mmbench.errors import DataError

CODE = 1  # raise it when the same raw files and protocol give other prepared data
Progress = Callable[[str], None]


class RawFilesMissingError(DataError):
    """Raw files that are not there; `files` says which, `folder` where they belong."""

    def __init__(self, spec: DatasetSpec, files: list[RawFile], looked: list[Path]) -> None:
        self.spec, self.files, self.folder = spec, files, looked[0]
        names = " and ".join(one.name for one in files)
        hosts = [one.urls[0] for one in files if one.urls]
        get = f"get {'it' if len(files) == 1 else 'them'} from {' and '.join(hosts)}, then " if hosts else ""
        super().__init__(
            f"{spec.name}: raw file{'s' * (len(files) > 1)} {names} not found in {' or '.join(map(str, looked))}; "
            f"{get}put {'it' if len(files) == 1 else 'them'} there or name the folder with --raw DIR"
        )


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` did: `fresh` is False when there was nothing to do."""

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
    """Prepare the data set called `NAME[@PROTOCOL][@TIES]` in `data_dir`, unless that was done already."""
    from filelock import FileLock

    started = time.monotonic()
    spec, name, rules = resolve_name(text, data_dir, protocol=protocol, ties=ties)
    root = prepared_root(data_dir)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write below {root}: {error.strerror}; choose another --data-dir") from error
    with FileLock(root / f".{folder_name(name)}.lock"):
        prepared, fresh, notes = _prepare(
            spec, name, rules, data_dir, raw=raw, force=force, progress=progress
        )
    return PrepareReport(prepared, spec, fresh, notes, time.monotonic() - started)


def _prepare(
    spec: DatasetSpec,
    name: str,
    rules: dict[str, Any],
    data_dir: Path,
    *,
    raw: Path | None,
    force: bool,
    progress: Progress,
) -> tuple[Prepared, bool, list[str]]:
    existing = _existing(name, data_dir) if not force else None
    recipe = hash_json({"spec": spec.content(), "protocol": rules, "code": CODE, "format": FORMAT})
    try:
        raw_dir = find_raw(spec, data_dir, raw=raw, force=force, progress=progress)
    except RawFilesMissingError:
        if existing is None or raw is not None or existing.manifest.get("recipe") != recipe:
            raise
        return existing, False, ["its raw files are no longer there, so only the settings were compared"]
    listing = list_images(spec.images, raw_dir)
    hashes = [_hashed(spec, raw_dir, one) for one in spec.files_in(raw_dir)]
    if raw is None:
        check_locked(data_dir, spec.name, raw_dir, hashes)
    decides = deciding(listing)
    source = hash_json({"recipe": recipe, "raw": hashes, "images": decides.hash if decides else None})
    current = _current(existing, source, listing)
    if current is not None:
        return current, False, []
    data = parse(spec, raw_dir, decides, progress)
    progress("filtering and sorting")
    made = _build(spec, data, rules, listing)
    manifest = {
        **_facts(spec, listing, made.statistics),
        "name": name,
        "protocol": rules,
        "raw": hashes,
        "recipe": recipe,
        "source": source,
        "notes": data.notes,
        "created": time.time(),
    }
    return write_prepared(data_dir=data_dir, manifest=manifest, **made.arrays), True, data.notes


def _facts(spec: DatasetSpec, listing: ImageListing | None, statistics: dict[str, Any]) -> dict[str, Any]:
    """What the manifest takes over from the data set's table, the pictures and the statistics."""
    return {
        "dataset": spec.name,
        "title": spec.title,
        "synthetic": spec.synthetic,
        "text_fields": list(spec.text_fields),
        "printed": printed_of(spec),
        "images": listing.facts if listing else None,
        "counts": {key: statistics[key] for key in COUNTS},
        "statistics": statistics,
    }


def _existing(name: str, data_dir: Path) -> Prepared | None:
    """What was prepared before and can still be used; a damaged or foreign one is made again."""
    path = prepared_root(data_dir) / folder_name(name)
    if not (path / "manifest.json").is_file():
        return None
    try:
        prepared = open_path(path)
        prepared.verify()
    except DataError:
        return None
    return prepared


def _current(existing: Prepared | None, source: str, listing: ImageListing | None) -> Prepared | None:
    """What was prepared before if it was made from the same, with a manifest that names today's fetched pictures."""
    decides = deciding(listing)
    if existing is None or existing.manifest.get("source") != source or not _images_there(existing, decides):
        return None
    return existing if decides else point_at(existing, listing)


def _images_there(prepared: Prepared, listing: ImageListing | None) -> bool:
    """The manifest's pictures can still be opened, or there are none to be had."""
    images = prepared.manifest["images"]
    return listing is None or (images is not None and Path(images["path"]).exists())


def _hashed(spec: DatasetSpec, raw_dir: Path, one: RawFile) -> dict[str, Any]:
    file = raw_dir / one.name
    try:
        found = {"file": one.name, "sha256": hash_file(file), "bytes": file.stat().st_size}
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    if one.sha256 is not None and found["sha256"] != one.sha256:
        raise DataError(
            f"{file} is not the file that the catalogue of {spec.name} describes (sha256 differs); get it again"
        )
    return found


def find_raw(
    spec: DatasetSpec, data_dir: Path, *, raw: Path | None, force: bool = False, progress: Progress
) -> Path:
    """The folder that holds all raw files: `raw` or `raw`/<name>, else the table's own place or <data>/raw/<name>."""
    if raw is not None and not raw.is_dir():
        raise DataError(
            f"--raw {raw} is no folder; name the folder that holds {spec.files.interactions.name}"
        )
    own = spec.raw_dir(data_dir)
    usual = data_dir / "raw" / spec.name
    places = list(dict.fromkeys([own, usual] if raw is None else [raw, raw / spec.name]))
    if spec.name == "demo" and spec.synthetic and raw is None:
        _generate_demo(spec, own, force=force, progress=progress)
    for place in places:
        if all((place / one.name).is_file() for one in spec.raw_files):
            return place
    missing = [one for one in spec.raw_files if not (places[0] / one.name).is_file()]
    raise RawFilesMissingError(spec, missing, places)


def _generate_demo(spec: DatasetSpec, folder: Path, *, force: bool, progress: Progress) -> None:
    """Write the demo's raw files unless they are there; a folder that was cut short is written again."""
    import shutil
    import tempfile

    names = [one.name for one in spec.raw_files] + ([spec.images.name] if spec.images else [])
    if not force and all((folder / name).is_file() for name in names):
        return
    from mmbench.data.demo import write_raw

    progress("generating the demo data")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".demo-"))
        try:
            write_raw(work)
            shutil.rmtree(folder, ignore_errors=True)
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"cannot write {folder}: {error.strerror or error}; choose another --data-dir"
        ) from error


@dataclass(frozen=True)
class _Built:
    arrays: dict[str, Any]  # arguments of write_prepared
    statistics: dict[str, Any]


def _build(spec: DatasetSpec, data: RawData, rules: dict[str, Any], listing: ImageListing | None) -> _Built:
    events = data.events
    texts = {name: _record(spec, data.items[name]) for name in events.item_names}
    decides = deciding(listing)
    keep, counted = _select(events, texts, rules, decides.members if decides else None)
    if not keep.any():
        raise DataError(
            f"{spec.name}: no interaction is left of {len(events):,} after the filters of protocol {rules['name']!r} "
            f"(users >= {rules['min_user']}, items >= {rules['min_item']}"
            f"{', with ' + ' and '.join(rules['require']) if rules['require'] else ''}); "
            "set lower bounds under filters in its toml, or choose another --protocol"
        )
    user, user_ids = _numbered(events.user[keep], events.user_names)
    item, item_ids = _numbered(events.item[keep], events.item_names)
    ticks = events.ticks[keep]
    order = event_order(user, ticks, rules["ties"])
    ticks = ticks[order]
    arrays = {
        "items": item[order] + 1,
        "times": ticks // events.ticks_per_second,
        "offsets": np.concatenate([[0], np.cumsum(np.bincount(user, minlength=len(user_ids)))]),
    }
    records = [texts[name] for name in item_ids]
    statistics = describe(**arrays, ticks=ticks, n_items=len(item_ids), protocol=rules)
    statistics |= {"coverage": coverage(records, listing.members if listing else None), "raw": counted}
    categories = category_vocabulary(records)
    return _Built(
        {**arrays, "item_records": records, "user_ids": user_ids, "categories": categories}, statistics
    )


def _select(
    events: RawEvents,
    records: dict[str, dict[str, Any]],
    rules: dict[str, Any],
    members: frozenset[str] | None,
) -> tuple[np.ndarray, dict[str, int]]:
    """(bool [E] of the events that stay, what happened on the way)."""
    allowed = np.array([_complete(records[name], rules["require"], members) for name in events.item_names])
    keep = allowed[events.item]
    counted = {
        "users": len(events.user_names),
        "items": len(events.item_names),
        "interactions": len(events),
        "items_dropped_incomplete": int((~allowed).sum()),
    }
    place = np.flatnonzero(keep)
    first = first_of_duplicates(events.user[place], events.item[place], events.ticks[place])
    counted["duplicates"] = int((~first).sum())
    if rules["duplicates"] == "drop":
        place = place[first]
    core, counted["filter_rounds"] = k_core(
        events.user[place],
        events.item[place],
        **{key: rules[key] for key in ("min_user", "min_item", "item_counts", "iterate")},
    )
    keep = np.zeros(len(events), dtype=bool)
    keep[place[core]] = True
    return keep, counted


def _complete(record: dict[str, Any], require: list[str], members: frozenset[str] | None) -> bool:
    """The item has what the protocol requires."""
    image = record["image"]
    # A picture that has a URL counts before and after it was fetched, so that fetching never changes the data.
    there = image is not None and (members is None or image in members or "image_url" in record)
    has = {"text": bool(record["text"]), "image": there}
    return all(has[one] for one in require)


def _numbered(codes: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Codes 0..n-1 in the order of the raw ids as text, and those ids: independent of file order and ties."""
    used = np.unique(codes)
    ranked = sorted(used.tolist(), key=names.__getitem__)
    number = np.zeros(len(names), dtype=np.int64)
    number[ranked] = np.arange(len(ranked))
    return number[codes], [names[code] for code in ranked]


def _record(spec: DatasetSpec, item: RawItem) -> dict[str, Any]:
    """The item as items.jsonl keeps it. A description is kept only where it is part of the text."""
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
    """(names sorted, ids int32 [nnz], offsets int64 [N+1]): every node of every path of an item is a category.

    A node that all items with categories share (Amazon's root, "Beauty") tells nothing and is left out.
    """
    nodes = [category_nodes(one["categories"]) for one in records]
    count: dict[str, int] = {}
    for one in nodes:
        for node in one:
            count[node] = count.get(node, 0) + 1
    n_with = sum(bool(one) for one in nodes)
    names = sorted(node for node, n in count.items() if n < n_with)
    number = {node: place for place, node in enumerate(names)}
    kept = [sorted(number[node] for node in one if node in number) for one in nodes]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in kept])]).astype(np.int64)
    return names, np.array([one for ids in kept for one in ids], dtype=np.int32), offsets


def printed_of(spec: DatasetSpec) -> dict[str, Any]:
    """Printed counts with their source, the protocol they hold for, and the known slips; {} if none."""
    if spec.printed is None:
        return {}
    slips = [one.model_dump(mode="json") for one in spec.slips]
    return {**spec.printed.model_dump(mode="json"), "protocol": spec.protocol, "slips": slips}
