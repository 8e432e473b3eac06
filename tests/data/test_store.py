"""Prepared data on disk: what is written is read, damage is noticed, a failed write leaves the old state."""

import errno
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from mmbench import sealed
from mmbench.atomic import hash_file
from mmbench.data.manifest import ARRAYS, FORMAT, TEXTS, Manifest, data_hash
from mmbench.data.protocol import Protocol
from mmbench.data.store import Prepared, is_prepared, list_prepared, open_path, open_prepared
from mmbench.errors import DamagedError, DataError, OtherVersionError, UsageError
from mmbench.features.store import load_features
from tests.prepared import environment, random_histories, write_data_set, write_toy


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
    _, times, _ = random_histories()
    records = [{"id": name, "text": name} for name in names]
    made = write_data_set(
        tmp_path, "strange", (np.arange(18) % 6 + 1, times[:18], np.arange(0, 19, 3)), records, user_ids=names
    )
    made = open_path(made.path)
    expected = [name.replace("\n", " ") for name in names]
    assert made.user_ids == expected
    assert [record["text"] for record in made.item_records] == names


def test_texts_that_are_none_are_one_line(tmp_path: Path) -> None:
    path = write_toy(tmp_path, features=False).path
    for name, field in (("items.jsonl", "item_records"), ("users.txt", "user_ids")):
        for content in (b"\xff\xfe{", None):
            if content is None:
                (path / name).unlink()
            else:
                (path / name).write_bytes(content)
            with pytest.raises(DamagedError, match=rf"{name} is damaged .* mmbench prepare toy --force"):
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
    assert [prepared.name for prepared in list_prepared(tmp_path)] == ["toy@random:1", "toy"]
    assert ":" not in str(open_prepared("toy@random:1", tmp_path).path.name)


def test_unfinished_data_sets_are_not_listed(tmp_path: Path) -> None:
    done = write_toy(tmp_path)
    for name in (".toy.new-1-ab.tmp", ".toy.old"):
        shutil.copytree(done.path, done.path.parent / name)
    assert [prepared.path for prepared in list_prepared(tmp_path)] == [done.path]


def test_unknown_names_get_the_nearest_or_the_command(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'toy' is not prepared .* run: mmbench prepare toy"):
        open_prepared("toy", tmp_path)
    write_toy(tmp_path)
    with pytest.raises(UsageError, match=r"did you mean 'toy'\?"):
        open_prepared("tyo", tmp_path)


@pytest.mark.parametrize("name", [*ARRAYS, *TEXTS])
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
    reason = "it is missing" if damage == "remove" else "it is not the file that the manifest describes"
    with pytest.raises(
        DamagedError, match=rf"{name} is damaged \({reason}\); run: mmbench prepare toy --force"
    ):
        opened.verify()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '"text"',
        "null",
        "{}",
        '{"format": 99}',
        '{"format": 1, "name": "toy"}',
        '{"format": 2}',
    ],
)
def test_damaged_manifests_are_one_line(content: str, tmp_path: Path) -> None:
    write_toy(tmp_path, features=False)
    (tmp_path / "prepared" / "toy" / "manifest.json").write_text(content)
    for read in (lambda: open_prepared("toy", tmp_path), lambda: list_prepared(tmp_path)):
        with pytest.raises(DataError) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)
        assert str(caught.value).endswith("; run: mmbench prepare toy --force")
        is_other = content.startswith('{"format": ') and "2" not in content
        assert isinstance(caught.value, OtherVersionError if is_other else DamagedError)


@pytest.mark.parametrize("kept", [[], ["items.npy"], ["features"]])
def test_data_without_their_manifest_are_damaged_and_not_absent(kept: list[str], tmp_path: Path) -> None:
    path = write_toy(tmp_path).path
    for entry in path.iterdir():
        if entry.is_file() and entry.name not in kept:
            entry.unlink()
    is_data = kept == ["items.npy"]
    assert is_prepared("toy", tmp_path) == is_data
    with pytest.raises(DamagedError if is_data else UsageError):
        open_prepared("toy", tmp_path)
    faults: list[DataError] = []
    assert list_prepared(tmp_path, on_error=faults.append) == []
    assert len(faults) == is_data


def sealed_again(path: Path, **changes: Any) -> None:
    """Change fields of a manifest and give it a hash that fits: what a wrong program or a hostile hand could do."""
    file = path / "manifest.json"
    content = sealed.read_json(file, advice="", version=FORMAT)
    sealed.write_json(file, {**content, **changes}, version=FORMAT)


@pytest.mark.parametrize("key", [field.name for field in fields(Manifest) if field.default is MISSING])
def test_every_key_of_a_manifest_is_needed_at_once(key: str, tmp_path: Path) -> None:
    path = write_toy(tmp_path, features=False).path
    content = sealed.read_json(path / "manifest.json", advice="", version=FORMAT)
    del content[key]
    sealed.write_json(path / "manifest.json", content, version=FORMAT)
    with pytest.raises(
        DamagedError, match=rf"manifest\.json is damaged \({key} is missing\); run: mmbench prepare"
    ):
        open_prepared("toy", tmp_path)


