"""The figures as files: each as PNG and SVG, and their captions."""

from collections.abc import Callable, Sequence
from pathlib import Path

from mmbench.atomic import write_text, write_with
from mmbench.look.gather import Look
from mmbench.look.plots import Plot, charts
from mmbench.look.sheets import sheets
from mmbench.look.style import png, styled, svg

CAPTIONS = "captions.txt"


def save_plots(look: Look, folder: Path, progress: Callable[[str], None] = lambda name: None) -> list[Path]:
    """Write every figure of the data set (see `save_figures`)."""
    return save_figures([*charts(look), *sheets(look)], folder, progress)


def save_figures(
    plots: Sequence[Plot],
    folder: Path,
    progress: Callable[[str], None] = lambda name: None,
    *,
    captions_file: str = CAPTIONS,
) -> list[Path]:
    """Write each figure as `NAME.png` and `NAME.svg`, and all captions; return the files.

    Each file is replaced atomically. Raises MmbenchError when any cannot be written.
    """
    written, captions = [], []
    for plot in plots:
        progress(plot.name)
        with styled(plot.name):
            figure = plot.draw()
        for suffix, content in ((".png", png(figure)), (".svg", svg(figure, plot.name).encode())):
            file = folder / f"{plot.name}{suffix}"
            write_with(file, lambda temporary, content=content: temporary.write_bytes(content))  # type: ignore[misc]
            written.append(file)
        captions.append(f"{plot.name}\n{plot.caption}\n")
    write_text(folder / captions_file, "\n".join(captions))
    return [*written, folder / captions_file]
