"""The Python interface: the same results as the commands, shown as a notebook shows them.

Run: python -m pytest tests/test_api.py
"""

import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import mmbench
from mmbench.choices import FLOORS
from mmbench.cli import app
from mmbench.data import demo
from mmbench.data.store import Prepared, open_prepared
from mmbench.errors import DataError, MmbenchError, UsageError
from mmbench.reporting.runs import Runs
from mmbench.runs.shelves import FOLDER
from mmbench.runs.store import read_record
from tests.forkserver import server
from tests.models.test_registry import OWN, write_own
from tests.prepared import ROOT, cells, cli, environment, same_ranks, write_toy

SETTINGS = {"hidden_dim": 16, "inner_dim": 16, "batch_size": 64, "sasrec.lr": 0.002}
COMMAND = (
    "run", "sasrec", "pop", "--dataset", "toy", "--seeds", "2", "--epochs", "2", "--no-floors",
    "--set", "hidden_dim=16", "--set", "inner_dim=16", "--set", "batch_size=64", "--set", "sasrec.lr=0.002",
)  # fmt: skip


def ask(data: Path, results: Path, **changes: Any) -> Runs:
    """What COMMAND asks for."""
    asked: dict[str, Any] = {
        "models": ["sasrec", "pop"], "datasets": "toy", "seeds": 2, "epochs": 2, "floors": False,
        "settings": SETTINGS, "data_dir": data, "results_dir": results, **changes,
    }  # fmt: skip
    return mmbench.run(**asked)


