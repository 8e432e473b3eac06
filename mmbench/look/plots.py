"""The charts: each draws numbers that were counted elsewhere, and says in a caption what was counted."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from mmbench.look.gather import Look
from mmbench.look.numbers import DAY, HOUR, INTERVAL_LABELS, N_LONG, Intervals, Lengths, TimeBins
from mmbench.look.style import BLUE, INK, SOFT, VERMILION, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Plot:
    """A figure: file name, caption, and the function that draws it (inside `styled`)."""

    name: str
    caption: str
    draw: Callable[[], "Figure"]


def charts(look: Look) -> list[Plot]:
    """Return the charts that make sense for the data set, in reading order."""
    plots = [
        *_time_charts(look),
        Plot("history-length", _history_caption(look), lambda: histories(look)),
        Plot("popularity", _popularity_caption(look), lambda: popularity(look)),
        Plot("shares", SHARES_CAPTION, lambda: shares(look)),
        Plot("text-length", _texts_caption(look), lambda: texts(look)),
    ]
    return [plot for plot in plots if plot.name != "text-length" or look.texts is not None]


def _time_charts(look: Look) -> list[Plot]:
    """Return the charts of times; none where interactions only have an order."""
    times, gaps, common = look.times, look.intervals, look.pair
    plots = []
    if times is not None:
        plots.append(Plot("over-time", _over_time_caption(times), lambda: over_time(look.name, times)))
    if gaps is not None and gaps.n:
        plots.append(Plot("intervals", _intervals_caption(gaps), lambda: intervals(look.name, gaps)))
    if common is not None:
        plots.append(Plot("pair", _pair_caption(look), lambda: pair(look)))
    return plots


def day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).date().isoformat()


def duration(seconds: float) -> str:
    """Return a time span for people: "45 s", "3.5 hours", "120 days"."""
    for unit, name in ((DAY, "days"), (HOUR, "hours"), (60, "minutes")):
        if seconds >= unit:
            value = seconds / unit
            return (
                f"{value:.3g}\u00a0{name if value != 1 else name[:-1]}"
                if value < 1000
                else f"{value:,.0f}\u00a0{name}"
            )
    return f"{seconds:.3g}\u00a0s"


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _count_axis(axes: "Axes", label: str) -> None:
    """Show whole numbers from zero, with thousands separators and a light grid."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(axis="y")
    axes.tick_params(axis="both", length=0)


def _over_time_caption(times: TimeBins) -> str:
    n = f"{int(times.counts.sum()):,}"
    first, last = day(times.edges[0]), day(times.edges[-1])
    if len(times.counts) == 1:
        return f"All {n} interactions have the same time, {first} (UTC)."
    return (
        f"Interactions of all users in {len(times.counts)} equal spans of {duration(times.days * DAY)} from the first "
        f"({first}) to the last ({last}, UTC); {n} in all."
    )


