"""mmbench doctor: what it says of a healthy machine and of broken ones, as real processes; it never fails itself."""

import json
import os
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from mmbench.data.raw_hashes import Recorded, record_file
from mmbench.doctor import machine
from mmbench.doctor.finding import size
from tests.cli.forks import Command, run_all
from tests.prepared import ROOT, Outcome, cli, environment, write_toy

SECRET = "http://user:hunter2@proxy.example:3128"


def findings(done: Outcome) -> list[dict[str, str]]:
    content = json.loads(done.stdout)
    assert content["usable"] == (done.returncode == 0)
    actual: list[dict[str, str]] = content["findings"]
    return actual


def said(done: Outcome, topic: str, level: str = "") -> str:
    """The texts of a topic, one a line."""
    chosen = [
        finding for finding in findings(done) if finding["topic"] == topic and level in ("", finding["level"])
    ]
    return "\n".join(f"{finding['text']} -> {finding['do']}" for finding in chosen)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Several worlds, one start of the interpreter."""
    root = tmp_path_factory.mktemp("doctor")
    used, results = root / "used", root / "results"
    write_toy(used)
    litter(used, results)
    (root / "file").write_text("no folder")
    home = root / "home"
    (home / "hub" / "models--me--tiny").mkdir(parents=True)
    (home / "hub" / "models--me--tiny" / "blob").write_bytes(bytes(2048))
    online = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
    proxy = {"HTTPS_PROXY": SECRET, "no_proxy": "*", "HOME": str(root)}
    bad = ("--datasets", root / "none.toml", "doctor", "--json")
    commands = {
        "healthy": Command(("doctor", "--json"), root / "new", root / "new results", proxy),
        "text": Command(("doctor",), root / "new", root / "new results", proxy),
        "used": Command(("doctor", "--json", "--online"), used, results, {**online, "no_proxy": "*"}),
        "bad": Command(bad, root / "file", root / "file" / "below"),
    }
    return dict(zip(commands, run_all(list(commands.values())), strict=True))


def litter(data: Path, results: Path) -> None:
    """What killed commands leave behind, and a damaged data set."""
    broken = data / "prepared" / "broken"
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("{")
    (data / "prepared" / "toy" / "features" / "image" / ".resnet50.work-abc123").mkdir(parents=True)
    (data / "raw" / "amazon-toys").mkdir(parents=True)
    for name in ("a.gz", "b.gz"):
        record_file(data, "amazon-toys", name, Recorded("0" * 64, 1, "https://there", "2026-01-01"))
    (data / "raw" / "amazon-toys" / "meta.json.gz.part").write_bytes(bytes(3000))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid, age in ((ended.pid, 7200), (os.getpid(), 7200), (ended.pid, 0)):
        file = data / "prepared" / f".toy.new-{pid}-{age:08x}.tmp"
        file.write_bytes(bytes(1000))
        os.utime(file, (time.time() - age,) * 2)
    cells = results / "toy" / "sasrec" / "id"
    for seed, files in enumerate((["run.json"], ["resume.safetensors", "train.jsonl"], ["cell.lock"])):
        (cells / f"seed_{seed}").mkdir(parents=True)
        for name in files:
            (cells / f"seed_{seed}" / name).write_text('{"status": "finished"}')


def test_a_healthy_machine(world: dict[str, Outcome]) -> None:
    done = world["healthy"]
    assert (done.returncode, done.stderr) == (0, "")
    assert not [finding for finding in findings(done) if finding["level"] == "problem"]
    assert "torch 2." in said(done, "libraries")
    assert "1 thread on " in said(done, "torch", "ok")
    assert said(done, "devices")
    assert "created when needed" in said(done, "data")
    assert "free" in said(done, "results")
    assert "mmbench prepare demo" in said(done, "prepared")
    assert "could not be checked" not in done.stdout


def test_nothing_private_is_said(world: dict[str, Outcome]) -> None:
    """It is pasted into bug reports: names of variables, no values; no name of the user in paths."""
    done = world["healthy"]
    assert "HTTPS_PROXY, no_proxy" in said(done, "network")
    assert "hunter2" not in done.stdout + done.stderr
    assert said(done, "data").startswith("~/new: ")


def test_text_has_a_line_for_each_finding(world: dict[str, Outcome]) -> None:
    lines = world["text"].stdout.splitlines()
    assert world["text"].returncode == 0
    levels = [line.split()[0] for line in lines if not line.lstrip().startswith("->")]
    assert set(levels) <= {"ok", "note", "problem"}
    assert levels == [finding["level"] for finding in findings(world["healthy"])]
    assert any(line.split()[1] == "torchvision" for line in lines)


def test_torchvision_is_explained(world: dict[str, Outcome]) -> None:
    """Which of the states a machine is in is tested with torchvision_import."""
    states = (
        "mmbench declares the operators' signatures",
        ", complete",
        "pip install torchvision",
        "cannot be",
    )
    assert sum(state in said(world["healthy"], "torchvision") for state in states) == 1


def test_what_is_there_and_what_was_left(world: dict[str, Outcome]) -> None:
    done = world["used"]
    assert done.returncode == 0
    assert "toy (60 items; 1 text, 1 image)" in said(done, "prepared", "ok")
    notes = said(done, "prepared", "note")
    assert "broken/manifest.json is damaged" in notes
    assert "unfinished: image features resnet50 of toy -> mmbench extract toy --image" in notes
    assert "hashes of 2 files of 1 data sets" in said(done, "raw files", "ok")
    assert "1 unfinished download: amazon-toys/meta.json.gz.part (2.9 KB)" in said(done, "raw files", "note")
    assert said(done, "runs", "ok").startswith("1 finished")
    assert "1 are unfinished or still running: toy/sasrec/id/seed_1" in said(done, "runs", "note")


def test_only_files_of_ended_processes_are_leftovers(world: dict[str, Outcome]) -> None:
    text = said(world["used"], "leftovers", "note")
    assert text.startswith("1 temporary file of killed processes, 1000 bytes:")
    assert f"{7200:08x}.tmp" in text
    assert f"-{os.getpid()}-" not in text


def test_folders_that_cannot_be_written(world: dict[str, Outcome]) -> None:
    done = world["bad"]
    assert done.returncode == 1
    assert "file cannot be written to" in said(done, "data", "problem")
    assert "choose another folder with --data-dir" in said(done, "data", "problem")
    assert "file is not a folder -> choose another folder with --results-dir" in said(
        done, "results", "problem"
    )


def test_the_hub_is_asked_only_when_told_to(world: dict[str, Outcome]) -> None:
    assert "http" not in said(world["healthy"], "hub")
    text = said(world["used"], "hub")
    assert "http://127.0.0.1:9 cannot be reached" in text
    assert "2.0 KB, 1 models (me/tiny)" in text
    assert "unset HF_HUB_OFFLINE" in text
    assert world["used"].returncode == 0


def test_a_catalogue_that_cannot_be_read_is_a_problem(world: dict[str, Outcome]) -> None:
    assert world["bad"].returncode == 1
    assert "none.toml" in said(world["bad"], "catalogue", "problem")


@pytest.mark.parametrize("fault", ["raise OSError('libtorch.so: wrong ELF class')", "import no_such_part"])
def test_a_torch_that_cannot_be_imported(tmp_path: Path, fault: str) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(fault)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    env = environment(data=tmp_path / "data", results=tmp_path / "results", env={"PYTHONPATH": path})
    done = subprocess.run(
        [sys.executable, "-m", "mmbench", "doctor"], capture_output=True, text=True, env=env, cwd=tmp_path,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    [line] = [line for line in done.stdout.splitlines() if line.startswith("problem")]
    assert "cannot be imported" in line
    assert ("wrong ELF class" in line) or ("no_such_part" in line)
    assert "not checked, because torch does not work" in done.stdout
    assert "could not be checked" not in done.stdout


def test_libraries_are_those_that_the_project_requires() -> None:
    import tomllib

    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {
        requirement.split(">")[0].split("<")[0].split("=")[0].strip()
        for requirement in project["dependencies"]
    }
    assert set(machine.LIBRARIES) == names
    assert {package for packages, _ in machine.PACKAGED.values() for package in packages} >= {
        requirement.split(">")[0] for requirement in project["optional-dependencies"]["encoders"]
    }


def test_a_missing_library_is_a_problem_or_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_version", lambda name: None if name in ("numpy", "matplotlib") else "1")
    actual = {library.do: library for library in machine.libraries() if library.level != "ok"}
    assert actual["pip install numpy"].level == "problem"
    assert actual["pip install matplotlib"].level == "note"
    assert "plots" in actual["pip install matplotlib"].text


@pytest.mark.parametrize(
    ("topic", "level"), [("data", "note"), ("results", "note"), ("empty", "problem"), ("missing", "problem")]
)
def test_a_folder_that_can_only_be_read_is_used_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, topic: str, level: str
) -> None:
    from mmbench.doctor import folders

    (tmp_path / "data" / "prepared").mkdir(parents=True)
    (tmp_path / "results" / "demo").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(folders, "_why_unwritable", lambda folder, *, is_parent: "Read-only file system")
    (finding,) = folders.disk(topic if level == "note" else "data", tmp_path / topic, "--data-dir")
    assert finding.level == level
    assert "Read-only file system" in finding.text
    assert "--data-dir" in finding.do


def test_a_library_of_another_version_than_asked_for_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["numpy>=1.26", "torch<2.14,>=2.9", "pandas>=2.2", 'typer>=9; extra == "dev"']
    versions = {"numpy": "1.25.2", "torch": "2.14.0+cpu", "pandas": "2.2.0rc1", "typer": "1.0"}
    monkeypatch.setattr(machine, "requires", lambda name: lines)
    monkeypatch.setattr(machine, "_version", lambda name: versions.get(name, "1"))
    found = {finding.do: finding.text for finding in machine.libraries() if finding.level == "note"}
    assert found == {
        "pip install 'numpy>=1.26'": "numpy 1.25.2 is not what mmbench is tested with (>=1.26)",
        "pip install 'torch<2.14,>=2.9'": "torch 2.14.0+cpu is not what mmbench is tested with (<2.14,>=2.9)",
        "pip install 'pandas>=2.2'": "pandas 2.2.0rc1 is not what mmbench is tested with (>=2.2)",
    }


def test_a_package_that_is_only_on_the_path_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(machine, "requires", unknown)
    assert [finding.level for finding in machine.libraries()] == ["ok"]


def test_a_look_that_fails_is_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mmbench.doctor import examine, folders, usable

    def fails(*_: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(folders, "runs", fails)
    monkeypatch.setattr(machine, "torchvision", fails)
    actual = examine(tmp_path, tmp_path)
    texts = [finding.text for finding in actual if finding.topic in ("runs", "torchvision")]
    assert texts == ["could not be checked: ZeroDivisionError: of all things"] * 2
    assert usable(actual)


def test_help_has_an_example(tmp_path: Path) -> None:
    done = cli("doctor", "--help", data=tmp_path)
    assert "Example: mmbench doctor --json" in done.stdout


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(0, "0 bytes"), (1536, "1.5 KB"), (300 * 2**20, "300 MB"), (5 * 2**40, "5.0 TB")]
)
def test_sizes(n_bytes: int, text: str) -> None:
    assert size(n_bytes) == text
