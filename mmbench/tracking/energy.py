"""The energy that a run used, and what measures it."""

from dataclasses import dataclass, replace
from typing import Protocol

from mmbench import strict


@dataclass(frozen=True, kw_only=True)
class EnergyUse(strict.Strict):
    """The energy that a run used.

    kwh         of the processor, the memory and, where the run has one, the GPU
    kg_co2e     kg of CO2 equivalents, by the mean mix of the country's electricity
    countries   codes of three letters; several where parts of a run were computed in several countries
    meters      what was read in all parts of the run, "RAPL" for example; empty where all is an estimate
    is_partial  whether a part of the run was not measured
    source      who measured: "codecarbon 3.3.2"
    """

    kwh: float
    kg_co2e: float
    countries: tuple[str, ...]
    meters: tuple[str, ...] = ()
    is_partial: bool = False
    source: str

    @property
    def is_estimate(self) -> bool:
        """Return whether no meter was read."""
        return not self.meters

    def __add__(self, other: "EnergyUse") -> "EnergyUse":
        return EnergyUse(
            kwh=self.kwh + other.kwh, kg_co2e=self.kg_co2e + other.kg_co2e,
            countries=tuple(dict.fromkeys([*self.countries, *other.countries])),
            meters=tuple(meter for meter in self.meters if meter in other.meters),
            is_partial=self.is_partial or other.is_partial, source=other.source,
        )  # fmt: skip

    def times(self, share: float) -> "EnergyUse":
        return replace(self, kwh=self.kwh * share, kg_co2e=self.kg_co2e * share)


class Meter(Protocol):
    """Measures this process from the moment when it was made."""

    def read(self) -> EnergyUse: ...
    def stop(self) -> None: ...
