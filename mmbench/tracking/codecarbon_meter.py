"""CodeCarbon as a meter: offline, silent, and without files of its own.

CodeCarbon also takes settings from `CODECARBON_...` and from `.codecarbon.config`. Those of the machine and of the
electricity count here (`pue`, `force_cpu_power`, `region`, ...); those that send or write are overruled.
"""

import logging
import os
from collections.abc import Mapping
from tempfile import TemporaryDirectory
from typing import Any

from mmbench.explain import first_line
from mmbench.tracking.energy import EnergyUse

EVERY_S = 15.0  # between readings of counters, which must not run over
# What CodeCarbon's hardware reads, by its mode or class; all else it computes from the load.
METERS: Mapping[str, str] = {
    "intel_rapl": "RAPL", "windows_emi": "Windows EMI", "intel_power_gadget": "Power Gadget",
    "AppleSiliconChip": "powermetrics", "Raspberry": "PMIC", "GPU": "the GPU's driver",
}  # fmt: skip


class CodeCarbonMeter:
    """Measures this process: its share of the processor's load and memory, and the GPU that it computes on.

    Where a meter of the processor can be read (RAPL), it counts all that the processor does.
    """

    def __init__(self, country: str, device: str) -> None:
        from codecarbon import OfflineEmissionsTracker

        self.country, self.on_gpu = country, device.startswith("cuda")
        self.output, self.quiet = _Output(), _Quiet()
        self.folder = TemporaryDirectory(prefix="mmbench-energy-")
        self.logger = logging.getLogger("codecarbon")
        self.logger.addFilter(self.quiet)
        gpus: dict[str, Any] = {"gpu_ids": [gpu_id(device)]} if self.on_gpu else {}
        self.tracker: Any = OfflineEmissionsTracker(
            country_iso_code=country, tracking_mode="process", measure_power_secs=EVERY_S,
            output_methods=[], output_handlers=[self.output], output_dir=self.folder.name, api_call_interval=-1,
            allow_multiple_runs=True, log_level="warning", emissions_endpoint=None, electricitymaps_api_token="",
            cloud_provider=None, cloud_region=None, **gpus,
        )  # fmt: skip
        self.tracker.start()
        self.read()

    def read(self) -> EnergyUse:
        """Return what was used so far; RuntimeError with CodeCarbon's own reason where it has no reading."""
        from codecarbon import __version__

        self.output.total = None
        self.tracker.flush()
        total = self.output.total
        if total is None:
            raise RuntimeError(self.quiet.reason or "CodeCarbon has no reading")
        kwh = total.cpu_energy + total.ram_energy + (total.gpu_energy if self.on_gpu else 0.0)
        share = kwh / total.energy_consumed if total.energy_consumed else 0.0
        return EnergyUse(
            kwh=kwh, kg_co2e=total.emissions * share, countries=(self.country,), meters=self._meters(),
            source=f"codecarbon {__version__}",
        )  # fmt: skip

    def _meters(self) -> tuple[str, ...]:
        """Return the meters that are read. Where CodeCarbon no longer says so, all counts as an estimate."""
        names = []
        for part in getattr(self.tracker, "_hardware", ()):
            kind = type(part).__name__
            if kind != "GPU" or self.on_gpu:
                names += [METERS[key] for key in (getattr(part, "_mode", ""), kind) if key in METERS]
        return tuple(dict.fromkeys(names))

    def stop(self) -> None:
        self.tracker.stop()
        self.logger.removeFilter(self.quiet)
        self.folder.cleanup()


def gpu_id(device: str) -> str:
    """Return the GPU of a device ("cuda:1") as the driver counts it, which CUDA_VISIBLE_DEVICES may renumber."""
    number = int(device.partition(":")[2] or 0)
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[number] if number < len(visible) else str(number)


class _Output:
    """What CodeCarbon hands its readings to, in place of a file."""

    total: Any = None

    def out(self, total: Any, delta: Any) -> None:
        self.total = total

    def live_out(self, total: Any, delta: Any) -> None: ...
    def task_out(self, data: Any, experiment_name: str) -> None: ...
    def exit(self) -> None: ...


class _Quiet(logging.Filter):
    """Keeps CodeCarbon from printing, and keeps the reason of its last error, which it only logs."""

    reason = ""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            self.reason = f"{type(error).__name__}: {first_line(error)}"
        return False
