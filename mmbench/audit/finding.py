"""The results of an audit: findings with their arithmetic, and counts of hits behind printed hit rates."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from mmbench.audit.number import Printed, Reading

Weight = Literal["impossible", "contradiction", "remark"]
WEIGHTS: tuple[Weight, ...] = get_args(Weight)
MEANINGS: dict[Weight, str] = {
    "impossible": "no users give these numbers together",
    "contradiction": "printed numbers that do not follow from, or disagree with, other printed numbers",
    "remark": "possible, but worth knowing",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something impossible or worth knowing; `arithmetic` is a line that readers can check by hand."""

    check: str  # "band", "improved", "range", "mark", "statistic", "runs", "count", "repeat", "twins"
    weight: Weight
    dataset: str
    method: str = ""
    numbers: tuple[str, ...] = ()  # "NDCG@10 .0411"
    rule: str
    arithmetic: str
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Count:
    """The whole number of hits behind a hit rate over `users` users; `hits` is None if there is none."""

    method: str
    rate: Printed
    users: int
    hits: int | None
    reading: Reading | None

    def __str__(self) -> str:
        if self.hits is None:
            return "none"
        return f"{self.hits:,}{' (cut)' if self.reading == 'cut' else ''}"


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How many values of a column are k/users, and how often chance gives as many.

    `chance` and `tail` are for random decimals, `mean_chance` and `mean_tail` for means over `runs` runs.
    """

    readings: tuple[Reading, ...]
    fitting: int
    total: int
    chance: float
    tail: float
    mean_chance: float
    mean_tail: float


@dataclass(frozen=True, kw_only=True)
class HitColumn:
    """The hit rates of a data set as counts of users."""

    dataset: str
    metric: str
    users: int
    runs: int
    counts: tuple[Count, ...]
    strict: Agreement
    wide: Agreement
    single: bool

    @property
    def says_nothing(self) -> bool:
        """Whether every decimal is k/users, so that the check cannot fail."""
        return self.strict.chance == 1.0


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Everything that the checks found in a table."""

    paper: str
    table: str
    title: str
    source: str
    n_numbers: int
    findings: tuple[Finding, ...]
    columns: tuple[HitColumn, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        return f"{self.paper}/{self.table}"

    def of(self, weight: Weight) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.weight == weight)
