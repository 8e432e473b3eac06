"""datasets stats and extract --list as commands, and features of other items at the door of a training."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmbench.data.store import open_prepared
from tests.cli.forks import Command, run_all
from tests.features.toy import items
from tests.features.toy import prepare as prepare_items
from tests.looking import write_data
from tests.prepared import Outcome, write_data_set, write_toy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small`: two users, four items, no features; `toy` with features of a catalogue in another order."""
    folder = tmp_path_factory.mktemp("stats")
    histories = [[(1, 0), (2, 0), (3, 200 * 86_400)], [(1, 0), (2, 86_400), (4, 86_400), (1, 90_000)]]
    write_data(folder / "data", histories, n_items=4)
    toy = write_toy(folder / "data")
    events = (toy.items, toy.times, toy.offsets)
    turned = write_data_set(folder / "data", "turned", events, toy.item_records[::-1], created=0.0)
    shutil.copytree(toy.features_dir, turned.features_dir)
    (folder / "file").write_text("kept")
    prepare_items(folder / "data", items(4), name="four")
    np.save(folder / "f.npy", np.ones((4, 2), np.float32))
    (folder / "ids.tsv").write_text("a000\t0\nb\t1\nc\t2\nd\t3\n")
    return folder


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, Outcome]:
    out = folder / "out"
    foreign = ("import-features", "four", "--modality", "text", "--name", "x", "--array", folder / "f.npy",
               "--ids", folder / "ids.tsv")  # fmt: skip
    cases: dict[str, tuple[str | Path, ...]] = {
        "plain": ("datasets", "stats", "small"),
        "everything": ("datasets", "stats", "small", "--plots", out / "plots", "--html", out / "page.html"),
        "json": ("--quiet", "datasets", "stats", "small", "--json"),
        "unprepared": ("datasets", "stats", "demo"),
        "plots are a file": ("datasets", "stats", "small", "--plots", folder / "file"),
        "page is a folder": ("datasets", "stats", "small", "--html", folder),
        "below a file": ("datasets", "stats", "small", "--html", folder / "file" / "page.html"),
        "list": ("extract", "--list"),
        "list of one": ("extract", "--list", "toy", "turned", "small"),
        "nothing named": ("extract",),
        "another order": ("train", "hm4sr", "--dataset", "turned"),
        "another catalogue": foreign,
        "partial": (*foreign, "--allow-partial", "--dim", "2"),
    }
    commands = [Command(args, folder / "data", folder / "results") for args in cases.values()]
    return dict(zip(cases, run_all(commands), strict=True))


def rows(outcome: Outcome) -> list[str]:
    return [" ".join(line.split()) for line in outcome.stdout.splitlines()]


def test_shapes_stand_below_the_statistics(outcomes: dict[str, Outcome]) -> None:
    done = outcomes["plain"]
    assert (done.returncode, done.stderr) == (0, "")
    actual = rows(done)
    assert "users 2" in actual
    assert "target already in the input 0.0% / 50.0% valid / test" in actual
    assert "most common pair thing 1 -> thing 2: 2 users, 0 s to 1 day" in actual
    assert any(line.startswith("history lengths ██ 3 to 4 events") for line in actual)


def test_plots_and_page_are_written_and_named(outcomes: dict[str, Outcome], folder: Path) -> None:
    done = outcomes["everything"]
    assert done.returncode == 0, done.stderr
    assert done.stdout == outcomes["plain"].stdout
    assert f"page {folder / 'out' / 'page.html'}, " in done.stderr
    assert f"15 files in {folder / 'out' / 'plots'}" in done.stderr
    assert len(list((folder / "out" / "plots").iterdir())) == 15
    assert (folder / "out" / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_json_is_all_of_the_output(outcomes: dict[str, Outcome]) -> None:
    done = outcomes["json"]
    assert (done.returncode, done.stderr) == (0, "")
    actual = json.loads(done.stdout)
    assert actual["statistics"]["test_repeats"] == 0.5
    assert actual["look"]["pair"] == {"items": ["i1", "i2"], "seconds": [0, 86_400]}


@pytest.mark.parametrize(
    ("case", "code", "message"),
    [
        ("unprepared", 2, "data set 'demo' is not prepared"),
        ("plots are a file", 2, "file is a file; name a folder for the plots"),
        ("page is a folder", 2, "is a folder; name a file in it"),
        ("below a file", 1, "cannot write "),
        ("nothing named", 2, "name a prepared data set"),
        ("another order", 1, "turned/features/text/toy was made for another catalogue"),
        ("another catalogue", 1, "covers 1 of the 4 items of four (25.0%), 3 of its 4 ids are not items"),
    ],
)
def test_failures_are_one_line(outcomes: dict[str, Outcome], case: str, code: int, message: str) -> None:
    done = outcomes[case]
    assert done.returncode == code
    assert message in done.error_lines[-1]
    assert done.error_lines[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_wrong_target_is_refused_before_any_work(outcomes: dict[str, Outcome], folder: Path) -> None:
    assert outcomes["plots are a file"].stdout == outcomes["page is a folder"].stdout == ""
    assert (folder / "file").read_text(encoding="utf-8") == "kept"


def test_list_of_encoders(outcomes: dict[str, Outcome]) -> None:
    from mmbench.features.encoders import ENCODERS

    actual = rows(outcomes["list"])
    assert actual[1].startswith("text tfidf-svd (default) up to 256")
    names = {(line.split()[0], line.split()[1]) for line in actual[1:-1]}
    assert names == {(modality, name) for modality, names in ENCODERS.items() for name in names}
    (bert,) = [line for line in actual if line.startswith("text bert-base-uncased")]
    assert "768 HM4SR hub: google-bert/bert-base-uncased" in bert


def test_list_of_stored_features(outcomes: dict[str, Outcome], folder: Path) -> None:
    actual = rows(outcomes["list of one"])
    present = int(open_prepared("toy", folder / "data").n_items)
    assert actual[0] == f"toy: {present} items"
    assert any(
        line.startswith("text toy (default) 12 float32 ") and line.endswith("kB yes") for line in actual
    )
    assert sum(line.endswith("no: other items, or another order of them") for line in actual) == 2
    assert actual[-1] == "small: no features are stored; run: mmbench extract small"


def test_a_partial_file_is_taken_when_that_is_said(outcomes: dict[str, Outcome]) -> None:
    done = outcomes["partial"]
    assert done.returncode == 0, done.stderr
    assert "text x: 1 of 4 items (25.0%); 2 dimensions" in done.stdout
