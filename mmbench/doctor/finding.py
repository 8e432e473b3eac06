"""One line of the doctor's report."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """ "problem": mmbench cannot be used until it is solved; "note": something is limited or left over.

    `do` says what helps, as a command where there is one.
    """

    level: Level
    topic: str
    text: str
    do: str = ""


def size(n_bytes: float) -> str:
    """1536 -> "1.5 KB", in steps of 1024."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "bytes" or n_bytes >= 100 else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TB"


def few(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
