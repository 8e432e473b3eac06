"""Statistics of a prepared data set as rows of text, rounded for people."""

from datetime import UTC, datetime

from mmbench.data.manifest import Manifest
from mmbench.data.statistics import Coverage, Statistics, compare
from mmbench.reporting.rounding import statistic

LABELS = {
    "users": "users",
    "items": "items",
    "interactions": "interactions",
    "actions_per_user": "actions per user",
    "actions_per_item": "actions per item",
    "sparsity": "sparsity",
}


def statistic_rows(manifest: Manifest) -> list[list[str]]:
    """Return [statistic, computed, printed, remark] for every statistic in a manifest."""
    printed, protocol = manifest.printed, manifest.protocol.name
    compared = compare(
        manifest.statistics,
        printed.values if printed else {},
        printed.slips if printed else (),
        protocol=protocol,
        default_protocol=printed.protocol if printed else protocol,
    )
    rows = [
        [
            LABELS[row.statistic],
            statistic(row.statistic, row.computed),
            "" if row.printed is None else statistic(row.statistic, row.printed),
            row.remark,
        ]
        for row in compared
    ]
    return rows + [[label, value, "", remark] for label, value, remark in _further(manifest)]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _further(manifest: Manifest) -> list[tuple[str, str, str]]:
    statistics, rules = manifest.statistics, manifest.protocol
    raw, coverage = statistics.raw, statistics.coverage
    quantiles = " / ".join(f"{value:g}" for value in statistics.history_length.values())
    kept = statistics.interactions / raw.interactions
    duplicates = "dropped" if rules.duplicates == "drop" else "kept"
    lacking = f"{coverage.n_without_text:,} without text, {coverage.n_without_title:,} without title"
    return [
        ("tied neighbours", _percent(statistics.tied_neighbours), f"equal timestamps, in order {rules.ties!r}"),
        ("history length", quantiles, "min / 25% / median / 75% / 90% / max"),
        *_of_times(statistics),
        ("users with valid / test target", f"{statistics.valid_users:,} / {statistics.test_users:,}", rules.split),
        ("target already in the input", f"{_percent(statistics.valid_repeats)} / {_percent(statistics.test_repeats)}",
         "valid / test"),
        ("kept of the raw interactions", _percent(kept),
         f"of {raw.interactions:,}; {raw.duplicates:,} duplicates {duplicates}{_filtered(manifest)}"),
        ("items with text", _percent(coverage.text), lacking),
        ("items with a picture", _percent(coverage.image), _pictures(coverage)),
    ]  # fmt: skip


def _of_times(statistics: Statistics) -> list[tuple[str, str, str]]:
    if statistics.first_time is None or statistics.last_time is None or statistics.long_intervals is None:
        return [("period", "unknown", "the interactions have an order and no times")]
    return [
        ("intervals > 100 days", _percent(statistics.long_intervals), ""),
        ("period", f"{_day(statistics.first_time)} .. {_day(statistics.last_time)}", ""),
    ]


def _filtered(manifest: Manifest) -> str:
    """Return how many interactions each filter removed, for the remark on what is left of them."""
    statistics, rules = manifest.statistics, manifest.protocol
    raw, parts = statistics.raw, []
    if raw.dropped_incomplete:
        lacking = f"{raw.items_dropped_incomplete:,} items without {' and '.join(rules.require)}"
        parts.append(f"{raw.dropped_incomplete:,} of {lacking} dropped")
    n_bounds = raw.dropped_by_bounds(rules.duplicates, left=statistics.interactions)
    if n_bounds:
        parts.append(f"{n_bounds:,} under users >= {rules.min_user}, items >= {rules.min_item} dropped")
    return "".join(f"; {part}" for part in parts)


def _pictures(coverage: Coverage) -> str:
    declared = f"; {_percent(coverage.image_declared)} name a picture" if coverage.image_declared else ""
    return f"{coverage.n_without_image:,} without{declared}"


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).date().isoformat()
