"""What a table shows: the command line, `reproduce` and Python build the same request."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from mmbench.choices import Correction, MaskRule, Rows, SplitName, TestName, Ties
from mmbench.errors import UsageError, suggest
from mmbench.evaluation.metrics import DEFAULT_METRICS, Metric

_VOCABULARIES = (
    ("split", SplitName), ("ties", Ties), ("mask_seen", MaskRule), ("test", TestName), ("correction", Correction),
    ("rows", Rows),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TableRequest:
    """A request for a table.

    mask_seen   the mask rule of the numbers; None = the rule under which each run was selected
    compare     the row (label or model) that is tested against all others; None = the best row of each column
    datasets, models  the order; by default, data sets by name and the strongest model first
    unequal_budgets   give stars also where the rows were tuned with different budgets
    sort        the metric that orders the rows, best first, or "name"; by default the first column
    top         print so many rows besides the floors; 0 = all
    data_dir    where the prepared data lie, for metrics that read them; None = the folder of the environment
    rows        all rows, or those with the recipe's settings, with tuned settings, or both side by side
    """

    metrics: tuple[Metric, ...] = DEFAULT_METRICS
    split: SplitName = "test"
    ties: Ties = "expected"
    mask_seen: MaskRule | None = None
    test: TestName = "t"
    correction: Correction = "holm"
    compare: str | None = None
    datasets: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    unequal_budgets: bool = False
    sort: str = ""
    top: int = 0
    rows: Rows = "all"
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", tuple(dict.fromkeys(self.metrics)))
        for name, words in _VOCABULARIES:
            value = getattr(self, name)
            if value is not None and value not in get_args(words):
                option = name.replace("_", "-")
                raise UsageError(f"--{option}: {suggest(str(value), get_args(words), what=option)}")

    def check_test(self) -> None:
        """Raise UsageError for a metric that the test cannot compare."""
        if self.test == "users":
            for metric in self.metrics:
                if metric.per == "catalogue":
                    raise UsageError(
                        f"--test users: {metric} has a value for the catalogue and none per user; "
                        "leave it out or use --test t"
                    )
