"""What datasets.toml may say about a data set: the types of its keys. Nothing here reads a raw file."""

import re
from pathlib import Path, PurePath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mmbench.data.protocol import OWN_FILTERS, PROTOCOLS, is_ties
from mmbench.errors import suggest

PARSERS = ("amazon-2014", "amazon-2018", "amazon-2023", "yelp", "microlens", "table", "recbole", "sequence")
INJECTED = ("name", "reader")  # keys of a DatasetSpec that no table has
Role = Literal["interactions", "items"]
# The text fields of formats with fixed fields, and the column that names an item's picture in them.
TEXT_FIELDS = {
    "amazon-2014": ("title", "brand", "categories", "description"),
    "amazon-2018": ("title", "brand", "categories", "description"),
    "amazon-2023": ("title", "brand", "categories", "features", "description"),
    "yelp": ("title", "categories", "address", "city", "state"),
    "microlens": ("title",),
}
MEMBER_OF = {"yelp": "photo_id"}
MEMBER_FIELD = re.compile(r"\{([^{}]*)\}")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RawFile(_Strict):
    """A raw file: its name inside the raw folder, and the addresses (mirrors, tried in this order) that offer it.

    `size` is exact, in bytes, and a download of another size is refused; `about` only says what to expect.
    """

    name: str = Field(min_length=1)
    urls: list[str] = []
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    size: int | None = Field(default=None, gt=0)
    about: int | None = Field(default=None, gt=0)

    @field_validator("name")
    @classmethod
    def _inside(cls, value: str) -> str:
        if PurePath(value).is_absolute() or ".." in PurePath(value).parts:
            raise ValueError(f"{value!r} leaves the raw folder; write a file name, and the folder under raw")
        return value

    @field_validator("urls")
    @classmethod
    def _web(cls, value: list[str]) -> list[str]:
        for url in value:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"{url!r} is not an http:// or https:// address")
        return value


class RawFiles(_Strict):
    interactions: RawFile
    items: RawFile | None = None
    photos: RawFile | None = None  # Yelp: says which photo belongs to which business; optional


class Images(_Strict):
    """Pictures: a folder or zip beside the raw files, and the name of an item's picture in it.

    `member` is a template over the item table's columns ("{poster_id}.jpg"); for Amazon over `id`.
    """

    name: str = Field(min_length=1)
    member: str = Field(min_length=1)
    urls: list[str] = []

    @field_validator("member")
    @classmethod
    def _has_field(cls, value: str) -> str:
        if not MEMBER_FIELD.search(value) or "" in MEMBER_FIELD.findall(value):
            raise ValueError("names no column; write {id}.jpg, for instance")
        return value


class InteractionColumns(_Strict):
    user: str = "user"
    item: str = "item"
    timestamp: str = "timestamp"
    unit: Literal["s", "ms", "iso", "order"] = "s"  # "order": positions, of which only the order is meant
    rating: str | None = None  # used by `mmbench datasets match` only


class ItemColumns(_Strict):
    """Columns of the item table. `group`: rows with equal values are a single item (all colours of a dress).

    `categories` is a column, split at `category_separator` (and each path at `path_separator`), or several columns
    with a category each.
    """

    item: str = "item"
    group: str | None = None
    title: str | None = None
    brand: str | None = None
    categories: str | list[str] | None = None
    category_separator: str | None = Field(default=None, min_length=1)
    path_separator: str | None = Field(default=None, min_length=1)
    image_url: str | None = None
    extra: list[str] = []


class Columns(_Strict):
    interactions: InteractionColumns = InteractionColumns()
    items: ItemColumns = ItemColumns()


class Filters(_Strict):
    """A data set's filters; keys that are left out are the protocol's."""

    duplicates: Literal["drop", "keep"] | None = None
    min_user: int | None = Field(default=None, ge=0)
    min_item: int | None = Field(default=None, ge=0)
    item_counts: Literal["events", "users"] | None = None
    iterate: bool | None = None
    require: list[Literal["text", "image"]] | None = None

    def chosen(self) -> dict[str, Any]:
        """Return the keys that the data set sets."""
        return self.model_dump(exclude_none=True)


class Printed(_Strict):
    """Counts that a paper or page prints for the data set under its default protocol."""

    users: int = Field(gt=0)
    items: int = Field(gt=0)
    interactions: int = Field(gt=0)
    source: str = Field(min_length=3)


class Slip(_Strict):
    """A printed number that cannot be right: its statistic, and the value that its source implies."""

    statistic: Literal["users", "items", "interactions", "actions_per_user", "actions_per_item", "sparsity"]
    printed: float
    correct: float
    source: str = Field(min_length=3)
    why: str = Field(min_length=3)


class Reader(_Strict):
    """The reader of a data set that an installed package brings: "package.module:function" and what identifies it."""

    target: str
    package: str
    version: str
    code: str


