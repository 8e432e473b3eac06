"""`mmbench runs` on made-up results folders, in this process."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmbench.cli import app, asking
from mmbench.errors import MmbenchError, RunError, UsageError
from mmbench.models import registry
from mmbench.reporting.run_page import changed_settings, spark
from mmbench.runs.inventory import find_runs, is_smoke, list_runs, look_at
from mmbench.runs.shelves import FOLDER
from mmbench.runs.workers import claim
from mmbench.settings.describe import value_text
from tests.cli.making_runs import fill, invoke
from tests.reporting.conftest import fake_run

N_ITEMS = 200


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """A results folder in which tests change nothing."""
    root = tmp_path_factory.mktemp("runs") / "results"
    return root, fill(root)


@pytest.fixture
def fresh(tmp_path: Path) -> tuple[Path, dict[str, Path]]:
    root = tmp_path / "results"
    return root, fill(root)


def listed(root: Path, *args: str) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads(invoke(root, "runs", "--json", *args))
    return content


# -- list -------------------------------------------------------------------------------------------------


def test_every_run_has_its_state(stored: tuple[Path, dict[str, Path]]) -> None:
    root, paths = stored
    states = {row["path"]: row["state"] for row in listed(root)}
    expected = {str(path): name if name != "smoke" else "finished" for name, path in paths.items()}
    assert states == expected
    by_path = {row["path"]: row for row in listed(root)}
    interrupted = by_path[str(paths["interrupted"])]
    assert (interrupted["model"], interrupted["epochs"], interrupted["seed"]) == ("hm4sr:-tmoe", 2, 3)
    assert by_path[str(paths["failed"])]["reason"] == "RuntimeError: no shape"
    finished = by_path[str(paths["finished"])]
    assert finished["settings"] == {"lr": 0.01}
    assert finished["changed"] == "2026-01-02T03:04:05+00:00"
    record = look_at(paths["finished"]).record
    assert record is not None
    assert finished["test"]["NDCG@10"] == record.metrics("test", "NDCG@10")["NDCG@10"]


def test_an_unfinished_run_has_the_name_of_its_data_set_under_a_tie_order(
    fresh: tuple[Path, dict[str, Path]],
) -> None:
    """A folder's name has no colon, a data set's has."""
    root, paths = fresh
    below = Path(*paths["interrupted"].parts[-3:])
    shutil.copytree(paths["interrupted"], root / "shop@clean@random-12" / below)
    (row,) = listed(root, "-d", "shop@clean@random:12")
    assert (row["dataset"], row["state"]) == ("shop@clean@random:12", "interrupted")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--model", "sasrec"), {"finished"}),
        (("-m", "sasrec", "-m", "hm4sr"), {"finished", "failed"}),
        (("-d", "beauty"), {"smoke"}),
        (("--state", "failed", "--state", "interrupted"), {"failed", "interrupted"}),
        (("--set", "lr=1e-2"), {"finished"}),
        (("--older", "1"), {"finished"}),
        (("--newer", "1"), {"failed", "smoke", "interrupted", "unreadable"}),
        (("--state", "running"), set()),
    ],
)
def test_filters(stored: tuple[Path, dict[str, Path]], options: tuple[str, ...], names: set[str]) -> None:
    root, paths = stored
    rows = listed(root, *options)
    if "--newer" in options or "--older" in options:  # only one record says when it ended; it is long ago
        assert look_at(paths["finished"]).days_old() > 1
    assert {row["path"] for row in rows} == {str(paths[name]) for name in names}


def test_columns_are_facts_settings_and_metrics(stored: tuple[Path, dict[str, Path]]) -> None:
    root, paths = stored
    text = invoke(root, "runs", "-m", "sasrec", "--columns", "model,seed,lr,valid HR@20,HR@20,time,best")
    head, row = text.splitlines()
    assert head.split() == ["model", "seed", "lr", "valid", "HR@20", "HR@20", "time", "best"]
    record = look_at(paths["finished"]).record
    assert record is not None
    value = f"{record.metrics('test', 'HR@20')['HR@20']:.4f}".lstrip("0")
    assert row.split() == ["sasrec", "1", "0.01", value, value, "1:05", "30"]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--columns", "modle"), "did you mean 'model'"),
        (("--columns", "best HR@20"), "write HR@20, or valid HR@20"),
        (("--model", "sasrek"), "did you mean 'sasrec'"),
        (("--state", "finishd"), "did you mean 'finished'"),
        (("--set", "lr"), "write it as KEY=VALUE"),
        (("--set", "lr=7"), "no run has this value"),
    ],
)
def test_wrong_choices_are_one_line(
    stored: tuple[Path, dict[str, Path]], args: tuple[str, ...], text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        invoke(stored[0], "runs", *args)


def test_a_held_lock_is_a_running_run(fresh: tuple[Path, dict[str, Path]]) -> None:
    _, paths = fresh
    for name in ("interrupted", "failed"):
        lock = claim(paths[name], wait=False)
        assert lock is not None
        with lock:
            assert look_at(paths[name]).state == "running"
        assert look_at(paths[name]).state == name


# -- names ------------------------------------------------------------------------------------------------


def test_names_of_runs(stored: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    root, paths = stored
    run = look_at(paths["finished"])

    def paths_of(*names: str) -> list[Path]:
        return [run.path for run in find_runs(root, names)]

    assert paths_of(run.name) == paths_of(run.config_id) == paths_of(str(run.path)) == [run.path]
    assert paths_of(f"toys/sasrec/{run.config_id}/seed_1", run.name) == [run.path]
    assert set(paths_of(str(root))) == set(paths.values())
    assert paths_of("beauty") == [paths["smoke"]]
    for name in (f"{run.config_id}/9", "ffff", "nothing", str(tmp_path)):
        with pytest.raises(UsageError, match="mmbench runs lists them"):
            find_runs(root, [name])


def test_the_beginning_of_two_configurations_is_refused(tmp_path: Path) -> None:
    for config in ("abcd111111", "abcd222222"):
        fake_run(tmp_path, config_id=config)
    with pytest.raises(UsageError, match=r"abcd111111 \(sasrec on toys\), abcd222222 \(sasrec on toys\)"):
        find_runs(tmp_path, ["abcd"])
    assert len(find_runs(tmp_path, ["abcd1"])) == 1


# -- show -------------------------------------------------------------------------------------------------


def test_the_page_shows_what_differs_from_the_recipe(stored: tuple[Path, dict[str, Path]]) -> None:
    root, paths = stored
    run = look_at(paths["finished"])
    text = invoke(root, "runs", "show", run.name)
    usual = registry.find("sasrec").values("toys")["lr"]
    assert f"lr = 0.01 (recipe {usual})" in text
    assert "dropout" not in text  # of the recipe
    assert "best at epoch 2" in text
    assert ".1000 to .3000" in text
    assert "9.0000 to 7.0000" in text  # both terms of the loss together
    assert "1:05" in text
    (page,) = json.loads(invoke(root, "runs", "show", run.name, "--json", "--metric", "HR@5"))
    assert [row["key"] for row in page["changed_settings"]] == ["lr"]
    assert page["curves"]["valid"] == [[1, 0.1], [2, 0.3], [3, 0.2]]
    assert set(page["scores"]["test"]) == {"HR@5"}


def test_a_setting_that_only_the_class_of_the_model_states_is_compared_with_it(tmp_path: Path) -> None:
    entry = registry.find("hm4sr")
    stated, values = entry.stated_values("toys"), entry.values("toys")
    assert stated.items() <= values.items()
    of_class = sorted(values.keys() - stated.keys())
    assert of_class
    key = next(key for key in of_class if isinstance(values[key], bool))
    run = fake_run(tmp_path, "hm4sr", seed=1, settings={key: not values[key], "lr": 0.5}, chosen=(key, "lr"))
    changes = {change.key: (change.value, change.usual) for change in changed_settings(run)}
    assert changes == {
        key: (not values[key], value_text(values[key])), "lr": (0.5, value_text(values["lr"]))
    }  # fmt: skip


def test_pages_of_runs_without_a_result(stored: tuple[Path, dict[str, Path]]) -> None:
    root, paths = stored
    assert "failed: RuntimeError: no shape" in invoke(root, "runs", "show", str(paths["failed"]))
    assert "interrupted, 2 epochs done" in invoke(root, "runs", "show", str(paths["interrupted"]))
    assert "unreadable: " in invoke(root, "runs", "show", str(paths["unreadable"]))


def test_a_sparkline_is_as_high_as_its_values() -> None:
    heights = spark([(n, float(n)) for n in range(8)])
    assert heights == "▁▂▃▄▅▆▇█"
    assert spark([(1, 5.0), (2, 5.0)]) == "▁▁"
    assert spark([]) == ""
    long = spark([(n, float(n)) for n in range(600)])
    assert len(long) == 60
    assert list(long) == sorted(long)


# -- rm and prune -----------------------------------------------------------------------------------------


def everything(folder: Path) -> set[Path]:
    """Return all files and folders but what commands remember of runs."""
    return {path for path in folder.rglob("*") if FOLDER not in path.parts}


def test_rm_removes_the_run_and_folders_that_are_empty(fresh: tuple[Path, dict[str, Path]]) -> None:
    root, paths = fresh
    study = root / "toys" / "sasrec" / "tuning"
    study.mkdir()
    assert "removed 2 runs" in invoke(
        root, "runs", "rm", "--yes", str(paths["finished"]), str(paths["smoke"])
    )
    assert not (root / "beauty").exists()
    assert [path.name for path in (root / "toys" / "sasrec").iterdir()] == ["tuning"]
    assert {run.path for run in list_runs(root)} == {
        paths[name] for name in ("failed", "interrupted", "unreadable")
    }


def test_a_run_that_is_computed_stays_and_the_others_go(fresh: tuple[Path, dict[str, Path]]) -> None:
    root, paths = fresh
    lock = claim(paths["interrupted"], wait=False)
    assert lock is not None
    with lock, pytest.raises(RunError, match=r"1 of 2 runs.*seed_3 is being computed"):
        invoke(root, "runs", "rm", "--yes", str(paths["interrupted"]), str(paths["failed"]))
    assert (paths["interrupted"] / "train.jsonl").is_file()
    assert not paths["failed"].exists()


def test_a_folder_above_the_results_folder_means_no_runs(
    fresh: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    root, _ = fresh
    before = everything(tmp_path)
    for name in (str(root.parent), "toys/../..", "/"):
        with pytest.raises(UsageError, match="no run "):
            invoke(root, "runs", "rm", "--yes", name)
    assert everything(tmp_path) == before
    for path in root.glob("*/*/*/seed_*"):
        assert str(path) in invoke(root, "runs", "show", str(root))


@pytest.mark.parametrize("name", ["outside", "link", "inner link", "linked data set"])
def test_nothing_outside_the_results_folder_can_go(
    fresh: tuple[Path, dict[str, Path]], tmp_path: Path, name: str
) -> None:
    root, paths = fresh
    other = fake_run(tmp_path / "other", "sasrec", seed=1).path
    target = {
        "outside": other,
        "link": root / "toys" / "sasrec" / "0123456789" / "seed_1",
        "inner link": root / "toys" / "sasrec" / "0123456789" / "seed_2",
        "linked data set": root / "linked" / Path(*other.parts[-3:]),
    }[name]
    if name == "linked data set":
        (root / "linked").symlink_to(other.parents[2])
    elif name != "outside":
        target.parent.mkdir(parents=True)
        target.symlink_to(other if name == "link" else paths["finished"])
    before = everything(tmp_path)
    with pytest.raises(MmbenchError):
        invoke(root, "runs", "rm", "--yes", str(target))
    assert everything(tmp_path) == before


def test_a_link_inside_a_run_goes_and_its_target_stays(
    fresh: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    root, paths = fresh
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    (paths["failed"] / "notes").symlink_to(kept)
    invoke(root, "runs", "rm", "--yes", str(paths["failed"]))
    assert (kept / "file").read_text(encoding="utf-8") == "x"
    assert not paths["failed"].exists()


def test_removal_asks(fresh: tuple[Path, dict[str, Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    root, paths = fresh
    before = everything(root)
    with pytest.raises(UsageError, match="--yes"):
        invoke(root, "runs", "rm", str(paths["failed"]))
    monkeypatch.setattr(asking, "can_ask", lambda: True)
    command = ["--results-dir", str(root), "runs", "rm", str(paths["failed"])]
    refused = CliRunner().invoke(app, command, input="n\n")
    assert isinstance(refused.exception, RunError)
    assert everything(root) == before
    agreed = CliRunner().invoke(app, command, input="y\n")
    assert "Remove 1 run" in agreed.output
    assert not paths["failed"].exists()


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        (("--failed",), {"failed"}),
        (("--smoke",), {"smoke"}),
        (("--interrupted", "--failed"), {"interrupted", "failed"}),
        (("--older", "1"), {"finished"}),
        (("--failed", "--older", "1"), set()),
        (("--older", "0", "-d", "beauty"), {"smoke"}),
    ],
)
def test_prune_removes_what_is_named(
    fresh: tuple[Path, dict[str, Path]], options: tuple[str, ...], gone: set[str]
) -> None:
    root, paths = fresh
    invoke(root, "runs", "prune", "--yes", *options)
    assert {name for name, path in paths.items() if not path.exists()} == gone


def test_prune_needs_a_kind(stored: tuple[Path, dict[str, Path]]) -> None:
    with pytest.raises(UsageError, match="--failed, --smoke"):
        invoke(stored[0], "runs", "prune", "--yes")


@pytest.mark.parametrize(
    ("fields", "smoke"),
    [
        ({"max_epochs": 2, "chosen": ("max_epochs",), "stopped": "max_epochs"}, True),
        ({"max_epochs": 2, "chosen": ("max_epochs",), "stopped": "patience"}, False),
        ({"max_epochs": 2, "stopped": "max_epochs"}, False),  # of the recipe
        ({"max_epochs": 5000, "chosen": ("max_epochs",), "stopped": "max_epochs"}, False),
    ],
)
def test_smoke_runs(tmp_path: Path, fields: dict[str, Any], smoke: bool) -> None:
    assert is_smoke(look_at(fake_run(tmp_path, **fields).path)) is smoke
