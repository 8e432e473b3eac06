"""The energy that runs use, where a user asks for it: which run a meter's readings are charged to.

A meter reads a process. `EnergyAccounts` charges its readings to the runs that the process computes: seeds of a stack
share them equally while they train, and each run pays for its own ranking. What a run has used lies in its folder while
it is computed, so that a run that was interrupted adds up what each part of it used.
"""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from mmbench import sealed
from mmbench.errors import FAILURES, DataError, UsageError
from mmbench.explain import first_line
from mmbench.tracking.codecarbon_meter import CodeCarbonMeter
from mmbench.tracking.energy import EnergyUse, Meter
from mmbench.tracking.naming import is_installed
from mmbench.tracking.tracking import warn_on_stderr
from mmbench.visible import one_line

FILE = "energy.json"  # in a run's folder while it is computed
FORMAT = 1
READ_EVERY_S = 1.0  # epochs may take milliseconds, a reading takes some of them


def start_codecarbon(country: str, device: str) -> Meter:
    return CodeCarbonMeter(country, device)


def check_country(country: str) -> str:
    """Return the country's three-letter code in capitals; UsageError for another text or without CodeCarbon."""
    if not isinstance(country, str) or not re.fullmatch(r"[A-Za-z]{3}", country):
        raise UsageError(
            f"--energy {country}: give the three-letter code of a country, for example DEU or USA"
        )
    if not is_installed("codecarbon"):
        raise UsageError("--energy needs the package 'codecarbon'; install it: pip install 'mmbench[energy]'")
    from codecarbon.input import DataSource

    code, known = country.upper(), DataSource().get_global_energy_mix_data()
    if code not in known:
        names = {key: str(facts["country_name"]) for key, facts in known.items()}
        near = [f"{key} is {name}" for key, name in names.items() if name.upper().startswith(code)]
        hint = "; ".join(near[:3]) or "codes are those of ISO 3166, such as DEU, USA and CHN"
        raise UsageError(f"--energy {code}: no country has this code; {hint}")
    return code


class EnergyAccounts:
    """What runs of this process used, by their folders. A meter that fails is one warning, and the runs go on.

    country  where the runs are computed; nothing is measured for ""
    start    makes the meter, of a country and a device
    warn     is called with a line when the meter fails
    """

    def __init__(
        self,
        country: str,
        *,
        start: Callable[[str, str], Meter] | None = None,
        warn: Callable[[str], object] = warn_on_stderr,
    ) -> None:
        self.country, self.start, self.warn = country, start or start_codecarbon, warn
        self.used: dict[Path, EnergyUse | None] = {}  # of the runs at work; None before the first reading
        self.partial: set[Path] = set()
        self.meter: Meter | None = None
        self.last: EnergyUse | None = None  # the reading of the meter that is charged already
        self.read_at, self.failed = 0.0, False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.share()  # what an interrupted epoch used counts, too
        self._stop()

    def join(self, folder: Path, device: str, *, is_begun: bool) -> None:
        """Charge a run from now on; `is_begun`: some of its epochs are finished."""
        file = folder / FILE
        if not self.country:
            file.unlink(missing_ok=True)  # would be taken for all that the run has used so far
            return
        self.share()
        self.used[folder] = _stored(file, self.warn)
        if self.used[folder] is None and is_begun:
            self.partial.add(folder)
        if self.meter is None and not self.failed:
            self._guard(lambda: self._start(device))

    def epoch(self) -> None:
        """Charge what was used, unless the last reading is fresh."""
        if time.monotonic() - self.read_at >= READ_EVERY_S:
            self.share()

    def share(self) -> None:
        """Charge what was used since the last reading to the runs at work, in equal parts."""
        delta = self._take() if self.used else None
        for folder in self.used if delta else ():
            self._charge(folder, delta.times(1 / len(self.used)))  # type: ignore[union-attr]

    def leave(self, folder: Path) -> EnergyUse | None:
        """Charge what was used since the last reading to one run, and return all that it used; None: unknown."""
        if folder not in self.used:
            return None
        if delta := self._take():
            self._charge(folder, delta)
        use = self.used.pop(folder)
        if use and self.failed:
            use = replace(use, is_partial=True)
            with suppress(OSError):
                _store(folder, use)
        if not self.used:
            self._stop()
        return use

    def _start(self, device: str) -> None:
        self.meter, self.last = self.start(self.country, device), None

    def _take(self) -> EnergyUse | None:
        """Return what was used since the last reading; None without a meter."""
        reading: list[EnergyUse] = []
        if self.meter is not None:
            self._guard(lambda: reading.append(self.meter.read()))  # type: ignore[union-attr]
        if not reading:
            return None
        (now,), last = reading, self.last
        self.last, self.read_at = now, time.monotonic()
        return now if last is None else now + last.times(-1)

    def _charge(self, folder: Path, delta: EnergyUse) -> None:
        use = self.used[folder]
        use = replace(delta if use is None else use + delta, is_partial=self._is_partial(folder, use))
        self.used[folder] = use
        self._guard(lambda: _store(folder, use))

    def _is_partial(self, folder: Path, use: EnergyUse | None) -> bool:
        return folder in self.partial or (use is not None and use.is_partial)

    def _stop(self) -> None:
        meter, self.meter, self.last = self.meter, None, None
        if meter is not None:
            self._guard(meter.stop)

    def _guard(self, call: Callable[[], object]) -> None:
        """Do what may fail; warn, and measure no more, when it does."""
        try:
            call()
        except FAILURES as error:
            if not self.failed:
                reason = one_line(f"{type(error).__name__}: {first_line(error)}")
                self.warn(f"the energy is not measured, and the run continues: {reason}")
            meter, self.meter, self.failed = self.meter, None, True
            if meter is not None:
                self._guard(meter.stop)


def _store(folder: Path, use: EnergyUse) -> None:
    sealed.write_json(folder / FILE, use.to_json(), version=FORMAT)


def _stored(file: Path, warn: Callable[[str], object]) -> EnergyUse | None:
    """Return what an interrupted run has used so far; None where nothing is known of it."""
    try:
        return EnergyUse.from_json(
            sealed.read_json(file, advice="the energy so far is not counted", version=FORMAT)
        )
    except FileNotFoundError:
        return None
    except (DataError, ValueError) as error:
        warn(one_line(f"{error}"))
        return None
