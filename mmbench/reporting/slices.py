"""Where a number comes from: a metric in each slice of the targets, and whether a gain differs between slices."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from mmbench.choices import MaskRule, SplitName
from mmbench.data.loaded import LoadedData, load_data
from mmbench.errors import UsageError, suggest
from mmbench.evaluation.corrections import holm
from mmbench.evaluation.intervals import interval_of
from mmbench.evaluation.metrics import Metric
from mmbench.evaluation.significance import Verdict, t_interval, welch_t
from mmbench.evaluation.slices import FAMILIES, Labels, Targets, label
from mmbench.features.store import default_encoder, load_features
from mmbench.reporting.gather import Measured, check_runs, check_users, measure
from mmbench.reporting.labels import Group, group_runs, names_of
from mmbench.reporting.request import TableRequest
from mmbench.runs.plan import cell_of
from mmbench.runs.store import RunRecord

LEAST_USERS, LEAST_HITS = 30, 10  # a slice with fewer users, or hits of all its rows, has no number


@dataclass(frozen=True)
class Slice:
    """A row's metric in a slice.

    value      None where too few users or hits are in it
    of_hits    share of the row's users with a value above 0 that are in the slice
    """

    name: str
    n: int
    value: float | None
    interval: tuple[float, float] | None
    of_hits: float


@dataclass(frozen=True)
class Gain:
    """The gain of the compared row over another in a slice, mean over users.

    elsewhere  the gain inside the slice minus that outside; None where either is missing
    p          of `elsewhere` by Welch's t, Holm over the slices of the table
    smallest   the difference in hits that the slice's users can show with power .8, 2.8 sqrt(d / n), d the share of
               users whom exactly either row hits
    """

    name: str
    n: int
    gain: float | None
    interval: tuple[float, float] | None
    elsewhere: float | None
    p: float | None
    smallest: float | None


@dataclass(frozen=True)
class Sliced:
    """A row of runs, its slices, and its gains where a row is compared with it.

    interaction  p of "the gain is equal in all slices" (Alexander and Govern's test of unequal variances); None where
                 nothing is compared or fewer than two slices vary
    """

    name: str
    slices: tuple[Slice, ...]
    gains: tuple[Gain, ...] = ()
    interaction: float | None = None


@dataclass(frozen=True)
class SliceTable:
    """The rows of a data set in the slices of a family.

    within  the slice of another family that all users are of, "tied=later"; "" for all users
    """

    dataset: str
    family: str
    metric: Metric
    rule: MaskRule
    split: SplitName
    compared: str
    rows: tuple[Sliced, ...]
    within: str = ""


def slice_tables(
    records: Sequence[RunRecord],
    family: str,
    *,
    metric: Metric,
    data_dir: Path,
    split: SplitName = "test",
    mask_seen: MaskRule | None = None,
    compare: str | None = None,
    within: str = "",
) -> list[SliceTable]:
    """Return a table for each data set of the runs.

    within   FAMILY=LABEL: only users of this slice, for a single cause at a time
    compare  MODEL or the label of a row that is compared with every other row

    Raises UsageError where a row is not there or labels cannot be made, RunError where the data changed since.
    """
    return [
        _table(rows, family, data_dir)
        for rows in rows_of(
            records, metric=metric, data_dir=data_dir, split=split, mask_seen=mask_seen, compare=compare,
            within=within,
        )
    ]  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """The rows of a data set: a metric of each user, mean over a row's runs.

    kept      which of the data set's targets these users are, bool
    values    by name of the row, the compared one first, then by falling mean
    compared  the name of the compared row; "" where nothing is compared
    """

    records: tuple[RunRecord, ...]
    metric: Metric
    rule: MaskRule
    split: SplitName
    within: str
    kept: np.ndarray
    values: dict[str, np.ndarray]
    compared: str

    @property
    def dataset(self) -> str:
        return self.records[0].dataset


def rows_of(
    records: Sequence[RunRecord],
    *,
    metric: Metric,
    data_dir: Path,
    split: SplitName,
    mask_seen: MaskRule | None,
    compare: str | None,
    within: str,
) -> list[Rows]:
    """Return the rows of each data set that are compared by slices; arguments and errors are those of slice_tables."""
    metric.check_of_ranks("--slice")
    finished = [record for record in records if record.status == "finished"]
    if not finished:
        raise UsageError("no finished run is among these; run for example: mmbench run sasrec pop")
    request = TableRequest(metrics=(metric,), split=split, mask_seen=mask_seen)
    datasets = sorted({record.dataset for record in finished})
    check_runs(finished, datasets, request)
    return [
        _rows(
            [record for record in finished if record.dataset == dataset], request, data_dir, compare, within
        )
        for dataset in datasets
    ]


def _rows(
    records: list[RunRecord], request: TableRequest, data_dir: Path, compare: str | None, within: str
) -> Rows:
    groups, _ = group_runs(records)
    measured = [
        (group, row) for group in groups if (row := measure(group, request, with_users=True)[0]) is not None
    ]
    if not measured:
        raise UsageError(
            f"no ranking of {records[0].dataset} can be read; run: mmbench evaluate {records[0].path}"
        )
    check_users(measured)
    n_users = len(measured[0][1].per_user[0])
    kept = _kept(records[0], within, request.split, data_dir) if within else np.ones(n_users, bool)
    names = names_of([group for group, _ in measured])
    values = {name: row.per_user[0][kept] for name, (_, row) in zip(names, measured, strict=True)}
    chosen = None if compare is None else _find(compare, measured, names)
    order = sorted(names, key=lambda name: (name != chosen, -values[name].mean()))
    return Rows(
        tuple(records), request.metrics[0], request.mask_seen or records[0].mask_seen, request.split, within,
        kept, {name: values[name] for name in order}, chosen or "",
    )  # fmt: skip


def _table(rows: Rows, family: str, data_dir: Path) -> SliceTable:
    labels = labels_of(rows.records[0], family, rows.split, data_dir)
    labels = replace(labels, index=labels.index[rows.kept])
    hits = [
        sum(((row > 0) & (labels.index == k)).sum() for row in rows.values.values())
        for k in range(len(labels.names))
    ]
    sliced = [
        _with_gains(Sliced(name, slices_of(values, labels, hits)), rows.values, rows.compared or None, labels)
        for name, values in rows.values.items()
    ]
    return SliceTable(
        rows.dataset, family, rows.metric, rows.rule, rows.split, rows.compared, tuple(sliced), rows.within
    )


def _kept(record: RunRecord, within: str, split: SplitName, data_dir: Path) -> np.ndarray:
    """Return which users are of the slice that `--within` names, bool [U]; UsageError for any other text."""
    family, _, name = within.partition("=")
    if family not in FAMILIES or not name:
        raise UsageError(f"--within {within}: write it as FAMILY=LABEL, for example transition=never")
    labels = labels_of(record, family, split, data_dir)
    if name not in labels.names:
        raise UsageError(f"--within {within}: {suggest(name, labels.names, what=f'slice of {family}')}")
    kept: np.ndarray = labels.index == labels.names.index(name)
    if not kept.any():
        raise UsageError(f"--within {within}: no user of {record.dataset} is in this slice")
    return kept


def _find(wanted: str, measured: Sequence[tuple[Group, Measured]], names: Sequence[str]) -> str:
    matching = [
        name for (group, _), name in zip(measured, names, strict=True) if wanted in (group.model, name)
    ]
    if len(matching) == 1:
        return matching[0]
    known = ", ".join(names)
    reason = f"matches {len(matching)} rows" if matching else "is not a row"
    raise UsageError(f"--compare {wanted} {reason} of {measured[0][0].dataset}; name any of: {known}")


# -- labels -----------------------------------------------------------------------------------------------


def labels_of(record: RunRecord, family: str, split: SplitName, data_dir: Path) -> Labels:
    """Return the labels of a run's targets, by rising user."""
    cell = cell_of(record, data_dir)
    return _labels(cell.data_path, record.data_hash, family, split)


@lru_cache(maxsize=32)
def _labels(path: Path, content: str, family: str, split: SplitName) -> Labels:
    data = load_data(path, content)
    if family in ("tied", "gap") and data.prepared.lacks_fractions:
        name = data.prepared.name
        raise UsageError(
            f"--slice {family}: {name} was prepared in whole seconds, and its raw files have finer times; "
            f"run: mmbench prepare {name}"
        )
    return label(targets_of(data, split), family)


def targets_of(data: LoadedData, split: SplitName) -> Targets:
    """Return what labels are made from; features are those of the data set's default encoders."""
    prepared, view = data.prepared, data.targets(split)
    events = np.asarray(prepared.offsets[:-1])[view.user] + np.diff(view.offsets)
    features = {}
    for modality in ("text", "image"):
        encoder = default_encoder(prepared, modality)
        if encoder is not None:
            features[modality] = load_features(prepared, modality, encoder)
    return Targets(
        view=view, train=data.train, n_items=prepared.n_items,
        target_times=np.asarray(prepared.times)[events] if prepared.has_times else None,
        finer_gaps=prepared.finer_gaps(events),
        present={modality: np.asarray(stored.present) for modality, stored in features.items()},
        text=np.asarray(features["text"].values, dtype=np.float32) if "text" in features else None,
    )  # fmt: skip


# -- numbers ----------------------------------------------------------------------------------------------


def slices_of(
    values: np.ndarray,
    labels: Labels,
    hits: Sequence[int] | None = None,
    *,
    interval: Callable[[np.ndarray], tuple[float, float] | None] = interval_of,
) -> tuple[Slice, ...]:
    """Return the slices of a row's values per user; `hits` of each slice, over all rows, are by default its own."""
    if hits is None:
        hits = [int(((values > 0) & (labels.index == k)).sum()) for k in range(len(labels.names))]
    total = max(int((values > 0).sum()), 1)
    slices = []
    for k, name in enumerate(labels.names):
        part = values[labels.index == k]
        is_shown = len(part) >= LEAST_USERS and hits[k] >= LEAST_HITS
        slices.append(
            Slice(
                name, len(part), float(part.mean()) if is_shown else None,
                interval(part) if is_shown else None, float((part > 0).sum()) / total,
            )
        )  # fmt: skip
    return tuple(slices)


def _with_gains(row: Sliced, values: dict[str, np.ndarray], compared: str | None, labels: Labels) -> Sliced:
    """Return the row with the gains of the compared row over it."""
    if compared is None or row.name == compared:
        return row
    ours, theirs = values[compared], values[row.name]
    delta, gains, verdicts = ours - theirs, [], []
    for k, piece in enumerate(row.slices):
        inside = labels.index == k
        part, is_shown = delta[inside], piece.value is not None
        outcome = welch_t(part, delta[~inside]) if is_shown and (~inside).sum() > 1 else None
        verdicts.append(outcome if isinstance(outcome, Verdict) else None)
        discordant = float(((ours > 0) != (theirs > 0))[inside].mean()) if is_shown else 0.0
        gains.append(
            Gain(
                piece.name, piece.n, float(part.mean()) if is_shown else None, t_interval(part) if is_shown else None,
                None if outcome is None else outcome.difference, None,
                2.8 * float(np.sqrt(discordant / piece.n)) if is_shown else None,
            )
        )  # fmt: skip
    adjusted = iter(holm([verdict.p for verdict in verdicts if verdict is not None]))
    with_p = [
        Gain(gain.name, gain.n, gain.gain, gain.interval, gain.elsewhere,
             None if verdict is None else float(next(adjusted)), gain.smallest)
        for gain, verdict in zip(gains, verdicts, strict=True)
    ]  # fmt: skip
    shown = [delta[labels.index == k] for k, piece in enumerate(row.slices) if piece.value is not None]
    return Sliced(row.name, row.slices, tuple(with_p), interaction_p(shown))


def interaction_p(samples: Sequence[np.ndarray]) -> float | None:
    """Return the p of equal means in all slices, whose variances may differ; None where fewer than two vary."""
    from scipy.stats import alexandergovern

    varying = [sample for sample in samples if len(sample) > 1 and np.ptp(sample) > 0]
    return float(alexandergovern(*varying).pvalue) if len(varying) > 1 else None
