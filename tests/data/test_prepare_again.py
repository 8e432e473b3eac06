"""Preparing again: when nothing is done, when it is done anew, what a failure leaves behind."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmbench.data import definition
from mmbench.data.prepare import prepare
from mmbench.data.raw_files import RawFilesMissingError
from mmbench.errors import DataError, UsageError
from tests.data.preparing import made
from tests.data.raw_files import AMAZON_2014, START, TIED, grid, review, write_2014, write_lines


def test_second_call_does_nothing(tmp_path: Path, declare, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = declare(AMAZON_2014)
    write_2014(raw, grid())
    first = prepare("mine", tmp_path / "data")
    before = {file: file.stat().st_mtime_ns for file in first.prepared.path.iterdir()}
    second = prepare("mine", tmp_path / "data")
    assert (first.fresh, second.fresh) == (True, False)
    assert {file: file.stat().st_mtime_ns for file in first.prepared.path.iterdir()} == before
    assert prepare("mine", tmp_path / "data", force=True).fresh
    assert not prepare("mine", tmp_path / "data").fresh
    monkeypatch.setattr(definition, "CODE", definition.CODE + 1)
    assert prepare("mine", tmp_path / "data").fresh


@pytest.mark.parametrize("change", ["raw", "spec", "printed", "damage", "foreign"])
def test_what_makes_a_second_call_work_again(tmp_path: Path, declare, change: str) -> None:
    raw = declare(AMAZON_2014)
    write_2014(raw, grid())
    first = made(tmp_path)
    if change == "raw":
        write_2014(raw, grid(7))
    elif change == "spec":
        declare(AMAZON_2014 + 'text_fields = ["title"]')
    elif change == "printed":
        declare(AMAZON_2014 + 'printed = { users = 6, items = 6, interactions = 36, source = "a page" }')
    elif change == "damage":
        (first.path / "items.npy").write_bytes(b"")
    else:
        (first.path / "manifest.json").write_text('{"format": 0}')
    second = prepare("mine", tmp_path / "data")
    assert second.fresh
    assert not prepare("mine", tmp_path / "data").fresh
    assert (second.prepared.hash == first.hash) == (change not in ("raw", "spec"))


def test_prepared_data_outlive_their_raw_files(tmp_path: Path, declare) -> None:
    raw = declare(AMAZON_2014)
    write_2014(raw, grid())
    made(tmp_path)
    (raw / "meta_Demo.json.gz").unlink()
    report = prepare("mine", tmp_path / "data")
    assert not report.fresh
    assert "raw files are gone" in report.notes[0]
    for options in ({"force": True}, {"raw": raw}, {"ties": "reverse"}):
        with pytest.raises(RawFilesMissingError, match=r"raw file meta_Demo\.json\.gz not found"):
            prepare("mine", tmp_path / "data", **options)  # type: ignore[arg-type]


def test_raw_option_takes_the_folder_or_one_named_like_the_data_set(tmp_path: Path, declare) -> None:
    declare(AMAZON_2014)
    write_2014(tmp_path / "a", grid())
    write_2014(tmp_path / "b" / "mine", grid())
    assert made(tmp_path, raw=tmp_path / "a").hash == made(tmp_path, raw=tmp_path / "b", force=True).hash
    with pytest.raises(DataError, match="is not a folder"):
        made(tmp_path, raw=tmp_path / "c")


def test_missing_raw_files_say_where_from_and_where_to(tmp_path: Path) -> None:
    with pytest.raises(RawFilesMissingError) as caught:
        prepare("amazon-toys", tmp_path)
    text = str(caught.value)
    assert "reviews_Toys_and_Games_5.json.gz and meta_Toys_and_Games.json.gz not found in" in text
    assert str(tmp_path / "raw" / "amazon-toys") in text
    assert "mmbench datasets amazon-toys shows where to get them" in text
    assert "--raw DIR" in text
    assert "\n" not in text
    with pytest.raises(RawFilesMissingError, match="put them into the folder"):
        prepare("hm-fashion", tmp_path)


def test_nothing_left_after_the_filters(tmp_path: Path, declare) -> None:
    write_2014(declare(AMAZON_2014), grid(4, 4))
    with pytest.raises(
        DataError,
        match=r"no interaction is left of 16 under .*'clean': 16 are under the bounds \(users >= 5, items >= 5\); set",
    ):
        made(tmp_path)
    with pytest.raises(
        DataError, match=r"16 are of items that lack .*4 of 4 items have no image\); choose another"
    ):
        made(tmp_path, protocol="tmmsrec")
    assert not list((tmp_path / "data" / "prepared").glob("mine*"))


def test_histories_too_short_to_evaluate(tmp_path: Path, declare) -> None:
    write_2014(
        declare(AMAZON_2014 + "filters = { min_user = 0, min_item = 0 }"),
        [("a", "x", START), ("b", "y", START)],
    )
    with pytest.raises(DataError, match="no user with a validation target"):
        made(tmp_path)


def test_damaged_raw_file_leaves_the_old_data(tmp_path: Path, declare) -> None:
    raw = declare(AMAZON_2014)
    write_2014(raw, grid())
    first = made(tmp_path)
    file = raw / "reviews_Demo_5.json.gz"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"reviews_Demo_5\.json\.gz is cut off"):
        made(tmp_path)
    first.verify()
    assert [
        path.name for path in (tmp_path / "data" / "prepared").iterdir() if not path.name.startswith(".")
    ] == ["mine"]


def test_full_disk_leaves_the_old_data(tmp_path: Path, declare, monkeypatch: pytest.MonkeyPatch) -> None:
    write_2014(declare(AMAZON_2014), grid())
    first = made(tmp_path)

    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(DataError, match="No space left on device; free some space"):
            made(tmp_path, force=True)
    first.verify()
    assert not list((tmp_path / "data" / "prepared").glob(".writing-*"))


def test_checksum_of_the_catalogue(tmp_path: Path, declare) -> None:
    body = AMAZON_2014.replace('"reviews_Demo_5.json.gz"', f'"reviews_Demo_5.json.gz", sha256 = "{"0" * 64}"')
    write_2014(declare(body), grid())
    with pytest.raises(DataError, match="sha256 differs"):
        made(tmp_path)


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'amazon-beauty'"):
        prepare("amazon-beuty", tmp_path)
    with pytest.raises(UsageError, match="did you mean 'tmmsrec'"):
        prepare("demo", tmp_path, protocol="tmsrec")


def test_malformed_lines_are_noted_in_the_manifest(tmp_path: Path, declare) -> None:
    raw = declare(AMAZON_2014)
    write_2014(raw, grid())
    write_lines(raw / "reviews_Demo_5.json.gz", [*(review(*event) for event in grid()), "{"])
    report = prepare("mine", tmp_path / "data")
    assert "line 37: not JSON" in report.notes[0]
    assert list(report.prepared.manifest.notes) == report.notes


SCRIPT = """
import sys
from pathlib import Path
from mmbench.data.prepare import prepare
print(prepare("mine@random:3", Path(sys.argv[1])).prepared.hash)
"""


def test_hash_does_not_depend_on_process_or_folder(tmp_path: Path, declare) -> None:
    write_2014(declare(AMAZON_2014), TIED)
    hashes = {made(tmp_path, "mine@random:3").hash}
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path / f"data{seed}")],
            env={**os.environ, "PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo"},
            capture_output=True,
            text=True,
            check=True,
        )
        hashes.add(run.stdout.strip())
    assert len(hashes) == 1


def test_two_at_once_do_the_work_once(tmp_path: Path, declare) -> None:
    write_2014(declare(AMAZON_2014), TIED)
    script = SCRIPT.replace(".prepared.hash", ".fresh")
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    assert sorted(process.communicate(timeout=60)[0].strip() for process in both) == ["False", "True"]
