"""Prepared data on disk: what is written is read, damage is noticed, a failed write leaves the old state."""

import errno
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from mmbench.data import store
from mmbench.data.store import Prepared, list_prepared, open_path, open_prepared
from mmbench.errors import DataError, UsageError
from mmbench.features.store import load_features
from tests.prepared import environment, random_histories, write_toy


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_what_is_written_is_read(toy: Prepared) -> None:
    items, times, offsets = random_histories()
    for name, expected in (("items", items), ("times", times), ("offsets", offsets)):
        assert (getattr(toy, name) == expected).all()
    assert toy.times.dtype == np.int64
    assert toy.items.dtype == np.int32
    assert (toy.n_users, toy.n_items, toy.name, toy.synthetic) == (120, 60, "toy", True)
    assert toy.user_ids[5] == "u00005"
    assert toy.item_records[5]["id"] == "i00005"
    assert toy.category_names == [f"category {c}" for c in range(6)]
    assert toy.category_offsets[-1] == len(toy.category_ids)
    toy.verify()


def test_ids_and_names_with_strange_characters_keep_their_places(tmp_path: Path) -> None:
    names = ["a\u2028b", "c\rd", "e\x0bf", "g\nh", "", "ü"]
    items, times, offsets = random_histories(n_users=6)
    made = store.write_prepared(
        data_dir=tmp_path, items=items, times=times, offsets=offsets, user_ids=names,
        manifest={**write_toy(tmp_path / "x", features=False).manifest, "name": "strange"},
        item_records=[{"id": name, "text": name} for name in names],
        categories=(names, np.zeros(0, np.int64), np.zeros(61, np.int64)),
    )  # fmt: skip
    made = open_path(made.path)
    expected = [name.replace("\n", " ") for name in names]
    assert made.user_ids == expected
    assert made.category_names == expected
    assert [record["text"] for record in made.item_records] == names


def test_texts_that_are_none_are_one_line(tmp_path: Path) -> None:
    path = write_toy(tmp_path, features=False).path
    for name, field in (("items.jsonl", "item_records"), ("users.txt", "user_ids")):
        for content in (b"\xff\xfe{", None):
            if content is None:
                (path / name).unlink()
            else:
                (path / name).write_bytes(content)
            with pytest.raises(DataError, match=f"{name} cannot be read"):
                getattr(open_path(path), field)


def test_arrays_are_maps_that_nobody_can_write(toy: Prepared) -> None:
    assert isinstance(toy.items, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        toy.items[0] = 1


def test_the_hash_follows_content_and_protocol_only(tmp_path: Path) -> None:
    first = write_toy(tmp_path / "a", features=False)
    assert write_toy(tmp_path / "b", features=False, created=99.0).hash == first.hash
    assert write_toy(tmp_path / "c", features=False, ties="reverse").hash != first.hash
    other = write_toy(tmp_path / "d", features=False, seed=1)
    assert other.hash != first.hash
    assert other.items_hash == first.items_hash
    assert write_toy(tmp_path / "e", features=False, n_items=61).items_hash != first.items_hash


def test_names_with_tie_orders_have_folders_of_their_own(tmp_path: Path) -> None:
    write_toy(tmp_path, "toy", created=5.0)
    write_toy(tmp_path, "toy@random:1", created=7.0)
    assert open_prepared("toy@random:1", tmp_path).name == "toy@random:1"
    assert [one.name for one in list_prepared(tmp_path)] == ["toy@random:1", "toy"]
    assert ":" not in str(open_prepared("toy@random:1", tmp_path).path.name)


def test_unfinished_data_sets_are_not_listed(tmp_path: Path) -> None:
    done = write_toy(tmp_path)
    for name in (".toy.new-1-ab.tmp", ".toy.old"):
        shutil.copytree(done.path, done.path.parent / name)
    assert [one.path for one in list_prepared(tmp_path)] == [done.path]


def test_unknown_names_get_the_nearest_or_the_command(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'toy' is not prepared .* run: mmbench prepare toy"):
        open_prepared("toy", tmp_path)
    write_toy(tmp_path)
    with pytest.raises(UsageError, match=r"did you mean 'toy'\?"):
        open_prepared("tyo", tmp_path)


@pytest.mark.parametrize("name", [*store.ARRAYS, *store.TEXTS])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove"])
def test_every_damaged_file_is_noticed(name: str, damage: str, tmp_path: Path, toy: Prepared) -> None:
    shutil.copytree(toy.path, tmp_path / "prepared" / "toy")
    file = tmp_path / "prepared" / "toy" / name
    good = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    elif damage == "flip":
        good[-3] ^= 1
        file.write_bytes(good)
    else:
        file.write_bytes(good[: len(good) // 2] if damage == "cut" else b"")
    opened = open_prepared("toy", tmp_path)
    with pytest.raises(DataError, match=rf"{name} is not the file .* mmbench prepare toy --force"):
        opened.verify()


def test_arrays_that_are_none_are_one_line(tmp_path: Path, toy: Prepared) -> None:
    shutil.copytree(toy.path, tmp_path / "prepared" / "toy")
    for content in (b"", b"not an array", b"\x93NUMPY"):
        (tmp_path / "prepared" / "toy" / "items.npy").write_bytes(content)
        with pytest.raises(DataError, match=r"items\.npy cannot be read"):
            _ = open_prepared("toy", tmp_path).items


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '"text"', "null", "{}", '{"format": 99}', '{"format": 1}']
)
def test_damaged_manifests_are_one_line(content: str, tmp_path: Path) -> None:
    write_toy(tmp_path, features=False)
    (tmp_path / "prepared" / "toy" / "manifest.json").write_text(content)
    for read in (lambda: open_prepared("toy", tmp_path), lambda: list_prepared(tmp_path)):
        with pytest.raises(DataError) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("key", [*store.KEYS])
def test_manifest_fields_of_another_type_are_one_line(key: str, tmp_path: Path) -> None:
    file = write_toy(tmp_path, features=False).path / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: None}))
    with pytest.raises(DataError, match=rf"manifest\.json: {key} is not of its type \(got null\); prepare"):
        open_prepared("toy", tmp_path)


