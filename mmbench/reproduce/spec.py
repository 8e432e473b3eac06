"""Experiments as data: mmbench/papers/experiments/*.toml, strictly read, and the printed numbers of
mmbench/papers/printed.csv.

A user's own folders, each with such files and a printed.csv, are named by `MMBENCH_PAPERS`.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from mmbench.errors import UsageError, suggest
from mmbench.evaluation.metrics import parse_metric
from mmbench.explain import read_toml, reading
from mmbench.faults import explained
from mmbench.paths import PACKAGE, PAPER_CLAIMS, PAPER_SCORES, paper_dirs

PRINTED_FIELDS = ("paper", "table", "dataset", "method", "metric", "value")
Statistic = Literal["users", "items", "interactions", "actions_per_user", "actions_per_item", "sparsity"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(_Strict):
    """A row of a table: a model of mmbench, and what the paper calls it."""

    model: str  # registry name with its variant
    label: str
    printed_as: str = ""  # its method in printed.csv, where that is not the model's name
    settings: dict[str, Any] = {}  # of this row; a user's --set is stronger
    fixed: dict[str, Any] = {}  # what a sweep varies: stronger than --set
    panel: str = ""  # the sweep that the row is a point of

    @property
    def method(self) -> str:
        return self.printed_as or self.model


class Sweep(_Strict):
    setting: str
    label: str  # the paper's symbol
    values: tuple[Any, ...] = Field(min_length=2)

    def name(self, value: Any) -> str:
        return f"{self.label} = {value}"


class Shared(_Strict):
    """Settings that the paper gives all methods but its own; models that have no such setting ignore it."""

    settings: dict[str, Any]
    source: str


class PrintedLine(_Strict):
    """A line under the rows as the paper prints it, a text per column."""

    label: str
    printed: tuple[str, ...]


class _Experiment(_Strict):
    title: str
    source: str
    datasets: tuple[str, ...] = Field(min_length=1)
    notes: tuple[str, ...] = ()


class Scores(_Experiment):
    """Models or sweep points x data sets x metrics."""

    kind: Literal["table", "bars", "lines", "cases", "projection"]
    metrics: tuple[str, ...] = Field(min_length=1)
    rows: tuple[Row, ...] = ()
    sweep_model: str = ""
    sweeps: tuple[Sweep, ...] = ()
    compare: str = ""  # the row that "Improved" and p are about
    seeds: int = Field(default=1, gt=0)  # runs per row in the paper
    shared: Shared | None = None
    improved: PrintedLine | None = None
    p: PrintedLine | None = None
    printed_from: str = ""  # the table whose printed values stand beside a figure

    @model_validator(mode="after")
    def _consistent(self) -> "Scores":
        try:
            for metric in self.metrics:
                parse_metric(metric)
        except UsageError as error:
            raise ValueError(f"metrics: {error}") from None
        if bool(self.sweeps) != bool(self.sweep_model) or bool(self.sweeps) == bool(self.rows):
            raise ValueError("an experiment has either rows, or sweeps with their sweep_model")
        if self.kind == "cases" and (len(self.rows) != 2 or len(self.datasets) != 1):
            raise ValueError("a case study has two rows and a single data set")
        if self.kind == "projection" and len(self.rows) != 1:
            raise ValueError("a projection has a single row, whose vectors it shows")
        if self.compare and self.compare not in [row.model for row in self.rows]:
            raise ValueError(f"compare = {self.compare!r} is not a model of the rows")
        for line in (self.improved, self.p):
            if line and len(line.printed) != len(self.datasets) * len(self.metrics):
                raise ValueError(f"{line.label}: {len(line.printed)} printed values for the columns")
        if len({row.label for row in self.all_rows}) < len(self.all_rows):
            raise ValueError("two rows have the same label")
        return self

    @property
    def all_rows(self) -> tuple[Row, ...]:
        """Return the rows, or a row per point of each sweep."""
        points = tuple(
            Row(
                model=self.sweep_model,
                label=sweep.name(value),
                fixed={sweep.setting: value},
                panel=sweep.label,
            )
            for sweep in self.sweeps
            for value in sweep.values
        )
        return self.rows or points

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.model for row in self.all_rows))


class StatisticColumn(_Strict):
    name: Statistic
    label: str


class Statistics(_Experiment):
    """Counts of prepared data sets beside the printed counts."""

    kind: Literal["statistics"]
    rows_are: Literal["datasets", "statistics"]
    statistics: tuple[StatisticColumn, ...] = Field(min_length=1)
    printed: dict[str, dict[str, int | float]]

    @model_validator(mode="after")
    def _named(self) -> "Statistics":
        unknown = {name for table in self.printed.values() for name in table} - set(get_args(Statistic))
        if unknown:
            raise ValueError(f"printed: {sorted(unknown)} are not statistics")
        return self


class OverTime(_Experiment):
    kind: Literal["over-time"]


class Intervals(_Experiment):
    kind: Literal["intervals"]
    long_share: dict[str, float] = {}  # printed share of intervals above 100 days
    pair: tuple[str, str] | None = None  # raw ids of the printed pair of items
    pair_days: tuple[float, float] | None = None  # printed range of its intervals


Content = Annotated[Scores | Statistics | OverTime | Intervals, Field(discriminator="kind")]


class Paper(_Strict):
    """Contents of `<paper>.toml`."""

    display: str
    reference: str
    datasets: dict[str, str]  # our name -> the paper's
    experiments: dict[str, Content]

    @model_validator(mode="after")
    def _known_datasets(self) -> "Paper":
        for name, experiment in self.experiments.items():
            unknown = set(experiment.datasets) - set(self.datasets)
            if unknown:
                raise ValueError(f"{name}: data sets {sorted(unknown)} have no printed name in [datasets]")
        return self


@dataclass(frozen=True)
class Experiment:
    """A named experiment with its paper and what that paper prints."""

    name: str  # "hm4sr/table1"
    paper: Paper
    content: Content
    printed: Mapping[tuple[str, str, str], float]  # (data set, model, metric) -> value; {} for most figures

    @property
    def file_name(self) -> str:
        """Return the name as part of a file's: "hm4sr-fig6"."""
        return self.name.replace("/", "-")

    def shown(self, dataset: str) -> str:
        """Return the paper's name of a data set with ours: "Beauty (amazon-beauty)"."""
        known = self.paper.datasets.get(dataset.split("@")[0])
        return f"{known} ({dataset})" if known else dataset


