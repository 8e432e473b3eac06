"""The raw files of a data set, and what was recorded of them."""

import hashlib
import json
from pathlib import Path

import pytest

from mmbench.data.manifest import RawFileFacts
from mmbench.data.raw_hashes import check_recorded, forget_files, hashes_path, read_recorded, recorded_file
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
    content = json.loads(hashes_path(tmp_path).read_text(encoding="utf-8"))["files"]
    assert sorted(content["mine"]) == ["m.json.gz", "r.json.gz"]
    entry = content["mine"]["r.json.gz"]
    assert sorted(entry) == ["date", "sha256", "size", "url"]
    assert (entry["size"], entry["url"]) == (len(FILE), f"{server.base}/r")


def test_another_file_later_is_refused_until_it_is_accepted(server: Server, tmp_path: Path) -> None:
    server.add("/r", FILE)
    server.add("/m", OTHER)
    spec = spec_at(server, tmp_path)
    fetch(spec, tmp_path)
    known = recorded_file(tmp_path, "mine", "r.json.gz")
    assert known is not None
    file = tmp_path / "raw" / "r.json.gz"
    file.unlink()
    server.add("/r", OTHER)
    with pytest.raises(
        DataError, match=f"the expected sha256 is {known.sha256}; .*mmbench datasets unlock mine"
    ):
        fetch(spec, tmp_path)
    assert not file.exists()
    assert recorded_file(tmp_path, "mine", "r.json.gz") == known
    assert forget_files(tmp_path, "mine") == ["m.json.gz", "r.json.gz"]
    fetch(spec, tmp_path)
    assert file.read_bytes() == OTHER


def test_the_hash_of_the_catalogue_is_the_last_word(server: Server, tmp_path: Path) -> None:
    server.add("/r", FILE)
    server.add("/m", OTHER)
    spec = spec_at(server, tmp_path, f', sha256 = "{"0" * 64}"')
    with pytest.raises(DataError, match=f"but {'0' * 64} according to the catalogue"):
        fetch(spec, tmp_path)
    assert list(read_recorded(tmp_path)["mine"]) == ["m.json.gz"]


def test_a_hash_that_the_catalogue_names_later_replaces_the_recorded_hash(
    server: Server, tmp_path: Path
) -> None:
    server.add("/r", FILE)
    server.add("/m", OTHER)
    fetch(spec_at(server, tmp_path), tmp_path)
    (tmp_path / "raw" / "r.json.gz").unlink()
    server.add("/r", OTHER)
    named = hashlib.sha256(OTHER).hexdigest()
    fetch(spec_at(server, tmp_path, f', sha256 = "{named}"'), tmp_path)
    entry = recorded_file(tmp_path, "mine", "r.json.gz")
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
    sha256 = read_recorded(tmp_path)["mine"]["r.json.gz"].sha256
    good, bad = (RawFileFacts(file="r.json.gz", sha256=digest, bytes=1) for digest in (sha256, "1" * 64))
    check_recorded(tmp_path, "mine", tmp_path, [good])
    check_recorded(tmp_path, "other", tmp_path, [bad])
    with pytest.raises(DataError, match=r"r\.json\.gz is not the file that was fetched on .*unlock mine"):
        check_recorded(tmp_path, "mine", tmp_path, [bad])


@pytest.mark.parametrize("text", ["{", "[]", '{"mine": {"r": {}}}', '{"mine": 3}'])
def test_a_damaged_record_is_one_line(text: str, tmp_path: Path) -> None:
    hashes_path(tmp_path).parent.mkdir()
    hashes_path(tmp_path).write_text(text)
    with pytest.raises(DataError, match=r"lock\.json is damaged .*; delete it to record") as caught:
        read_recorded(tmp_path)
    assert "\n" not in str(caught.value)
