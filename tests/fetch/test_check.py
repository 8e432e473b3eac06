"""What a file's content must be under its name."""

import gzip
import io
import zipfile
from pathlib import Path

import pytest

from mmbench.fetch.check import checks_itself, fault_of


def zipped(*, damaged: bool = False, members: int = 2) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for number in range(members):
            archive.writestr(f"{number}.jpg", b"picture " * 9)
    content = buffer.getvalue()
    return content.replace(b"picture", b"pictura", 1) if damaged else content


def parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({"user": ["a", "b"]}), buffer)
    return buffer.getvalue()


TEXT = gzip.compress(b'{"a": 1}\n')
CASES = [
    ("a.json.gz", TEXT, None),
    ("a.json.gz", TEXT + TEXT, None),
    ("a.json.gz", TEXT + b"\0" * 8, None),
    ("a.json.gz", TEXT[:-1], "a gzip file that ends too early"),
    ("a.json.gz", TEXT + TEXT[:9], "a gzip file that ends too early"),
    ("a.json.gz", TEXT + b"\n<!-- served in 3 ms -->", "a damaged gzip file"),
    ("a.json.gz", b'{"a": 1}\n', "a damaged gzip file (Not a gzipped file"),
    ("a.json.gz", gzip.compress(b""), "a gzip file that holds nothing"),
    ("a.json.gz", gzip.compress(TEXT), "gzip inside gzip"),
    ("a.json.gz", b"\n  <HTML><body>", "a web page instead of the file"),
    ("a.json.gz", gzip.compress(b"<html>"), "a web page instead of the file"),
    ("a.csv", b"\xef\xbb\xbf<!DOCTYPE html>", "a web page instead of the file"),
    ("a.csv", b"", "an empty file"),
    ("a.csv", b"user,item\n", None),
    ("a.zip", zipped(), None),
    ("a.zip", zipped(damaged=True), "a damaged zip file (its member 0.jpg is broken)"),
    ("a.zip", zipped()[:-5], "a damaged zip file"),
    ("a.zip", zipped(members=0), "a zip file that holds nothing"),
    ("a.parquet", parquet(), None),
    ("a.parquet", parquet()[:-3], "a damaged Parquet file"),
    ("a.json", b'{"a": 1}\n{"b": 2}\n', None),
    ("a.json", b"[1, 2]", None),
    ("a.jsonl", b'{"a": 1}\n{"b": ', "a JSON file that ends too early"),
    ("a.json", b"Not Found", "something that is not JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "said"), CASES)
def test_content(name: str, content: bytes, said: str | None, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.part"
    file.write_bytes(content)
    actual = fault_of(file, name)
    assert actual is None if said is None else actual is not None and actual.startswith(said)


def test_which_formats_find_out_a_mixture() -> None:
    assert [checks_itself(name) for name in ("a.json.gz", "A.ZIP", "a.parquet", "a.json")] == [
        True, True, False, False,
    ]  # fmt: skip
