"""A model's recipe: the TOML file beside it, strictly read. Knows no model and imports no torch."""

import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    ValidationError,
    field_validator,
    model_validator,
)

from mmbench.errors import UsageError
from mmbench.explain import read_toml
from mmbench.faults import explained

NAME_PATTERN = r"^[a-z0-9][a-z0-9-]*$"
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
    """A setting: its value and the paper, table, code or decision that it comes from."""

    value: Any
    source: str = Field(min_length=3)

    @model_validator(mode="before")
    @classmethod
    def _is_table(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            raise ValueError(f"must be {{ value = {content!r}, source = ... }}")
        return content


Number = StrictInt | StrictFloat


class Searched(_Strict):
    """What a search tries for a setting: a list of values, or a range.

    values  distinct, in the order in which a grid takes them
    low, high, log, step  a range with both ends; `step` makes it low, low + step, ..., high; `log` draws evenly in
    the logarithm
    source  the paper, code or decision that the list or the range comes from
    """

    values: tuple[Any, ...] | None = None
    low: Number | None = None
    high: Number | None = None
    log: bool = False
    step: Number | None = None
    source: str = Field(min_length=3)

    @model_validator(mode="before")
    @classmethod
    def _is_table(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            raise ValueError("must be { values = [...], source = ... } or { low = , high = , source = ... }")
        return content

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        ranged = {"low", "high", "log", "step"} & self.model_fields_set
        if (self.values is None) != bool(ranged):
            raise ValueError("needs either values, or low and high (with log or step)")
        if self.values is None:
            self._check_range()
        elif not self.values:
            raise ValueError("values is empty")
        elif twice := [value for i, value in enumerate(self.values) if value in self.values[:i]]:
            raise ValueError(f"values has {twice[0]!r} twice")
        return self

    def _check_range(self) -> None:
        """Raise ValueError for a range without points, or with a step that misses its end."""
        if self.low is None or self.high is None:
            raise ValueError("a range needs low and high")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low must be less than high, both finite (got {self.low} and {self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs low > 0 (got {self.low})")
        if self.step is None:
            return
        if self.log:
            raise ValueError("a range has log or step, not both")
        if not (math.isfinite(self.step) and self.step > 0):
            raise ValueError(f"step must be finite and greater than 0 (got {self.step})")
        steps = (self.high - self.low) / self.step
        if not math.isclose(steps, round(steps), rel_tol=1e-9, abs_tol=1e-9):
            raise ValueError(f"steps of {self.step} from {self.low} miss {self.high}")

    @property
    def points(self) -> tuple[Any, ...] | None:
        """All values of a list or of a range with steps; None for a range of real numbers."""
        if self.values is not None or self.low is None or self.high is None or self.step is None:
            return self.values
        # Rounded to twelve digits, so that .1 + .2 is .3.
        n_steps = round((self.high - self.low) / self.step)
        grid = (self.low + i * self.step for i in range(n_steps + 1))
        return tuple(float(f"{point:.12g}") if isinstance(point, float) else point for point in grid)

    def including(self, value: Any) -> Self:
        """Return the search with a recipe's own value among what it tries.

        A value that is missing comes last in a list, and widens a range; a range with steps that it misses becomes
        a list. ValueError for a value that no range with `log` can hold.
        """
        points = self.points
        if points is not None:
            known = any(_is_same(value, point) for point in points)
            return self if known else self._replace(values=(*points, value))
        low, high = min(self.low, value), max(self.high, value)
        if self.log and low <= 0:
            raise ValueError(f"a range with log cannot hold the recipe's own value {value}")
        is_inside = (low, high) == (self.low, self.high)
        return self if is_inside else self._replace(low=low, high=high, log=self.log)

    def _replace(self, **changed: Any) -> Self:
        return type(self)(**changed, source=self.source)

    def __str__(self) -> str:
        if self.values is not None:
            return ", ".join(map(str, self.values))
        extra = ", log" if self.log else f", step {self.step}" if self.step is not None else ""
        return f"{self.low} to {self.high}{extra}"


def _is_same(value: Any, point: Any) -> bool:
    """Return whether a search's point is a value, whose lists may have become tuples."""
    return (list(value) if isinstance(value, tuple) else value) == point


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
    """A point where paper, released code and this implementation differ."""

    point: str
    paper: str = ""  # what the paper says; this or `code` must be set
    code: str = ""  # what released code does: the authors', or other code that is named
    here: str
    switch: str = ""  # the setting that reproduces the other behaviour, where it exists

    @model_validator(mode="after")
    def _has_another_side(self) -> Self:
        if not (self.paper or self.code):
            raise ValueError(f"{self.point!r} needs what the paper says, or what the code does")
        return self


class Recipe(_Strict):
    """Contents of `<name>.toml`."""

    name: str = Field(pattern=NAME_PATTERN)
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
    search: dict[str, Searched] = {}  # the paper's grid, or this benchmark's where none is known
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
    """Read and check a recipe; UsageError names the file and the key of the first fault."""
    content = read_toml(file)
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{file}: {explained(error, content, Recipe)}") from None
    if recipe.name.replace("-", "_") != file.stem:
        raise UsageError(
            f"{file}: name is {recipe.name!r}, so the file must be {recipe.name.replace('-', '_')}.toml"
        )
    return recipe
