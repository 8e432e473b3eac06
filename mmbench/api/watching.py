"""The watchers of what the interface does: the caller's, or plain lines on stderr."""

import sys
import warnings
from collections.abc import Callable

from mmbench.features.pipeline import PrepareWatcher
from mmbench.runs.narrator import RunLines
from mmbench.runs.watchers import Watchers

Progress = bool | Watchers  # the command line gives watchers of its own


def watchers_of(progress: Progress) -> Watchers:
    """Return the watchers of a call: the caller's, or lines on stderr if `progress`, else warnings only."""
    if isinstance(progress, Watchers):
        return progress
    say: Callable[[str], object] = _print if progress else lambda text: None
    return Watchers(say=say, warn=_warn, preparation=PrepareWatcher(say), run=RunLines(say))


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)
