"""A common style for all figures, by Matplotlib's object interface only: no pyplot, no global figures.

The colours are Okabe and Ito's blue and vermilion on white, which people with any colour blindness tell apart.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, LINE = "#1b1f24", "#5b6573", "#d5dae1"
BLUE, VERMILION = "#0072b2", "#d55e00"
WIDTH = 7.2  # inches: the text width of a page, so that letters keep their size in points
DPI = 200

_SETTINGS: dict[str, Any] = {
    "font.family": "sans-serif", "font.size": 9, "text.color": INK, "text.parse_math": False,
    "axes.edgecolor": SOFT, "axes.labelcolor": INK, "axes.linewidth": 0.8, "axes.facecolor": "none",
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "axes.titlecolor": INK,
    "xtick.color": SOFT, "ytick.color": SOFT, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "grid.color": LINE, "grid.linewidth": 0.6, "figure.facecolor": "white", "svg.fonttype": "none",
}  # fmt: skip
# A page with a dark mode replaces these colours by its own.
_VARIABLES = {INK: "--ink", SOFT: "--soft", LINE: "--line", BLUE: "--blue", VERMILION: "--vermilion"}


@contextmanager
def styled(name: str = "") -> Iterator[None]:
    """Apply our settings while drawing or saving, whatever the user's matplotlibrc says."""
    import matplotlib

    defaults: Any = matplotlib.rcParamsDefault
    settings: Any = {**defaults, **_SETTINGS, "svg.hashsalt": name}
    settings.pop("backend", None)  # only pyplot may choose it
    with warnings.catch_warnings():
        # Titles hold letters that the font lacks; a box in their place is enough.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        # The defaults include deprecated settings.
        warnings.simplefilter("ignore", matplotlib.MatplotlibDeprecationWarning)
        with matplotlib.rc_context(settings):
            yield


def new_figure(height: float, *, layout: Literal["constrained"] | None = "constrained") -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout=layout)


def new_axes(height: float, title: str) -> "tuple[Figure, Axes]":
    figure = new_figure(height)
    set_title(figure, title)
    return figure, figure.add_subplot()


def set_title(figure: "Figure", title: str) -> None:
    """Put the title at the left edge of the figure, however the axes below are placed."""
    position = {} if figure.get_layout_engine() else {"y": 1 - 0.06 / figure.get_figheight()}
    figure.suptitle(title, x=0.008, ha="left", va="top", weight="bold", size=10, **position)


def png(figure: "Figure") -> bytes:
    """Return the figure as PNG on white, for slides and papers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    with styled():
        FigureCanvasAgg(figure)
        figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def svg(figure: "Figure", name: str) -> str:
    """Return the figure as an SVG file; letters stay letters. The same figure gives the same bytes."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    with styled(name):
        FigureCanvasSVG(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "mmbench"})
    return buffer.getvalue()


def inline_svg(text: str, name: str) -> str:
    """Turn an `svg` into a part of a page: no prolog, unique ids, transparent, with the page's colours and width."""
    text = text[text.index("<svg") :]
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg role="img" viewBox="\1">', text, count=1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'(id="|url\(#|href="#)', rf"\1{name}-", text)
    text = re.sub(r"fill: (#ffffff|white)(?=[;\"])", "fill: none", text, count=1)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text
