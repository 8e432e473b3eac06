"""The work folder of an extraction: what a killed run leaves, so that the next run resumes from it.

    <modality>/.<encoder>.work-<made from>/
      plan.json                    device, batch sizes, and the position from which each size holds
      000000000-000000256.npz      states at positions 0..255 of the order; written atomically

Batches come in a fixed order. So finished work is always the beginning of that order, and the batches
after it are those that an undisturbed run would have made: the values are the same, bit by bit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmbench import sealed
from mmbench.errors import DamagedError

Say = Callable[[str], None]
ADVICE = "run the same command again"


@dataclass
class Sizes:
    """Batch sizes: from position `start` on, a batch has at most `limit` units.

    The unit is "items", or "tokens": the number of texts times the length of the longest.
    """

    changes: list[tuple[int, str, int]] = field(default_factory=list)  # (start, unit, limit)

    def size_at(self, position: int) -> tuple[str, int]:
        """Return unit and limit of the batches from `position` on."""
        return next((unit, limit) for start, unit, limit in reversed(self.changes) if start <= position)

    def change(self, position: int, unit: str, limit: int) -> None:
        """Set another size from `position` on, and forget the sizes that were to hold later."""
        self.changes = [change for change in self.changes if change[0] < position] + [(position, unit, limit)]


class Work:
    """A work folder. `done` inputs are stored; `sizes` is empty when the work begins."""

    def __init__(self, folder: Path, *, device: str, say: Say) -> None:
        self.folder = folder
        self.device = device.split(":")[0]
        self.sizes = self._read_sizes(say)
        self.done = self._find_done()

    def _read_sizes(self, say: Say) -> Sizes:
        try:
            plan = sealed.read_json(self.folder / "plan.json", advice=ADVICE)
            device, changes = str(plan["device"]), [(int(a), str(b), int(c)) for a, b, c in plan["changes"]]
        except (FileNotFoundError, DamagedError, ValueError, KeyError, TypeError):
            return Sizes()
        if device == self.device:
            return Sizes(changes)
        say(f"work done on {device} is repeated on {self.device}, because the two round differently")
        return Sizes()

    def _find_done(self) -> int:
        """Return the end of the unbroken chain of state files; remove files beyond it, and damaged files."""
        position = 0
        for file in sorted(self.folder.glob("[0-9]*.npz")):
            start, _, stop = file.stem.partition("-")
            if self.sizes.changes and int(start) == position and _is_whole(file):
                position = int(stop)
            else:
                file.unlink()
        for file in self.folder.glob(".*.tmp"):
            file.unlink()
        return position

    def save_sizes(self) -> None:
        sealed.write_json(self.folder / "plan.json", {"device": self.device, "changes": self.sizes.changes})

    def add(self, states: list[np.ndarray], absent: dict[int, str], n_inputs: int) -> None:
        """Store the next `n_inputs`: the states of those present, and the reasons of the `absent`, by position."""
        start, stop = self.done, self.done + n_inputs
        arrays = {
            "states": np.concatenate(states) if states else np.zeros((0, 0), np.float32),
            "present": np.array([position not in absent for position in range(start, stop)], bool),
        }
        facts: dict[str, Any] = {"absent": [absent[position] for position in sorted(absent)]}
        sealed.write_arrays(self.folder / f"{start:09d}-{stop:09d}.npz", arrays, facts, is_compressed=False)
        self.done = stop

    def parts(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray, list[str]]]:
        """Yield positions, states [present, ...], present [positions] and reasons of each file, in order."""
        for file in sorted(self.folder.glob("[0-9]*.npz")):
            start, _, stop = file.stem.partition("-")
            arrays, facts = sealed.read_arrays(file, advice=ADVICE)
            yield slice(int(start), int(stop)), arrays["states"], arrays["present"], facts["absent"]


def _is_whole(file: Path) -> bool:
    try:
        sealed.read_arrays(file, advice=ADVICE)
    except DamagedError:
        return False
    return True