def over_time(name: str, times: TimeBins) -> "Figure":
    """Draw the interactions over time, as in HM4SR, figure 7."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    figure, axes = new_axes(2.6, f"{name}: interactions over time")
    start = times.edges[:-1] / DAY if len(times.counts) > 1 else times.edges[:1] / DAY - 0.5
    width = times.days or 1.0
    axes.bar(start, times.counts, width=0.9 * width, align="edge", color=BLUE)
    axes.margins(x=0.01)
    locator = AutoDateLocator(minticks=3, maxticks=9)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_xlabel("time (UTC)")
    _count_axis(axes, "interactions")
    return figure


def _intervals_caption(gaps: Intervals) -> str:
    median = gaps.quantiles.get("0.5", 0.0)
    return (
        f"Time between each two neighbouring events of a user, {gaps.n:,} intervals of all users, in classes "
        f"that grow; the median is {duration(median)}. Orange: more than 100 days, "
        f"{percent(gaps.long_share)} of all. No gap: the same second."
    )


def intervals(name: str, gaps: Intervals) -> "Figure":
    """Draw the intervals between neighbouring events, as in TMMSRec, figure 2a."""
    figure, axes = new_axes(2.8, f"{name}: time between neighbouring events")
    counts = gaps.counts
    positions = np.arange(len(counts))
    colours = [VERMILION if position >= len(counts) - N_LONG else BLUE for position in positions]
    axes.bar(positions, counts, width=0.8, color=colours)
    for x, count in zip(positions, counts, strict=True):
        axes.annotate(
            percent(count / gaps.n), (x, count), xytext=(0, 2), textcoords="offset points", ha="center",
            color=INK, fontsize=8,
        )  # fmt: skip
    axes.set_xticks(positions, INTERVAL_LABELS, fontsize=8)
    axes.set_xlabel("interval")
    _count_axis(axes, "pairs of neighbours")
    axes.set_ylim(top=1.14 * counts.max())  # leaves room for the shares above the bars
    return figure


def _pair_caption(look: Look) -> str:
    if look.pair is None:
        return ""
    common = look.pair
    shown = "" if common.seconds[-1] == 0 else " whose interval is not always zero"
    names = f"“{look.title(common.first)}” and right after it “{look.title(common.second)}”"
    return (
        f"The most common pair of different items in neighbouring positions{shown}: {names}, "
        f"{len(common.seconds):,} users (each user's first time). A dot per user, in order of the interval: "
        f"{duration(int(common.seconds[0]))} to {duration(int(common.seconds[-1]))}."
    )


def pair(look: Look) -> "Figure":
    """Draw the intervals of the most common pair, as in TMMSRec, figure 2b."""
    from matplotlib.ticker import MaxNLocator

    assert look.pair is not None
    seconds = look.pair.seconds
    figure, axes = new_axes(2.6, f"{look.name}: intervals of the most common pair of items")
    longest = max(int(seconds[-1]), 1)
    unit, name = next(
        (unit for unit in ((DAY, "days"), (HOUR, "hours"), (60, "minutes")) if longest >= 2 * unit[0]),
        (1, "seconds"),
    )
    x = np.arange(1, len(seconds) + 1)
    axes.vlines(x, 0, seconds / unit, color=BLUE, linewidth=0.8 if len(x) < 100 else 0.3)
    axes.plot(x, seconds / unit, "o", color=BLUE, markersize=4 if len(x) < 100 else 2)
    axes.set_xlim(0.5, len(x) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10], integer=True))
    axes.set_xlabel("users, shortest interval first")
    axes.set_ylabel(f"interval ({name})")
    axes.set_ylim(bottom=0, top=None if seconds[-1] else 1)
    axes.grid(axis="y")
    axes.tick_params(axis="both", length=0)
    return figure


def _bars(axes: "Axes", lengths: Lengths) -> None:
    """Draw a histogram of whole numbers; an open class at the end is grey."""
    positions = np.arange(len(lengths.counts))
    colours = [BLUE] * len(positions)
    if lengths.open_end:
        colours[-1] = SOFT
    axes.bar(positions, lengths.counts, width=0.85, color=colours)
    step = max(1, -(-len(positions) // (16 if lengths.width == 1 else 10)))
    shown = [index for index in positions.tolist() if index % step == 0]
    if lengths.open_end:
        shown = [index for index in shown if len(positions) - 1 - index >= step] + [len(positions) - 1]
    axes.set_xticks(shown, [lengths.label(index) for index in shown])


def _middle(lengths: Lengths) -> str:
    quantiles = lengths.quantiles
    tail = f"; grey: {lengths.starts[-1]:,} and more" if lengths.open_end else ""
    longest = f"the longest has {quantiles['1.0']:,.0f}"
    return f"Median {quantiles['0.5']:g}, nine tenths have at most {quantiles['0.9']:,.0f}, {longest}{tail}."


def _history_caption(look: Look) -> str:
    longest = look.prepared.protocol.max_len
    cut = float((np.diff(look.prepared.offsets) > longest).mean())
    return (
        f"Events per user, {look.prepared.n_users:,} users, all parts of the split together. {_middle(look.histories)} "
        f"{percent(cut)} of the users have more than the {longest} that a model reads."
    )


def histories(look: Look) -> "Figure":
    figure, axes = new_axes(2.6, f"{look.name}: history lengths")
    _bars(axes, look.histories)
    axes.set_xlabel("events of a user")
    _count_axis(axes, "users")
    return figure


def _popularity_caption(look: Look) -> str:
    items = look.popularity
    return (
        f"Events of each of the {len(items.counts):,} items, most popular first, both axes logarithmic. The "
        f"{items.n_head:,} most popular (20%, shaded) have {percent(items.head_share)} of all interactions; the first "
        f"has {items.counts[0]:,}, the last {items.counts[-1]:,}."
    )


def popularity(look: Look) -> "Figure":
    from matplotlib.ticker import FuncFormatter, LogLocator

    items = look.popularity
    figure, axes = new_axes(2.8, f"{look.name}: item popularity")
    kept = items.counts > 0  # a logarithmic axis has no zero
    rank = np.arange(1, len(items.counts) + 1)[kept]
    axes.axvspan(0.8, items.n_head + 0.5, color=BLUE, alpha=0.12, linewidth=0)
    axes.plot(rank, items.counts[kept], color=BLUE, linewidth=1.6, marker="o" if len(rank) < 3 else None)
    axes.annotate(
        f"top 20%: {percent(items.head_share)}\nof all interactions",
        (0.02, 0.08),
        xycoords="axes fraction",
        color=INK,
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(0.8, 1.25 * len(items.counts))
    # Powers of ten would give at most two labels.
    if items.counts.max() < 100 * max(1, items.counts.min()):
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    axes.set_ylim(bottom=0.8 * max(1, items.counts.min()), top=1.5 * items.counts.max())
    axes.set_xlabel("rank of the item")
    axes.set_ylabel("interactions")
    axes.grid(axis="both")
    return figure


SHARES_CAPTION = (
    "Orange: shares of neighbouring events, and of the users whose target is in their input already. Blue: shares of "
    "the items that have the thing named. Counted when data, pictures and features were stored."
)


def shares(look: Look) -> "Figure":
    listed = look.shares
    figure, axes = new_axes(0.9 + 0.24 * len(listed), f"{look.name}: ties, repeats and coverage")
    positions = np.arange(len(listed))[::-1]
    colours = [BLUE if share.whole == "of all items" else VERMILION for share in listed]
    axes.barh(positions, [100 * share.value for share in listed], height=0.62, color=colours)
    for y, share in zip(positions, listed, strict=True):
        axes.annotate(
            percent(share.value), (100 * share.value, y), xytext=(4, 0), textcoords="offset points", va="center",
            color=INK, fontsize=8,
        )  # fmt: skip
    axes.set_yticks(positions, [share.label for share in listed])
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20), [f"{tick}%" for tick in range(0, 101, 20)])
    axes.set_xlabel("share")
    axes.grid(axis="x")
    axes.tick_params(axis="both", length=0)
    return figure


def _texts_caption(look: Look) -> str:
    if look.texts is None:
        return ""
    without = look.prepared.n_items - look.n_texts
    fields = ", ".join(look.prepared.manifest.text_fields)
    made = f" ({fields})" if fields else ""
    lacking = f"; {without:,} items without text are left out" if without else ""
    return (
        f"Words of the text that text encoders read{made}, cut at white space, {look.n_texts:,} items{lacking}. "
        f"{_middle(look.texts)}"
    )


def texts(look: Look) -> "Figure":
    assert look.texts is not None
    figure, axes = new_axes(2.6, f"{look.name}: text lengths")
    _bars(axes, look.texts)
    axes.set_xlabel("words in the text of an item")
    _count_axis(axes, "items")
    return figure
