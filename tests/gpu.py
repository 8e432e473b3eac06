"""The device of the tests on a GPU, and the messages of their comparisons."""

from collections.abc import Callable

GPU = "cuda"


def named(name: str) -> Callable[[str], str]:
    """Return a function that puts a name before the message of a comparison."""
    return lambda text: f"{name}: {text}"
