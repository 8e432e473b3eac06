"""run.json and ranks.npz: what is not of its type, or does not fit, is one line with file, field and command.

Run: python -m pytest tests/runs/test_store.py
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbench.errors import DataError
from mmbench.runs.store import Ranks, RunRecord, read_record
from tests.reporting.conftest import fake_run


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    return fake_run(
        tmp_path, features={"text": {"encoder": "tfidf", "identity": "ab", "content": "cd"}},
        environment={"code": {"source_hash": "ab"}}, curve=[{"epoch": 1, "NDCG@10": 0.25}],
        seconds={"train": 3}, peak_memory={"host": 5}, extra={"any": [None, {"thing": 1}]},
    )  # fmt: skip


def change(record: RunRecord, **fields: Any) -> None:
    file = record.path / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("settings", None, "settings: .*object (got null)"),
        ("settings", {"lr": 0.1}, "settings.lr: .*object (got 0.1)"),
        ("settings", {"lr": {"value": 0.1}}, "settings: lr lacks source"),
        ("protocol", None, "protocol: .* (got null)"),
        ("features", None, "features: .* (got null)"),
        (
            "features",
            {"text": {"encoder": None, "identity": "x", "content": "y"}},
            "features: text.encoder should be a str",
        ),
        ("environment", None, "environment: .* (got null)"),
        ("environment", {"code": None}, "environment: code should be an object (got None)"),
        ("seed", "1", "seed: .*integer.*"),
        ("seed", 1.5, "seed: .*"),
        ("status", "done", "status: .*'finished' or 'failed'.*"),
        ("leaky", "no", "leaky: .*boolean.*"),
        ("curve", [{"epoch": "one"}], "curve.0.epoch: .*number.*"),
        ("notes", "none", "notes: .*array.*"),
        ("n_itmes", 3, "unknown field n_itmes"),
        ("path", "/elsewhere", "unknown field path"),
    ],
)
def test_a_field_of_another_type_is_named(record: RunRecord, field: str, value: Any, said: str) -> None:
    change(record, **{field: value})
    with pytest.raises(DataError) as caught:
        read_record(record.path)
    where = re.escape(f"{record.path / 'run.json'} is no run record")
    way_out = re.escape(f"remove {record.path} and run the cell again")
    what = said.replace("(", r"\(").replace(")", r"\)")
    assert re.fullmatch(rf"{where} \({what}.*\); {way_out}", str(caught.value)), caught.value


def test_a_missing_field_is_named(record: RunRecord) -> None:
    file = record.path / "run.json"
    content = json.loads(file.read_text())
    del content["dataset"]
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"run record \(dataset: .*\); remove"):
        read_record(record.path)


def test_what_was_written_is_read(record: RunRecord) -> None:
    assert record.features["text"] == {"encoder": "tfidf", "identity": "ab", "content": "cd"}
    assert record.extra == {"any": [None, {"thing": 1}]}
    assert record.curve == [{"epoch": 1, "NDCG@10": 0.25}]
    assert record.seconds == {"train": 3.0}


def test_ranks_have_one_value_a_user(record: RunRecord) -> None:
    with pytest.raises(ValueError, match=r"user \[3\], greater \[4\], equal \[4\]"):
        Ranks(np.arange(3), np.zeros(4, dtype=int), np.zeros(4, dtype=int), 9)
    file = record.path / "ranks.npz"
    with np.load(file) as stored:
        arrays = dict(stored)
    np.savez(file, **{**arrays, "test_user": arrays["test_user"][:-1]})
    with pytest.raises(DataError, match=r"ranks\.npz cannot be read .*user \[399\].* run: mmbench evaluate"):
        record.ranks("test")
    assert len(record.ranks("valid")) == 400