def test_a_damaged_data_set_does_not_hide_the_others(tmp_path: Path) -> None:
    good = write_toy(tmp_path, features=False)
    old = write_toy(tmp_path, "old", features=False, created=9.0)
    (old.path / "manifest.json").write_text('{"format": 99, "name": "old"}')
    faults: list[DataError] = []
    assert [one.name for one in list_prepared(tmp_path, skipped=faults.append)] == [good.name]
    assert [str(one) for one in faults] == [
        f"{old.path} was prepared by another version of mmbench (format 99, this one reads 1); "
        "run: mmbench prepare old --force"
    ]
    with pytest.raises(UsageError, match=r"'tyo' is not prepared .* did you mean 'toy'"):
        open_prepared("tyo", tmp_path)


def test_writing_again_replaces_and_keeps_features(tmp_path: Path) -> None:
    first = write_toy(tmp_path)
    second = write_toy(tmp_path, features=False, seed=1)
    assert second.hash != first.hash
    second.verify()
    assert load_features(second, "text", "toy").dim == 12
    other = write_toy(tmp_path, features=False, n_items=70)
    with pytest.raises(DataError, match="another catalogue"):
        load_features(other, "text", "toy")
    assert [one.name for one in (tmp_path / "prepared").iterdir() if one.is_dir()] == ["toy"]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_kill_inside_the_swap_is_undone_or_finished(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before or after any rename: the next reader finds the old or the new data, with their features."""
    first = write_toy(tmp_path)
    new_hash = write_toy(tmp_path / "elsewhere", features=False, seed=1).hash
    rename, calls = Path.rename, []

    def killed(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == at:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            write_toy(tmp_path, features=False, seed=1)
    found = open_prepared("toy", tmp_path)
    found.verify()
    assert found.hash == (first.hash if at <= 2 else new_hash)
    assert load_features(found, "image", "toy").dim == 8
    again = write_toy(tmp_path, features=False, seed=1)
    assert again.hash == new_hash
    assert [one.name for one in (tmp_path / "prepared").iterdir() if one.is_dir()] == ["toy"]


@pytest.mark.parametrize("call", ["save", "fsync"])
def test_a_full_disk_leaves_the_old_data(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_toy(tmp_path)
    before = contents(tmp_path)

    def full(*args: Any, **kwargs: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(np if call == "save" else os, call, full)
        with pytest.raises(Exception, match="No space left on device") as caught:
            write_toy(tmp_path, features=False, seed=1)
    assert "\n" not in str(caught.value)
    after = {name: data for name, data in contents(tmp_path).items() if not name.endswith(".lock")}
    assert after == {name: data for name, data in before.items() if not name.endswith(".lock")}


LIMITED = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
from mmbench.errors import MmbenchError
from tests.prepared import write_toy
try:
    write_toy(Path(sys.argv[1]), features=sys.argv[3] == "features", seed=1)
except MmbenchError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.parametrize(("limit", "part"), [(200, "data"), (4000, "data"), (2000, "features")])
def test_files_that_the_system_cuts_off_leave_the_old_data(limit: int, part: str, tmp_path: Path) -> None:
    """The real thing: the operating system refuses to write more than `limit` bytes into a file."""
    assert resource.RLIMIT_FSIZE >= 0
    before = write_toy(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path, str(limit), part],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    assert done.stdout.count("\n") == 1
    assert "cannot write" in done.stdout
    found = open_prepared("toy", tmp_path)
    found.verify()
    assert found.hash == before.hash
    load_features(found, "text", "toy").verify()
    assert [one.name for one in (tmp_path / "prepared").iterdir() if one.is_dir()] == ["toy"]


def test_a_data_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(DataError, match="cannot write below"):
        write_toy(tmp_path / "data")


def test_others_may_read_prepared_data(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        path = write_toy(tmp_path).path
    finally:
        os.umask(before)
    for one in (path, *path.rglob("*")):
        expected = 0o755 if one.is_dir() else 0o644
        if one.suffix != ".lock" and one.name != ".lock":
            assert stat.S_IMODE(one.stat().st_mode) == expected, one


def test_manifests_are_plain_json(toy: Prepared) -> None:
    manifest = json.loads((toy.path / "manifest.json").read_text())
    assert manifest["files"].keys() == {*store.ARRAYS, *store.TEXTS}
    assert open_path(toy.path).manifest == manifest
