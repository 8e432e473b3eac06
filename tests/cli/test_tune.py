"""`mmbench tune` and `mmbench run --tuned`."""

import tomllib
from pathlib import Path

import pytest

from mmbench.runs.store import read_record
from tests.prepared import cells, cli

TUNE = (
    "tune", "sasrec", "--dataset", "toy", "--sampler", "random", "--space", "recipe", "--set", "hidden_dim=8",
    "--set", "inner_dim=8", "--set", "sasrec.n_layers=1", "--set", "sasrec.n_heads=1", "--set", "lr=0.003,0.03",
    "--set", "dropout=0.1", "--set", "attn_dropout=0.1", "--epochs", "2",
)  # fmt: skip


def test_tune_then_run_with_what_was_found(data_dir: Path, tmp_path: Path) -> None:
    tune = (*TUNE, "--trials", "3")
    done = cli(*tune, data=data_dir, results=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 trials: trial 2" in done.stderr
    assert "(recipe)" in done.stdout
    assert "next: mmbench run sasrec --dataset toy --tuned" in done.stdout
    again = cli(*tune, data=data_dir, results=tmp_path)
    assert "3 trials so far" in again.stderr
    assert again.stdout == done.stdout
    page = tmp_path / "page.html"
    shown = cli(
        "tune", "sasrec", "--dataset", "toy", "--show", "--html", page, data=data_dir, results=tmp_path
    )
    assert shown.stdout == done.stdout.rpartition("next:")[0]
    assert page.read_text(encoding="utf-8").count("<svg") == 2

    run = ("run", "sasrec", "--no-floors", "--dataset", "toy", "--seeds", "1")
    done = cli(*run, "--tuned", data=data_dir, results=tmp_path)
    assert done.returncode == 0, done.stderr
    (best,) = tmp_path.rglob("best.toml")
    settings = {
        key: entry["value"]
        for key, entry in tomllib.loads(best.read_text(encoding="utf-8"))["settings"].items()
    }
    (cell,) = cells(tmp_path)
    record = read_record(cell)
    assert {key: record.settings[key].value for key in settings} == settings
    assert {record.settings[key].origin.value for key in settings} == {"tuned"}
    fixed = {
        "hidden_dim": 8,
        "inner_dim": 8,
        "n_layers": 1,
        "n_heads": 1,
        "dropout": 0.1,
        "attn_dropout": 0.1,
    }
    typed = [
        part
        for key, value in {**settings, **fixed, "max_epochs": 2}.items()
        for part in ("--set", f"{key}={value}")
    ]
    assert "finished" in cli(*run, *typed, "--dry-run", data=data_dir, results=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tune", "random", "--dataset", "toy", "--sampler", "random"), "random has nothing to search"),
        (("tune", "sasrec", "--dataset", "toy", "--sampler", "best"), "write tpe, random or grid"),
        (("tune", "sasrec", "--dataset", "toy", "--space", "all"), "write shared, recipe or a TOML file"),
        (("tune", "sasrec", "--dataset", "toy", "--trials", "3", "--hours", "1"), "--trials or --hours"),
        (("tune", "sasrec", "--dataset", "toy", "--set", "lr="), "write it as KEY=VALUE"),
        (("tune", "sasrec", "--dataset", "toy", "--show"), "sasrec: no study on toy is stored"),
        (("tune", "sasrec", "--dataset", "toy", "--show", "--html", "."), "--html . is a folder"),
        (
            ("tune", "sasrec", "--dataset", "toy", "--set", "lrr=1,2", "--sampler", "random"),
            "did you mean 'lr'?",
        ),
        (
            ("tune", "sasrec", "--dataset", "toy", "--set", "hm4sr.lr=1", "--sampler", "random"),
            "model of this run",
        ),
        (("tune", "sasrec", "--dataset", "toy", "--set", "lr=1,fast", "--sampler", "random"), "got 'fast'"),
        (("tune", "sasrec", "--dataset", "toy", "--hours", "0"), "--hours 0: give a finite time above 0"),
        (("tune", "sasrec", "--dataset", "toy", "--backend", "dusk"), "did you mean 'dask'?"),
        (("tune", "sasrec", "--dataset", "toy", "--address", "tcp://x:1"), "--backend dask or --backend ray"),
        (("run", "sasrec", "--dataset", "toy", "--tuned"), "run: mmbench tune sasrec --dataset toy"),
        (("run", "sasrec", "--dataset", "toy", "--study", "abc"), "no study abc of sasrec fits toy"),
    ],
)
def test_wrong_wishes_are_one_line(
    arguments: tuple[str, ...], message: str, data_dir: Path, tmp_path: Path
) -> None:
    done = cli(*arguments, data=data_dir, results=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.error_lines[-1]
    assert "Traceback" not in done.stderr
