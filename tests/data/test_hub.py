"""Data sets that the library `datasets` reads: a folder that it wrote, and names that are refused.

Run: python -m pytest tests/data/test_hub.py
"""

import sys
from pathlib import Path

import pytest

from mmbench.data.adding import add
from mmbench.data.draft import fetched, write_draft
from mmbench.data.hub import HubSplit, fetch
from mmbench.data.prepare import prepare
from mmbench.errors import DataError, UsageError
from tests.data.raw_files import grid


def test_the_parts_of_a_name(tmp_path: Path) -> None:
    assert HubSplit.parse("hub:a/b@12ab") == HubSplit("a/b", "12ab", "", "train")
    assert HubSplit.parse("hub:a/b@v1#full:test") == HubSplit("a/b", "v1", "full", "test")
    assert HubSplit.parse(f"hub:{tmp_path}#valid") == HubSplit(str(tmp_path), "", "", "valid")
    names = [HubSplit("a/b", revision, "", "train").file_name for revision in ("1", "2")]
    assert names == ["b-train-1.parquet", "b-train-2.parquet"]


@pytest.mark.parametrize(
    ("text", "why"),
    [("hub:a/b", "names no revision"), ("hub:", "names no split"), ("hub:a/b@1#x:y:z", "names no split")],
)
def test_a_name_without_revision_or_of_another_form_is_refused(text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=why):
        fetch(text, tmp_path)


def test_without_the_library_the_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'mmbench\[hub\]'"):
        fetch("hub:a/b@1", tmp_path)


def test_a_file_of_a_revision_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    file = tmp_path / HubSplit.parse("hub:a/b@1").file_name
    file.touch()
    assert fetch("hub:a/b@1", tmp_path) == file


def test_the_data_set_needs_a_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--name my-shop"):
        fetched("hub:a/b@1", None, tmp_path)


def test_a_data_set_of_the_library_is_drafted_and_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip("datasets", reason="the library datasets is not installed (mmbench[hub])")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    columns = dict(
        zip(("user_id", "item_id", "timestamp"), map(list, zip(*grid(), strict=True)), strict=True)
    )
    (tmp_path / "log").mkdir()
    library.Dataset.from_dict(columns).to_parquet(str(tmp_path / "log" / "train.parquet"))
    data_dir = tmp_path / "data"
    file = fetched(f"hub:{tmp_path / 'log'}", "mine", data_dir)
    assert file.parent == data_dir / "raw" / "mine"
    table, draft = write_draft(file, None, name="mine")
    assert draft.unknown == []
    add(table, data_dir)
    prepared = prepare("mine", data_dir).prepared
    assert (prepared.n_users, prepared.n_items, prepared.n_events) == (6, 6, 36)
    with pytest.raises(DataError, match="split gone cannot be read"):
        fetch(f"hub:{tmp_path / 'log'}#gone", data_dir)
