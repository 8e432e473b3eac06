"""Grids of pictures with titles as figures: the contact sheet, and nearest neighbours of some items."""

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
LETTERS, LINES = 21, 3  # of a title below a picture
# Inches: a row, the picture in it, a row without pictures, its line above the title, the room for the heading.
ROW, PICTURE, TEXT_ROW, LINE_HEIGHT, TOP = 1.65, 1.05, 0.62, 0.08, 0.42


def sheets(look: Look) -> list[Plot]:
    """The contact sheet, when the data set has pictures, and one grid of neighbours per encoder."""
    grids = (
        [Plot("contact-sheet", sheet_caption(look), lambda: contact_sheet(look))] if look.has_pictures else []
    )
    for one in look.nearest:
        name = f"nearest-{one.modality}-{one.encoder}"
        grids.append(Plot(name, nearest_caption(look, one), partial(neighbours, look, one)))
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


def nearest_caption(look: Look, one: Nearest) -> str:
    """What the grid shows, and the two numbers that put a cosine and a glance into proportion."""
    size = " × ".join(map(str, one.shape))
    layers = ", last layer" if len(one.shape) > 1 else ""
    parts = [
        f"{one.modality.capitalize()} features of {one.encoder} ({size} numbers{layers}): popular items of different "
        f"categories, and the {K} nearest other items by cosine"
    ]
    if one.mean_cosine is not None:
        parts.append(f"; any two items have {one.mean_cosine:.2f} on average")
    parts.append(f". {one.manifest.n_present:,} of {look.prepared.n_items:,} items have the feature.")
    if one.same_categories is not None and one.same_by_chance is not None:
        parts.append(
            f" {percent(one.same_categories)} of the {K} nearest have exactly the same categories, against "
            f"{percent(one.same_by_chance)} of all pairs."
        )
    return "".join(parts)


def contact_sheet(look: Look) -> "Figure":
    figure, grid = _grid(look, f"{look.name}: pictures and titles", -(-len(look.sheet) // COLUMNS), COLUMNS)
    for axes, item in zip(grid.ravel(), look.sheet, strict=False):
        _cell(axes, look, item)
    return figure


def _grid(look: Look, title: str, rows: int, columns: int) -> "tuple[Figure, np.ndarray]":
    """Empty axes [rows, columns] for pictures (or one line of letters) with room for three lines below each.

    Placed by hand: to let the lay-out engine do it takes seconds.
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


def neighbours(look: Look, one: Nearest) -> "Figure":
    title = f"{look.name}: nearest items by {one.modality} features of {one.encoder}"
    figure, grid = _grid(look, title, len(one.found), K + 1)
    for row, (query, found) in zip(grid, one.found.items(), strict=True):
        _cell(row[0], look, query, "item" if found else "item, no feature", weight="bold")
        for axes, (item, cosine) in zip(row[1:], found, strict=False):
            _cell(axes, look, item, f"{cosine:.2f}")
    return figure


def _cell(axes: "Axes", look: Look, item: int, above: str = "", weight: str = "normal") -> None:
    """One picture (or a frame with the reason why there is none) with a line above and the title below."""
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
