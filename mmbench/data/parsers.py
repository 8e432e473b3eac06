"""Raw files of a data set -> RawData, read by the parser that its table in datasets.toml names."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbench.data import amazon, foreign, microlens, sequences, yelp
from mmbench.data.images import ImageListing, member_name
from mmbench.data.matching import ID_RULES, match_names
from mmbench.data.raw import EventBuilder, RawData, RawEvents, RawItem, group_of, parse_id, parse_rating
from mmbench.data.spec import DatasetSpec, ItemColumns, RawFile
from mmbench.data.tables import new_faults, read_rows
from mmbench.data.text import clean
from mmbench.data.timestamps import parse_ticks, shown
from mmbench.errors import DataError

Progress = Callable[[str], None]
_BUILT_IN = ("title", "brand", "categories")


def parse(spec: DatasetSpec, raw_dir: Path, listing: ImageListing | None, progress: Progress) -> RawData:
    """Read the raw files of `spec` in `raw_dir`; every fault raises a DataError of a single line."""
    if spec.reader is not None:
        progress(f"reading {spec.files.interactions.name}")
        data = foreign.read(spec, spec.reader, raw_dir)
        return _with_pictures(spec, data, listing)
    reader = _parse_tables if spec.is_table else _parse_records
    return reader(spec, raw_dir, listing, progress)


def _with_pictures(spec: DatasetSpec, data: RawData, listing: ImageListing | None) -> RawData:
    """Return the data with an entry for every item, and with the picture of each item for which none is named."""
    for name in data.events.item_names:
        data.items.setdefault(name, RawItem(id=name))
    for item in data.items.values():
        item.image = item.image or _image_member(spec, item, listing)
    return data


def _parse_records(
    spec: DatasetSpec, raw_dir: Path, listing: ImageListing | None, progress: Progress
) -> RawData:
    """Read a format in which the interactions come first and their items are looked up in the (larger) item file."""
    assert spec.files.items is not None  # guaranteed by the spec
    progress(f"reading {spec.files.interactions.name}")
    events, notes = _record_events(spec, raw_dir / spec.files.interactions.name)
    progress(f"reading {spec.files.items.name}")
    items, item_notes = _record_items(spec, raw_dir / spec.files.items.name, set(events.item_names))
    notes = notes + item_notes
    if not items:
        items |= _any_item(spec, raw_dir / spec.files.items.name)
    notes += _compare_ids(spec, events.item_names, items)
    for name in events.item_names:
        items.setdefault(name, RawItem(id=name))
    photos = spec.files.photos
    if photos is not None and spec.pictures is not None:
        if (raw_dir / photos.name).is_file():
            progress(f"reading {photos.name}")
            notes += yelp.read_photos(raw_dir / photos.name, items, spec.pictures.member, listing)
    else:
        for item in items.values():
            item.image = _image_member(spec, item, listing)
    return RawData(events, items, notes)


@dataclass
class _FirstName(Collection[str]):
    """Stands for the names that are wanted where any will do: it holds the first that is asked for, and no other."""

    name: str | None = None

    def __contains__(self, name: object) -> bool:
        self.name = self.name if self.name is not None else str(name)
        return self.name == name

    def __iter__(self) -> Iterator[str]:
        return iter([self.name] if self.name is not None else [])

    def __len__(self) -> int:
        return int(self.name is not None)


def _any_item(spec: DatasetSpec, file: Path) -> dict[str, RawItem]:
    """Return an item of an item file without any wanted item, to show how the file writes its ids."""
    items, _ = _record_items(spec, file, _FirstName())
    return items


def _compare_ids(spec: DatasetSpec, used: Collection[str], known: Collection[str]) -> list[str]:
    """Return [] or a note when interactions have items that the item table lacks; DataError when it has no item."""
    assert spec.files.items is not None
    match = match_names(used, known, ID_RULES)
    if match.is_whole:
        return []
    words = match.words("item ids", spec.files.interactions.name, spec.files.items.name)
    if match.n_met:
        return [f"{words}; items that are not there have no title, text or picture"]
    raise DataError(f"{spec.name}: {words}; write the ids of both files in the same way")


def _record_events(spec: DatasetSpec, file: Path) -> tuple[RawEvents, list[str]]:
    if spec.parser == "microlens":
        return _read_events(spec, file, None)
    return (
        yelp.read_reviews(file) if spec.parser == "yelp" else amazon.read_reviews(file, edition=spec.parser)
    )


def _record_items(
    spec: DatasetSpec, file: Path, wanted: Collection[str]
) -> tuple[dict[str, RawItem], list[str]]:
    fields = [field for field in spec.text_fields if field not in _BUILT_IN]
    if spec.parser == "microlens":
        return microlens.read_titles(file, wanted)
    if spec.parser == "yelp":
        return yelp.read_businesses(file, wanted, fields=fields)
    return amazon.read_meta(file, wanted, edition=spec.parser, fields=fields)


def _image_member(spec: DatasetSpec, item: RawItem, listing: ImageListing | None) -> str | None:
    """Return the member that holds the item's picture, if the item has a picture's URL or the member exists."""
    if spec.pictures is None:
        return None
    member = member_name(spec.pictures.member, lambda _: item.id)
    is_listed = listing is not None and member in listing.members
    return member if item.image_url or is_listed else None


def _parse_tables(
    spec: DatasetSpec, raw_dir: Path, listing: ImageListing | None, progress: Progress
) -> RawData:
    items: dict[str, RawItem] = {}
    groups: dict[str, str] | None = None
    notes: list[str] = []
    if spec.files.items is not None:
        progress(f"reading {spec.files.items.name}")
        reader = _ItemReader(spec, listing)
        notes = reader.read(raw_dir / spec.files.items.name)
        items = reader.items
        groups = reader.groups if spec.item_columns.group else None
    progress(f"reading {spec.files.interactions.name}")
    events, event_notes = _read_events(spec, raw_dir / spec.files.interactions.name, groups)
    if spec.files.items is not None:
        notes += _compare_ids(spec, events.item_names, items)
    for name in events.item_names:
        items.setdefault(name, RawItem(id=name))
    if spec.images is None:
        for item in items.values():
            item.image = _image_member(spec, item, listing)
    return RawData(events, items, notes + event_notes)


def declared_columns(spec: DatasetSpec, raw_file: RawFile) -> list[str]:
    """Return the columns of a file of a table data set that its table in datasets.toml names.

    The lines of sequences have none.
    """
    if spec.parser == "sequence" and raw_file == spec.files.interactions:
        return []
    return _item_table_columns(spec) if raw_file == spec.files.items else _event_columns(spec)


def _event_columns(spec: DatasetSpec) -> list[str]:
    columns = spec.interaction_columns
    return [columns.user, columns.item, columns.timestamp, *([columns.rating] if columns.rating else [])]


def _read_events(spec: DatasetSpec, file: Path, groups: dict[str, str] | None) -> tuple[RawEvents, list[str]]:
    if spec.parser == "sequence":
        return sequences.read(file, groups)
    columns = spec.interaction_columns
    builder, faults = EventBuilder(), new_faults(file)
    names = _event_columns(spec)
    for number, (user, item, timestamp, *rating) in read_rows(file, names, faults):
        try:
            item_id = parse_id(item, "item id")
            if groups is not None:
                item_id = group_of(item_id, groups)
            ticks = parse_ticks(timestamp, columns.unit)
            builder.add(parse_id(user, "user id"), item_id, ticks, *map(parse_rating, rating))
        except ValueError as error:
            faults.add(number, str(error))
    notes = faults.finish()
    return builder.build(unit=columns.unit, file=file), notes


class _ItemReader:
    """Reads an item table. Rows of the same item (or group) are merged; the first row counts."""

    def __init__(self, spec: DatasetSpec, listing: ImageListing | None) -> None:
        self.spec, self.columns, self.listing = spec, spec.item_columns, listing
        self.items: dict[str, RawItem] = {}
        self.groups: dict[str, str] = {}
        self.repeated = 0
        self.wanted = _item_table_columns(spec)

    def read(self, file: Path) -> list[str]:
        faults = new_faults(file)
        for number, values in read_rows(file, self.wanted, faults):
            try:
                self._add(dict(zip(self.wanted, values, strict=True)))
            except ValueError as error:
                faults.add(number, str(error))
        if faults.n_lines == 0:
            raise DataError(f"{file} holds no item; check that this is the right file")
        notes = faults.finish()
        if self.repeated:
            notes.append(
                f"{file.name}: {self.repeated:,} rows repeat an item id; the first row of each counts"
            )
        return notes

    def _add(self, row: dict[str, Any]) -> None:
        raw_id = parse_id(row[self.columns.item], "item id")
        key = parse_id(row[self.columns.group], "group") if self.columns.group else raw_id
        self.repeated += raw_id in self.groups
        self.groups[raw_id] = key
        item = _table_item(self.spec, key, row)
        known = self.items.setdefault(key, item)
        if known is not item:
            if not self._has_picture(known) and self._has_picture(item):
                known.image = item.image
            known.fill_from(item)

    def _has_picture(self, item: RawItem) -> bool:
        return item.image is not None and (self.listing is None or item.image in self.listing.members)


def _item_table_columns(spec: DatasetSpec) -> list[str]:
    """Return every column of the item table that the declaration uses, each once."""
    columns = spec.item_columns
    categories = [columns.categories] if isinstance(columns.categories, str) else columns.categories or []
    single = [columns.item, columns.group, columns.title, columns.brand, columns.image_url]
    further = [field for field in spec.text_fields if field not in _BUILT_IN]
    names = [*single, *categories, *further, *columns.extra, *spec.member_fields]
    return [name for name in dict.fromkeys(names) if name]


def _table_item(spec: DatasetSpec, key: str, row: dict[str, Any]) -> RawItem:
    columns = spec.item_columns
    names = dict.fromkeys([*(field for field in spec.text_fields if field not in _BUILT_IN), *columns.extra])
    return RawItem(
        id=key,
        title=_cell(row, columns.title),
        brand=_cell(row, columns.brand),
        categories=_categories(columns, row),
        image_url=_cell(row, columns.image_url),
        image=member_name(spec.images.member, lambda name: _raw_cell(row, name)) if spec.images else None,
        fields={name: _cell(row, name) for name in names},
    )


def _raw_cell(row: dict[str, Any], column: str) -> str:
    return text_of_cell(row[column], column).strip()


def text_of_cell(value: Any, column: str) -> str:
    """Return a cell as text: a missing value (also NaN) is blank, a list is its parts with a blank between them.

    Raises ValueError for a cell that Parquet has and no text can stand for (a structure, bytes).
    """
    if value is None or value != value:  # NaN is how pandas stores a missing text
        return ""
    if isinstance(value, list):
        return " ".join(filter(None, (text_of_cell(part, column) for part in value)))
    if isinstance(value, dict | tuple | bytes):
        raise ValueError(f"column {column!r} holds {shown(value)}, which is neither text nor a number")
    return str(value)


def _cell(row: dict[str, Any], column: str | None) -> str:
    return clean(_raw_cell(row, column)) if column else ""


def _categories(columns: ItemColumns, row: dict[str, Any]) -> list[list[str]]:
    """Return the paths of category nodes; a Parquet column may hold lists already."""
    if columns.categories is None:
        return []
    if isinstance(columns.categories, list):
        return [[node] for node in (_cell(row, column) for column in columns.categories) if node]
    value = row[columns.categories]
    if not isinstance(value, list):
        text = text_of_cell(value, columns.categories)
        value = text.split(columns.category_separator) if columns.category_separator else [text]
    paths = []
    for path in value:
        text = text_of_cell(path, columns.categories) if not isinstance(path, list) else ""
        nodes = path if isinstance(path, list) else _split_path(text, columns.path_separator)
        cleaned = (clean(text_of_cell(node, columns.categories)) for node in nodes)
        paths.append([node for node in cleaned if node])
    return [path for path in paths if path]


def _split_path(text: str, separator: str | None) -> list[str]:
    return text.split(separator) if separator else [text]
