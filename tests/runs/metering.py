"""Meters for tests, whose readings are known."""

from typing import ClassVar

from mmbench.tracking.energy import EnergyUse


class StepMeter:
    """Every reading is a kWh more than the one before it; `made` has the meters of a test."""

    made: ClassVar[list["StepMeter"]] = []
    meters: ClassVar[tuple[str, ...]] = ()

    def __init__(self, country: str, device: str) -> None:
        self.country, self.device, self.n_read, self.is_stopped = country, device, 0, False
        self.made.append(self)

    def read(self) -> EnergyUse:
        assert not self.is_stopped
        self.n_read += 1
        return EnergyUse(
            kwh=float(self.n_read), kg_co2e=self.n_read / 4, countries=(self.country,), meters=self.meters,
            source="steps",
        )  # fmt: skip

    def stop(self) -> None:
        self.is_stopped = True


class BrokenMeter(StepMeter):
    """Fails at its third reading."""

    def read(self) -> EnergyUse:
        if self.n_read == 2:
            raise PermissionError(13, "Permission denied")
        return super().read()


class NoMeter:
    def __init__(self, country: str, device: str) -> None:
        raise RuntimeError("no processor is known")
