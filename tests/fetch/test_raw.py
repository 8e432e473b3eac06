"""The raw files of a data set and the lock file."""

import hashlib
import json
from pathlib import Path

import pytest

from mmbench.data.lock import check_locked, lock_path, locked, read_lock, unlock
from mmbench.data.spec import DatasetSpec
from mmbench.errors import DataError
from mmbench.fetch.files import Patience
from mmbench.fetch.raw import fetch_raw
from tests.data.raw_files import spec_of
from tests.fetch.faults import FILE, OTHER
from tests.fetch.server import Answer, Server

FAST = Patience(tries=2, first_wait_s=0.0, read_s=0.5, sleep=lambda seconds: None)
TOML = """
title = "Mine"
parser = "amazon-2014"
raw = "raw"
files.interactions = {{ name = "r.json.gz", urls = ["{base}/r"]{more} }}
files.items = {{ name = "m.json.gz", urls = ["{base}/m"] }}
"""


def spec_at(server: Server, folder: Path, more: str = "") -> DatasetSpec:
    return spec_of(folder, TOML.format(base=server.base, more=more))


def fetch(spec: DatasetSpec, data: Path) -> None:
    fetch_raw(spec, spec.raw_files, data, patience=FAST)


def test_the_first_success_is_recorded(server: Server, tmp_path: Path) -> None:
    server.add("/r", FILE)
    server.add("/m", OTHER)
    spec = spec_at(server, tmp_path)
    fetch(spec, tmp_path)
    content = json.loads(lock_path(tmp_path).read_text())
    assert sorted(content["mine"]) == ["m.json.gz", "r.json.gz"]
    entry = content["mine"]["r.json.gz"]
    assert sorted(entry) == ["date", "sha256", "size", "url"]
    assert (entry["size"], entry["url"]) == (len(FILE), f"{server.base}/r")


def test_another_file_later_is_refused_until_it_is_accepted(server: Server, tmp_path: Path) -> None:
    server.add("/r", FILE)
    server.add("/m", OTHER)
    spec = spec_at(server, tmp_path)
    fetch(spec, tmp_path)
    known = locked(tmp_path, "mine", "r.json.gz")
    assert known is not None
    file = tmp_path / "raw" / "r.json.gz"
    file.unlink()
    server.add("/r", OTHER)
    with pytest.raises(DataError, match=f"expected is sha256 {known.sha256}; .*mmbench datasets unlock mine"):
        fetch(spec, tmp_path)
    assert not file.exists()
    assert locked(tmp_path, "mine", "r.json.gz") == known
    assert unlock(tmp_path, "mine") == ["m.json.gz", "r.json.gz"]
    fetch(spec, tmp_path)
    assert file.read_bytes() == OTHER


def test_the_hash_of_the_catalogue_is_the_last_word(server: Server, tmp_path: Path) -> None:
    server.add("/r", FILE)
    server.add("/m", OTHER)
    spec = spec_at(server, tmp_path, f', sha256 = "{"0" * 64}"')
    with pytest.raises(DataError, match=f"but {'0' * 64} by the catalogue"):
        fetch(spec, tmp_path)
    assert list(read_lock(tmp_path)["mine"]) == ["m.json.gz"]


def test_a_hash_that_the_catalogue_names_later_replaces_the_recorded_one(
    server: Server, tmp_path: Path
) -> None:
    server.add("/r", FILE)
    server.add("/m", OTHER)
    fetch(spec_at(server, tmp_path), tmp_path)
    (tmp_path / "raw" / "r.json.gz").unlink()
    server.add("/r", OTHER)
    named = hashlib.sha256(OTHER).hexdigest()
    fetch(spec_at(server, tmp_path, f', sha256 = "{named}"'), tmp_path)
    entry = locked(tmp_path, "mine", "r.json.gz")
    assert entry is not None
    assert entry.sha256 == named


def test_one_failure_keeps_the_other_file(server: Server, tmp_path: Path) -> None:
    server.add("/r", FILE, Answer(status=404))
    server.add("/m", OTHER)
    spec = spec_at(server, tmp_path)
    with pytest.raises(DataError, match=r"^mine: r\.json\.gz could not be fetched \(http.*404") as caught:
        fetch(spec, tmp_path)
    assert "m.json.gz" not in str(caught.value)
    assert (tmp_path / "raw" / "m.json.gz").read_bytes() == OTHER
    server.add("/m", b"", Answer(status=404))
    (tmp_path / "raw" / "m.json.gz").unlink()
    with pytest.raises(DataError, match=r"r\.json\.gz could not.*; and m\.json\.gz could not"):
        fetch(spec, tmp_path)


def test_a_changed_local_file_is_named(server: Server, tmp_path: Path) -> None:
    server.add("/r", FILE)
    server.add("/m", OTHER)
    fetch(spec_at(server, tmp_path), tmp_path)
    good = [{"file": "r.json.gz", "sha256": read_lock(tmp_path)["mine"]["r.json.gz"].sha256}]
    check_locked(tmp_path, "mine", tmp_path, good)
    check_locked(tmp_path, "other", tmp_path, [{"file": "r.json.gz", "sha256": "1" * 64}])
    with pytest.raises(DataError, match=r"r\.json\.gz is not the file that was fetched on .*unlock mine"):
        check_locked(tmp_path, "mine", tmp_path, [{"file": "r.json.gz", "sha256": "1" * 64}])


@pytest.mark.parametrize("text", ["{", "[]", '{"mine": {"r": {}}}', '{"mine": 3}'])
def test_a_damaged_lock_file_is_one_line(text: str, tmp_path: Path) -> None:
    lock_path(tmp_path).parent.mkdir()
    lock_path(tmp_path).write_text(text)
    with pytest.raises(DataError, match=r"lock\.json cannot be read") as caught:
        read_lock(tmp_path)
    assert "\n" not in str(caught.value)
