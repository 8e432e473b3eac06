"""The compared row against every other row: which test, on which pairs, corrected over which family."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmbench.choices import Correction, TestName
from mmbench.evaluation import corrections, significance
from mmbench.evaluation.metrics import Metric
from mmbench.evaluation.significance import NoVerdict, Outcome, Verdict
from mmbench.reporting.gather import Measured
from mmbench.reporting.table import Comparison


@dataclass(frozen=True, kw_only=True)
class ColumnRows:
    """The rows of a column that are compared: their measured runs, and where the column's metric is in them."""

    index: int
    metric: Metric
    metric_index: int  # index into the metrics axis of Measured
    rows: dict[int, Measured]  # row index -> its runs; only rows that may be compared
    compared: int


def compare_all(columns: Sequence[ColumnRows], *, test: TestName, correction: Correction) -> list[Comparison]:
    """Return all comparisons of the declared family; their p values are corrected over the family."""
    comparisons = [comparison for column in columns for comparison in _compare_column(column, test)]
    with_p = [index for index, comparison in enumerate(comparisons) if comparison.p is not None]
    p = [comparison.outcome.p for comparison in comparisons if isinstance(comparison.outcome, Verdict)]
    if correction == "none" or not p:
        return comparisons
    adjusted = corrections.holm(p) if correction == "holm" else corrections.benjamini_hochberg(p)
    for index, value in zip(with_p, adjusted, strict=True):
        comparisons[index] = replace(comparisons[index], adjusted=float(value))
    return comparisons


def _compare_column(column: ColumnRows, test: TestName) -> list[Comparison]:
    rivals = [row for row in column.rows if row != column.compared]
    if not rivals:
        return []
    ours = column.rows[column.compared]
    means = {row: float(column.rows[row].values[:, column.metric_index].mean()) for row in column.rows}
    strongest = max(rivals, key=lambda row: means[row])
    over_users = _over_users(column, rivals) if test == "users" else {}
    comparisons = []
    for row in rivals:
        theirs = column.rows[row]
        if test == "users":
            outcome, beside = over_users[row], None
            x, y = _with_values(
                np.stack([measured.per_user[column.metric_index] for measured in (ours, theirs)])
            )
        else:
            outcome, beside, x, y = _over_runs(ours, theirs, column.metric_index, test)
        difference = means[column.compared] - means[row]
        comparisons.append(
            Comparison(
                column=column.index,
                compared=column.compared,
                rival=row,
                strongest=row == strongest,
                outcome=outcome,
                beside=beside,
                unpaired_runs=_unpaired(ours, theirs),
                difference=difference,
                percent=100 * difference / means[row] if means[row] else None,
                **_effect_sizes(x, y, outcome, test),
            )
        )
    return comparisons


def _over_runs(
    a: Measured, b: Measured, metric_index: int, test: TestName
) -> tuple[Outcome, Outcome | None, np.ndarray, np.ndarray]:
    """Return (outcome, outcome printed beside it, paired values of a, of b); runs of equal seed are pairs."""
    x, y = a.values[:, metric_index], b.values[:, metric_index]
    if a.deterministic and b.deterministic:
        return (
            _no_verdict(a, b, metric_index, "constants", "both rows are deterministic: no seed varies them"),
            None,
            x,
            y,
        )
    if b.deterministic:
        y = np.repeat(y, len(x))
    elif a.deterministic:
        x = np.repeat(x, len(y))
    else:
        common = sorted(set(a.seeds) & set(b.seeds))
        if len(common) < 2 and min(len(x), len(y)) > 1:
            if test == "t":
                return significance.welch_t(x, y), None, x, y
            return (
                _no_verdict(a, b, metric_index, "unpaired", "the rows share fewer than 2 seeds"),
                None,
                x,
                y,
            )
        x = x[[a.seeds.index(seed) for seed in common]] if common else x[:1]
        y = y[[b.seeds.index(seed) for seed in common]] if common else y[:1]
    if test == "wilcoxon":
        return significance.wilcoxon(x, y), None, x, y
    flipped = significance.sign_flip(x, y)
    if test == "sign-flip":
        return flipped, None, x, y
    if b.deterministic:
        return significance.one_sample_t(x, float(y[0])), flipped, x, y
    if a.deterministic:  # both are negated, so that the difference stays a minus b
        return significance.one_sample_t(-y, -float(x[0])), flipped, x, y
    return significance.paired_t(x, y), flipped, x, y


def _unpaired(a: Measured, b: Measured) -> bool:
    common = set(a.seeds) & set(b.seeds)
    return not (a.deterministic or b.deterministic) and 1 < len(common) < len(set(a.seeds) | set(b.seeds))


def _no_verdict(a: Measured, b: Measured, metric_index: int, words: str, reason: str) -> NoVerdict:
    difference = float(a.values[:, metric_index].mean() - b.values[:, metric_index].mean())
    return NoVerdict(
        test="none",
        n=min(len(a.seeds), len(b.seeds)),
        difference=difference,
        direction=significance.direction_of(difference),
        words=words,
        reason=reason,
    )


def _over_users(column: ColumnRows, rivals: Sequence[int]) -> dict[int, Outcome]:
    """Test over users by randomisation, or by McNemar if the metric is a hit and both rows have a 0 or 1 per user.

    Hits averaged over several runs are no longer 0 or 1, and a sign test on them could point away from the
    mean, so they get the randomisation test as well.
    """
    ours, *others = _with_values(
        np.stack([column.rows[row].per_user[column.metric_index] for row in (column.compared, *rivals)])
    )
    if not len(ours):
        reason = f"no user has a value of {column.metric} in every row"
        empty = NoVerdict(test="none", n=0, difference=0.0, direction="equal", words="no user", reason=reason)
        return dict.fromkeys(rivals, empty)
    theirs = dict(zip(rivals, others, strict=True))
    outcomes: dict[int, Outcome] = {}
    if column.metric.name in ("HR", "Recall") and significance.is_binary(ours):
        outcomes = {
            row: significance.mcnemar(ours, hits)
            for row, hits in theirs.items()
            if significance.is_binary(hits)
        }
    rest = [row for row in rivals if row not in outcomes]
    if rest:
        differences = np.stack([ours - theirs[row] for row in rest], axis=1)
        outcomes.update(zip(rest, significance.randomisation(differences), strict=True))
    return outcomes


def _with_values(rows: np.ndarray) -> np.ndarray:
    """Return values [R, U] of rows without the users for whom some row has none."""
    return rows[:, ~np.isnan(rows).any(0)]


def _effect_sizes(x: np.ndarray, y: np.ndarray, outcome: Outcome, test: TestName) -> dict:
    """Return interval, relative interval and effect size of paired values; Welch's test has its own interval."""
    users_only = {"won": outcome.won, "lost": outcome.lost} if isinstance(outcome, Verdict) else {}
    if isinstance(outcome, NoVerdict) or outcome.test == "Welch t":
        interval = outcome.interval if isinstance(outcome, Verdict) else None
        return {"interval": interval}
    ratio, d = significance.ratio_interval(x, y), significance.differences(x, y)
    return {
        "interval": significance.t_interval(d),
        "percent_interval": None if ratio is None else (100 * (ratio[0] - 1), 100 * (ratio[1] - 1)),
        "effect": significance.rank_biserial(d) if test == "wilcoxon" else significance.effect_dz(d),
        "effect_name": "r_rb" if test == "wilcoxon" else "d_z",
        **(users_only if test == "users" else {}),
    }
