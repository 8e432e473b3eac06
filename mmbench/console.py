"""The consoles that mmbench prints with: what comes from outside is text for them, neither markup nor commands."""

import textwrap
from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from mmbench.visible import visible


def at_blanks(text: str, width: int) -> str:
    """Return a text whose lines are broken at blanks, so that no name is cut in two; a longer word stays whole."""
    return "\n".join(
        line if len(line) <= width
        else textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )  # fmt: skip


class SafeConsole(Console):
    """A rich console that reads no markup and sends no control characters but its own.

    In a notebook, too, it writes to its file: rich would display every line by itself.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(
            markup=False, emoji=False, highlight=False, soft_wrap=True, force_jupyter=False, **options
        )

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; on a terminal a text is broken at blanks, unless `soft_wrap` leaves that to the terminal."""
        is_text = len(objects) == 1 and isinstance(objects[0], str)
        if is_text and self.is_terminal and not options.get("soft_wrap"):
            objects = (at_blanks(objects[0], self.width),)
        super().print(*objects, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))
