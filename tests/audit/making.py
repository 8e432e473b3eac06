"""Rows made from rank lists, as a paper would print them."""

import math
from collections.abc import Sequence

import numpy as np

from mmbench.audit.number import Printed
from mmbench.audit.sources import Row
from mmbench.evaluation.metrics import Metric, parse_metric


class Ranks:
    """One user per rank, no ties."""

    def __init__(self, ranks: Sequence[int]) -> None:
        self.greater = np.asarray(ranks, dtype=np.int64) - 1
        self.equal = np.zeros_like(self.greater)
        self.n_candidates, self.limit = 1000, None


def mean(metric: Metric, runs: Sequence[Sequence[int]]) -> float:
    """Mean over runs of the mean over users; each run is a list of 1-based ranks."""
    return float(np.mean([metric.values(Ranks(ranks)).mean() for ranks in runs]))


def printed(value: float, digits: int, *, cut: bool = False) -> Printed:
    if cut:
        value = math.floor(value * 10**digits) / 10**digits
    return Printed.parse(f"{value:.{digits}f}")


def row(scores: dict[str, str], *, method: str = "m", dataset: str = "d", table: str = "t") -> Row:
    """A row from texts: `row({"HR@10": "0.3553"})`."""
    parsed = {parse_metric(name): Printed.parse(text) for name, text in scores.items()}
    return Row(paper="p", table=table, dataset=dataset, method=method, scores=parsed)


def row_of_runs(
    runs: Sequence[Sequence[int]],
    metrics: Sequence[Metric],
    digits: int,
    *,
    cut: bool = False,
    method: str = "m",
) -> Row:
    scores = {metric: printed(mean(metric, runs), digits, cut=cut) for metric in metrics}
    return Row(paper="p", table="t", dataset="d", method=method, scores=scores)