@pytest.mark.parametrize("key", [field.name for field in fields(Manifest)])
def test_manifest_fields_of_another_type_are_one_line(key: str, tmp_path: Path) -> None:
    sealed_again(write_toy(tmp_path, features=False).path, **{key: 3 if key != "created" else "now"})
    with pytest.raises(
        DamagedError, match=rf"manifest\.json is damaged \({key}: .*; run: mmbench prepare toy"
    ):
        open_prepared("toy", tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"counts": {"users": 120, "items": 61, "interactions": 1020}},
            "counts and statistics differ in items",
        ),
        ({"hash": "0" * 64}, "hash does not match protocol and files"),
        ({"files": {}}, "files must be items.npy"),
        ({"name": ".."}, "is not the name of a prepared data set"),
        ({"name": "toy@nothing"}, "unknown protocol or tie rule 'nothing'"),
        ({"name": "other"}, "it describes other, whose folder is called other"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    sealed_again(write_toy(tmp_path, features=False).path, **changes)
    with pytest.raises(DamagedError, match=message):
        open_prepared("toy", tmp_path)


def described_anew(path: Path) -> None:
    """Let the manifest describe the files as they are, with counts as they were."""
    content = sealed.read_json(path / "manifest.json", advice="", version=FORMAT)
    files = {name: hash_file(path / name) for name in content["files"]}
    protocol = Protocol.from_json(content["protocol"])
    sealed_again(path, files=files, hash=data_hash(files, protocol))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("items", lambda old: old[:-1], "instead of 1020 int32"),
        ("items", lambda old: old + 1, "an item is outside the catalogue"),
        ("items", lambda old: old - 1, "an item is outside the catalogue"),
        ("items", lambda old: old.astype(np.int64), "int64 instead of 1020 int32"),
        ("times", lambda old: old[:-1], "instead of 1020 int64"),
        ("offsets", lambda old: old[:-1], "instead of 121 int64"),
        ("offsets", lambda old: old[::-1], "does not divide the events"),
        ("offsets", lambda old: np.where(old == old[5], old[8], old), "does not divide the events"),
        ("category_offsets", lambda old: old[:-1], "instead of 61 int64"),
        ("category_ids", lambda old: old + 1, "a category has no name"),
    ],
)
def test_arrays_that_do_not_fit_their_manifest_are_refused(
    name: str, values: Any, message: str, tmp_path: Path
) -> None:
    path = write_toy(tmp_path, features=False).path
    np.save(path / f"{name}.npy", values(np.load(path / f"{name}.npy")))
    described_anew(path)
    with pytest.raises(DamagedError, match=message):
        getattr(open_prepared("toy", tmp_path), name)


@pytest.mark.parametrize(
    ("field", "file", "message"),
    [
        ("user_ids", "users.txt", "119 lines instead of 120"),
        ("item_records", "items.jsonl", "59 lines instead of 60"),
        ("item_records", None, "its ids are not those of the manifest"),
    ],
)
def test_texts_that_do_not_fit_their_manifest_are_refused(
    field: str, file: str | None, message: str, tmp_path: Path
) -> None:
    path = write_toy(tmp_path, features=False).path
    lines = (path / (file or "items.jsonl")).read_text(encoding="utf-8").splitlines(keepends=True)
    (path / (file or "items.jsonl")).write_text("".join(lines[:-1] if file else lines[::-1]))
    described_anew(path)
    with pytest.raises(DamagedError, match=message):
        getattr(open_prepared("toy", tmp_path), field)


def test_a_damaged_data_set_does_not_hide_the_others(tmp_path: Path) -> None:
    good = write_toy(tmp_path, features=False)
    old = write_toy(tmp_path, "old", features=False, created=9.0)
    (old.path / "manifest.json").write_text('{"format": 99, "name": "old"}')
    faults: list[DataError] = []
    assert [prepared.name for prepared in list_prepared(tmp_path, on_error=faults.append)] == [good.name]
    assert [str(fault) for fault in faults] == [
        f"{old.path / 'manifest.json'} was written by another version of mmbench (format 99, not 2); "
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
    assert [path.name for path in (tmp_path / "prepared").iterdir() if path.is_dir()] == ["toy"]


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
    actual = open_prepared("toy", tmp_path)
    actual.verify()
    assert actual.hash == before.hash
    load_features(actual, "text", "toy").verify()
    assert [path.name for path in (tmp_path / "prepared").iterdir() if path.is_dir()] == ["toy"]


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
    for entry in (path, *path.rglob("*")):
        expected = 0o755 if entry.is_dir() else 0o644
        if entry.suffix != ".lock" and entry.name != ".lock":
            assert stat.S_IMODE(entry.stat().st_mode) == expected, entry


def test_manifests_are_plain_json(toy: Prepared) -> None:
    manifest = json.loads((toy.path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["files"].keys() == {*ARRAYS, *TEXTS}
    content = {key: value for key, value in manifest.items() if key not in ("format", "sha256")}
    assert open_path(toy.path).manifest.to_json() == content
