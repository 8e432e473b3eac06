"""Energy of runs: what a meter reads is charged once, to the run that used it; CodeCarbon stays offline and silent.

Run: python -m pytest tests/runs/test_energy.py
"""

import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mmbench
from mmbench import sealed
from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.reporting.energy import energy_line, energy_text
from mmbench.runs.store import FORMAT, RunRecord, read_record
from mmbench.tracking import TrackedEpoch, energy_accounts
from mmbench.tracking.codecarbon_meter import CodeCarbonMeter, gpu_id
from mmbench.tracking.energy import EnergyUse
from mmbench.tracking.energy_accounts import EnergyAccounts, check_country
from tests.cli.making_runs import invoke
from tests.reporting.conftest import fake_run
from tests.runs.metering import BrokenMeter, NoMeter, StepMeter
from tests.runs.recording import Recorder

needs_codecarbon = pytest.mark.skipif(
    not energy_accounts.is_installed("codecarbon"), reason="the package codecarbon is not installed"
)
SMALL = {"hidden_dim": 8}


@pytest.fixture(autouse=True)
def meters(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[StepMeter]]:
    """Measure with StepMeter, at every epoch; return the meters that the test makes."""
    monkeypatch.setattr(energy_accounts, "start_codecarbon", StepMeter)
    monkeypatch.setattr(energy_accounts, "READ_EVERY_S", 0.0)
    monkeypatch.setattr("mmbench.api.running.check_country", str)
    StepMeter.made.clear()
    yield StepMeter.made
    assert all(meter.is_stopped for meter in StepMeter.made)


def run(toy: Prepared, results: Path, **options: Any) -> list[RunRecord]:
    arguments: dict[str, Any] = {"epochs": 3, "floors": False, "settings": SMALL, "energy": "DEU"} | options
    model = arguments.pop("model", "bpr-mf")
    return list(mmbench.run(model, datasets=toy, results_dir=results, data_dir=toy.data_dir, **arguments))


def used(record: RunRecord) -> EnergyUse:
    assert record.energy is not None
    return record.energy


class Interrupting(Recorder):
    """Is Ctrl-C after the second epoch or a later epoch."""

    def epoch(self, report: TrackedEpoch) -> None:
        if report.step >= 2:
            raise KeyboardInterrupt


INTERRUPTING = f"{__name__}:Interrupting"


# -- accounts ---------------------------------------------------------------------------------------------


def test_runs_at_work_share_and_each_pays_for_its_own_end(tmp_path: Path, meters: list[StepMeter]) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    accounts = EnergyAccounts("DEU")
    for folder in (a, b):
        folder.mkdir()
        accounts.join(folder, "cpu", is_begun=False)  # the second: 1 kWh of the first alone
    accounts.epoch()  # 0.5 each
    accounts.share()  # 0.5 each
    assert accounts.leave(a) == EnergyUse(kwh=3.0, kg_co2e=0.75, countries=("DEU",), source="steps")
    assert not meters[0].is_stopped
    last = accounts.leave(b)
    assert last is not None
    assert last.kwh == 2.0
    assert meters[0].is_stopped
    assert accounts.leave(b) is None


