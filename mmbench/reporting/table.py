"""A report before anything is rounded: rows, columns, cells, comparisons and the words under them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmbench.choices import Correction, MaskRule, SplitName, TestName, Ties
from mmbench.evaluation.metrics import Metric
from mmbench.evaluation.significance import Outcome, Verdict

ALPHA = 0.05


@dataclass(frozen=True)
class Column:
    """One metric on one data set."""

    dataset: str
    metric: Metric


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row's runs in one column; `mean` None = nothing was measured, and a footnote says why."""

    seeds: tuple[int, ...] = ()
    values: tuple[float, ...] = ()  # one per seed, in the order of `seeds`
    mean: float | None = None
    std: float | None = None  # of n - 1; None for one run
    place: int = 0  # 1 = best of the column, 2 = second, on unrounded means; ties share a place
    star: bool = False  # better than the strongest other row, adjusted p < ALPHA
    footnotes: tuple[int, ...] = ()  # positions in Table.footnotes

    @property
    def n(self) -> int:
        return len(self.values)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model in one configuration; `cells` are in the order of the table's columns."""

    model: str
    name: str  # display name, with the variant
    config: str = ""  # settings that tell it from the model's other rows: "dropout=0.2"
    floor: bool = False
    leaky: bool = False
    deterministic: bool = False
    cells: tuple[Cell, ...]

    @property
    def label(self) -> str:
        """Name, differing settings and marks; unique in a table."""
        return self.name + (f" [{self.config}]" if self.config else "") + (" †" if self.leaky else "")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The compared row against one other row in one column; positions are those of the table."""

    column: int
    compared: int
    rival: int
    unpaired_runs: bool = False  # runs that have no partner of equal seed are in the means, not in the test
    strongest: bool  # the rival is the best of the others in this column: the one a table prints
    outcome: Outcome
    beside: Outcome | None = None  # the exact sign-flip test printed beside the t test
    adjusted: float | None = None  # p after the correction over the table's family
    difference: float  # of the unrounded means of all runs
    interval: tuple[float, float] | None = None  # 95 % t interval of the difference, over the test's unit
    percent: float | None = None  # 100 difference / rival; None when the rival is 0
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
    """What a data set's columns have in common."""

    name: str
    synthetic: bool
    n_users: int  # evaluated
    n_items: int  # ranked candidates
    protocol: Mapping[str, Any]
    data_hash: str
    mask_seen: MaskRule = "none"  # of the numbers


@dataclass(frozen=True, kw_only=True)
class Table:
    """Everything that a renderer prints. Nothing in it is rounded."""

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
    family: int = 0  # tests that the correction covers
    caption: tuple[tuple[str, str], ...] = ()  # (keyword, sentence)
    warnings: tuple[str, ...] = field(default=())
    left_out: tuple[str, ...] = ()  # a line about each run that could not be read or was given twice

    @property
    def unit(self) -> str:
        return "user" if self.test == "users" else "run"

    def headlines(self) -> list[Comparison | None]:
        """Per column the comparison with the strongest other row; None where nothing can be compared."""
        found: list[Comparison | None] = [None] * len(self.columns)
        for one in self.comparisons:
            if one.strongest:
                found[one.column] = one
        return found
