"""A model's recipe: the TOML file beside it, strictly read. Knows no model and imports no torch."""

import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mmbench.errors import UsageError

Tag = Literal[
    "sequential",  # reads the order of a history
    "general",  # reads a user's items without their order, or a user id
    "multimodal",  # reads texts or pictures
    "side-information",  # reads categories and brands, neither texts nor pictures
    "time-aware",  # reads times
    "graph",  # spreads over a graph of users or items
    "pretrained",  # has a stage of pre-training
    "ensemble",  # combines the scores of several members
    "floor",  # every run computes it beside the models that were asked for
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sourced(_Strict):
    """One setting: its value and the paper, table, code or decision that it comes from."""

    value: Any
    source: str = Field(min_length=3)


class Paper(_Strict):
    title: str
    authors: str
    venue: str
    year: int
    url: str = ""  # DOI or page
    code: str = ""  # official code, with @commit where known


class Variant(_Strict):
    """A name for some changed settings, or for a class of its own that repeats slips of released code."""

    summary: str
    settings: dict[str, Any] = {}
    source: str = ""  # the table, figure or code that it reproduces
    model_class: str = Field(default="", alias="class")

    @model_validator(mode="after")
    def _differs(self) -> Self:
        if not (self.settings or self.model_class):
            raise ValueError("a variant needs settings that differ, or a class of its own")
        if self.model_class and not self.source:
            raise ValueError("a variant with a class of its own needs the source of what the class does")
        return self


class Deviation(_Strict):
    """One point where paper, released code and this implementation differ."""

    point: str
    paper: str = ""  # what the paper says; at least one of these two
    code: str = ""  # what released code does: the authors', or another one that is named
    here: str
    switch: str = ""  # the setting that reproduces the other behaviour, if there is one

    @model_validator(mode="after")
    def _has_another_side(self) -> Self:
        if not (self.paper or self.code):
            raise ValueError(f"{self.point!r} needs what the paper says, or what the code does")
        return self


class Recipe(_Strict):
    """Contents of `<name>.toml`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    display: str
    model_class: str = Field(alias="class")
    summary: str
    tags: tuple[Tag, ...]
    inputs: tuple[str, ...]  # of: user item time text image category
    paper: Paper | None = None  # None: no paper (sanity floors)
    settings: dict[str, Sourced] = {}
    dataset: dict[str, dict[str, Sourced]] = {}
    variants: dict[str, Variant] = {}
    deviations: tuple[Deviation, ...] = ()
    search: dict[str, list[Any]] = {}  # the paper's grid: setting -> values
    reported: dict[str, dict[str, float]] = {}  # data set -> metric -> printed value
    reported_source: str = ""

    @field_validator("inputs")
    @classmethod
    def _known_inputs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = set(value) - {"user", "item", "time", "text", "image", "category"}
        if unknown:
            raise ValueError(f"unknown inputs {sorted(unknown)}")
        return value


def read_recipe(file: Path) -> Recipe:
    """Read and check a recipe; every fault is one line with the file and the key."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        recipe = Recipe.model_validate(content)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{file}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{file}: {'.'.join(str(p) for p in first['loc'])}: {first['msg']}") from None
    if recipe.name.replace("-", "_") != file.stem:
        raise UsageError(
            f"{file}: name is {recipe.name!r}, so the file must be {recipe.name.replace('-', '_')}.toml"
        )
    return recipe
