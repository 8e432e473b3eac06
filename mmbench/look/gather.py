"""Everything that is shown about a prepared data set: numbers at once, neighbours and pictures on demand."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from mmbench.data.statistics import LONG_INTERVAL_DAYS
from mmbench.data.store import Prepared
from mmbench.errors import DataError
from mmbench.features.manifest import FeatureManifest
from mmbench.features.store import check_fits, list_features
from mmbench.look.nearest import Nearest, nearest
from mmbench.look.numbers import (
    Intervals,
    Lengths,
    PairIntervals,
    Popularity,
    TimeBins,
    intervals,
    lengths,
    most_common_pair,
    neighbours,
    over_time,
    pick_different,
    pick_spread,
    popularity,
)
from mmbench.look.pictures import Thumbnails, thumbnails

N_SHEET = 24
N_QUERIES = 6
MAX_ENCODERS = 8  # limits the encoders whose neighbours are shown, which keeps the page below 3 MB
PICTURE_SIZE = 160  # pixels


@dataclass(frozen=True)
class Share:
    """A share of a whole, 0 to 1, and what the whole is."""

    label: str
    value: float
    whole: str


@dataclass(frozen=True)
class Look:
    """What is shown of a data set. Times are in seconds, shares 0 to 1, items 1..N."""

    prepared: Prepared
    times: TimeBins | None  # None, as the intervals, where interactions only have an order
    intervals: Intervals | None
    pair: PairIntervals | None
    histories: Lengths
    popularity: Popularity
    texts: Lengths | None  # words per item; None if no item has a text
    n_texts: int

    @property
    def name(self) -> str:
        return self.prepared.name

    def title(self, item: int, limit: int = 80) -> str:
        """Return the item's title, or its id if it has none, as a line of printable characters."""
        record = self.prepared.item_records[item - 1]
        return plain(str(record.get("title") or record["id"]), limit)

    @cached_property
    def groups(self) -> list[Any]:
        """The categories of each item (a set, because order does not matter), None for items without any."""
        ids, offsets = self.prepared.category_ids, self.prepared.category_offsets
        sets = [frozenset(ids[start:end].tolist()) for start, end in pairwise(offsets)]
        return [categories or None for categories in sets]

    @cached_property
    def sheet(self) -> list[int]:
        """The items of the contact sheet."""
        return [int(item) for item in pick_spread(self.popularity.items, N_SHEET)]

    @cached_property
    def has_pictures(self) -> bool:
        named = any(record.get("image") for record in self.prepared.item_records)
        return named and self.prepared.manifest.images is not None

    @cached_property
    def _neighbours(self) -> tuple[list[Nearest], list[str]]:
        queries = pick_different(self.popularity.items, self.groups, N_QUERIES)
        shown, (stored, notes) = [], self._stored
        for manifest in stored[:MAX_ENCODERS]:
            try:
                shown.append(
                    nearest(self.prepared, manifest.modality, manifest.encoder, queries, self.groups)
                )
            except DataError as error:
                notes = [*notes, str(error)]
        omitted = ", ".join(f"{manifest.modality} {manifest.encoder}" for manifest in stored[MAX_ENCODERS:])
        return shown, [*notes, *([f"not shown, to keep the page small: {omitted}"] if omitted else [])]

    @cached_property
    def _stored(self) -> tuple[list[FeatureManifest], list[str]]:
        """The features that belong to the items, and why others do not or cannot be read."""
        notes: list[str] = []
        by_modality = list_features(self.prepared, on_error=lambda error: notes.append(str(error)))
        fitting = []
        for manifest in (manifest for manifests in by_modality.values() for manifest in manifests):
            try:
                check_fits(self.prepared, manifest)
            except DataError as error:
                notes.append(str(error))
            else:
                fitting.append(manifest)
        return fitting, notes

    @property
    def feature_notes(self) -> list[str]:
        """Why stored features are not shown: damaged, stale, or of another catalogue."""
        return self._stored[1]

    @property
    def nearest(self) -> list[Nearest]:
        """The neighbours of the same few items in each encoder's stored features."""
        return self._neighbours[0]

    @cached_property
    def _thumbnails(self) -> tuple[Thumbnails, list[str]]:
        shown = set(self.sheet)
        for encoder in self.nearest:
            shown.update(
                encoder.neighbours, *([item for item, _ in row] for row in encoder.neighbours.values())
            )
        if not self.has_pictures:
            return {}, []
        try:
            return thumbnails(self.prepared, sorted(shown), size=PICTURE_SIZE), []
        except DataError as error:
            return dict.fromkeys(shown, "pictures are gone"), [str(error)]

    @property
    def thumbnails(self) -> Thumbnails:
        """The pictures of all items that are shown; {} if the data set has none."""
        return self._thumbnails[0]

    @property
    def notes(self) -> list[str]:
        """What could not be shown, and why."""
        return [*self._neighbours[1], *self._thumbnails[1]]

    @property
    def _long_intervals(self) -> list[Share]:
        share = self.prepared.manifest.statistics.long_intervals
        label = f"intervals above {LONG_INTERVAL_DAYS} days"
        return [] if share is None else [Share(label, share, "of all neighbouring events")]

    @property
    def shares(self) -> list[Share]:
        """Ties, repeats and coverage, counted when the data set was prepared, and the coverage of stored features."""
        statistics = self.prepared.manifest.statistics
        coverage, items, users = statistics.coverage, "of all items", "of the users with such a target"
        shares = [
            Share(
                "neighbours with equal timestamps", statistics.tied_neighbours, "of all neighbouring events"
            ),
            *self._long_intervals,
            Share("validation target already in the input", statistics.valid_repeats, users),
            Share("test target already in the input", statistics.test_repeats, users),
            Share("items with a title", coverage.title, items),
            Share("items with any text", coverage.text, items),
            Share("items with categories", coverage.categories, items),
            Share("items whose picture is there", coverage.image, items),
        ]
        for manifest in self._stored[0]:
            share = manifest.n_present / self.prepared.n_items
            shares.append(Share(plain(f"{manifest.modality} features {manifest.encoder}", 48), share, items))
        return shares


