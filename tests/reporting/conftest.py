"""Made-up results folders, written with the functions that real runs use."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbench.atomic import hash_json
from mmbench.reporting.table import Comparison, Row, Table
from mmbench.runs.store import Ranks, RunRecord, cell_path, read_all, read_record, write_ranks, write_record

N_ITEMS = 200
N_USERS = 400
PROTOCOL: dict[str, Any] = {
    "duplicates": "drop", "min_user": 5, "min_item": 5, "iterate": True, "require": [],
    "ties": "file", "split": "leave-one-out", "valid_share": 0.0, "test_share": 0.0,
    "mask_seen": "none", "candidates": "all items", "ranks_of_ties": "expected",
}  # fmt: skip

DISPLAY = {"sasrec": "SASRec", "hm4sr": "HM4SR", "pop": "Pop", "gru4rec": "GRU4Rec"}


def skilled_ranks(skill: float, *, seed: int, n_users: int = N_USERS, n_items: int = N_ITEMS) -> Ranks:
    """Ranks of a scorer whose targets get `skill`; most of the noise belongs to the user, not to the run."""
    user_noise = np.random.default_rng(7).normal(size=n_users)
    own_noise = np.random.default_rng(1000 + seed).normal(size=n_users)
    beaten_share = 1 / (1 + np.exp(2.0 * (skill + 0.7 * user_noise + 0.5 * own_noise)))
    greater = np.floor(beaten_share * n_items).astype(np.int64)
    return Ranks(np.arange(n_users), greater, np.zeros(n_users, dtype=np.int64), n_items)


def fake_run(
    root: Path,
    model: str = "sasrec",
    *,
    dataset: str = "toys",
    seed: int = 0,
    skill: float = 1.0,
    ranks: Ranks | None = None,
    settings: dict[str, Any] | None = None,
    chosen: tuple[str, ...] = (),
    protocol: dict[str, Any] | None = None,
    config_id: str | None = None,
    reason: str = "",
    max_epochs: int = 100,
    **fields: Any,
) -> RunRecord:
    """Write one cell and read it back; `chosen` = settings that a user gave, `reason` makes it a failure."""
    values = {"max_epochs": max_epochs, "lr": 0.001, **(settings or {})}
    content = {
        key: {"value": value, "source": "--set" if key in chosen else "recipe"}
        for key, value in values.items()
    }
    terms = {**PROTOCOL, **(protocol or {})}
    config_id = config_id or hash_json(values)[:8]
    path = cell_path(root, dataset=dataset, model=model, config_id=config_id, seed=seed)
    facts: dict[str, Any] = {
        "display": DISPLAY.get(model, model),
        "data_hash": "d0" * 32, "n_items": N_ITEMS, "n_epochs": 40, "best_epoch": 30, "stopped": "patience",
    }  # fmt: skip
    facts.update(fields)
    record = RunRecord(
        path=path, dataset=dataset, model=model, config_id=config_id, seed=seed, reason=reason,
        status="failed" if reason else "finished", protocol=terms, settings=content,
        fingerprint=hash_json({**terms, "data_hash": facts["data_hash"]}), **facts,
    )  # fmt: skip
    if not reason:
        test = skilled_ranks(skill, seed=seed + 31 * len(model)) if ranks is None else ranks
        write_ranks(path, valid=test, test=test)
    write_record(record)
    return read_record(path)


def paper_like(root: Path, *, seeds: int = 5, datasets: tuple[str, ...] = ("toys",)) -> list[RunRecord]:
    """Three trained models and one floor on each data set."""
    records = []
    for dataset in datasets:
        for model, skill in (("hm4sr", 1.25), ("sasrec", 1.1), ("gru4rec", 0.95)):
            records += [
                fake_run(root, model, dataset=dataset, seed=seed, skill=skill) for seed in range(seeds)
            ]
        records.append(fake_run(root, "pop", dataset=dataset, skill=0.1, deterministic=True, best_epoch=0))
    return records


def all_records(root: Path) -> list[RunRecord]:
    return list(read_all(root))


def headline(table: Table, column: int = 0) -> Comparison:
    found = table.headlines()[column]
    assert found is not None
    return found


def row_of(table: Table, label: str) -> Row:
    return next(row for row in table.rows if row.label == label)


def caption_of(table: Table, key: str) -> str:
    return " ".join(text for found, text in table.caption if found == key)


def ranks_with_hits(hits: int, n_users: int = 100) -> Ranks:
    """`hits` users have rank 1, all others the last rank."""
    greater = np.where(np.arange(n_users) < hits, 0, N_ITEMS - 1)
    return Ranks(np.arange(n_users), greater, np.zeros(n_users, dtype=np.int64), N_ITEMS)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"