@pytest.fixture(scope="module")
def results(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `run` wrote; nobody changes anything in it."""
    folder = tmp_path_factory.mktemp("results")
    ask(data_dir, folder)
    return folder


def inodes(results: Path) -> dict[Path, tuple[int, int]]:
    """Every file of a run with its number and time: what was written again has another one."""
    return {
        file: (file.stat().st_ino, file.stat().st_mtime_ns)
        for file in results.rglob("*")
        if file.is_file() and not {"experiments", FOLDER} & set(file.parts)
    }


# -- run ----------------------------------------------------------------------------------------------------


def test_a_command_computes_the_same_runs_in_the_same_folders(
    results: Path, data_dir: Path, tmp_path: Path
) -> None:
    done = cli(*COMMAND, data=data_dir, results=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.relative_to(tmp_path) for path in cells(tmp_path)] == [
        path.relative_to(results) for path in cells(results)
    ]
    for path in cells(tmp_path):
        assert same_ranks(path, results / path.relative_to(tmp_path)), path
        ours, theirs = read_record(results / path.relative_to(tmp_path)), read_record(path)
        assert ours.settings == theirs.settings  # the origins too


def test_the_second_call_computes_nothing_and_neither_does_the_command(results: Path, data_dir: Path) -> None:
    before = inodes(results)
    runs = ask(data_dir, results)
    done = cli(*COMMAND, data=data_dir, results=results)
    assert (done.returncode, "epoch" in done.stderr) == (0, False)
    assert inodes(results) == before
    assert [(run.model, run.seed, run.status) for run in runs] == [
        ("sasrec", 1, "finished"), ("pop", 1, "finished"), ("sasrec", 2, "finished"),
    ]  # fmt: skip
    assert {run.path for run in runs} == set(cells(results))


def test_arguments_mean_what_options_mean(results: Path, data_dir: Path) -> None:
    """Other ways to say the same ask for the same runs."""
    before = inodes(results)
    data = open_prepared("toy", data_dir)
    numbers = {"hidden_dim": np.int64(16), "inner_dim": 16, "batch_size": 64, "sasrec.lr": np.float64(0.002)}
    same = ask(
        data_dir, results, datasets=[data, "toy"], seeds=[1, 2], settings=numbers, stack=1, device="cpu"
    )
    assert [run.path for run in same] == [run.path for run in ask(data_dir, results)]
    assert [run.seed for run in ask(data_dir, results, models="sasrec", seeds=(2,))] == [2]
    assert inodes(results) == before


def test_a_dry_run_returns_what_is_stored(
    results: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = inodes(results)
    runs = ask(data_dir, results, seeds=3, dry_run=True, progress=True)
    assert {(run.model, run.seed) for run in runs} == {("sasrec", 1), ("sasrec", 2), ("pop", 1)}
    states = [line.split()[0] for line in capsys.readouterr().err.splitlines()]
    assert states == ["finished", "finished", "finished", "missing"]
    assert inodes(results) == before


def test_nothing_is_printed_unless_asked(
    data_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(data_dir, tmp_path, seeds=1)
    assert capfd.readouterr() == ("", "")
    ask(data_dir, tmp_path, seeds=2, progress=True)
    said = capfd.readouterr()
    assert said.out == ""
    assert "[1/1] sasrec on toy, seed 2: epoch 2/2  ce " in said.err
    assert "already finished: sasrec on toy, seed 1" in said.err
    assert "\x1b" not in said.err


def test_the_floors_come_along_as_with_the_command(data_dir: Path, tmp_path: Path) -> None:
    runs = ask(data_dir, tmp_path, models="sasrec", seeds=1, epochs=1, floors=True)
    assert [run.model for run in runs] == ["sasrec", *FLOORS]


BROKEN = OWN.replace("return", 'raise ValueError("<b>no</b> & never")\n        return')


def test_a_run_that_fails_is_a_row_with_its_reason(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = write_own(tmp_path / "models", code=BROKEN)
    monkeypatch.setenv("MMBENCH_MODELS", str(models))
    runs = ask(data_dir, tmp_path / "results", models=["my-line", "pop"], settings={}, seeds=1)
    assert [run.status for run in runs] == ["failed", "finished"]
    assert "ValueError: <b>no</b> & never" in runs[0].reason
    assert runs[0].metrics() == {}
    assert list(runs.failed) == [runs[0]]
    frame = runs.to_frame()
    assert frame["status"].tolist() == ["failed", "finished"]
    assert np.isnan(frame["test NDCG@10"][0])
    assert frame["test NDCG@10"][1] == runs[1].metrics()["NDCG@10"]
    assert "<b>" not in runs._repr_html_()
    assert "&lt;b&gt;no&lt;/b&gt; &amp; never" in runs._repr_html_()
    assert "failed (seed 1): " in str(mmbench.report(runs))
    with pytest.raises(ValueError, match="never"):
        ask(data_dir, tmp_path / "debug", models="my-line", settings={}, seeds=1, debug=True)


def test_runs_side_by_side_from_a_thread_of_a_process_without_a_file(
    results: Path, data_dir: Path, tmp_path: Path
) -> None:
    env = environment(data=data_dir, results=tmp_path / "results")
    options = {
        "models": ["sasrec", "pop"], "datasets": "toy", "seeds": 2, "epochs": 2, "floors": False, "jobs": 2,
        "settings": SETTINGS,
    }  # fmt: skip
    code, out, err = server(env, ROOT).run(
        [json.dumps(options)], module="tests.notebook", env=env, cwd=tmp_path, timeout=600
    )
    assert (code, err) == (0, "")
    assert out.splitlines() == ["sasrec 1 finished", "pop 1 finished", "sasrec 2 finished"]
    for path in cells(tmp_path / "results"):
        assert same_ranks(path, results / path.relative_to(tmp_path / "results")), path


def test_two_threads_share_the_work(results: Path, data_dir: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(ask, data_dir, tmp_path, models="pop", settings={}) for _ in range(2)]
    first, second = (future.result() for future in both)
    assert [run.path for run in first] == [run.path for run in second] == cells(tmp_path)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"models": "sasrc"}, "unknown model 'sasrc'; did you mean 'sasrec'?"),
    "variant": ({"models": "sasrec:ofcial"}, "did you mean 'sasrec:official'?"),
    "no model": ({"models": []}, "no model is named; say for example 'sasrec'"),
    "model None": ({"models": None}, "no model is named"),
    "class for a model": ({"models": [int]}, "model <class 'int'> is not a name"),
    "data set": ({"datasets": "tyo"}, "data set 'tyo' is not prepared in .* did you mean 'toy'"),
    "data set of another kind": ({"datasets": [3]}, "data set 3 is not a name"),
    "setting": ({"settings": {"lrr": 1}}, "--set lrr: unknown setting 'lrr'; did you mean 'lr'"),
    "setting of one model": ({"settings": {"sasrec.lrr": 1}}, "--set sasrec.lrr: .*did you mean 'lr'"),
    "value": ({"settings": {"lr": "fast"}}, "sasrec: lr: .*'fast'"),
    "value that is not a number": ({"settings": {"lr": float("nan")}}, "sasrec: lr: must be a finite number"),
    "value that is nothing": ({"settings": {"lr": None}}, "sasrec: lr: "),
    "value that is an object": ({"settings": {"lr": object()}}, "sasrec: lr: "),
    "name of a setting": ({"settings": {3: 1}}, "setting 3 is not a name"),
    "settings as a number": (
        {"settings": 3},
        "settings 3 are not a dictionary; write for example {'lr': 0.001}",
    ),
    "settings as text": ({"settings": "lr=3"}, "settings 'lr=3' are not a dictionary"),
    "device as a number": ({"device": 3}, "unknown device '3'; known: auto, cpu"),
    "value of too many digits": (
        {"settings": {"lr": 10**5000}},
        "sasrec: settings: a number has more than 4,300 digits",
    ),
    "key that is not a text": ({"settings": {"lr": {(1, 2): 3}}}, "sasrec: settings: keys must be str"),
    "seeds 0": ({"seeds": 0}, "--seeds '0': seeds and their number must be 1 or more"),
    "no seed": ({"seeds": []}, "--seeds '': give a number of seeds"),
    "seed twice": ({"seeds": [3, 5, 3]}, "--seeds '3,5,3': a seed appears twice"),
    "seeds as text": ({"seeds": "3"}, "--seeds '3': give a number of seeds"),
    "seeds that are not integers": ({"seeds": 2.0}, "--seeds '2.0': give a number of seeds"),
    "a flag for seeds": ({"seeds": True}, "--seeds 'True': give a number of seeds"),
    "epochs": ({"epochs": 0}, "max_epochs: .*greater than 0"),
    "jobs": ({"jobs": 0}, "--jobs 0: must be a whole number from 1"),
    "lists": ({"lists": -1}, "--lists -1: must be a whole number from 0"),
    "stack": ({"stack": "two"}, "--stack two: must be auto, off or a number"),
    "device": ({"device": "tpu"}, "unknown device 'tpu'"),
    "backend": ({"backend": "rey"}, "unknown backend 'rey'; did you mean 'ray'?"),
    "address": ({"address": "tcp://x"}, "--address names a cluster; say which kind"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line(name: str, data_dir: Path, tmp_path: Path) -> None:
    changes, said = WRONG[name]
    with pytest.raises(UsageError, match=said) as error:
        ask(data_dir, tmp_path, **changes)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


# -- prepare ------------------------------------------------------------------------------------------------


def test_the_demo_prepares_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is named, by Python and by the command; then it is as `prepare` would make it.

    The demo is a smaller one here, so the command runs in this process.
    """
    monkeypatch.setattr(demo, "write_raw", partial(demo.write_raw, n_users=150, n_items=60))
    data = mmbench.prepare("demo", data_dir=tmp_path / "a")
    runs = mmbench.run(
        "pop", datasets=["demo"], floors=False, data_dir=tmp_path / "b", results_dir=tmp_path / "r"
    )
    (tmp_path / "c").mkdir()
    monkeypatch.setenv("MMBENCH_DATA", str(tmp_path / "c"))
    monkeypatch.setenv("MMBENCH_RESULTS", str(tmp_path / "s"))
    done = CliRunner().invoke(app, ["run", "pop", "--dataset", "demo", "--no-floors"])
    assert done.exit_code == 0, done.output
    assert isinstance(data, Prepared)
    assert repr(data).startswith("<synthetic data set demo: 150 users, ")
    assert [run.data_hash for run in runs] == [data.hash]
    by_command = open_prepared("demo", tmp_path / "c")
    assert by_command.hash == data.hash
    features = {path.relative_to(data.path) for path in data.features_dir.rglob("*.npy")}
    assert len(features) >= 2
    for other in ("b", "c"):
        path = tmp_path / other / "prepared" / "demo"
        assert {file.relative_to(path) for file in (path / "features").rglob("*.npy")} == features


def test_other_data_are_not_prepared_by_the_way(tmp_path: Path) -> None:
    write_toy(tmp_path)
    with pytest.raises(UsageError, match="'toy@random:1' is not prepared"):
        mmbench.run("pop", datasets="toy@random:1", data_dir=tmp_path, results_dir=tmp_path / "r")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"dataset": "dmeo"}, "unknown data set 'dmeo'; did you mean 'demo'?"),
        ({"dataset": "demo@rndom:1"}, "did you mean 'random:1'"),
        ({"dataset": "demo", "ties": "random:x"}, "needs a seed"),
        ({"dataset": 3}, "data set 3 is not a name"),
    ],
)
def test_wrong_names_of_data_are_one_line(arguments: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said) as error:
        mmbench.prepare(**arguments, data_dir=tmp_path)
    assert "\n" not in str(error.value)