def test_epochs_of_milliseconds_are_not_read_one_by_one(
    tmp_path: Path, meters: list[StepMeter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy_accounts, "READ_EVERY_S", 1000.0)
    with EnergyAccounts("DEU") as accounts:
        accounts.join(tmp_path, "cpu", is_begun=False)
        accounts.share()
        for _ in range(5):
            accounts.epoch()
        assert meters[0].n_read == 1


def test_parts_add_up_and_are_an_estimate_unless_all_were_metered() -> None:
    metered = EnergyUse(kwh=1.0, kg_co2e=0.5, countries=("DEU",), meters=("RAPL", "NVML"), source="x")
    other = EnergyUse(kwh=2.0, kg_co2e=0.1, countries=("FRA",), meters=("RAPL",), source="x")
    guess = EnergyUse(kwh=4.0, kg_co2e=0.2, countries=("DEU",), source="x", is_partial=True)
    assert metered + other == EnergyUse(
        kwh=3.0, kg_co2e=0.6, countries=("DEU", "FRA"), meters=("RAPL",), source="x"
    )
    assert (metered + guess).is_estimate
    assert (metered + guess).is_partial


# -- runs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", ["2", "off"])
def test_all_that_was_read_is_charged_once(
    toy: Prepared, tmp_path: Path, meters: list[StepMeter], stack: str
) -> None:
    records = run(toy, tmp_path, seeds=[1, 2], stack=stack)
    assert sum(used(record).kwh for record in records) == sum(meter.n_read for meter in meters)
    assert [used(record).is_partial for record in records] == [False, False]
    assert used(read_record(records[0].path)) == used(records[0])
    if stack == "2":
        # A kWh when the second joins; halves of 2 an epoch (each seed logs it) and of 1 when the first leaves. Each
        # ranks for 1, and the second has 1 more before that.
        assert [used(record).kwh for record in records] == [1 + 3 + 0.5 + 1, 3 + 0.5 + 1 + 1]


def test_the_measurement_decides_nothing(toy: Prepared, tmp_path: Path) -> None:
    (measured,) = run(toy, tmp_path / "a")
    (plain,) = run(toy, tmp_path / "b", energy=None)
    assert (measured.title, measured.curve) == (plain.title, plain.curve)
    assert measured.metrics() == plain.metrics()
    assert plain.energy is None
    assert {file.name for file in measured.path.iterdir()} == {file.name for file in plain.path.iterdir()}


def test_a_model_without_training_is_measured(toy: Prepared, tmp_path: Path, meters: list[StepMeter]) -> None:
    (record,) = run(toy, tmp_path, model="pop", settings={})
    assert used(record).kwh == meters[0].n_read >= 1


def test_a_resumed_run_adds_what_each_part_used(
    toy: Prepared, tmp_path: Path, meters: list[StepMeter]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(toy, tmp_path, track=INTERRUPTING)
    assert meters[0].n_read >= 2  # the epoch that was interrupted counts
    (record,) = run(toy, tmp_path, energy="FRA")
    assert record.n_epochs == 3
    assert used(record).kwh == meters[0].n_read + meters[1].n_read
    assert used(record).countries == ("DEU", "FRA")
    assert not used(record).is_partial


def test_a_part_that_was_not_measured_is_told(toy: Prepared, tmp_path: Path, meters: list[StepMeter]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(toy, tmp_path / "a", track=INTERRUPTING, energy=None)
    (late,) = run(toy, tmp_path / "a")
    assert used(late).is_partial
    assert used(late).kwh == meters[0].n_read
    with pytest.raises(KeyboardInterrupt):
        run(toy, tmp_path / "b", track=INTERRUPTING)
    with pytest.raises(KeyboardInterrupt):
        run(toy, tmp_path / "b", track=INTERRUPTING, energy=None, epochs=3)
    (between,) = run(toy, tmp_path / "b")
    assert used(between).is_partial


def test_a_failed_run_keeps_what_it_used_for_the_next_try(
    toy: Prepared, tmp_path: Path, meters: list[StepMeter]
) -> None:
    (failed,) = run(toy, tmp_path, settings={**SMALL, "lr": 1e35})
    assert failed.status == "failed"
    run(toy, tmp_path, settings={**SMALL, "lr": 1e35})
    kept = sealed.read_json(failed.path / energy_accounts.FILE, advice="", version=energy_accounts.FORMAT)
    assert kept["kwh"] == meters[0].n_read + meters[1].n_read


@pytest.mark.parametrize(
    ("meter", "why"),
    [
        (BrokenMeter, "PermissionError: [Errno 13] Permission denied"),
        (NoMeter, "RuntimeError: no processor is known"),
    ],
)
def test_a_meter_that_fails_is_one_warning(
    toy: Prepared, tmp_path: Path, meter: type, why: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(energy_accounts, "start_codecarbon", meter)
    (record,) = run(toy, tmp_path)
    assert record.status == "finished"
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert warnings == [f"warning: the energy is not measured, and the run continues: {why}"]
    expected = None if meter is NoMeter else (2.0, True)
    assert (record.energy and (record.energy.kwh, record.energy.is_partial)) == expected


def test_a_damaged_account_is_a_warning(tmp_path: Path) -> None:
    lines: list[str] = []
    (tmp_path / energy_accounts.FILE).write_text("{", encoding="utf-8")
    with EnergyAccounts("DEU", warn=lines.append) as accounts:
        accounts.join(tmp_path, "cpu", is_begun=True)
        use = accounts.leave(tmp_path)
    assert use is not None
    assert use.is_partial
    (line,) = lines
    assert "energy.json is damaged" in line


def test_a_record_without_the_field_is_read(tmp_path: Path) -> None:
    record = fake_run(tmp_path, seed=1)
    content = sealed.read_json(record.path / "run.json", advice="", version=FORMAT)
    del content["energy"]
    sealed.write_json(record.path / "run.json", content, version=FORMAT)
    assert read_record(record.path).energy is None


# -- what is shown ----------------------------------------------------------------------------------------

METERED = EnergyUse(
    kwh=0.0123, kg_co2e=0.00467, countries=("DEU",), meters=("RAPL",), source="codecarbon 3.3.2"
)


def test_a_page_and_a_list_show_the_energy(tmp_path: Path) -> None:
    record = fake_run(tmp_path, seed=1, energy=METERED)
    fake_run(tmp_path, "hm4sr", seed=1)
    page = invoke(tmp_path, "runs", "show", str(record.path))
    assert "0.0123 kWh, 4.67 g CO2eq (DEU); read from RAPL, codecarbon 3.3.2" in page
    head, *rows = invoke(tmp_path, "runs", "--columns", "model,energy").splitlines()
    assert head.split() == ["model", "energy"]
    assert sorted(row.split() for row in rows) == [["hm4sr"], ["sasrec", "12.3", "Wh"]]
    listed = json.loads(invoke(tmp_path, "runs", "--json", "--model", "sasrec"))
    (shown,) = json.loads(invoke(tmp_path, "runs", "show", str(record.path), "--json"))
    assert listed[0]["energy"] == shown["energy"] == METERED.to_json()


@pytest.mark.parametrize(
    ("use", "short", "long"),
    [
        (
            EnergyUse(kwh=2e-8, kg_co2e=1e-8, countries=("USA",), source="x"),
            "2e-05 Wh est.",
            "2e-08 kWh, 1e-05 g CO2eq (USA); an estimate: no meter can be read here, x",
        ),
        (
            EnergyUse(
                kwh=12.0, kg_co2e=3.5, countries=("DEU", "FRA"), meters=("RAPL", "NVML"), source="x", is_partial=True
            ),
            "over 12 kWh",
            "12 kWh, 3.5 kg CO2eq (DEU+FRA); read from RAPL and NVML, x; a part of the run was not measured",
        ),
    ],
)  # fmt: skip
def test_amounts_in_words(use: EnergyUse, short: str, long: str) -> None:
    assert (energy_text(use), energy_line(use)) == (short, long)


# -- CodeCarbon -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("country", "why"),
    [
        ("Germany", "give the three-letter code"),
        ("DE", "give the three-letter code"),
        pytest.param("GER", "no country has this code; DEU is Germany", marks=needs_codecarbon),
        pytest.param("XXX", "codes are those of ISO 3166", marks=needs_codecarbon),
    ],
)
def test_what_is_not_a_country_is_one_line(country: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        check_country(country)
    assert "\n" not in str(caught.value)


def test_without_codecarbon_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy_accounts, "is_installed", lambda package: False)
    with pytest.raises(UsageError, match=r"pip install 'mmbench\[energy\]'"):
        check_country("DEU")


def test_a_gpu_is_named_as_its_driver_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [gpu_id("cuda"), gpu_id("cuda:1")] == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5ab")
    assert [gpu_id("cuda"), gpu_id("cuda:1")] == ["3", "GPU-5ab"]


@needs_codecarbon
def test_codecarbon_sends_nothing_prints_nothing_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also where the user's settings of CodeCarbon tell it to: an address, a token, a file, a cloud."""
    from codecarbon.input import DataSource

    calls: list[object] = []

    def refuse(*args: object, **options: object) -> None:
        calls.append(args)
        raise OSError("no network")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("cpuinfo.get_cpu_info", lambda: {"brand_raw": "a processor"})  # asks for seconds
    settings = {
        "EMISSIONS_ENDPOINT": "http://127.0.0.1:9/x", "ELECTRICITYMAPS_API_TOKEN": "t", "CO2_SIGNAL_API_TOKEN": "t",
        "OUTPUT_METHODS": "csv,api,logger", "SAVE_TO_FILE": "true", "SAVE_TO_API": "true", "API_CALL_INTERVAL": "1",
        "CLOUD_PROVIDER": "aws", "CLOUD_REGION": "us-east-1", "LOG_LEVEL": "debug", "ALLOW_MULTIPLE_RUNS": "false",
        "OUTPUT_DIR": str(tmp_path), "MEASURE_POWER_SECS": "0.01", "PUE": "2",
    }  # fmt: skip
    for key, value in settings.items():
        monkeypatch.setenv(f"CODECARBON_{key}", value)
    monkeypatch.chdir(tmp_path)
    filters = list(logging.getLogger("codecarbon").filters)
    meter = CodeCarbonMeter("DEU", "cpu")
    while sum(os.times()[:2]) < sum(_BEGAN) + 0.3:
        pass
    first, second = meter.read(), meter.read()
    meter.stop()
    assert calls == []
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("codecarbon").filters == filters
    assert 0 < first.kwh <= second.kwh
    grams = DataSource().get_global_energy_mix_data()["DEU"]["carbon_intensity"]
    assert second.kg_co2e == pytest.approx(second.kwh * grams / 1000)
    assert second.source.startswith("codecarbon ")


_BEGAN = os.times()[:2]


@needs_codecarbon
def test_codecarbons_own_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object) -> None:
        raise PermissionError("no counter may be read")

    monkeypatch.setattr("codecarbon.emissions_tracker.BaseEmissionsTracker._ensure_hardware_ready", broken)
    with pytest.raises(RuntimeError, match="PermissionError: no counter may be read"):
        CodeCarbonMeter("DEU", "cpu")
