"""A draft of a user's own table for datasets.toml, guessed from the headers and the first rows of the files."""

import json
import os
import re
import zipfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mmbench.atomic import write_text
from mmbench.data import hub
from mmbench.data.catalog import read_catalog
from mmbench.data.parsers import text_of_cell
from mmbench.data.tables import kind_of, new_faults, read_header, read_rows
from mmbench.data.timestamps import ORDER, guess_unit
from mmbench.errors import DataError, UsageError
from mmbench.paths import datasets_file

N_ROWS = 1000  # of each file that are looked at
UNKNOWN = "?"  # stands for a column that could not be guessed
# Names of columns, the likeliest first; compared in small letters without anything but letters and digits.
NAMES = {
    "user": ("userid", "user", "customerid", "customer", "reviewerid", "reviewer", "client", "clientid", "memberid",
             "member", "reader", "listener", "viewer", "account", "accountid", "visitorid", "sessionid", "uid"),
    "item": ("itemid", "item", "productid", "product", "sku", "asin", "parentasin", "articleid", "article", "movieid",
             "movie", "trackid", "songid", "bookid", "newsid", "videoid", "businessid", "isbn", "iid", "id"),
    "timestamp": ("timestamp", "time", "unixtime", "unixreviewtime", "datetime", "date", "orderedat", "createdat",
                  "purchasedat", "boughtat", "orderdate", "purchasedate", "tdat", "day", "ts"),
    "rating": ("rating", "score", "stars", "overall", "grade"),
    "title": ("title", "name", "itemname", "productname", "producttitle", "itemtitle", "movietitle", "prodname"),
    "brand": ("brand", "maker", "manufacturer", "store", "publisher", "author", "artist", "vendor"),
    "categories": ("categories", "category", "genres", "genre", "maincategory", "department", "producttype",
                   "productcategory", "class"),
    "image_url": ("imageurl", "imurl", "pictureurl", "photourl", "posterurl", "image", "picture", "photo"),
}  # fmt: skip
FURTHER_TEXTS = ("description", "features", "summary", "text", "abstract", "overview")
SEPARATORS = ("|", ";", ">", ",")
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif")
PICTURE = re.compile(f"({'|'.join(map(re.escape, ENDINGS))})$", re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """The header and the first rows of a file: the values of each column as text, blanks left out."""

    file: Path
    columns: dict[str, list[str]]

    @classmethod
    def read(cls, file: Path) -> "Table":
        """Read the beginning of a table; DataError for a file that is none."""
        if not file.is_file():
            raise DataError(f"{file} does not exist or is not a file")
        header = read_header(file)
        rows = [values for _, values in islice(read_rows(file, header, new_faults(file)), N_ROWS)]
        if not rows:
            raise DataError(f"{file} has a header and no row; nothing can be guessed from it")
        values = {name: [_text(row[k], name) for row in rows] for k, name in enumerate(header)}
        return cls(file, {name: [text for text in texts if text] for name, texts in values.items()})

    def named(self, role: str, *, without: Collection[str | None] = ()) -> str | None:
        """Return the column whose name says the role, the likeliest name first; None without one."""
        plain = {re.sub(r"[\W_]", "", name).casefold(): name for name in reversed(self.columns)}
        found = (plain[word] for word in NAMES[role] if plain.get(word) not in (None, *without))
        return next(found, None)


def _text(value: Any, column: str) -> str:
    with suppress(ValueError):
        return text_of_cell(value, column).strip()
    return ""


@dataclass
class Draft:
    """A draft: the text of the table, and what could not be guessed."""

    name: str
    text: str = ""
    unknown: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Guess:
    """A line of the draft: a value and the reason for it; `value` None where nothing could be guessed."""

    key: str
    value: str | list[str] | None
    why: str


def write_draft(
    interactions: Path, items: Path | None, *, name: str | None = None, output: Path | None = None
) -> tuple[Path, Draft]:
    """Write a draft of the table of a data set; return its file and what it says.

    name    of the data set; by default that of the folder of the interactions
    output  by default <name>.toml in the folder that holds both files

    UsageError for a file that exists and a name that no data set of the user's can have, DataError for a file that is
    no table.
    """
    files = [interactions] if items is None else [interactions, items]
    tables = [Table.read(file) for file in files]
    folder = Path(os.path.commonpath([file.absolute().parent for file in files]))
    name = name or _name_from(folder.name)
    check_name(name)
    output = output or folder / f"{name}.toml"
    if output.exists():
        raise UsageError(f"{output} exists and is not written over; remove it, or choose another --output")
    draft = draft_of(name, tables[0], tables[1] if items is not None else None, folder, output)
    write_text(output, draft.text)
    return output, draft


def fetched(text: str, name: str | None, data_dir: Path) -> Path:
    """Return the file that an argument names; one that begins with hub: is fetched into the data set's raw folder."""
    if not text.startswith(hub.PREFIX):
        return Path(text)
    if name is None:
        raise UsageError(f"{text}: name the data set too: --name my-shop")
    check_name(name)
    return hub.fetch(text, data_dir / "raw" / name)


def _name_from(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", text.casefold()).strip("-_")


def check_name(name: str) -> None:
    """Raise UsageError for a name that a data set of the user's cannot have."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise UsageError(
            f"{name!r} cannot name a data set: write small letters, digits, - and _ (--name my-shop)"
        )
    if name in read_catalog(datasets_file()):
        raise UsageError(f"data set {name!r} ships with mmbench; choose another --name")


def draft_of(name: str, interactions: Table, items: Table | None, folder: Path, output: Path) -> Draft:
    """Return the draft of a data set whose files lie in `folder`, to be written to `output`."""
    events, id_column = _guess_events(interactions, items)
    about_items = _guess_items(items, id_column) if items is not None else []
    draft = Draft(name)
    draft.unknown = [guess.key for guess in (*events, *about_items) if guess.value is None]
    kinds = {kind_of(table.file) for table in (interactions, items) if table is not None}
    parser = "recbole" if kinds <= {".inter", ".item"} else "table"
    lines = [
        "# A draft: check each line, change what is wrong, then:",
        f"#   mmbench datasets add {output.name}",
        f"[{name}]",
        f"title = {_toml(name)}",
        f"parser = {_toml(parser)}",
        f"files.interactions = {{ name = {_toml(_relative(interactions.file, folder))} }}",
    ]
    if items is not None:
        lines.append(f"files.items = {{ name = {_toml(_relative(items.file, folder))} }}")
    if output.absolute().parent != folder:
        lines.append(f"raw = {_toml(str(folder))}")
    lines += _text_fields(items, about_items)
    lines += _images(items, about_items, folder)
    lines += ["", f"[{name}.columns.interactions]", *map(_line, events)]
    if items is not None:
        lines += ["", f"[{name}.columns.items]", *map(_line, about_items)]
    draft.text = "\n".join(lines) + "\n"
    return draft


def _relative(file: Path, folder: Path) -> str:
    return file.absolute().relative_to(folder).as_posix()


def _toml(value: str | list[str]) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _line(guess: Guess) -> str:
    if guess.value is None:
        return f"{guess.key} = {_toml(UNKNOWN)}   # NOT GUESSED: {guess.why}"
    return f"{guess.key} = {_toml(guess.value)}   # {guess.why}"


def _listed(columns: Collection[str]) -> str:
    return _safe(", ".join(columns))


def _safe(text: str) -> str:
    """Return a text of a file as part of a comment, without line breaks or control characters."""
    return re.sub(r"[^\x20-\x7e\xa0-\uffff]", " ", text)[:200]


# -- interactions -----------------------------------------------------------------------------------------


def _guess_events(table: Table, items: Table | None) -> tuple[list[Guess], str | None]:
    """Return the guesses about the interactions' columns, and the column of the item table with the items' ids."""
    user = table.named("user")
    item, id_column = _common_ids(table, items, user) if items is not None else (None, None)
    why = f"its values are those of {_safe(id_column or '')} in the item table"
    if item is None:
        item, why = table.named("item", without=[user]), "by its name"
    timestamp, unit = _guess_times(table, [user, item])
    guesses = [
        _named("user", user, table),
        Guess("item", item, why if item else f"the columns are {_listed(table.columns)}"),
        _named("timestamp", timestamp, table),
        unit,
    ]
    rating = table.named("rating", without=[user, item, timestamp])
    return [
        *guesses,
        *([Guess("rating", rating, "by its name; only `datasets match` uses it")] * bool(rating)),
    ], (id_column)


def _named(key: str, column: str | None, table: Table) -> Guess:
    return Guess(key, column, "by its name" if column else f"the columns are {_listed(table.columns)}")


def _common_ids(table: Table, items: Table, user: str | None) -> tuple[str | None, str | None]:
    """Return the columns of interactions and items that share most ids, (None, None) where fewer than half are shared.

    The ids of an item table differ from each other; names decide between columns that share alike.
    """
    best: tuple[float, int, int] = (0.5, 0, 0)
    pair: tuple[str | None, str | None] = (None, None)
    likely = (table.named("item", without=[user]), items.named("item"))
    for name, values in items.columns.items():
        known = set(values)
        if len(known) < 0.9 * len(values):
            continue
        for column, used in table.columns.items():
            ids = set(used)
            if column == user or not ids:
                continue
            shared = len(ids & known) / len(ids)
            rank = (shared, column == likely[0], name == likely[1])
            if rank > best:
                best, pair = rank, (column, name)
    return pair


def _guess_times(table: Table, taken: Sequence[str | None]) -> tuple[str | None, Guess]:
    """Return the column of the times and the guess about its unit: by the name, else the only column of dates."""
    named = table.named("timestamp", without=taken)
    if named is None:
        dated = [
            name
            for name, values in table.columns.items()
            if name not in taken and guess_unit(values) in ("iso", "s", "ms")
        ]
        named = dated[0] if len(dated) == 1 else None
    if named is None:
        return None, Guess("unit", "s", "CHECK: s, ms, iso, or order for positions instead of times")
    unit = guess_unit(table.columns[named])
    why = {
        None: "its values are no times that mmbench reads",
        ORDER: "the values are small whole numbers: positions, no times",
    }.get(unit, f"the first value is {_safe(table.columns[named][0])}" if table.columns[named] else "")
    return named, Guess("unit", unit, why)


# -- items ------------------------------------------------------------------------------------------------


def _guess_items(table: Table, id_column: str | None) -> list[Guess]:
    """Return the guesses about the item table's columns."""
    item = id_column or table.named("item")
    guesses = [
        Guess("item", item, "its values are the items of the interactions")
        if id_column
        else _named("item", item, table)
    ]
    taken = [item]
    for role in ("title", "brand", "categories"):
        column = table.named(role, without=taken)
        if column is not None:
            guesses.append(Guess(role, column, "by its name"))
            taken.append(column)
            guesses += _separators(table.columns[column]) if role == "categories" else []
    url = _picture_address(table, taken)
    if url is not None:
        guesses.append(Guess("image_url", url, "its values are addresses"))
        taken.append(url)
    rest = [name for name in table.columns if name not in (*taken, *_further_texts(table, taken))]
    if rest:
        guesses.append(Guess("extra", rest, "the other columns: kept in the catalogue, no part of the text"))
    return guesses


def _separators(values: Sequence[str]) -> list[Guess]:
    """Return how cells of categories are cut: at what half of them hold, several categories or a path."""
    often = [mark for mark in SEPARATORS if sum(mark in text for text in values) > len(values) / 2]
    first = next((mark for mark in often if mark != ">"), None)
    guesses = [Guess("category_separator", first, "most cells hold it")] if first else []
    return guesses + ([Guess("path_separator", ">", "most cells hold it")] if ">" in often else [])


def _picture_address(table: Table, taken: Sequence[str | None]) -> str | None:
    """Return the column of pictures' addresses."""

    def is_address(name: str) -> bool:
        values = table.columns[name]
        return bool(values) and all(text.startswith(("http://", "https://")) for text in values)

    named = table.named("image_url", without=taken)
    if named is not None and is_address(named):
        return named
    others = [name for name in table.columns if name not in taken and is_address(name)]
    return next((name for name in others if any(map(PICTURE.search, table.columns[name]))), None)


def _further_texts(table: Table, taken: Sequence[str | None]) -> list[str]:
    return [name for name in table.columns if name.casefold() in FURTHER_TEXTS and name not in taken]


def _text_fields(table: Table | None, guesses: Sequence[Guess]) -> list[str]:
    """Return the lines about text and pictures."""
    if table is None:
        return ["text_fields = []   # there is no item table"]
    roles = [role for role in ("title", "categories", "brand") if any(guess.key == role for guess in guesses)]
    columns = [guess.value for guess in guesses if isinstance(guess.value, str)]
    fields = [*roles, *_further_texts(table, columns)]
    return [f"text_fields = {_toml(fields)}   # what text encoders read, in this order"]


def _images(table: Table | None, guesses: Sequence[Guess], folder: Path) -> list[str]:
    """Return the line about pictures whose names are a column, and about the folder or zip beside the files."""
    if table is None or any(guess.key == "image_url" for guess in guesses):
        return []
    named = [name for name, values in table.columns.items() if values and all(map(PICTURE.search, values))]
    if not named:
        return _images_of_ids(table, guesses, folder)
    member = _toml("{" + named[0] + "}")
    place, n_there = _most(_files_beside(folder), table.columns[named[0]])
    if place is None:
        why = f"{_safe(named[0])} looks like names of pictures"
        return [f'# images = {{ name = "FOLDER OR ZIP", member = {member} }}   # {why}']
    why = (
        f"it has {n_there} of the first {len(table.columns[named[0]])} pictures that {_safe(named[0])} names"
    )
    return [f"images = {{ name = {_toml(place)}, member = {member} }}   # {why}"]


def _images_of_ids(table: Table, guesses: Sequence[Guess], folder: Path) -> list[str]:
    """Return the line about the folder or zip beside the files whose pictures are named after the items' ids."""
    column = next((guess.value for guess in guesses if guess.key == "item"), None)
    ids = table.columns.get(column, []) if isinstance(column, str) else []
    files = _files_beside(folder)
    found = [(*_most(files, [f"{each}{ending}" for each in ids]), ending) for ending in ENDINGS]
    place, n_there, ending = max(found, key=lambda each: each[1])
    if place is None:
        return []
    member, why = f"{{{column}}}{ending}", f"it has such pictures of {n_there} of the first {len(ids)} items"
    return [f"images = {{ name = {_toml(place)}, member = {_toml(member)} }}   # {why}"]


def _members(place: Path) -> set[str]:
    """Return the names of the files in a folder or zip; of another file, or of what cannot be read, none."""
    with suppress(OSError, zipfile.BadZipFile):
        if place.is_dir():
            return {entry.name for entry in os.scandir(place) if entry.is_file()}
        if place.suffix.casefold() == ".zip":
            with zipfile.ZipFile(place) as archive:
                return set(archive.namelist())
    return set()


def _files_beside(folder: Path) -> dict[str, set[str]]:
    """Return the names of the files in each folder and zip in `folder`."""
    return {place.name: _members(place) for place in sorted(folder.iterdir())}


def _most(files: Mapping[str, set[str]], names: Sequence[str]) -> tuple[str | None, int]:
    """Return the folder or zip that has most of these files, and how many; (None, 0) where none has any."""
    best: tuple[str | None, int] = (None, 0)
    for place, there in files.items():
        n_there = len(there.intersection(names))
        if n_there > best[1]:
            best = place, n_there
    return best