def plain(text: str, limit: int = 80) -> str:
    """Return a line of printable characters, cut with an ellipsis: titles from shops hold tabs and control marks."""
    shown = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return shown if len(shown) <= limit else f"{shown[: limit - 1].rstrip()}…"


def look(prepared: Prepared) -> Look:
    """Return the numbers of a prepared data set."""
    near = neighbours(prepared.items, prepared.exact_times, prepared.offsets)
    words = np.array([len(str(record.get("text") or "").split()) for record in prepared.item_records])
    nonempty = words[words > 0]
    return Look(
        prepared=prepared,
        times=over_time(prepared.times) if prepared.has_times else None,
        intervals=intervals(near.gap) if prepared.has_times else None,
        pair=most_common_pair(near) if prepared.has_times else None,
        histories=lengths(np.diff(prepared.offsets)),
        popularity=popularity(prepared.items, prepared.n_items),
        texts=lengths(nonempty) if len(nonempty) else None,
        n_texts=len(nonempty),
    )


def as_json(shown: Look) -> dict[str, Any]:
    """Return the numbers behind the figures as JSON content, without neighbours and pictures."""
    pair, times, gaps = shown.pair, shown.times, shown.intervals
    return {
        "over_time": times and {"edges": times.edges.tolist(), "counts": times.counts.tolist()},
        "intervals": gaps and {
            "counts": gaps.counts.tolist(),
            "quantiles_seconds": gaps.quantiles,
            "long_share": gaps.long_share,
        },
        "pair": pair and {
            "items": [shown.prepared.item_records[item - 1]["id"] for item in (pair.first, pair.second)],
            "seconds": pair.seconds.tolist(),
        },
        "history_length": _lengths_json(shown.histories),
        "popularity": {
            "n_head": shown.popularity.n_head,
            "head_share": shown.popularity.head_share,
            "quantiles": dict(_ranked(shown.popularity)),
        },
        "text_words": shown.texts and {**_lengths_json(shown.texts), "n_items": shown.n_texts},
        "shares": {share.label: share.value for share in shown.shares},
    }  # fmt: skip


def _lengths_json(lengths: Lengths) -> dict[str, Any]:
    return {
        "classes": [lengths.label(index) for index in range(len(lengths.counts))],
        "counts": lengths.counts.tolist(),
        "quantiles": lengths.quantiles,
    }


def _ranked(popularity: Popularity) -> list[tuple[str, int]]:
    """Return the events of the items at some ranks, 1 = most popular."""
    n = len(popularity.counts)
    ranks = sorted({1, *(min(n, 10**power) for power in range(1, 7)), max(1, n // 2), n})
    return [(str(rank), int(popularity.counts[rank - 1])) for rank in ranks]
