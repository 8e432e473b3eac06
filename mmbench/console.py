"""The consoles that mmbench prints with: what comes from outside is text for them, neither markup nor commands."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from mmbench.visible import visible


class SafeConsole(Console):
    """A rich console that reads no markup and sends no control characters but its own.

    In a notebook, too, it writes to its file: rich would display every line by itself.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(
            markup=False, emoji=False, highlight=False, soft_wrap=True, force_jupyter=False, **options
        )

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))
