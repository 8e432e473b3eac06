"""run.json: what was written is read; what is damaged, of another type or in another folder is one line.

Run: python -m pytest tests/runs/test_store.py
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbench import sealed
from mmbench.errors import DamagedError, DataError, OtherVersionError
from mmbench.features.use import FeatureUse
from mmbench.runs.store import (
    FORMAT,
    MisplacedError,
    RunRecord,
    Selection,
    read_all,
    read_record,
    write_rankings,
    write_record,
)
from mmbench.settings.config import Origin, Setting
from tests.reporting.conftest import as_ranking, fake_run, ranks_with_hits


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    return fake_run(
        tmp_path, features={"text": FeatureUse("tfidf", "ab", "cd")}, chosen=("lr",),
        environment={"code": {"source_hash": "ab"}}, curve=[{"epoch": 1, "NDCG@10": 0.25}],
        seconds={"train": 3}, peak_memory={"host": 5}, extra={"any": [None, {"thing": 1}]},
    )  # fmt: skip


def change(record: RunRecord, **fields: Any) -> None:
    """Write the record anew with other fields, and with the hash that belongs to them."""
    content = sealed.read_json(record.path / "run.json", advice="", version=FORMAT)
    sealed.write_json(record.path / "run.json", {**content, **fields}, version=FORMAT)


def test_what_was_written_is_read(record: RunRecord) -> None:
    assert record.features["text"] == FeatureUse("tfidf", "ab", "cd")
    assert record.settings["lr"] == Setting(0.001, Origin.user)
    assert record.settings["max_epochs"] == Setting(100, Origin.recipe)
    assert record.selection == Selection("NDCG@20", 0.1, 30)
    assert record.extra == {"any": [None, {"thing": 1}]}
    assert record.curve == [{"epoch": 1, "NDCG@10": 0.25}]
    assert record.seconds == {"train": 3.0}
    write_record(record)
    assert read_record(record.path) == record


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("settings", None, "settings: "),
        ("settings", {"lr": 0.1}, "settings.lr: "),
        ("settings", {"lr": {"value": 0.1}}, "settings.lr.origin is missing"),
        ("settings", {"lr": {"value": 0.1, "origin": "--set"}}, "settings.lr.origin: "),
        ("protocol", None, "protocol: "),
        ("features", {"text": {"encoder": None, "identity": "x"}}, "features.text.encoder: "),
        ("environment", None, "environment: "),
        ("seed", "1", "seed: "),
        ("seed", 1.5, "seed: "),
        ("status", "done", "status: .*'finished' or 'failed'"),
        ("leaky", "no", "leaky: "),
        ("curve", [{"epoch": "one"}], "curve.0.epoch: "),
        ("notes", "none", "notes: "),
        ("selection", {"metric": "HR@1", "value": 1}, "selection.epoch is missing"),
        ("n_itmes", 3, "n_itmes"),
        ("path", "/elsewhere", "path"),
    ],
)
def test_a_field_of_another_type_is_named_though_the_hash_is_right(
    record: RunRecord, field: str, value: Any, said: str
) -> None:
    change(record, **{field: value})
    with pytest.raises(DamagedError) as caught:
        read_record(record.path)
    where = re.escape(f"{record.path / 'run.json'} is damaged (")
    way_out = re.escape(
        f"); remove {record.path}, or choose another --results-dir, and run it again: mmbench run"
    )
    assert re.fullmatch(f"{where}{said}.*{way_out}", str(caught.value)), caught.value


def test_a_missing_field_is_named(record: RunRecord) -> None:
    content = sealed.read_json(record.path / "run.json", advice="", version=FORMAT)
    del content["dataset"]
    sealed.write_json(record.path / "run.json", content, version=FORMAT)
    with pytest.raises(DamagedError, match=r"is damaged \(dataset is missing\); remove"):
        read_record(record.path)


def test_a_changed_number_is_noticed(record: RunRecord) -> None:
    """A seed 2 that becomes 3 made a table over seeds 1, 3, 3."""
    file = record.path / "run.json"
    text = file.read_text(encoding="utf-8")
    for old, new in (
        ('"seed": 0', '"seed": 3'),
        ('"finished"', '"failed"'),
        ('"value": 0.001', '"value": 0.002'),
    ):
        assert old in text
        file.write_text(text.replace(old, new))
        with pytest.raises(DamagedError, match="does not have the hash that it carries"):
            read_record(record.path)


def test_a_record_names_its_own_folder(record: RunRecord) -> None:
    """Data set, model, configuration and seed: whichever the folder says otherwise, it is not this run's."""
    parts = list(record.path.parts[-4:])
    root = record.path.parents[3]
    for at in range(4):
        other = root.joinpath(*parts[:at], f"other-{at}", *parts[at + 1 :])
        other.mkdir(parents=True)
        (other / "run.json").write_bytes((record.path / "run.json").read_bytes())
        with pytest.raises(MisplacedError, match="holds a copy of") as caught:
            read_record(other)
        assert caught.value.home == record.path
    left_out: list[Path] = []
    assert list(read_all(root, on_error=lambda path, error: left_out.append(path))) == [record]
    assert len(left_out) == 4
    with pytest.raises(DataError, match="a run counts once, in its own folder"):
        list(read_all(root))


def test_a_folder_may_be_named_from_inside_it(record: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(record.path)
    assert read_record(Path()).seed == record.seed
    assert read_record(Path("..") / record.path.name).seed == record.seed


def test_what_the_first_version_wrote_is_refused_with_the_way_out(record: RunRecord) -> None:
    file = record.path / "run.json"
    file.write_text(
        json.dumps({"format": 1, "dataset": "toys", "settings": {"lr": {"value": 1, "source": "--set"}}})
    )
    with pytest.raises(OtherVersionError, match=r"another version of mmbench .*run it again: mmbench run$"):
        read_record(record.path)


def test_rankings_of_another_run_are_refused(record: RunRecord, tmp_path: Path) -> None:
    """A copied file has a right hash, and is of another seed."""
    other = fake_run(tmp_path, seed=5)
    (record.path / "rankings" / "test.npz").write_bytes((other.path / "rankings" / "test.npz").read_bytes())
    with pytest.raises(
        DamagedError, match=rf"holds the ranking test of {other.title}; run: mmbench evaluate"
    ):
        record.ranking("test")
    assert record.ranking("valid").made_by.run == record.title
    small = replace(as_ranking("test", ranks_with_hits(3), record.title), n_items=199, counts={
        rule: (np.zeros(100, np.int64), np.zeros(100, np.int64)) for rule in ("none", "train", "input")
    })  # fmt: skip
    write_rankings(record.path, [small])
    with pytest.raises(DamagedError, match="ranks 199 items, not 200"):
        record.ranking("test")


def test_an_absent_ranking_is_no_damaged_one(record: RunRecord) -> None:
    (record.path / "rankings" / "valid.npz").unlink()
    with pytest.raises(DataError, match="has no ranking valid; run: mmbench evaluate") as caught:
        record.ranks("valid")
    assert not isinstance(caught.value, DamagedError)


def test_ranks_are_those_of_the_run_s_own_rule(tmp_path: Path) -> None:
    ranks, masked = ranks_with_hits(10), ranks_with_hits(40)
    own = fake_run(tmp_path, ranks=ranks, under={"input": masked}, protocol={"mask_seen": "input"})
    assert (own.ranks("test").greater == masked.greater).all()
    assert (own.ranks("test", "none").greater == ranks.greater).all()