class DatasetSpec(_Strict):
    """A table of datasets.toml.

    parser  one of PARSERS; in a table of an installed package also "module:function", a reader beside the table
    reader  that function, None where mmbench reads the files
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    title: str = Field(min_length=1)
    parser: str
    reader: Reader | None = None
    files: RawFiles
    images: Images | None = None
    columns: Columns = Columns()
    text_fields: list[str] = ["title", "categories", "brand"]
    protocol: str = "clean"
    ties: str = "file"
    filters: Filters = Filters()
    printed: Printed | None = None
    slips: list[Slip] = []
    synthetic: bool = False
    raw: str | None = None  # the folder of the raw files; the catalogue makes it absolute
    terms: str = ""  # the terms under which the raw files may be used, and their source
    notes: str = ""

    @field_validator("parser")
    @classmethod
    def _known_parser(cls, value: str) -> str:
        if ":" not in value and value not in PARSERS:
            raise ValueError(suggest(value, PARSERS, what="parser"))
        return value

    @field_validator("protocol")
    @classmethod
    def _known_protocol(cls, value: str) -> str:
        if value not in PROTOCOLS:
            raise ValueError(f"unknown protocol {value!r}; known: {', '.join(sorted(PROTOCOLS))}")
        return value

    @field_validator("ties")
    @classmethod
    def _known_ties(cls, value: str) -> str:
        if not is_ties(value):
            raise ValueError(f"unknown tie rule {value!r}; write file, reverse or random:<seed>")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "DatasetSpec":
        if self.filters.chosen() and self.protocol not in OWN_FILTERS:
            raise ValueError(
                f"filters cannot change protocol {self.protocol!r}; only {', '.join(OWN_FILTERS)} take filters"
            )
        if ":" in self.parser:
            if self.reader is None:
                raise ValueError(
                    f"parser {self.parser!r} names code, which only the tables of installed packages may do; "
                    "see docs/plugins.md"
                )
        elif not self.is_table:
            self._check_fixed_format()
        elif self.parser == "sequence" and self.columns.interactions != InteractionColumns():
            raise ValueError(
                "columns.interactions: the lines of parser 'sequence' have no columns; remove them"
            )
        elif self.files.items is None and (self.columns.items.group or self.images):
            raise ValueError("columns.items.group and images need files.items")
        elif not self.has_times and PROTOCOLS[self.protocol].needs_times:
            raise ValueError(f"protocol {self.protocol!r} splits by time, but unit = 'order' has no times")
        return self

    def _check_fixed_format(self) -> None:
        known = TEXT_FIELDS[self.parser]
        if self.columns != Columns():
            raise ValueError(
                f"columns are fixed for parser {self.parser!r}; remove them or use parser = 'table'"
            )
        if self.files.items is None:
            raise ValueError(f"parser {self.parser!r} needs files.items")
        wrong = [field for field in self.text_fields if field not in known]
        if wrong:
            raise ValueError(
                f"text field {wrong[0]!r} does not exist in {self.parser} data; known: {', '.join(known)}"
            )
        column = MEMBER_OF.get(self.parser, "id")
        if self.images and set(self.member_fields) - {column}:
            raise ValueError(f"images.member may only use {{{column}}} for {self.parser} data")

    @property
    def is_table(self) -> bool:
        """Whether items are read from a table whose columns are declared; interactions are, too, but of sequences."""
        return self.parser in ("table", "recbole", "sequence")

    @property
    def has_times(self) -> bool:
        """Return whether the interactions have times and not only an order."""
        return self.interaction_columns.unit != "order"

    @property
    def pictures(self) -> Images | None:
        """Return where the pictures lie: as declared, else where those of items with an address are fetched to."""
        has_addresses = bool(self.columns.items.image_url) or self.parser.startswith("amazon")
        if self.images is None and has_addresses and self.files.items is not None:
            return Images(name="images", member="{id}.jpg")
        return self.images

    @property
    def interaction_columns(self) -> InteractionColumns:
        """Return the columns as declared; RecBole's names are the defaults of its format. MicroLens has milliseconds.

        Sequences have none, and only an order.
        """
        columns = self.columns.interactions
        if self.parser == "sequence":
            return columns.model_copy(update={"unit": "order"})
        if self.parser == "microlens":
            return columns.model_copy(update={"unit": "ms"})
        if self.parser != "recbole":
            return columns
        defaults = {"user": "user_id", "item": "item_id"}
        return columns.model_copy(
            update={key: value for key, value in defaults.items() if key not in columns.model_fields_set}
        )

    @property
    def item_columns(self) -> ItemColumns:
        """Return the columns as declared; for RecBole by default its id column and blank-separated categories."""
        columns = self.columns.items
        if self.parser != "recbole":
            return columns
        defaults = {"item": "item_id", "category_separator": " "}
        missing = {key: value for key, value in defaults.items() if key not in columns.model_fields_set}
        return columns.model_copy(update=missing)

    @property
    def member_fields(self) -> list[str]:
        return MEMBER_FIELD.findall(self.images.member) if self.images else []

    @property
    def raw_files(self) -> list[RawFile]:
        """Return the required files, interactions first."""
        return [file for file in (self.files.interactions, self.files.items) if file is not None]

    def files_in(self, folder: Path) -> list[RawFile]:
        """Return the raw files to read from a folder: all that are required, and the optional files that exist."""
        photos = self.files.photos
        return [*self.raw_files, *([photos] if photos and (folder / photos.name).is_file() else [])]

    def raw_dir(self, data_dir: Path) -> Path:
        """Return the folder in which the raw files are looked for without `--raw`."""
        return Path(self.raw) if self.raw else data_dir / "raw" / self.name

    def content(self) -> dict[str, Any]:
        """Return what decides the prepared data, as JSON: neither folders, remarks nor the protocol's keys."""
        outside = {"raw", "notes", "terms", "protocol", "ties", "filters"}
        kept = self.model_dump(mode="json", exclude=outside)
        kept["columns"]["interactions"].pop("rating")
        if self.files.photos is None:
            kept["files"].pop("photos")
        if self.reader is None:
            kept.pop("reader")
        for entry in (*(file for file in kept["files"].values() if file), *filter(None, [kept["images"]])):
            for key in ("urls", "sha256", "size", "about"):
                entry.pop(key, None)
        return kept