def test_raw_files_that_are_missing_are_the_command_s_line(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        mmbench.prepare("amazon-beauty", offline=True, data_dir=tmp_path)
    done = cli("prepare", "amazon-beauty", "--offline", data=tmp_path)
    assert done.returncode == 1
    assert done.error_lines[-1] == f"error: {error.value}"


def test_a_damaged_data_set_is_passed_over_with_a_warning(tmp_path: Path) -> None:
    write_toy(tmp_path)
    write_toy(tmp_path, "broken", created=2.0)
    (tmp_path / "prepared" / "broken" / "manifest.json").write_text("{")
    with pytest.warns(UserWarning, match=r"data set skipped: .*broken.*damaged"):
        runs = mmbench.run("pop", floors=False, data_dir=tmp_path, results_dir=tmp_path / "r")
    assert [run.dataset for run in runs] == ["toy"]


def test_errors_of_the_interface_are_those_of_the_package() -> None:
    assert mmbench.errors.MmbenchError is MmbenchError


def test_a_search_prints_a_line_for_each_trial(
    data_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the value, the best so far and the settings; without `progress` nothing."""
    options: dict[str, Any] = {
        "datasets": "toy", "sampler": "grid", "space": "recipe", "search": {"lr": [0.01, 0.001]}, "epochs": 1,
        "settings": {"hidden_dim": 8, "inner_dim": 8, "batch_size": 64}, "data_dir": data_dir, "results_dir": tmp_path,
    }  # fmt: skip
    mmbench.tune("sasrec", trials=1, **options)
    assert capfd.readouterr() == ("", "")
    (study,) = mmbench.tune("sasrec", trials=2, progress=True, **options)
    said = capfd.readouterr()
    assert said.out == ""
    (line,) = [line for line in said.err.splitlines() if line.startswith("2 of 2 trials: ")]
    assert (
        f"trial 1 {study.trials[1].value:.4f} (best {study.best.value:.4f}, trial {study.best.number})"
        in line
    )
    assert f"lr={study.trials[1].values['lr']}" in line
