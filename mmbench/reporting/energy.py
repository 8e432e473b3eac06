"""The energy of a run in words and as JSON."""

from typing import Any

from mmbench.runs.store import RunRecord
from mmbench.tracking.energy import EnergyUse


def energy_text(use: EnergyUse) -> str:
    """Return the energy alone: "12.3 Wh", "12.3 Wh est." where no meter was read, "over 12.3 Wh" of a part."""
    over = "over " if use.is_partial else ""
    return f"{over}{_amount(1000 * use.kwh, 'Wh')}{' est.' if use.is_estimate else ''}"


def energy_line(use: EnergyUse) -> str:
    """Return the energy, its CO2 equivalents, who measured them, and what is not in them."""
    how = (
        "an estimate: no meter can be read here"
        if use.is_estimate
        else f"read from {' and '.join(use.meters)}"
    )
    parts = [
        f"{use.kwh:.3g} kWh, {_amount(1000 * use.kg_co2e, 'g')} CO2eq ({'+'.join(use.countries)})",
        f"{how}, {use.source}",
    ]
    return "; ".join([*parts, *(["a part of the run was not measured"] if use.is_partial else [])])


def energy_json(record: RunRecord | None) -> dict[str, Any] | None:
    """Return the energy of a run as JSON content; None where it was not measured."""
    return record.energy.to_json() if record is not None and record.energy is not None else None


def _amount(value: float, unit: str) -> str:
    return f"{value / 1000:.3g} k{unit}" if value >= 1000 else f"{value:.3g} {unit}"
