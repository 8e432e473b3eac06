"""mmbench run: settings, lists, floors, failures and models of the user; what a whole run leaves is in test_run.py."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmbench.choices import FLOORS
from mmbench.cli import app
from mmbench.data.store import open_prepared
from mmbench.evaluation.metrics import parse_metric
from mmbench.runs.store import read_record
from mmbench.settings.config import Origin, Setting
from tests.models.test_registry import write_own
from tests.prepared import SMALL, cells, cli, environment, write_toy


def test_lists_are_as_long_as_asked_and_change_no_configuration(data_dir: Path, tmp_path: Path) -> None:
    args = ("run", "pop", "--no-floors", "--dataset", "toy")
    none, short = (tmp_path / name for name in ("none", "short"))
    for folder, k in ((none, "0"), (short, "3")):
        assert cli(*args, "--lists", k, data=data_dir, results=folder).returncode == 0
    (bare,), (listed,) = cells(none), cells(short)
    assert bare.relative_to(none) == listed.relative_to(short)
    assert (read_record(bare).ranking("test").lists, read_record(listed).ranking("test").list_length) == (
        {},
        3,
    )
    asked = cli("report", "--metric", "Coverage@5", results=none)
    assert (asked.returncode, len(asked.error_lines)) == (2, 1)
    assert f"no lists are stored; run: mmbench evaluate {bare} --lists 5" in asked.stderr
    assert cli("evaluate", bare, "--lists", "5", data=data_dir, results=none).returncode == 0
    shown = cli("report", "--metric", "Coverage@5", "-f", "json", results=none)
    value = parse_metric("Coverage@5").value(read_record(bare).ranking("test"), "none")
    assert json.loads(shown.stdout)["rows"][0]["cells"][0]["mean"] == value > 0


def test_a_costly_floor_stays_away_from_large_catalogues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so in one line; who names it gets it."""
    write_toy(tmp_path / "data", "toy")

    def planned(*args: str) -> tuple[list[str], list[str]]:
        folders = ["--data-dir", str(tmp_path / "data"), "--results-dir", str(tmp_path / "results")]
        actual = CliRunner().invoke(app, [*folders, "run", *args, "--dataset", "toy", "--dry-run"])
        assert actual.exit_code == 0, actual.output
        models = [Path(line.split()[1]).parents[1].name for line in actual.stdout.splitlines()]
        return models, actual.stderr.splitlines()

    n_items = open_prepared("toy", tmp_path / "data").n_items
    monkeypatch.setitem(FLOORS, "ease", n_items)
    models, lines = planned("sasrec")
    assert sorted(models) == sorted(["sasrec", *FLOORS])
    assert not lines
    monkeypatch.setitem(FLOORS, "ease", n_items - 1)
    models, lines = planned("sasrec", "--set", "ease.reg_weight=10")
    assert sorted(models) == sorted({"sasrec", *FLOORS} - {"ease"})
    assert [line.partition(":")[0] for line in lines] == ["ease is left out"]
    assert f"toy has {n_items:,} items" in lines[0]
    assert planned("ease")[0].count("ease") == 1
    assert planned("sasrec", "--no-floors") == (["sasrec"], [])


