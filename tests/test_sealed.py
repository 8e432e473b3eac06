"""mmbench.sealed: a changed byte is noticed or changes nothing, and absent is not damaged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbench.errors import DamagedError, OtherVersionError
from mmbench.sealed import digest, read_arrays, read_json, write_arrays, write_json

ADVICE = "make it again"
CONTENT: dict[str, Any] = {"name": "toy", "counts": [1, 2], "rate": 0.1, "nested": {"ü": None}}
ARRAYS = {
    "ranks": np.arange(7),
    "scores": np.linspace(0, 1, 4, dtype=np.float16).reshape(2, 2),
    "none": np.zeros(0),
}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", CONTENT)
    assert read_json(tmp_path / "a.json", advice=ADVICE) == CONTENT
    write_arrays(tmp_path / "a.npz", ARRAYS, CONTENT)
    arrays, facts = read_arrays(tmp_path / "a.npz", advice=ADVICE)
    assert facts == CONTENT
    assert arrays.keys() == ARRAYS.keys()
    for name, values in ARRAYS.items():
        assert arrays[name].dtype == values.dtype
        assert np.array_equal(arrays[name], values)


@pytest.mark.parametrize("read", [read_json, read_arrays])
def test_absence_is_not_damage(read: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none", advice=ADVICE)


def test_every_changed_byte_of_a_json_file_is_noticed_or_harmless(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, CONTENT)
    good, silent = file.read_bytes(), 0
    for place in range(len(good)):
        for bit in (1, 32, 128):
            file.write_bytes(good[:place] + bytes([good[place] ^ bit]) + good[place + 1 :])
            try:
                assert read_json(file, advice=ADVICE) == CONTENT  # white space
                silent += 1
            except DamagedError as error:
                assert str(error).endswith(ADVICE)  # noqa: PT017 - either outcome is right
    assert silent < len(good)


@pytest.mark.parametrize("is_compressed", [True, False])
def test_every_changed_byte_of_an_array_file_is_noticed_or_harmless(
    tmp_path: Path, is_compressed: bool
) -> None:
    file = tmp_path / "a.npz"
    write_arrays(file, ARRAYS, {"n": 7}, is_compressed=is_compressed)
    good = file.read_bytes()
    for place in range(len(good)):
        file.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        try:
            arrays, facts = read_arrays(file, advice=ADVICE)
        except DamagedError:
            continue
        assert facts == {"n": 7}  # times and flags of the archive
        assert all(np.array_equal(arrays[name], values) for name, values in ARRAYS.items())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        "{" * 100_000,
        '{"sha256": 3}',
        json.dumps({"sha256": "0" * 64}),
        "\x00",
        '{"a": NaN}',
    ],
)
def test_what_is_no_sealed_json_is_damaged(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DamagedError, match="is damaged"):
        read_json(tmp_path / "a.json", advice=ADVICE)


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"x" * 100])
def test_what_is_no_archive_is_damaged(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DamagedError, match="is damaged"):
        read_arrays(tmp_path / "a.npz", advice=ADVICE)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"code": 1}], dtype=object), facts="{}", sha256="")
    with pytest.raises(DamagedError):
        read_arrays(tmp_path / "a.npz", advice=ADVICE)


def test_the_digest_tells_types_shapes_and_names_apart() -> None:
    values = np.arange(4, dtype=np.int32)
    different = [
        {"a": values}, {"b": values}, {"a": values.reshape(2, 2)}, {"a": values.view(np.float32)},
        {"a": values, "b": values},
    ]  # fmt: skip
    assert len({digest(arrays, "") for arrays in different}) == len(different)
    assert digest({"a": values}, "x") != digest({"a": values}, "")


def test_another_format_is_not_damage(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, CONTENT, version=2)
    assert read_json(file, advice=ADVICE, version=2) == CONTENT
    with pytest.raises(OtherVersionError, match=r"\(format 2, not 3\); make it again$"):
        read_json(file, advice=ADVICE, version=3)
    file.write_text('{"format": 1, "name": "toy"}')  # of a time before files had hashes
    with pytest.raises(OtherVersionError, match=r"\(format 1, not 2\); make it again$"):
        read_json(file, advice=ADVICE, version=2)


@pytest.mark.parametrize("content", [{}, {"format": "2"}, {"format": None}, {"format": True}])
def test_a_file_without_its_format_is_damaged(content: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", content)
    with pytest.raises(DamagedError, match="no number of its format"):
        read_json(tmp_path / "a.json", advice=ADVICE, version=2)
    write_json(tmp_path / "a.json", {"name": "toy"}, version=2)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    (tmp_path / "a.json").write_text(text.replace('"format": 2', '"format": 3'))
    with pytest.raises(DamagedError, match="does not have the hash"):
        read_json(tmp_path / "a.json", advice=ADVICE, version=2)
