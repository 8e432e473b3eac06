"""Which raw events a protocol's filters keep, and what to say when none is left."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from mmbench.data.filters import first_of_duplicates, k_core
from mmbench.data.images import ImageListing, deciding
from mmbench.data.matching import FILE_RULES, match_names
from mmbench.data.protocol import OWN_FILTERS, Protocol
from mmbench.data.raw import RawEvents
from mmbench.data.spec import DatasetSpec
from mmbench.data.statistics import RawCounts


def picture_notes(records: Sequence[dict[str, Any]], listing: ImageListing | None) -> list[str]:
    """Return [] or a note when a folder or zip of the user's lacks pictures that items name."""
    deciding_listing = deciding(listing)
    named = [record["image"] for record in records if record["image"]]
    if deciding_listing is None or not named:
        return []
    match = match_names(named, deciding_listing.members, FILE_RULES)
    return [] if match.is_whole else [match.words("pictures", "the items", deciding_listing.path.name)]


def nothing_left(
    spec: DatasetSpec,
    rules: Protocol,
    counted: RawCounts,
    records: dict[str, dict[str, Any]],
    listing: ImageListing | None,
) -> str:
    """Return an error that says which filter took how many interactions, and what to do about the strongest."""
    reasons = []
    if rules.require:
        lacking = ", ".join(_lacking(records.values(), need, listing) for need in rules.require)
        reasons.append(f"{counted.dropped_incomplete:,} are of items that lack what is required ({lacking})")
    if rules.duplicates == "drop" and counted.duplicates:
        reasons.append(f"{counted.duplicates:,} are repeated")
    under_bounds = counted.dropped_by_bounds(rules.duplicates, left=0)
    if under_bounds:
        bounds = f"users >= {rules.min_user}, items >= {rules.min_item}"
        reasons.append(f"{under_bounds:,} are under the bounds ({bounds})")
    is_fixed = rules.name not in OWN_FILTERS
    if is_fixed:
        advice = "choose another --protocol"
    elif counted.items_dropped_incomplete == counted.items:
        pictures = picture_notes(list(records.values()), listing)
        advice = "; ".join(
            [*pictures, "correct the item table or the pictures, or remove `require` from its toml"]
        )
    else:
        advice = "set lower bounds under filters in its toml"
    return (
        f"{spec.name}: no interaction is left of {counted.interactions:,} under protocol {rules.name!r}: "
        f"{', '.join(reasons)}; {advice}"
    )


def _lacking(records: Collection[dict[str, Any]], need: str, listing: ImageListing | None) -> str:
    deciding_listing = deciding(listing)
    members = deciding_listing.members if deciding_listing else None
    n_lacking = sum(not _complete(record, (need,), members) for record in records)
    return f"{n_lacking:,} of {len(records):,} items have no {need}"


def select(
    events: RawEvents,
    records: dict[str, dict[str, Any]],
    rules: Protocol,
    members: frozenset[str] | None,
) -> tuple[np.ndarray, RawCounts]:
    """Return which events stay (bool [E]) and what happened to the others."""
    allowed = np.array([_complete(records[name], rules.require, members) for name in events.item_names])
    kept = np.flatnonzero(allowed[events.item])
    first = first_of_duplicates(events.user[kept], events.item[kept], events.ticks[kept])
    n_duplicates = int((~first).sum())
    if rules.duplicates == "drop":
        kept = kept[first]
    core, n_rounds = k_core(
        events.user[kept], events.item[kept], min_user=rules.min_user, min_item=rules.min_item,
        item_counts=rules.item_counts, iterate=rules.iterate,
    )  # fmt: skip
    keep = np.zeros(len(events), dtype=bool)
    keep[kept[core]] = True
    return keep, RawCounts(
        users=len(events.user_names),
        items=len(events.item_names),
        interactions=len(events),
        items_dropped_incomplete=int((~allowed).sum()),
        dropped_incomplete=int((~allowed[events.item]).sum()),
        duplicates=n_duplicates,
        filter_rounds=n_rounds,
    )


def _complete(record: dict[str, Any], require: tuple[str, ...], members: frozenset[str] | None) -> bool:
    """Return whether an item has what the protocol requires."""
    image = record["image"]
    # A picture with a URL counts before and after it was fetched, so that fetching never changes the data.
    has_image = image is not None and (members is None or image in members or "image_url" in record)
    has = {"text": bool(record["text"]), "image": has_image}
    return all(has[name] for name in require)
