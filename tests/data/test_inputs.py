"""What features are made from: the hash follows what encoders read, item by item, and nothing else."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbench.data.inputs import hash_marks, hash_texts, input_text, read_inputs
from mmbench.data.prepare import prepare
from mmbench.features.extract import extract
from mmbench.features.store import load_features
from tests.data.raw_files import TABLE, grid, write_lines
from tests.features.toy import at, encoded, items, picture

TEXTS = st.lists(st.one_of(st.none(), st.text(max_size=4)), max_size=4)


@given(TEXTS, TEXTS)
def test_other_texts_have_another_hash(first: list[str | None], second: list[str | None]) -> None:
    assert (hash_texts(first) == hash_texts(second)) == (first == second)


def test_only_what_an_encoder_reads_counts() -> None:
    records = items(3)
    hashed = read_inputs(records, None, "toy")
    same = [{**record, "title": "other", "text": f"  {record['text']} \n"} for record in records]
    assert read_inputs(same, None, "toy") == hashed
    changed = [{**records[0], "text": "other"}, *records[1:]]
    assert read_inputs(changed, None, "toy").text != hashed.text
    assert read_inputs(changed, None, "toy").image == hashed.image
    assert read_inputs(records[::-1], None, "toy").text != hashed.text
    assert [input_text({"text": text}) for text in (" a  b", ". .", "", None)] == ["a b", None, None, None]
    assert hash_marks(["a", "b"]) != hash_marks(["ab"])


def test_the_hash_of_pictures_is_that_of_their_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    records: list[dict[str, Any]] = [{**record, "image": f"{record['id']}.bmp"} for record in items(3)]
    for number, record in enumerate(records[:2]):
        (folder / record["image"]).write_bytes(encoded(picture(number), "BMP"))
    hashed = read_inputs(records, at(folder), "toy")
    file, times = folder / "a000.bmp", (folder / "a000.bmp").stat()
    file.write_bytes(encoded(picture(9), "BMP"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_size == times.st_size
    assert read_inputs(records, at(folder), "toy").image != hashed.image
    file.write_bytes(encoded(picture(0), "BMP"))
    assert read_inputs(records, at(folder), "toy") == hashed
    (folder / "a002.bmp").write_bytes(b"x")
    assert read_inputs(records, at(folder), "toy").image != hashed.image


def test_pictures_are_looked_at_where_the_raw_files_are_gone(tmp_path: Path, declare) -> None:
    """Raw files named with --raw: a second call finds none, and a changed picture makes features stale all the same."""
    declare(TABLE + 'images = { name = "pictures", member = "{item}.bmp" }')
    raw = tmp_path / "elsewhere"
    rows = [f"{user}\t{item}\t{time}" for user, item, time in grid()]
    write_lines(raw / "events.tsv", ["user\titem\ttimestamp", *rows])
    write_lines(raw / "items.tsv", ["item\ttitle\tgenres", *(f"i{k}\tTitle {k}\t" for k in range(6))])
    (raw / "pictures").mkdir()
    for k in range(6):
        (raw / "pictures" / f"i{k}.bmp").write_bytes(encoded(picture(k), "BMP"))
    prepared = prepare("mine", tmp_path / "data", raw=raw).prepared
    extract(prepared, "image")
    (raw / "pictures" / "i3.bmp").write_bytes(encoded(picture(33), "BMP"))
    report = prepare("mine", tmp_path / "data")
    assert "raw files are gone" in report.notes[0]
    with pytest.raises(Exception, match="is stale"):
        load_features(report.prepared, "image", "colour-gradient")
    assert not extract(report.prepared, "image").skipped


def test_others_may_read_the_demo_s_raw_files(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        prepare("demo", tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "raw" / "demo").stat().st_mode) == 0o755
