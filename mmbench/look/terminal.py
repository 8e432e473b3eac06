"""The distributions behind the statistics, as lines of text for a terminal."""

import numpy as np

from mmbench.look.gather import Look
from mmbench.look.letters import ASCII, BLOCKS
from mmbench.look.numbers import INTERVAL_LABELS, TimeBins
from mmbench.look.plots import day, duration, percent


def bars(counts: np.ndarray, *, ascii_only: bool = False) -> str:
    """Return a letter per count, whose height is relative to the largest count; a blank for 0."""
    letters = ASCII if ascii_only else BLOCKS
    top = int(counts.max(initial=0))
    return "".join(letters[-(-int(count) * len(letters) // top) - 1] if count else " " for count in counts)


def shape_rows(look: Look, *, ascii_only: bool = False) -> list[list[str]]:
    """Return rows [quantity, its shape, how to read it]."""
    times, gaps, histories = look.times, look.intervals, look.histories
    rows = []
    if times is not None:
        rows.append(["interactions over time", bars(times.counts, ascii_only=ascii_only), times_text(times)])
    if gaps is not None and gaps.n:
        classes = " / ".join(label.replace("\n", " ") for label in INTERVAL_LABELS)
        rows.append(["time between neighbours", bars(gaps.counts, ascii_only=ascii_only), classes])
    if look.pair is not None:
        first, second = look.title(look.pair.first, 30), look.title(look.pair.second, 30)
        spans = f"{duration(int(look.pair.seconds[0]))} to {duration(int(look.pair.seconds[-1]))}"
        rows.append(
            ["most common pair", "", f"{first} -> {second}: {len(look.pair.seconds):,} users, {spans}"]
        )
    ends = f"{histories.label(0)} to {histories.label(len(histories.counts) - 1)} events"
    rows.append(["history lengths", bars(histories.counts, ascii_only=ascii_only), ends])
    head = f"the most popular 20% of the items have {percent(look.popularity.head_share)} of the interactions"
    rows.append(["item popularity", bars(_thinned(look.popularity.counts), ascii_only=ascii_only), head])
    if look.texts is not None:
        ends = f"{look.texts.label(0)} to {look.texts.label(len(look.texts.counts) - 1)} words"
        rows.append(["text lengths", bars(look.texts.counts, ascii_only=ascii_only), ends])
    return rows


def times_text(times: TimeBins) -> str:
    """Return the period, the width of a bin and the largest count in words."""
    edges = times.edges
    if len(times.counts) == 1:
        return f"all on {day(edges[0])}"
    width, most = duration(edges[1] - edges[0]), f"{times.counts.max():,}"
    return f"{day(edges[0])} to {day(edges[-1])}, {width} each, most {most}"


def _thinned(counts: np.ndarray, n: int = 30) -> np.ndarray:
    """Average the counts in `n` equal parts of the ranks, most popular first."""
    parts = np.array_split(counts, min(n, len(counts)))
    return np.array([part.mean() for part in parts])
