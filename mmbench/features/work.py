"""The work folder of an extraction: what a killed run leaves, so that the next one goes on from there.

    <modality>/.<encoder>.work-<made from>/
      plan.json                    device, batch sizes, and from which place on each one holds
      000000000-000000256.npz      states of places 0..255 of the order; written in one step

Batches follow one another in a fixed order, so what is done is always the beginning of that order, and the batches
after it are those that the undisturbed run would have made: the values are the same, bit by bit.
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
    """Batch sizes: from place `start` of the order on, at most `limit` units a batch.

    The unit is "items", or "tokens": the number of texts times the longest one's.
    """

    changes: list[tuple[int, str, int]] = field(default_factory=list)  # (start, unit, limit)

    def at(self, place: int) -> tuple[str, int]:
        return next((unit, limit) for start, unit, limit in reversed(self.changes) if start <= place)

    def change(self, place: int, unit: str, limit: int) -> None:
        """Another size from `place` on; what was meant to hold later is forgotten."""
        self.changes = [one for one in self.changes if one[0] < place] + [(place, unit, limit)]


class Work:
    """One work folder. `done` places are stored; `sizes` is empty when the work begins."""

    def __init__(self, folder: Path, *, device: str, say: Say) -> None:
        self.folder = folder
        self.device = device.split(":")[0]
        self.sizes = self._read_sizes(say)
        self.done = self._find_done()

    def _read_sizes(self, say: Say) -> Sizes:
        try:
            found = sealed.read_json(self.folder / "plan.json", advice=ADVICE)
            device, changes = str(found["device"]), [(int(a), str(b), int(c)) for a, b, c in found["changes"]]
        except (FileNotFoundError, DamagedError, ValueError, KeyError, TypeError):
            return Sizes()
        if device == self.device:
            return Sizes(changes)
        say(f"what was done on {device} is done again on {self.device}: they round differently")
        return Sizes()

    def _find_done(self) -> int:
        """The end of the unbroken chain of state files; what lies beyond it, or is damaged, goes."""
        place = 0
        for file in sorted(self.folder.glob("[0-9]*.npz")):
            start, _, stop = file.stem.partition("-")
            if self.sizes.changes and int(start) == place and _is_whole(file):
                place = int(stop)
            else:
                file.unlink()
        for file in self.folder.glob(".*.tmp"):
            file.unlink()
        return place

    def save_sizes(self) -> None:
        sealed.write_json(self.folder / "plan.json", {"device": self.device, "changes": self.sizes.changes})

    def add(self, states: list[np.ndarray], absent: dict[int, str], n_places: int) -> None:
        """Store the next `n_places`: the states of those present, the reasons of the `absent` ones by place."""
        start, stop = self.done, self.done + n_places
        arrays = {
            "states": np.concatenate(states) if states else np.zeros((0, 0), np.float32),
            "present": np.array([place not in absent for place in range(start, stop)], bool),
        }
        facts: dict[str, Any] = {"absent": [absent[place] for place in sorted(absent)]}
        sealed.write_arrays(self.folder / f"{start:09d}-{stop:09d}.npz", arrays, facts, is_compressed=False)
        self.done = stop

    def parts(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray, list[str]]]:
        """Yield places, states [present, ...], present [places] and reasons of each file, in order."""
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
