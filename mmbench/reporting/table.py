"""A report before rounding: rows, columns, cells, comparisons and the text below them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mmbench.choices import Correction, MaskRule, SplitName, TestName, Ties
from mmbench.evaluation.metrics import Metric
from mmbench.evaluation.significance import Outcome, Verdict
from mmbench.reporting.labels import UNLABELLED, Label

ALPHA = 0.05


@dataclass(frozen=True)
class Column:
    """A metric on a data set."""

    dataset: str
    metric: Metric


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A row's runs in a column; `mean` is None if nothing was measured, and a footnote says why."""

    seeds: tuple[int, ...] = ()
    values: tuple[float, ...] = ()  # in the order of `seeds`
    mean: float | None = None
    std: float | None = None  # sample standard deviation (n - 1); None for a single run
    place: int = 0  # 1 = best of the column, 2 = second, on unrounded means; ties share it
    star: bool = False  # True if better than the strongest other row, adjusted p < ALPHA
    footnotes: tuple[int, ...] = ()  # indices into Table.footnotes

    @property
    def n(self) -> int:
        return len(self.values)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model in a configuration; `cells` are in the order of the table's columns."""

    model: str
    name: str  # display name, including the variant
    settings: Label = UNLABELLED
    floor: bool = False
    leaky: bool = False
    deterministic: bool = False
    cells: tuple[Cell, ...]

    @property
    def config(self) -> str:
        """Return the settings that distinguish it from the model's other rows: "dropout=0.2"."""
        return self.settings.config

    @property
    def label(self) -> str:
        """Return the name, distinguishing settings and marks; unique in a table."""
        return self.settings.of_row(self.name) + (" †" if self.leaky else "")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The compared row against another row in a column; row and column are indices into the table."""

    column: int
    compared: int
    rival: int
    unpaired_runs: bool = (
        False  # True if runs without a partner of equal seed are in the means but not in the test
    )
    strongest: bool  # True if the rival is the best other row of the column; the table prints this comparison
    outcome: Outcome
    beside: Outcome | None = None  # the exact sign-flip test printed beside the t test
    adjusted: float | None = None  # p after the correction over the table's family
    difference: float  # difference of the unrounded means of all runs
    interval: tuple[float, float] | None = None  # 95 % t interval of the difference, over the test's unit
    percent: float | None = None  # 100 difference / rival; None if the rival is 0
    percent_interval: tuple[float, float] | None = None
    effect: float | None = None
    effect_name: str = "d_z"
    won: int | None = None  # users for whom the compared row is higher (tests over users)
    lost: int | None = None

    @property
    def p(self) -> float | None:
        return self.outcome.p if isinstance(self.outcome, Verdict) else None


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What the columns of a data set have in common."""

    name: str
    synthetic: bool
    n_users: int  # counts evaluated users
    n_items: int  # counts ranked candidates
    protocol: Mapping[str, Any]
    data_hash: str
    mask_seen: MaskRule = "none"  # is the rule of the numbers


@dataclass(frozen=True, kw_only=True)
class Table:
    """Everything that a renderer prints, unrounded."""

    split: SplitName
    ties: Ties
    datasets: tuple[DatasetInfo, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]  # floors last
    footnotes: tuple[str, ...] = ()
    test: TestName = "t"
    correction: Correction = "holm"
    compare: str = ""  # label of the compared row; "" = the best of each column
    comparisons: tuple[Comparison, ...] = ()
    family: int = 0  # counts the tests that the correction covers
    caption: tuple[tuple[str, str], ...] = ()  # (keyword, sentence)
    warnings: tuple[str, ...] = field(default=())
    left_out: tuple[str, ...] = ()  # a line about each run that could not be read or was given more than once
    lines: Literal["all", "improved", "none"] = "all"  # which comparisons are printed below the rows
    top: int = 0  # so many rows are printed, and the floors; 0 = all

    @property
    def shown_rows(self) -> tuple[Row, ...]:
        """Return the rows that are printed; tests and marks are about all."""
        models = [row for row in self.rows if not row.floor]
        kept = models[: self.top or None]
        return (*kept, *(row for row in self.rows if row.floor))

    @property
    def unit(self) -> str:
        return "user" if self.test == "users" else "run"

    def headlines(self) -> list[Comparison | None]:
        """Return each column's comparison with the strongest other row, None if nothing can be compared."""
        strongest: list[Comparison | None] = [None] * len(self.columns)
        for comparison in self.comparisons:
            if comparison.strongest:
                strongest[comparison.column] = comparison
        return strongest
