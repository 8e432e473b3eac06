"""The papers' printed numbers, read strictly: `papers/printed.csv` (scores) and `papers/claims.toml` (the rest).

Folders of `MMBENCH_PAPERS` hold files of the same kind, of which claims.toml may be missing.
"""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from mmbench.audit.number import Printed
from mmbench.errors import DataError, UsageError, suggest
from mmbench.evaluation.metrics import Metric, parse_metric
from mmbench.explain import read_toml
from mmbench.faults import first_fault, unknown_key
from mmbench.paths import PACKAGE, PAPER_CLAIMS, PAPER_SCORES, paper_dirs

SCORES, CLAIMS = PACKAGE / "papers" / PAPER_SCORES, PACKAGE / "papers" / PAPER_CLAIMS
FIELDS = ("paper", "table", "dataset", "method", "metric", "value")


def _printed(text: Any) -> Printed:
    if not isinstance(text, str):
        raise ValueError(f'must be in quotes, because its digits count: "{text}"')
    return Printed.parse(text)


def _metric(text: Any) -> Metric:
    try:
        return _metric_of_ranks(str(text))
    except UsageError as error:
        raise ValueError(str(error)) from None


def _metric_of_ranks(text: str) -> Metric:
    """Return a metric for which printed numbers can be checked; UsageError for a metric of lists."""
    metric = parse_metric(text)
    metric.check_of_ranks("audit")
    return metric


PrintedText = Annotated[Printed, BeforeValidator(_printed)]
MetricText = Annotated[Metric, BeforeValidator(_metric)]


@dataclass(frozen=True, kw_only=True)
class Row:
    """The scores of a method on a data set in a table."""

    paper: str
    table: str
    dataset: str
    method: str
    scores: Mapping[Metric, Printed]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Statistics(_Strict):
    """Printed statistics of a data set; sparsity in percent."""

    users: PrintedText
    items: PrintedText
    interactions: PrintedText
    per_user: PrintedText | None = None
    per_item: PrintedText | None = None
    sparsity: PrintedText | None = None


class Improved(_Strict):
    """The row of improvements of `ours` over the best other method, in percent."""

    ours: str
    percent: dict[str, dict[MetricText, PrintedText]]


class Range(_Strict):
    """A claim about the smallest and largest improvement of `ours` over the best of `against` (empty: all others)."""

    source: str
    ours: str
    against: tuple[str, ...] = ()
    low: PrintedText | None = None
    high: PrintedText | None = None


class TableClaims(_Strict):
    source: str = ""
    runs: int = 1
    underlined: tuple[tuple[str, str, MetricText], ...] = ()
    improved: Improved | None = None
    ranges: tuple[Range, ...] = ()
    statistics: dict[str, Statistics] = {}
    fewest_per_user: int = 0
    fewest_per_item: int = 0


class Same(_Strict):
    """Two names of the same model."""

    methods: tuple[str, str]
    why: str


class PaperClaims(_Strict):
    """What a paper prints beside its scores.

    one_target  where it says that a user has one target; "" = it is taken for granted
    statistics  names the table that prints the numbers of users; "" = none does, and hits are not counted
    """

    title: str
    one_target: str = ""
    statistics: str = ""
    same: tuple[Same, ...] = ()
    tables: dict[str, TableClaims] = {}


@dataclass(frozen=True, kw_only=True)
class Library:
    """All papers: scores in printed order, claims by paper."""

    rows: tuple[Row, ...]
    claims: Mapping[str, PaperClaims]

    def tables(self) -> list[tuple[str, str]]:
        """Return (paper, table) of everything that can be audited, papers in the claims' order."""
        tables = {(row.paper, row.table) for row in self.rows}
        tables |= {(paper, table) for paper, claims in self.claims.items() for table in claims.tables}
        papers = list(self.claims)
        return sorted(tables, key=lambda pair: (papers.index(pair[0]), pair[1]))

    def find(self, name: str) -> tuple[str, str]:
        """Return (paper, table) for `hm4sr/table1`; UsageError for an unknown name, with the nearest."""
        known = {f"{paper}/{table}": (paper, table) for paper, table in self.tables()}
        if name not in known:
            raise UsageError(suggest(name, known, what="table"))
        return known[name]

    def users(self, paper: str) -> dict[str, int]:
        """Return the number of users of each data set that the paper prints."""
        claims = self.claims[paper]
        if not claims.statistics:
            return {}
        table = claims.tables[claims.statistics]
        return {name: int(statistics.users.value) for name, statistics in table.statistics.items()}


