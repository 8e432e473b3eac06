"""What a gain depends on when several families of slices are looked at together: slices overlap, so each cause is
measured with the others held equal, by a regression of the users' gains on all labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np

from mmbench.choices import MaskRule, SplitName
from mmbench.errors import UsageError
from mmbench.evaluation.corrections import holm
from mmbench.evaluation.metrics import Metric
from mmbench.evaluation.regression import Fit, least_squares
from mmbench.evaluation.slices import Labels
from mmbench.reporting.slices import LEAST_USERS, Rows, labels_of, rows_of
from mmbench.runs.store import RunRecord


@dataclass(frozen=True)
class Effect:
    """How much larger the gain is for a label than for its family's reference, the other families equal.

    difference  None where the label's users follow from labels of families before
    p           Holm's over all labels of the table; like the interval None where the gains do not vary
    """

    label: str
    n: int
    difference: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None


@dataclass(frozen=True)
class FamilyEffect:
    """The effects of a family's labels.

    reference  the label of most users
    p          of "the gain is equal for all labels when the other families are", Holm's over the families; None where
               no label has a p
    """

    family: str
    reference: str
    n_reference: int
    labels: tuple[Effect, ...]
    p: float | None


@dataclass(frozen=True)
class Explained:
    """What the gain of the compared row over another depends on.

    n         users in slices of at least 30 users in all families
    left_out  the other users
    """

    dataset: str
    metric: Metric
    rule: MaskRule
    split: SplitName
    compared: str
    other: str
    n: int
    left_out: int
    gain: float
    families: tuple[FamilyEffect, ...]


def explain_gains(
    records: Sequence[RunRecord],
    families: Sequence[str],
    *,
    metric: Metric,
    data_dir: Path,
    compare: str,
    split: SplitName = "test",
    mask_seen: MaskRule | None = None,
    within: str = "",
) -> list[Explained]:
    """Return, for each data set and each row beside the compared one, what the gain over it depends on.

    Raises UsageError for fewer than two families, or as `slice_tables` does.
    """
    if len(set(families)) < 2:
        raise UsageError("--together needs two families or more: --slice transition,tied,history")
    explained = []
    for rows in rows_of(records, metric=metric, data_dir=data_dir, split=split, mask_seen=mask_seen,
                        compare=compare, within=within):  # fmt: skip
        labels = [
            replace(made, index=made.index[rows.kept])
            for made in (labels_of(rows.records[0], family, split, data_dir) for family in dict.fromkeys(families))
        ]  # fmt: skip
        explained += [_explain(rows, other, labels) for other in rows.values if other != rows.compared]
    return explained


def _explain(rows: Rows, other: str, families: Sequence[Labels]) -> Explained:
    gains = rows.values[rows.compared] - rows.values[other]
    kept = np.ones(len(gains), bool)
    for labels in families:
        kept &= np.bincount(labels.index, minlength=len(labels.names))[labels.index] >= LEAST_USERS
    if kept.sum() < LEAST_USERS:
        raise UsageError(
            f"--together: fewer than {LEAST_USERS} users of {rows.dataset} are in slices of that many"
        )
    gains = gains[kept]
    families = [replace(labels, index=labels.index[kept]) for labels in families]
    columns = [labels.index == k for labels in families for k in _compared_labels(labels)]
    fit = _fit(gains, np.array(columns).reshape(len(columns), len(gains)).T, rows.dataset)
    return Explained(
        rows.dataset, rows.metric, rows.rule, rows.split, rows.compared, other, len(gains), int((~kept).sum()),
        float(gains.mean()), _effects(families, fit),
    )  # fmt: skip


def _compared_labels(labels: Labels) -> list[int]:
    """Return the labels that some user has, without the reference."""
    counts = np.bincount(labels.index, minlength=len(labels.names))
    return [int(k) for k in np.flatnonzero(counts) if k != counts.argmax()]


def _fit(gains: np.ndarray, columns: np.ndarray, dataset: str) -> Fit:
    try:
        return least_squares(gains, columns)
    except ValueError as fault:
        raise UsageError(
            f"--together: the users of {dataset} have too few different labels ({fault})"
        ) from None


def _effects(families: Sequence[Labels], fit: Fit) -> tuple[FamilyEffect, ...]:
    """Return the effects of a fit whose columns are the compared labels of each family in turn."""
    adjusted = dict(zip(fit.tested, holm([fit.p(k) for k in fit.tested]).tolist(), strict=True))
    place = {column: k for k, column in enumerate(fit.kept)}  # of a column among the coefficients
    columns, made = count(), []
    for labels in families:
        counts = np.bincount(labels.index, minlength=len(labels.names))
        places = {label: place.get(next(columns)) for label in _compared_labels(labels)}
        effects = [
            Effect(
                labels.names[label], int(counts[label]), None if k is None else float(fit.coefficients[k]),
                *((fit.interval(k), adjusted[k]) if k in adjusted else ()),
            )
            for label, k in places.items()
        ]  # fmt: skip
        told_apart = [k for k in places.values() if k in adjusted]
        reference = int(counts.argmax())
        made.append(
            FamilyEffect(
                labels.family, labels.names[reference], int(counts[reference]), tuple(effects),
                fit.joint_p(told_apart) if told_apart else None,
            )
        )  # fmt: skip
    tested = iter(holm([family.p for family in made if family.p is not None]))
    return tuple(family if family.p is None else replace(family, p=float(next(tested))) for family in made)
