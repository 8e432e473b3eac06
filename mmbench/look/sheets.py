"""Grids of pictures with titles as figures: the contact sheet, and the nearest neighbours of some items."""

import textwrap
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mmbench.look.gather import Look
from mmbench.look.nearest import K, Nearest
from mmbench.look.plots import Plot, percent
from mmbench.look.style import INK, LINE, SOFT, new_figure, set_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 6
LETTERS, LINES = 21, 3  # limit a title below a picture
# Inches: a row, its picture, a row without pictures, its line above the title, the heading.
ROW, PICTURE, TEXT_ROW, LINE_HEIGHT, TOP = 1.65, 1.05, 0.62, 0.08, 0.42


def sheets(look: Look) -> list[Plot]:
    """Return the contact sheet, if the data set has pictures, and a grid of neighbours per encoder."""
    grids = (
        [Plot("contact-sheet", sheet_caption(look), lambda: contact_sheet(look))] if look.has_pictures else []
    )
    for nearest in look.nearest:
        name = f"nearest-{nearest.modality}-{nearest.encoder}"
        grids.append(Plot(name, nearest_caption(look, nearest), partial(neighbours, look, nearest)))
    return grids


def sheet_caption(look: Look) -> str:
    head = len(look.sheet) - len(look.sheet) // 2
    if len(look.sheet) == look.prepared.n_items:
        return f"All {len(look.sheet)} items with their pictures, most popular first."
    rest = len(look.sheet) - head
    return (
        f"Pictures of {len(look.sheet)} items with their titles: the {head} most popular, then {rest} evenly over "
        "the other ranks down to the least popular. A grey frame says why there is no picture."
    )


def nearest_caption(look: Look, nearest: Nearest) -> str:
    """Describe the grid, with the two numbers that put its cosines into perspective."""
    size = " × ".join(map(str, nearest.shape))
    layers = ", last layer" if len(nearest.shape) > 1 else ""
    parts = [
        f"{nearest.modality.capitalize()} features of {nearest.encoder} ({size} numbers{layers}): popular items of "
        f"different categories, and the {K} nearest other items by cosine"
    ]
    if nearest.mean_cosine is not None:
        parts.append(f"; any two items have {nearest.mean_cosine:.2f} on average")
    parts.append(f". {nearest.manifest.n_present:,} of {look.prepared.n_items:,} items have the feature.")
    if nearest.same_categories is not None and nearest.same_by_chance is not None:
        parts.append(
            f" {percent(nearest.same_categories)} of the {K} nearest have exactly the same categories, against "
            f"{percent(nearest.same_by_chance)} of all pairs."
        )
    return "".join(parts)


def contact_sheet(look: Look) -> "Figure":
    figure, grid = _grid(look, f"{look.name}: pictures and titles", -(-len(look.sheet) // COLUMNS), COLUMNS)
    for axes, item in zip(grid.ravel(), look.sheet, strict=False):
        _cell(axes, look, item)
    return figure


def _grid(look: Look, title: str, rows: int, columns: int) -> "tuple[Figure, np.ndarray]":
    """Return empty axes [rows, columns] for pictures (or a line of letters), with room for three lines below each.

    They are placed by hand, because the layout engine takes seconds.
    """
    row, picture = (ROW, PICTURE) if look.has_pictures else (TEXT_ROW, LINE_HEIGHT)
    height = TOP + row * rows
    figure = new_figure(height, layout=None)
    set_title(figure, title)
    figure.subplots_adjust(
        left=0.01, right=0.99, top=1 - TOP / height, bottom=(row - picture) / height, wspace=0.12,
        hspace=(row - picture) / picture,
    )  # fmt: skip
    grid: np.ndarray = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    return figure, grid


def neighbours(look: Look, nearest: Nearest) -> "Figure":
    title = f"{look.name}: nearest items by {nearest.modality} features of {nearest.encoder}"
    figure, grid = _grid(look, title, len(nearest.neighbours), K + 1)
    for row, (query, items) in zip(grid, nearest.neighbours.items(), strict=True):
        _cell(row[0], look, query, "item" if items else "item, no feature", weight="bold")
        for axes, (item, cosine) in zip(row[1:], items, strict=False):
            _cell(axes, look, item, f"{cosine:.2f}")
    return figure


def _cell(axes: "Axes", look: Look, item: int, above: str = "", weight: str = "normal") -> None:
    """Draw a picture (or a frame with the reason why there is none), with a line above and the title below."""
    picture = look.thumbnails.get(item)
    if isinstance(picture, str):
        from matplotlib.patches import Rectangle

        axes.set_aspect(1.2)
        axes.add_patch(Rectangle((0, 0), 1, 1, fill=False, edgecolor=LINE))
        axes.text(0.5, 0.5, textwrap.fill(picture, 12), ha="center", va="center", color=SOFT, fontsize=7)
    elif picture is not None:
        axes.imshow(np.asarray(picture))
    axes.set_title(above, fontsize=7, weight=weight, pad=3)
    lines = textwrap.wrap(look.title(item, 200), LETTERS, max_lines=LINES, placeholder="…")
    axes.text(
        0.5, -0.04 if look.has_pictures else 1.0, "\n".join(lines), transform=axes.transAxes, ha="center", va="top",
        color=INK, fontsize=6.5,
    )  # fmt: skip
