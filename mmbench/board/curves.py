"""Validation curves as an inline drawing; colours are those of the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from mmbench.board.entries import Curve
from mmbench.reporting.rounding import number

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 40
N_COLOURS = 6  # classes c0 .. c5 of the style


@dataclass(frozen=True)
class _Scale:
    """Numbers to pixels along an axis."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.first + share * (self.last - self.first), 1)


def curve_svg(curves: Sequence[Curve], metric: str) -> str:
    """Return the drawing, "" where no seed has a curve. Seeds differ in colour; a ring marks the epoch ranked."""
    drawn = [curve for curve in curves if curve.points]
    if not drawn:
        return ""
    values = [value for curve in drawn for _, value in curve.points]
    last = max(epoch for curve in drawn for epoch, _ in curve.points)
    x = _Scale(1, max(last, 2), LEFT, WIDTH - RIGHT)
    y = _Scale(min(values), max(values), HEIGHT - BOTTOM, TOP)
    label = escape(f"Validation {metric} of {len(drawn)} seeds over {last} epochs")
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">',
        *_axes(x, y, last, metric),
    ]
    for k, curve in enumerate(drawn):
        line = " ".join(f"{x(epoch)},{y(value)}" for epoch, value in curve.points)
        parts.append(f'<polyline class="c{k % N_COLOURS}" points="{line}"/>')
        best = dict(curve.points).get(curve.best)
        if best is not None:
            title = escape(f"seed {curve.seed}: epoch {curve.best}, {number(best)}")
            ring = f'<circle class="c{k % N_COLOURS}" cx="{x(curve.best)}" cy="{y(best)}" r="4">'
            parts.append(f"{ring}<title>{title}</title></circle>")
    return "".join([*parts, "</svg>"])


def _axes(x: _Scale, y: _Scale, last: int, metric: str) -> list[str]:
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>']
    for value in (y.low, (y.low + y.high) / 2, y.high) if y.high > y.low else (y.low,):
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4}" text-anchor="end">{number(value)}</text>')
    for epoch in sorted({1, (1 + last) // 2, last}):
        parts.append(f'<text x="{x(epoch)}" y="{HEIGHT - 22}" text-anchor="middle">{epoch}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">epoch</text>')
    parts.append(f'<text x="{LEFT + 6}" y="{TOP + 10}">{escape(metric)}</text>')
    return parts
