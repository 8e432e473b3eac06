"""The count of looks at test targets: append-only, beside the data or with the results, and honest about what is lost.

Run: python -m pytest tests/runs/test_look_log.py
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

import mmbench
from mmbench.data.store import Prepared
from mmbench.reporting.targets import repeated_share, tied_share
from mmbench.runs.look_log import looks_at, note_looks
from mmbench.runs.store import RunRecord
from tests.prepared import cli, write_toy
from tests.reporting.conftest import fake_run
from tests.runs.test_rerank import finished


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return write_toy(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def pop(shop: Prepared, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return finished(shop, tmp_path_factory.mktemp("results"), "pop")


@pytest.fixture
def forgotten(shop: Prepared) -> Prepared:
    """The data set, at whose test targets nobody has looked."""
    for file in shop.data_dir.glob("prepared/*.jsonl"):
        file.unlink()
    return shop


def counted(record: RunRecord, data_dir: Path) -> tuple[int, int]:
    looks = looks_at([record], data_dir=data_dir)
    return looks.times, len(looks.configurations)


def test_every_command_that_shows_test_numbers_counts_once_and_validation_does_not(
    forgotten: Prepared, pop: RunRecord
) -> None:
    data, results = forgotten.data_dir, pop.path.parents[3]
    shows = [
        ("report",), ("report", "--slice", "repeat"), ("evaluate", pop.path, "--no-rescore"),
        ("recommend", pop.path, "--user", "u00007"),
    ]  # fmt: skip
    for number, command in enumerate(shows, start=1):
        shown = cli(*command, data=data, results=results)
        assert shown.returncode == 0, shown.stderr
        assert counted(pop, data) == (number, 1), command
    assert cli("report", "--split", "valid", data=data, results=results).returncode == 0
    assert counted(pop, data) == (len(shows), 1)
    text = str(mmbench.report(mmbench.load(results_dir=results), data_dir=data))
    assert f"test targets of toy: looked at {len(shows) + 1} times for 1 configuration." in text


@pytest.fixture(scope="module")
def pair(shop: Prepared, tmp_path_factory: pytest.TempPathFactory) -> list[RunRecord]:
    folder = tmp_path_factory.mktemp("pair")
    return [finished(shop, folder, "pop"), finished(shop, folder, "itemknn")]


def test_questions_to_runs_are_looks_and_say_how_many(forgotten: Prepared, pair: list[RunRecord]) -> None:
    """Each command adds one look and prints the count; on stderr where stdout is data, with short names of runs."""
    data, results = forgotten.data_dir, pair[0].path.parents[3]
    first, second = (f"{run.config_id[:7]}/{run.seed}" for run in pair)
    commands = [
        ("why", first, second), ("power", "--dataset", "toy"), ("fuse", first, second, "--weights", "equal"),
        ("knockout", first, "--what", "history=1"), ("evaluate", first, "--no-rescore"), ("runs", "show", second),
        ("recommend", first, "--user", "u00007"),
    ]  # fmt: skip
    for number, command in enumerate(commands, start=1):
        shown = cli(*command, data=data, results=results)
        assert shown.returncode == 0, shown.stderr
        assert counted(pair[0], data)[0] == number, command
        is_data = command[0] in ("fuse", "evaluate", "runs")
        text = shown.stderr if is_data else shown.stdout
        assert f"test targets of toy: looked at {number} time" in text, command
    assert counted(pair[0], data) == (len(commands), 3), "the two and their fusion"
    on_valid = cli("knockout", first, "--what", "history=1", "--split", "valid", data=data, results=results)
    assert (on_valid.returncode, "looked at" in on_valid.stdout) == (0, False)
    assert counted(pair[0], data)[0] == len(commands)


def test_a_list_of_runs_is_a_look_where_a_column_is_of_test_targets(
    forgotten: Prepared, pair: list[RunRecord], tmp_path: Path
) -> None:
    data, results = forgotten.data_dir, pair[0].path.parents[3]
    lists = {
        (): 0, ("--columns", "run,set,valid HR@10"): 0, ("--columns", "run,valid HR@10,HR@10"): 1,
        ("--columns", "test HR@10"): 1, ("--json",): 1,
    }  # fmt: skip
    total = 0
    for options, looks in lists.items():
        total += looks
        shown = cli("runs", *options, data=data, results=results)
        assert shown.returncode == 0, shown.stderr
        assert ("looked at" in shown.stderr) == bool(looks)
        assert counted(pair[0], data)[0] == total, options
    mmbench.leaderboard(tmp_path / "site", data_dir=data, results_dir=results)
    assert counted(pair[0], data)[0] == total + 1


def test_questions_from_python_are_looks_too(forgotten: Prepared, pair: list[RunRecord]) -> None:
    data, results = forgotten.data_dir, pair[0].path.parents[3]
    mmbench.why(*pair, data_dir=data, results_dir=results)
    mmbench.power(pair, "toy", data_dir=data)
    mmbench.knockout(pair[0], "history=1", data_dir=data)
    assert counted(pair[0], data) == (3, 2)
    mmbench.knockout(pair[0], "history=1", split="valid", data_dir=data)
    assert mmbench.power(pair[:1], "toy", data_dir=data) is None
    assert counted(pair[0], data) == (3, 2)


def test_a_look_names_configuration_data_and_date(forgotten: Prepared, pop: RunRecord) -> None:
    assert note_looks([pop], data_dir=forgotten.data_dir)
    (line,) = (forgotten.data_dir / "prepared" / "toy.looks.jsonl").read_text(encoding="utf-8").splitlines()
    look = json.loads(line)
    assert look["shown"] == [f"pop/{pop.config_id}"]
    assert look["data"] == forgotten.hash
    assert look["date"].startswith("20")


def test_looks_at_the_same_time_are_all_counted(forgotten: Prepared, pop: RunRecord) -> None:
    with ThreadPoolExecutor(8) as threads:
        noted = list(threads.map(lambda _: note_looks([pop], data_dir=forgotten.data_dir), range(200)))
    assert all(noted)
    assert counted(pop, forgotten.data_dir) == (200, 1)


def test_without_prepared_data_the_results_folder_keeps_the_count(tmp_path: Path) -> None:
    first, second = (fake_run(tmp_path / "results", model) for model in ("sasrec", "pop"))
    failed = fake_run(tmp_path / "results", "hm4sr", reason="no memory")
    for shown in ([first], [first, second], [failed]):
        assert note_looks(shown, data_dir=tmp_path / "nowhere")
    assert counted(first, tmp_path / "nowhere") == (2, 2)
    assert (tmp_path / "results" / "toys" / "looks.jsonl").is_file()
    assert len(mmbench.load(results_dir=tmp_path / "results")) == 3


def test_a_damaged_line_counts_as_a_look(tmp_path: Path) -> None:
    run = fake_run(tmp_path, "sasrec")
    note_looks([run], data_dir=tmp_path / "nowhere")
    with (tmp_path / "toys" / "looks.jsonl").open("a") as file:
        file.write('{"shown": ["pop/\n')
    assert counted(run, tmp_path / "nowhere") == (2, 1)


def test_a_look_that_cannot_be_noted_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run(tmp_path, "sasrec")

    def refuse(*args: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert not note_looks([run], data_dir=tmp_path / "nowhere")
    text = str(mmbench.report([run], data_dir=tmp_path / "nowhere"))
    assert "this look could not be recorded" in text


def test_the_share_of_tied_targets_is_counted(shop: Prepared, pop: RunRecord) -> None:
    tied = [shop.times[end - 1] == shop.times[end - 2] for end in shop.offsets[1:].tolist()]
    assert tied_share(pop, shop.data_dir) == pytest.approx(sum(tied) / len(tied), abs=1e-12)
    assert 0 < sum(tied) < len(tied)
    text = str(mmbench.report([pop], data_dir=shop.data_dir))
    assert f"{100 * sum(tied) / len(tied):.1f} % of test targets share their time" in text


def test_repeated_targets_are_counted_and_masking_them_is_warned_of(shop: Prepared, pop: RunRecord) -> None:
    items, bounds = shop.items.tolist(), shop.offsets.tolist()
    histories = [items[start:end] for start, end in pairwise(bounds)]
    share = sum(history[-1] in history[:-1] for history in histories) / len(histories)
    assert 0 < share < 1
    assert repeated_share(pop, shop.data_dir) == pytest.approx(share, abs=1e-12)
    texts = {
        rule: str(mmbench.report([pop], mask_seen=rule, data_dir=shop.data_dir)) for rule in ("none", "input")
    }
    counted_text = f"{100 * share:.1f} % of test targets are items that the user already has"
    assert all(counted_text in " ".join(text.split()) for text in texts.values())
    assert {rule: "compare under --mask-seen none" in " ".join(text.split()) for rule, text in texts.items()} == {
        "none": False, "input": True,
    }  # fmt: skip