def paper_files() -> list[tuple[Path, Path]]:
    """Return (paper, its printed numbers): those of mmbench, then those in the folders of MMBENCH_PAPERS."""
    shipped = PACKAGE / "papers"
    sources = [
        (shipped / "experiments", shipped / PAPER_SCORES),
        *((folder, folder / PAPER_SCORES) for folder in paper_dirs()),
    ]
    return [
        (file, printed)
        for folder, printed in sources
        for file in sorted(folder.glob("*.toml"))
        if file.name != PAPER_CLAIMS
    ]


def read_paper(file: Path) -> Paper:
    """Read and check a paper's file; UsageError names the file and the key of the first fault."""
    content = read_toml(file)
    try:
        return TypeAdapter(Paper).validate_python(content)
    except ValidationError as error:
        raise UsageError(f"{file}: {explained(error, content, Paper)}") from None


def read_printed(file: Path) -> dict[tuple[str, str], dict[tuple[str, str, str], float]]:
    """Return (paper, table) -> (data set, method, metric) -> printed value."""
    tables: dict[tuple[str, str], dict[tuple[str, str, str], float]] = {}
    with reading(file), file.open(encoding="utf-8-sig", newline="") as opened:
        reader = csv.DictReader(opened)
        if tuple(reader.fieldnames or ()) != PRINTED_FIELDS:
            raise ValueError(f"its columns are not {', '.join(PRINTED_FIELDS)}")
        for line in reader:
            if None in line.values():
                raise ValueError(f"line {reader.line_num} has too few columns")
            table = tables.setdefault((line["paper"], line["table"]), {})
            with reading(file, advice=f"correct line {reader.line_num}"):
                table[line["dataset"], line["method"], line["metric"]] = float(line["value"])
    return tables


@cache
def _read_all(files: tuple[tuple[Path, Path], ...]) -> dict[str, Experiment]:
    tables: dict[str, Experiment] = {}
    for file, beside in files:
        paper = read_paper(file)
        printed = read_printed(beside) if beside.is_file() else {}
        for key, content in paper.experiments.items():
            name = f"{file.stem}/{key}"
            if name in tables:
                raise UsageError(f"{file}: experiment {name} is already defined")
            table = (content.printed_from if isinstance(content, Scores) else "") or key
            tables[name] = Experiment(name, paper, content, printed.get((file.stem, table), {}))
    return tables


def experiments() -> dict[str, Experiment]:
    """Return all experiments by name."""
    return _read_all(tuple(paper_files()))


def find_experiment(name: str) -> Experiment:
    """Return an experiment such as `hm4sr/table1`; UsageError for an unknown name, with the nearest."""
    known = experiments()
    if name not in known:
        raise UsageError(suggest(name, known, what="experiment"))
    return known[name]
