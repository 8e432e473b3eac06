"""The compared row against every other row: which test, on which pairs, corrected over which family."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmbench.choices import Correction, TestName
from mmbench.evaluation import significance
from mmbench.evaluation.metrics import Metric
from mmbench.evaluation.significance import NoVerdict, Outcome, Verdict
from mmbench.reporting.gather import Measured
from mmbench.reporting.table import Comparison


@dataclass(frozen=True, kw_only=True)
class Place:
    """What one column offers to compare: the data set's measured rows and the metric's position in them."""

    column: int
    metric: Metric
    at: int  # position of the metric in Measured.values
    rows: dict[int, Measured]  # row position -> its runs; rows that may be compared only
    compared: int


def compare_all(places: Sequence[Place], *, test: TestName, correction: Correction) -> list[Comparison]:
    """Every comparison of the declared family, the p of those that have one corrected over all of them."""
    found = [one for place in places for one in _compare_place(place, test)]
    with_p = [at for at, one in enumerate(found) if one.p is not None]
    p = [one.outcome.p for one in found if isinstance(one.outcome, Verdict)]
    if correction == "none" or not p:
        return found
    adjusted = significance.holm(p) if correction == "holm" else significance.benjamini_hochberg(p)
    for at, value in zip(with_p, adjusted, strict=True):
        found[at] = replace(found[at], adjusted=float(value))
    return found


def _compare_place(place: Place, test: TestName) -> list[Comparison]:
    rivals = [row for row in place.rows if row != place.compared]
    if not rivals:
        return []
    ours = place.rows[place.compared]
    means = {row: float(place.rows[row].values[:, place.at].mean()) for row in place.rows}
    strongest = max(rivals, key=lambda row: means[row])
    over_users = _over_users(place, rivals) if test == "users" else {}
    found = []
    for row in rivals:
        theirs = place.rows[row]
        if test == "users":
            outcome, beside, x, y = over_users[row], None, ours.per_user[place.at], theirs.per_user[place.at]
        else:
            outcome, beside, x, y = _over_runs(ours, theirs, place.at, test)
        difference = means[place.compared] - means[row]
        found.append(
            Comparison(
                column=place.column,
                compared=place.compared,
                rival=row,
                strongest=row == strongest,
                outcome=outcome,
                beside=beside,
                unpaired_runs=_unpaired(ours, theirs),
                difference=difference,
                percent=100 * difference / means[row] if means[row] else None,
                **_sizes(x, y, outcome, test),
            )
        )
    return found


def _over_runs(
    a: Measured, b: Measured, at: int, test: TestName
) -> tuple[Outcome, Outcome | None, np.ndarray, np.ndarray]:
    """(outcome, outcome printed beside it, paired values of a, of b): pairs are runs of equal seed."""
    x, y = a.values[:, at], b.values[:, at]
    if a.deterministic and b.deterministic:
        return _none(a, b, at, "constants", "both rows are deterministic: no seed varies them"), None, x, y
    if b.deterministic:
        y = np.repeat(y, len(x))
    elif a.deterministic:
        x = np.repeat(x, len(y))
    else:
        common = sorted(set(a.seeds) & set(b.seeds))
        if len(common) < 2 and min(len(x), len(y)) > 1:
            if test == "t":
                return significance.welch_t(x, y), None, x, y
            return _none(a, b, at, "unpaired", "the rows share fewer than 2 seeds"), None, x, y
        x = x[[a.seeds.index(seed) for seed in common]] if common else x[:1]
        y = y[[b.seeds.index(seed) for seed in common]] if common else y[:1]
    if test == "wilcoxon":
        return significance.wilcoxon(x, y), None, x, y
    flipped = significance.sign_flip(x, y)
    if test == "sign-flip":
        return flipped, None, x, y
    if b.deterministic:
        return significance.one_sample_t(x, float(y[0])), flipped, x, y
    if a.deterministic:  # mirrored, so that the difference stays a minus b
        return significance.one_sample_t(-y, -float(x[0])), flipped, x, y
    return significance.paired_t(x, y), flipped, x, y


def _unpaired(a: Measured, b: Measured) -> bool:
    common = set(a.seeds) & set(b.seeds)
    return not (a.deterministic or b.deterministic) and 1 < len(common) < len(set(a.seeds) | set(b.seeds))


def _none(a: Measured, b: Measured, at: int, words: str, reason: str) -> NoVerdict:
    difference = float(a.values[:, at].mean() - b.values[:, at].mean())
    return NoVerdict(
        test="none",
        n=min(len(a.seeds), len(b.seeds)),
        difference=difference,
        direction=significance.direction_of(difference),
        words=words,
        reason=reason,
    )


def _over_users(place: Place, rivals: Sequence[int]) -> dict[int, Outcome]:
    """Per-user randomisation; McNemar where the metric is a hit and both rows have a 0 or 1 per user.

    Hits averaged over several runs are no longer 0 or 1, and a sign test on them could point away from the
    mean, so they take the randomisation test as well.
    """
    ours = place.rows[place.compared].per_user[place.at]
    theirs = {row: place.rows[row].per_user[place.at] for row in rivals}
    found: dict[int, Outcome] = {}
    if place.metric.name in ("HR", "Recall") and significance.is_binary(ours):
        found = {
            row: significance.mcnemar(ours, one) for row, one in theirs.items() if significance.is_binary(one)
        }
    rest = [row for row in rivals if row not in found]
    if rest:
        differences = np.stack([ours - theirs[row] for row in rest], axis=1)
        found.update(zip(rest, significance.randomisation(differences), strict=True))
    return found


def _sizes(x: np.ndarray, y: np.ndarray, outcome: Outcome, test: TestName) -> dict:
    """Interval, relative interval and effect size of paired values; Welch's test brings its own interval."""
    users_only = {"won": outcome.won, "lost": outcome.lost} if isinstance(outcome, Verdict) else {}
    if isinstance(outcome, NoVerdict) or outcome.test == "Welch t":
        interval = outcome.interval if isinstance(outcome, Verdict) else None
        return {"interval": interval}
    ratio = significance.ratio_interval(x, y)
    return {
        "interval": significance.t_interval(x - y),
        "percent_interval": None if ratio is None else (100 * (ratio[0] - 1), 100 * (ratio[1] - 1)),
        "effect": significance.rank_biserial(x - y) if test == "wilcoxon" else significance.effect_dz(x - y),
        "effect_name": "r_rb" if test == "wilcoxon" else "d_z",
        **(users_only if test == "users" else {}),
    }
