"""Training curves of stored runs: letters on a terminal, lines in a figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mmbench.errors import UsageError
from mmbench.reporting.rounding import number
from mmbench.runs.curves import Curves, Point, read_curves
from mmbench.runs.inventory import StoredRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Shown = Literal["valid", "loss"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SHARED = "*"  # stands where curves of several runs meet
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1b1f24")  # Okabe and Ito's
AXIS = 8  # letters of the values beside the chart


@dataclass(frozen=True)
class TrainedRun:
    """A run with its curves, and the letter that marks it on a terminal."""

    letter: str
    run: StoredRun
    curves: Curves

    @property
    def label(self) -> str:
        return f"{self.run.model} on {self.run.dataset}, seed {self.run.seed} ({self.run.name})"

    def points(self, shown: Shown) -> tuple[Point, ...]:
        return self.curves.valid if shown == "valid" else self.curves.loss


def trained_runs(runs: Sequence[StoredRun]) -> tuple[list[TrainedRun], list[StoredRun]]:
    """Return the runs that have a curve, and those that have none because nothing was trained.

    Raises UsageError when no run has a curve, and for more runs than there are letters.
    """
    read = [(run, read_curves(run.path)) for run in runs]
    with_curve = [(run, curves) for run, curves in read if curves.loss or curves.valid]
    if not with_curve:
        raise UsageError(f"{runs[0].name} ({runs[0].model}) has no curve: no epoch of it is finished")
    if len(with_curve) > len(LETTERS):
        raise UsageError(f"{len(with_curve)} runs: a plot shows at most {len(LETTERS)}; name fewer")
    trained = [
        TrainedRun(letter, run, curves) for letter, (run, curves) in zip(LETTERS, with_curve, strict=False)
    ]
    return trained, [run for run, curves in read if not (curves.loss or curves.valid)]


def quantity(trained: Sequence[TrainedRun], shown: Shown) -> str:
    """Return what the values are; UsageError for runs whose validations have different metrics."""
    if shown == "loss":
        return "training loss"
    metrics = sorted({member.curves.metric for member in trained} - {""})
    if not metrics:
        raise UsageError("none of these runs was validated during its training; --what loss plots the losses")
    if len(metrics) > 1:
        raise UsageError(
            f"these runs were validated by {' and '.join(metrics)}; plot them apart, or --what loss"
        )
    return f"validation {metrics[0]}"


def chart(trained: Sequence[TrainedRun], shown: Shown, *, width: int, height: int) -> list[str]:
    """Return the lines of a chart: values to the left, epochs below, a letter per run."""
    points = [point for member in trained for point in member.points(shown)]
    low, high = min(value for _, value in points), max(value for _, value in points)
    first, last = min(epoch for epoch, _ in points), max(epoch for epoch, _ in points)
    columns, rows = max(10, width - AXIS - 2), max(3, height - 2)
    grid = [[" "] * columns for _ in range(rows)]
    for member in trained:
        for epoch, value in member.points(shown):
            column = _position(epoch, first, last, columns)
            row = rows - 1 - _position(value, low, high, rows)
            grid[row][column] = member.letter if grid[row][column] in (" ", member.letter) else SHARED
    values = {0: high, rows // 2: low + (high - low) * (1 - (rows // 2) / (rows - 1)), rows - 1: low}
    lines = [
        f"{number(values[index]) if index in values else '':>{AXIS}} |{''.join(letters)}".rstrip()
        for index, letters in enumerate(grid)
    ]
    ends = f"epoch {first}", str(last)
    gap = columns - len(ends[0]) - len(ends[1])
    return [*lines, f"{'':{AXIS}} +{'-' * columns}", f"{'':{AXIS + 2}}{ends[0]}{' ' * max(1, gap)}{ends[1]}"]


def _position(value: float, low: float, high: float, n: int) -> int:
    """Return which of n equal steps from low to high a value is nearest to."""
    return 0 if high == low else round((value - low) / (high - low) * (n - 1))


def figure(trained: Sequence[TrainedRun]) -> "Figure":
    """Return validation values and losses over the epochs, member above the other; call it inside `styled`."""
    from mmbench.look.style import new_figure, set_title

    panels: list[Shown] = [
        shown for shown in ("valid", "loss") if any(member.points(shown) for member in trained)
    ]
    drawn = new_figure(2.6 * len(panels) + 0.25 * len(trained))
    set_title(drawn, "Training curves")
    axes: list[Axes] = list(drawn.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0])
    for panel, shown in zip(axes, panels, strict=True):
        panel.set_ylabel(quantity(trained, shown))
        panel.grid(axis="y")
        for index, member in enumerate(trained):
            _draw(panel, member, shown, index)
    axes[-1].set_xlabel("epoch")
    handles, labels = axes[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower left", frameon=False)
    return drawn


def _draw(panel: "Axes", member: TrainedRun, shown: Shown, index: int) -> None:
    points = member.points(shown)
    colour, dash = COLOURS[index % len(COLOURS)], ("-", "--", ":", "-.")[index // len(COLOURS)]
    epochs, values = [epoch for epoch, _ in points], [value for _, value in points]
    panel.plot(epochs, values, dash, color=colour, label=member.label, linewidth=1.3)
    best = member.curves.best
    if shown == "valid" and best is not None:
        panel.plot([best[0]], [best[1]], "o", color=colour, markersize=4)
