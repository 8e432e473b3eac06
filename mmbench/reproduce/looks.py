"""Figures that show data and train nothing: interactions over time, intervals between neighbouring events."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmbench.look.gather import Look, as_json, look
from mmbench.look.numbers import DAY, INTERVAL_LABELS, neighbours
from mmbench.look.plots import Plot, charts
from mmbench.look.terminal import bars, times_text
from mmbench.reproduce.plan import Target
from mmbench.reproduce.spec import Experiment, Intervals, OverTime

_CHARTS = {"over-time": ("over-time",), "intervals": ("intervals", "pair")}


@dataclass(frozen=True)
class Looked:
    """The prepared data sets of the experiment; nothing is drawn before it is asked for."""

    experiment: Experiment
    content: OverTime | Intervals
    looks: tuple[Look, ...]

    @property
    def plots(self) -> list[Plot]:
        """The paper's charts of each data set, named by it."""
        wanted = _CHARTS[self.content.kind]
        return [
            Plot(f"{one.name.replace(':', '-')}-{plot.name}", f"{one.name}. {plot.caption}", plot.draw)
            for one in self.looks
            for plot in charts(one)
            if plot.name in wanted
        ]

    def rows(self, *, ascii_only: bool = False) -> list[list[str]]:
        """[data set, shape, how to read it] for a terminal."""
        shown = self.experiment.shown
        if isinstance(self.content, OverTime):
            return [
                [shown(one.name), bars(one.times.counts, ascii_only=ascii_only), times_text(one.times)]
                for one in self.looks
                if one.times is not None
            ]
        classes = " / ".join(label.replace("\n", " ") for label in INTERVAL_LABELS)
        rows = [
            [shown(one.name), bars(one.intervals.counts, ascii_only=ascii_only), classes]
            for one in self.looks
            if one.intervals is not None
        ]
        for one in self.looks:
            if one.intervals is None:
                continue
            printed = self.content.long_share.get(one.name.split("@")[0])
            beside = "" if printed is None else f"; printed {percent_exact(printed)}"
            rows.append(["  above 100 days", "", percent_exact(one.intervals.long_share) + beside])
            rows += [["  printed pair", "", text] for text in _pair_texts(one, self.content)]
        return rows

    def json(self) -> dict[str, Any]:
        """The numbers behind the charts."""
        keys = ("over_time",) if isinstance(self.content, OverTime) else ("intervals", "pair")
        found: dict[str, Any] = {}
        for one in self.looks:
            content = as_json(one)
            found[one.name] = {key: content[key] for key in keys}
            if isinstance(self.content, Intervals):
                found[one.name]["printed_long_share"] = self.content.long_share.get(one.name.split("@")[0])
        return {"experiment": self.experiment.name, "source": self.content.source, "data": found}


def looked(experiment: Experiment, targets: Sequence[Target]) -> Looked:
    content = experiment.content
    assert isinstance(content, OverTime | Intervals)
    return Looked(experiment, content, tuple(look(one.prepared) for one in targets if one.prepared))


def percent_exact(share: float) -> str:
    return f"{100 * share:.2f}%"


def pair_days(one: Look, ids: tuple[str, str]) -> np.ndarray:
    """Days between two items (raw ids) wherever they are neighbours in a history, in either order; ascending."""
    number = {str(record["id"]): at for at, record in enumerate(one.prepared.item_records, start=1)}
    a, b = (number.get(raw, 0) for raw in ids)  # 0 = not among the items, no event has it
    near = neighbours(one.prepared.items, one.prepared.times, one.prepared.offsets)
    both = ((near.first == a) & (near.second == b)) | ((near.first == b) & (near.second == a))
    return np.sort(near.gap[both]) / DAY


def _pair_texts(one: Look, content: Intervals) -> list[str]:
    if content.pair is None:
        return []
    days = pair_days(one, content.pair)
    measured = (
        f"{len(days)} times neighbours, {days[0]:.3g} to {days[-1]:.3g} days"
        if len(days)
        else "never neighbours"
    )
    low, high = content.pair_days or (float("nan"),) * 2
    printed = f"; printed {low:g} to {high:g} days" if content.pair_days else ""
    return [f"{' and '.join(content.pair)}: {measured}{printed}"]
