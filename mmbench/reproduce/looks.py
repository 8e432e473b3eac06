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
        """Return the paper's charts of each data set, named by it."""
        wanted = _CHARTS[self.content.kind]
        return [
            Plot(
                f"{profile.name.replace(':', '-')}-{plot.name}", f"{profile.name}. {plot.caption}", plot.draw
            )
            for profile in self.looks
            for plot in charts(profile)
            if plot.name in wanted
        ]

    def rows(self, *, ascii_only: bool = False) -> list[list[str]]:
        """Return [data set, shape, how to read it] for a terminal."""
        shown = self.experiment.shown
        if isinstance(self.content, OverTime):
            return [
                [
                    shown(profile.name),
                    bars(profile.times.counts, ascii_only=ascii_only),
                    times_text(profile.times),
                ]
                for profile in self.looks
                if profile.times is not None
            ]
        classes = " / ".join(label.replace("\n", " ") for label in INTERVAL_LABELS)
        rows = [
            [shown(profile.name), bars(profile.intervals.counts, ascii_only=ascii_only), classes]
            for profile in self.looks
            if profile.intervals is not None
        ]
        for profile in self.looks:
            if profile.intervals is None:
                continue
            printed = self.content.long_share.get(profile.name.split("@")[0])
            beside = "" if printed is None else f"; printed {percent_exact(printed)}"
            rows.append(["  above 100 days", "", percent_exact(profile.intervals.long_share) + beside])
            rows += [["  printed pair", "", text] for text in _pair_texts(profile, self.content)]
        return rows

    def json(self) -> dict[str, Any]:
        """Return the numbers behind the charts."""
        keys = ("over_time",) if isinstance(self.content, OverTime) else ("intervals", "pair")
        by_name: dict[str, Any] = {}
        for profile in self.looks:
            content = as_json(profile)
            by_name[profile.name] = {key: content[key] for key in keys}
            if isinstance(self.content, Intervals):
                by_name[profile.name]["printed_long_share"] = self.content.long_share.get(
                    profile.name.split("@")[0]
                )
        return {"experiment": self.experiment.name, "source": self.content.source, "data": by_name}


def looked(experiment: Experiment, targets: Sequence[Target]) -> Looked:
    content = experiment.content
    assert isinstance(content, OverTime | Intervals)
    return Looked(experiment, content, tuple(look(target.prepared) for target in targets if target.prepared))


def percent_exact(share: float) -> str:
    return f"{100 * share:.2f}%"


def pair_days(profile: Look, ids: tuple[str, str]) -> np.ndarray:
    """Return the days between two items (raw ids) wherever they are neighbours, in either order; ascending."""
    number = {str(record["id"]): at for at, record in enumerate(profile.prepared.item_records, start=1)}
    a, b = (number.get(raw, 0) for raw in ids)  # 0 = not among the items, no event has it
    near = neighbours(profile.prepared.items, profile.prepared.times, profile.prepared.offsets)
    both = ((near.first == a) & (near.second == b)) | ((near.first == b) & (near.second == a))
    return np.sort(near.gap[both]) / DAY


def _pair_texts(profile: Look, content: Intervals) -> list[str]:
    if content.pair is None:
        return []
    days = pair_days(profile, content.pair)
    measured = (
        f"{len(days)} times neighbours, {days[0]:.3g} to {days[-1]:.3g} days"
        if len(days)
        else "never neighbours"
    )
    low, high = content.pair_days or (float("nan"),) * 2
    printed = f"; printed {low:g} to {high:g} days" if content.pair_days else ""
    return [f"{' and '.join(content.pair)}: {measured}{printed}"]
