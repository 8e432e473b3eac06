"""The only exceptions that a user of mmbench meets.

Each message is one line that says what is wrong, where, and what to do. The command line prints it and
exits with `exit_code`; anything else that escapes is a bug in mmbench and shows a traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class MmbenchError(Exception):
    """Something that one line explains."""

    exit_code = 1


class UsageError(MmbenchError):
    """The command was asked for something that does not exist or makes no sense."""

    exit_code = 2


class DataError(MmbenchError):
    """Raw or prepared data is missing, damaged or does not fit."""


class DamagedError(DataError):
    """A file exists and does not hold what was written into it."""


class OtherVersionError(DataError):
    """A file that a newer or older mmbench wrote: nothing is wrong with it, so it must not be written over."""


class RunError(MmbenchError):
    """A training or evaluation run could not go on."""


class ProtocolMismatchError(MmbenchError):
    """Results that were measured under different protocols were asked into one table."""


def out_of_memory(reason: str, advice: str) -> RunError:
    """Return torch's first sentence about a GPU without free memory, with what to do about it, as an error."""
    return RunError(f"{reason.split('. ')[0]}; {advice}")


def suggest(name: str, known: Iterable[str], *, what: str) -> str:
    """Return the hint for an unknown `name`: the nearest of `known`, or all of them when none is near."""
    options = sorted(known)
    folded = {option.casefold(): option for option in options}
    near = get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    if near:
        return f"unknown {what} {name!r}; did you mean {folded[near[0]]!r}?"
    listing = ", ".join(options) if options else "none"
    return f"unknown {what} {name!r}; known: {listing}"
