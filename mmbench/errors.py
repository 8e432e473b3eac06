"""The only exceptions that a user of mmbench meets.

Each message is a line that says what is wrong, where, and what to do. The command line prints it and
exits with `exit_code`; anything else that escapes is a bug in mmbench and shows a traceback.
"""

from collections.abc import Iterable

MOST_SHOWN = 8  # names that a suggestion lists


class MmbenchError(Exception):
    """An error that a line explains."""

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
    """A training or evaluation run could not continue."""


class ProtocolMismatchError(MmbenchError):
    """Results that were measured under different protocols cannot share a table."""


# What code that is not ours (a user's model, a library under it) may raise, and a run survives.
FAILURES = (Exception, SystemExit)


def out_of_memory(reason: str, advice: str) -> RunError:
    """Return torch's first sentence about a GPU without free memory, with what to do about it, as an error."""
    return RunError(f"{reason.split('. ')[0]}; {advice}")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 run", "2,000 runs"."""
    return f"{number:,} {plural(number, noun)}"


def plural(number: int, noun: str) -> str:
    """Return the noun as it stands after a number."""
    if number == 1:
        return noun
    if noun.endswith("y") and not noun.endswith(("ay", "ey", "oy", "uy")):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "rch", "tch", "sh")) else f"{noun}s"


def suggest(name: str, known: Iterable[str], *, what: str) -> str:
    """Return the hint for an unknown `name`: the nearest of `known`, or all of them when none is near."""
    options = sorted(known)
    near = nearest(name, options)
    if len(near) == 1:
        return f"unknown {what} {name!r}; did you mean {near[0]!r}?"
    if near:
        more = ", ..." if len(near) > MOST_SHOWN else ""
        return f"unknown {what} {name!r}; these begin with it: {', '.join(near[:MOST_SHOWN])}{more}"
    listing = ", ".join(options) if options else "none"
    return f"unknown {what} {name!r}; known: {listing}"


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return the name that was probably meant, or all that begin with what was typed; [] when none is near.

    A third of the letters may be wrong, missing, too many or in exchanged order.
    """
    options, wanted = sorted(known), name.casefold()
    distances = {
        option: (_distance(wanted, option.casefold()), _distance(name, option)) for option in options
    }
    closest = min(distances, key=lambda option: distances[option], default="")
    if closest and distances[closest][0] <= max(1, len(wanted) // 3):
        return [closest]
    return [option for option in options if len(wanted) > 1 and option.casefold().startswith(wanted)]


def _distance(a: str, b: str) -> int:
    """Return how many letters to change, add, remove or exchange with their neighbour make b of a."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        last, before, row = before, row, [i]
        for j, other in enumerate(b, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
