"""Who observes runs while they are computed in this process: their trackers, and the account of their energy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbench.runs.plan import Cell
from mmbench.tracking.energy_accounts import EnergyAccounts
from mmbench.tracking.tracking import Tracking
from mmbench.training.names import PREVIOUS, RESUME


@dataclass(frozen=True)
class Observers:
    """The observers of cells that are computed together or one after another, by the cells' folders."""

    tracking: Mapping[Path, Tracking]
    energy: EnergyAccounts

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> "Observers":
        country = next((cell.energy for cell in cells), "")
        return cls({cell.path: Tracking(cell.track, cell.tracked) for cell in cells}, EnergyAccounts(country))

    def begin(self, cell: Cell, device: str) -> None:
        """Charge the energy that is used from now on to the cell, too."""
        is_begun = any((cell.path / name).is_file() for name in (RESUME, PREVIOUS))
        self.energy.join(cell.path, device, is_begun=is_begun)

    def log_of(self, cell: Cell) -> Callable[[Mapping[str, Any], int], None]:
        """Return what is called with each line of the cell's log."""
        tracking = self.tracking[cell.path]

        def log(line: Mapping[str, Any], step: int) -> None:
            self.energy.epoch()
            tracking.log(line, step)

        return log
