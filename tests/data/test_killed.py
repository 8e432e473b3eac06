"""`prepare --force` and `extract --force` killed before any change of the disk: what was there is there, old or new."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mmbench.data.prepare import prepare
from mmbench.data.store import Prepared, list_prepared, open_prepared
from mmbench.features.extract import Options, extract
from mmbench.features.store import default_encoder, list_features, load_features
from tests.data.raw_files import AMAZON_2014, START, grid, write_2014
from tests.features.network_toys import Letters
from tests.features.test_extract import Length
from tests.killing import killed_at
from tests.prepared import add_features

REPAIRS = 3  # changes of the disk after which the repair of a kill is killed, too


def leftovers(folder: Path) -> list[str]:
    """Folders that a finished command must not leave, here or below."""
    return sorted(entry.name for entry in folder.rglob(".*") if entry.is_dir())


@pytest.fixture
def base(tmp_path: Path, declare) -> Path:
    """A data folder with `mine` and its features, whose raw files have changed since."""
    raw = declare(AMAZON_2014)
    write_2014(raw, grid())
    prepared = prepare("mine", tmp_path / "base").prepared
    add_features(prepared, "text", "mine")
    extract(prepared, "text", Length())
    write_2014(raw, [(user, item, START + (time - START) * 2) for user, item, time in grid()])
    return tmp_path / "base"


def check_whole(data: Path, hashes: set[str]) -> str:
    """A reader finds `mine`, old or new, with all of its features; return its hash."""
    (actual,) = list_prepared(data)
    actual.verify()
    assert actual.name == "mine"
    assert actual.hash in hashes
    for encoder in ("mine", "length"):
        load_features(actual, "text", encoder).verify()
    assert default_encoder(actual, "text") == "length"
    return actual.hash


def test_prepare_killed_anywhere_leaves_the_old_or_the_new_data(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "whole")
    old = open_prepared("mine", base).hash
    new = prepare("mine", tmp_path / "whole", force=True).prepared.hash
    assert new != old
    seen, call, is_killed = set(), 0, True
    while is_killed:
        call += 1
        data = tmp_path / str(call)
        shutil.copytree(base, data)
        is_killed = killed_at(call, lambda: prepare("mine", data, force=True))  # noqa: B023
        for repair in range(1, REPAIRS if is_killed else 1):
            killed_at(repair, lambda: list_prepared(data))  # noqa: B023
        seen.add(check_whole(data, {old, new}))
        assert prepare("mine", data, force=True).prepared.hash == new
        check_whole(data, {new})
        assert leftovers(data / "prepared") == [], call
    assert seen == {old, new}
    assert call > 20


@pytest.mark.parametrize("kind", ["classical", "network"])
def test_extract_killed_anywhere_leaves_the_old_or_the_new_features(
    kind: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmbench.features.network.FLUSH_SECONDS", 0.0)
    name = {"classical": "length", "network": "letters"}[kind]

    def again(prepared: Prepared, number: int) -> None:
        encoder = Length(factor=number) if kind == "classical" else Letters()
        extract(prepared, "text", encoder, options=Options(batch_size=number, force=True))

    def values(prepared: Prepared) -> np.ndarray:
        features = load_features(prepared, "text", name)
        features.verify()
        return np.array(features.values)

    first = open_prepared("mine", base)
    again(first, 1)
    old, seen, call, is_killed = values(first), set(), 0, True
    shutil.copytree(base, tmp_path / "whole")
    whole = open_prepared("mine", tmp_path / "whole")
    again(whole, 2)
    new = values(whole)
    assert not np.array_equal(old, new)
    while is_killed:
        call += 1
        data = tmp_path / str(call)
        shutil.copytree(base, data)
        prepared = open_prepared("mine", data)
        is_killed = killed_at(call, lambda: again(prepared, 2))  # noqa: B023
        for repair in range(1, REPAIRS if is_killed else 1):
            killed_at(repair, lambda: list_features(prepared))  # noqa: B023
        stored = sorted(manifest.encoder for manifest in list_features(prepared)["text"])
        assert stored == sorted({"mine", "length", name}), call
        is_new = np.array_equal(values(prepared), new)
        assert is_new or np.array_equal(values(prepared), old), call
        seen.add(is_new)
        again(prepared, 2)
        assert leftovers(prepared.features_dir) == [], call
        np.testing.assert_array_equal(values(prepared), new)
    assert seen == {False, True}
    assert call > 10
