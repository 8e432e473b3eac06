"""Statistics of a prepared data set as rows of text: rounding for people happens here."""

from datetime import UTC, datetime
from typing import Any

from mmbench.data.statistics import compare
from mmbench.reporting.rounding import statistic

LABELS = {
    "users": "users",
    "items": "items",
    "interactions": "interactions",
    "actions_per_user": "actions per user",
    "actions_per_item": "actions per item",
    "sparsity": "sparsity",
}


def statistic_rows(manifest: dict[str, Any]) -> list[list[str]]:
    """[statistic, computed, printed, remark] for every statistic in a manifest."""
    statistics, printed = manifest["statistics"], manifest["printed"]
    protocol = manifest["protocol"]["name"]
    compared = compare(
        statistics, printed, protocol=protocol, default_protocol=printed.get("protocol", protocol)
    )
    rows = [
        [
            LABELS[one.statistic],
            statistic(one.statistic, one.computed),
            "" if one.printed is None else statistic(one.statistic, one.printed),
            one.remark,
        ]
        for one in compared
    ]
    return rows + [[label, value, "", remark] for label, value, remark in _further(manifest)]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _further(manifest: dict[str, Any]) -> list[tuple[str, str, str]]:
    one, rules = manifest["statistics"], manifest["protocol"]
    raw, coverage = one["raw"], one["coverage"]
    quantiles = " / ".join(f"{value:g}" for value in one["history_length"].values())
    kept = one["interactions"] / raw["interactions"]
    duplicates = "dropped" if rules["duplicates"] == "drop" else "kept"
    return [
        ("tied neighbours", _percent(one["tied_neighbours"]), f"equal timestamps, in order {rules['ties']!r}"),
        ("intervals > 100 days", _percent(one["long_intervals"]), ""),
        ("history length", quantiles, "min / 25% / median / 75% / 90% / max"),
        ("period", f"{_day(one['first_time'])} .. {_day(one['last_time'])}", ""),
        ("users with valid / test target", f"{one['valid_users']:,} / {one['test_users']:,}", rules["split"]),
        ("target already in the input", f"{_percent(one['valid_repeats'])} / {_percent(one['test_repeats'])}",
         "valid / test"),
        ("kept of the raw interactions", _percent(kept),
         f"of {raw['interactions']:,}; {raw['duplicates']:,} duplicates {duplicates}"),
        ("items with text", _percent(coverage["text"]), _lacking(coverage, "text", "title")),
        ("items with a picture", _percent(coverage["image"]), _pictures(coverage)),
    ]  # fmt: skip


def _lacking(coverage: dict[str, Any], *fields: str) -> str:
    return ", ".join(f"{coverage[f'n_without_{field}']:,} without {field}" for field in fields)


def _pictures(coverage: dict[str, Any]) -> str:
    declared = f"; {_percent(coverage['image_declared'])} name one" if coverage["image_declared"] else ""
    return f"{coverage['n_without_image']:,} without{declared}"


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).date().isoformat()