def test_settings_of_one_model_and_two_data_sets(data_dir: Path, tmp_path: Path) -> None:
    write_toy(tmp_path / "data", "toy", created=3.0)
    write_toy(tmp_path / "data", "toy@reverse", created=2.0, ties="reverse", seed=4, features=False)
    out = tmp_path / "results"
    done = cli(
        "run", "pop", "itemknn", "sasrec", "--dataset", "toy", "--dataset", "toy@reverse", "--no-floors",
        "--epochs", "1", "--set", "sasrec.lr=0.01", *SMALL, data=tmp_path / "data", results=out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    actual = [(read_record(cell).dataset, read_record(cell).model) for cell in cells(out)]
    assert sorted(actual) == [(d, m) for d in ("toy", "toy@reverse") for m in ("itemknn", "pop", "sasrec")]
    assert all(
        read_record(cell).settings["lr"] == Setting(0.01, Origin.user)
        for cell in cells(out)
        if "sasrec" in cell.parts
    )
    last = cli("run", "pop", "--no-floors", "--dry-run", data=tmp_path / "data", results=out)
    assert "using data set toy (prepared last; also prepared: toy@reverse); --dataset chooses" in last.stderr


def test_a_data_set_that_cannot_be_read_is_skipped_and_named(tmp_path: Path) -> None:
    write_toy(tmp_path / "data", "toy", created=3.0)
    old = write_toy(tmp_path / "data", "old", created=9.0, features=False).path
    (old / "manifest.json").write_text('{"format": 99, "name": "old"}')
    world = {"data": tmp_path / "data", "results": tmp_path / "results"}
    line = f"warning: data set skipped: {old / 'manifest.json'} was written by another version of mmbench"
    run = cli("--quiet", "run", "pop", "--no-floors", "--dry-run", **world)
    assert (run.returncode, "/toy/pop/" in run.stdout) == (0, True), run.stderr
    for done in (run, cli("datasets", **world), cli("reproduce", **world)):
        assert done.returncode == 0, done.stderr
        assert [text for text in done.stderr.splitlines() if text.startswith(line)] == done.error_lines[:1]
    asked = cli("run", "pop", "--dataset", "old", **world)
    assert (asked.returncode, len(asked.error_lines)) == (1, 1)
    mistyped = cli("run", "pop", "--dataset", "tyo", **world)
    assert (mistyped.returncode, "did you mean 'toy'" in mistyped.stderr) == (2, True)


def test_failed_cells_are_rows_and_the_others_go_on(data_dir: Path, tmp_path: Path) -> None:
    folder = write_own(tmp_path / "models")
    code = (folder / "my_line.py").read_text(encoding="utf-8")
    (folder / "my_line.py").write_text(code.replace("return (self", "return (nothing + self"))
    args = (
        "run", "sasrec", "my-line", "pop", "--no-floors", "--set", "sasrec.lr=1e30", "--epochs", "3", *SMALL,
    )  # fmt: skip
    world = {"data": data_dir, "results": tmp_path / "results", "env": {"MMBENCH_MODELS": str(folder)}}
    done = cli(*args, **world)
    assert done.returncode == 1
    diverged, faulty = (line for line in done.stderr.splitlines() if line.startswith("FAILED "))
    assert re.match(r"FAILED sasrec on toy, seed 1: epoch [12], .*lower", diverged)
    what, _, traceback = faulty.partition("; full traceback: ")
    assert (
        what
        == "FAILED my-line on toy, seed 1: my_line.py:21 in score(): NameError: name 'nothing' is not defined"
    )
    assert "in score" in Path(traceback).read_text(encoding="utf-8")
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "error: 2 of 3 runs failed; the same command tries them again"
    assert all(name in done.stdout for name in ("SASRec", "Line", "Pop"))
    line, pop, sasrec = (read_record(cell) for cell in cells(tmp_path / "results"))
    assert [record.status for record in (line, pop, sasrec)] == ["failed", "finished", "failed"]
    assert diverged.endswith(sasrec.reason)
    assert "in score" in (line.path / "traceback.txt").read_text(encoding="utf-8")
    debugged = cli("--debug", "run", "my-line", "--no-floors", "--epochs", "3", *SMALL, **world)
    assert debugged.returncode == 1
    assert "Traceback" in debugged.stderr

    (folder / "my_line.py").write_text(code)
    again = cli(*args, **world)
    assert again.returncode == 1
    assert "FAILED sasrec on toy, seed 1" in again.stderr
    assert "finished my-line on toy, seed 1" in again.stderr
    assert "already finished: pop on toy, seed 1" in again.stderr
    assert not (line.path / "traceback.txt").exists()


def test_a_user_s_own_model_works_like_any_other(data_dir: Path, tmp_path: Path) -> None:
    done = cli(
        "run", "my-line", "my-line:steep", "--no-floors", "--seeds", "2", data=data_dir,
        results=tmp_path / "results", env={"MMBENCH_MODELS": str(write_own(tmp_path / "models"))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Line" in done.stdout
    records = [read_record(cell) for cell in cells(tmp_path / "results")]
    assert [(record.model, record.seed) for record in records] == [("my-line", 1), ("my-line:steep", 1)]
    assert [record.settings["slope"].value for record in records] == [2.0, 9.0]
    ranks = records[0].ranks("test")
    assert (ranks.equal == 0).all()
    assert (ranks.greater < 60).all()


def test_help_and_version_load_nothing_heavy() -> None:
    code = (
        "import sys, contextlib, io\n"
        "from mmbench.cli import main\n"
        "out = io.StringIO()\n"
        "with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):\n"
        "    main()\n"
        "heavy = {'torch', 'pandas', 'scipy', 'transformers', 'sklearn', 'PIL', 'pyarrow', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), len(out.getvalue()) > 5)\n"
    )
    for args in (["--help"], ["--version"], ["run", "--help"], ["evaluate", "-h"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *args], env=environment(), capture_output=True, text=True, check=True
        )
        assert done.stdout.strip().startswith("[]"), (args, done.stdout)
    assert "Example:" in cli("run", "--help").stdout
