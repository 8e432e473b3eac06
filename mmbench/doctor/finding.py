"""A line of the doctor's report."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """ "problem": mmbench cannot be used until it is solved; "note": something is limited or left over.

    `do` says what to do, as a command if possible.
    """

    level: Level
    topic: str
    text: str
    do: str = ""


def size(n_bytes: float) -> str:
    """Return "1.5 KB" for 1536, in steps of 1024."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "bytes" or n_bytes >= 100 else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TB"


def few(names: list[str], most: int = 3) -> str:
    """Join the first names; say how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