def read_scores(file: Path) -> tuple[Row, ...]:
    """Read the rows of a CSV with the columns of FIELDS, in order; DataError names the line of a fault."""
    with file.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) != FIELDS:
            raise DataError(f"{file}: the columns must be {','.join(FIELDS)}")
        lines = list(reader)
    rows: dict[tuple[str, str, str, str], dict[Metric, Printed]] = {}
    for number, line in enumerate(lines, start=2):
        key = line["paper"], line["table"], line["dataset"], line["method"]
        scores = rows.setdefault(key, {})
        try:
            metric, value = _metric_of_ranks(line["metric"]), Printed.parse(line["value"])
        except (UsageError, ValueError) as error:
            raise DataError(f"{file}, line {number}: {error}") from error
        if metric in scores:
            raise DataError(f"{file}, line {number}: {metric} of {' '.join(key)} appears twice")
        scores[metric] = value
    return tuple(
        Row(paper=paper, table=table, dataset=dataset, method=method, scores=scores)
        for (paper, table, dataset, method), scores in rows.items()
    )


def read_claims(file: Path) -> dict[str, PaperClaims]:
    """Read the claims of each paper; DataError for unknown keys and tables, and for text that is not a number."""
    content = read_toml(file, DataError)
    claims = {paper: _claims_of(file, paper, table) for paper, table in content.items()}
    for paper, printed in claims.items():
        if printed.statistics and printed.statistics not in printed.tables:
            tables = ", ".join(printed.tables) or "it has no tables"
            raise DataError(
                f"{file}: {paper}: statistics = {printed.statistics!r} is none of its tables: {tables}"
            )
    return claims


def _claims_of(file: Path, paper: str, table: Any) -> PaperClaims:
    try:
        return PaperClaims.model_validate(table)
    except ValidationError as error:
        fault = first_fault(error, table)
        if fault.kind == "unknown":
            raise DataError(f"{file}: [{paper}] {unknown_key(fault, PaperClaims)}") from None
        raise DataError(f"{file}: {fault.sentence(inside=paper)}") from None


def library() -> Library:
    """Return the papers that ship with mmbench, and those of the folders of MMBENCH_PAPERS."""
    return _library(tuple(paper_dirs()))


@lru_cache(maxsize=2)
def _library(folders: tuple[Path, ...]) -> Library:
    rows, claims = list(read_scores(SCORES)), read_claims(CLAIMS)
    for row in rows:
        if row.paper not in claims:
            raise DataError(f"{CLAIMS} has no table [{row.paper}], but {SCORES} has scores of it")
    for folder in folders:
        more = _library_of(folder / PAPER_SCORES, folder / PAPER_CLAIMS)
        if twice := claims.keys() & more.claims.keys():
            raise DataError(f"{folder}: another folder has the paper {min(twice)}, too; give it another name")
        rows += more.rows
        claims |= more.claims
    return Library(rows=tuple(rows), claims=claims)


def library_of_file(scores: Path) -> Library:
    """Return the papers whose scores a CSV holds, with the claims.toml beside it where there is one."""
    if not scores.is_file():
        raise UsageError(f"{scores} does not exist; write a CSV with the columns {','.join(FIELDS)}")
    return _library_of(scores, scores.with_name(PAPER_CLAIMS))


def _library_of(scores: Path, claims_file: Path) -> Library:
    rows = read_scores(scores) if scores.is_file() else ()
    claims = read_claims(claims_file) if claims_file.is_file() else {}
    return Library(rows=rows, claims={row.paper: PaperClaims(title=row.paper) for row in rows} | claims)


def of_table(rows: Iterable[Row], paper: str, table: str) -> list[Row]:
    return [row for row in rows if (row.paper, row.table) == (paper, table)]
