"""Studies as an HTML page that loads nothing: what was tried, in which order, how much each setting matters."""

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from mmbench.look.style import BLUE, INK, SOFT, VERMILION, inline_svg, new_figure, set_title, styled, svg
from mmbench.reporting.studies import HEADER, Study
from mmbench.visible import visible_if_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmbench.tuning.records import Trial

N_ROWS = 10
ACROSS = 3  # panels side by side
FILLED, HOLLOW = ("finished", "cut"), ("pruned",)


def html(studies: Sequence[Study]) -> str:
    """Return the page of some studies."""
    from jinja2 import Environment, StrictUndefined

    source = (files("mmbench.reporting") / "study_page.html.j2").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined, finalize=visible_if_text).from_string(
        source
    )
    models = ", ".join(dict.fromkeys(study.plan.model for study in studies))
    return template.render(
        title=f"Tuning of {models}", header=HEADER, studies=[_content(study) for study in studies]
    )


def _content(study: Study) -> dict[str, Any]:
    has_values = bool(study.ranked)
    figures = [("history", history)] if has_values else []
    figures += [("settings", settings)] if has_values else []
    figures += [("importance", importance)] if study.importance else []
    return {
        "title": study.title(),
        "rows": study.rows(N_ROWS),
        "remarks": study.remarks(),
        "fixed": ", ".join(f"{key} = {value}" for key, value in study.plan.fixed.items()),
        "space": [
            (key, str(dimension.searched), dimension.searched.source)
            for key, dimension in study.plan.dimensions.items()
        ],
        "figures": [{"svg": _drawn(study, name, draw), "caption": CAPTIONS[name]} for name, draw in figures],
    }


CAPTIONS = {
    "history": "Value of each trial in the order of their numbers. Filled: finished; hollow: pruned; cross at the "
    "bottom: failed. The line is the best so far, the dashed line the recipe's settings.",
    "settings": "Value against each searched setting. Orange: the best trial. Pruned trials are hollow.",
    "importance": "Share of the variance between the best trials and all that each setting explains (PED-ANOVA).",
}


def _drawn(study: Study, name: str, draw: Any) -> Any:
    from markupsafe import Markup

    unique = f"{name}-{study.study_id}"
    with styled(unique):
        figure = draw(study)
    # Matplotlib escapes every text that it writes into the drawing.
    return Markup(inline_svg(svg(figure, unique), unique))


def history(study: Study) -> "Figure":
    """Draw the values of the trials by number, and the best so far."""
    figure = new_figure(2.6)
    set_title(figure, "Values in the order of the trials")
    axes = figure.add_subplot()
    _points(axes, study.ranked, [trial.number for trial in study.ranked])
    best_numbers, best_values = best_so_far(study.trials)
    axes.step(best_numbers, best_values, where="post", color=VERMILION, linewidth=1.4)
    recipe = next((trial.value for trial in study.trials if trial.number == 0), None)
    if recipe is not None:
        axes.axhline(recipe, color=SOFT, linewidth=1, linestyle="--")
    failed = [trial.number for trial in study.trials if trial.status == "failed"]
    axes.plot(failed, [0.02] * len(failed), "x", color=SOFT, transform=axes.get_xaxis_transform())
    axes.set_xlabel("trial")
    axes.set_ylabel(study.plan.metric)
    axes.grid(axis="y")
    return figure


def best_so_far(trials: "Sequence[Trial]") -> tuple[list[int], list[float]]:
    """Return the numbers of the trials that may be chosen, and the largest value up to each."""
    from mmbench.tuning.records import CHOOSABLE

    chosen = [(t.number, t.value) for t in trials if t.value is not None and t.status in CHOOSABLE]
    values = np.maximum.accumulate([value for _, value in chosen]).tolist() if chosen else []
    return [number for number, _ in chosen], values


def settings(study: Study) -> "Figure":
    """Draw the values against each setting: listed values side by side in their order, ranges on their scale."""
    keys = list(study.plan.space)
    down = -(-len(keys) // ACROSS)
    figure = new_figure(0.5 + 1.9 * down)
    set_title(figure, "Values against the settings")
    first: Axes | None = None
    for index, key in enumerate(keys):
        axes = figure.add_subplot(down, ACROSS, index + 1, sharey=first)
        first = first or axes
        _setting(axes, study, key)
        axes.tick_params(axis="both", length=0, labelsize=7, labelleft=index % ACROSS == 0)
        axes.grid(axis="y")
    return figure


def _setting(axes: "Axes", study: Study, key: str) -> None:
    searched, ranked = study.plan.dimensions[key].searched, study.ranked
    values = [trial.values[key] for trial in ranked]
    if searched.points is None:
        positions: list[float] = [float(value) for value in values]
        axes.set_xscale("log" if searched.log else "linear")
    else:
        texts = [json.dumps(point) for point in _in_order(searched.points)]
        positions = [float(texts.index(json.dumps(value))) for value in values]
        axes.set_xticks(range(len(texts)), [text.strip('"') for text in texts])
        axes.set_xlim(-0.5, len(texts) - 0.5)
    _points(axes, ranked, positions)
    if study.best is not None and study.best.value is not None:
        axes.plot(
            positions[ranked.index(study.best)],
            study.best.value,
            "o",
            color=VERMILION,
            markersize=6,
            zorder=3,
        )
    axes.set_xlabel(key, fontsize=8)


def _in_order(points: Sequence[Any]) -> list[Any]:
    is_number = all(isinstance(point, int | float) and not isinstance(point, bool) for point in points)
    return sorted(points) if is_number else list(points)


def _points(axes: "Axes", trials: "Sequence[Trial]", positions: Sequence[float]) -> None:
    for statuses, face in ((FILLED, BLUE), (HOLLOW, "none")):
        pairs = [(x, t.value) for x, t in zip(positions, trials, strict=True) if t.status in statuses]
        if pairs:
            xs, ys = zip(*pairs, strict=True)
            axes.plot(xs, ys, "o", color=BLUE, markerfacecolor=face, markersize=4, linestyle="none")


def importance(study: Study) -> "Figure":
    """Draw how much each setting matters, the most important at the top."""
    shares = study.importance
    figure = new_figure(0.5 + 0.26 * len(shares))
    set_title(figure, "Importance")
    axes = figure.add_subplot()
    heights = np.arange(len(shares))[::-1]
    axes.barh(heights, list(shares.values()), height=0.6, color=BLUE)
    for height, share in zip(heights, shares.values(), strict=True):
        axes.annotate(
            f"{share:.0%}", (share, height), xytext=(4, 0), textcoords="offset points", va="center", color=INK
        )
    axes.set_yticks(heights, list(shares))
    axes.set_xlim(0, 1.1)
    axes.tick_params(axis="both", length=0)
    return figure
