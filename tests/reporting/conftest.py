"""Made-up results folders, written with the functions that real runs use."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbench.choices import RULES, MaskRule
from mmbench.evaluation.evidence import MadeBy, Ranking, Ranks, TopLists
from mmbench.features.use import FeatureUse
from mmbench.reporting import TableRequest, build_table
from mmbench.reporting.table import Comparison, Row, Table
from mmbench.runs.plan import configuration_id
from mmbench.runs.store import (
    RunRecord,
    Selection,
    cell_path,
    read_all,
    read_record,
    run_title,
    write_rankings,
    write_record,
)
from mmbench.settings.config import Origin, Setting

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


def as_ranking(
    name: str,
    ranks: Ranks,
    run: str,
    *,
    under: dict[MaskRule, Ranks] | None = None,
    lists: dict[MaskRule, TopLists] | None = None,
) -> Ranking:
    """The same ranks under every mask rule, but for those in `under`."""
    chosen = {rule: (under or {}).get(rule, ranks) for rule in RULES}
    return Ranking(
        name=name, user=ranks.user, target=np.ones_like(ranks.user), n_items=ranks.n_candidates,
        counts={rule: (ranks.greater, ranks.equal) for rule, ranks in chosen.items()}, lists=lists or {},
        made_by=MadeBy(run=run),
    )  # fmt: skip


def store_ranks(record: RunRecord, *, valid: Ranks | None = None, test: Ranks, **options: Any) -> None:
    """Put ranks beside a record, in the place of those that are there."""
    rankings = [
        as_ranking("valid", test if valid is None else valid, record.title, under=options.get("under")),
        as_ranking("test", test, record.title, **options),
    ]
    write_rankings(record.path, rankings)


def fake_run(
    root: Path,
    model: str = "sasrec",
    *,
    dataset: str = "toys",
    seed: int = 0,
    skill: float = 1.0,
    ranks: Ranks | None = None,
    under: dict[MaskRule, Ranks] | None = None,
    lists: dict[MaskRule, TopLists] | None = None,
    settings: dict[str, Any] | None = None,
    chosen: tuple[str, ...] = (),
    origin: Origin = Origin.user,
    protocol: dict[str, Any] | None = None,
    data_hash: str = "d0" * 32,
    config_id: str | None = None,
    reason: str = "",
    max_epochs: int = 100,
    best_epoch: int = 30,
    features: dict[str, FeatureUse] | None = None,
    **fields: Any,
) -> RunRecord:
    """Write one cell and read it back.

    chosen  settings whose origin is `origin`; the others are the recipe's
    reason  makes it a failure
    """
    values = {"max_epochs": max_epochs, "lr": 0.001, **(settings or {})}
    content = {
        key: Setting(value, origin if key in chosen else Origin.recipe) for key, value in values.items()
    }
    terms = {"data": data_hash, **PROTOCOL, **(protocol or {})}
    config_id = config_id or configuration_id(model, values, features or {}, protocol={})
    test = skilled_ranks(skill, seed=seed + 31 * len(model)) if ranks is None else ranks
    facts: dict[str, Any] = {
        "display": DISPLAY.get(model, model),
        "n_items": test.n_candidates, "n_epochs": 40, "stopped": "patience",
        "selection": Selection("NDCG@20", 0.1, best_epoch) if best_epoch else None,
    }  # fmt: skip
    facts.update(fields)
    record = RunRecord(
        path=cell_path(root, dataset=dataset, model=model, config_id=config_id, seed=seed),
        dataset=dataset, model=model, config_id=config_id, seed=seed, reason=reason,
        status="failed" if reason else "finished", protocol=terms, settings=content, features=features or {},
        **facts,
    )  # fmt: skip
    assert record.title == run_title(dataset, model, config_id, seed)
    if not reason:
        store_ranks(record, test=test, under=under, lists=lists)
    write_record(record)
    return read_record(record.path)


def make_table(records: "list[RunRecord]", **request: Any) -> Table:
    """The table of these records; keywords are fields of the request, lists are tuples."""
    as_tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in request.items()}
    return build_table(records, TableRequest(**as_tuples))


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
    actual = table.headlines()[column]
    assert actual is not None
    return actual


def row_of(table: Table, label: str) -> Row:
    return next(row for row in table.rows if row.label == label)


def caption_of(table: Table, key: str) -> str:
    return " ".join(text for actual, text in table.caption if actual == key)


def ranks_with_hits(hits: int, n_users: int = 100) -> Ranks:
    """`hits` users have rank 1, all others the last rank."""
    greater = np.where(np.arange(n_users) < hits, 0, N_ITEMS - 1)
    return Ranks(np.arange(n_users), greater, np.zeros(n_users, dtype=np.int64), N_ITEMS)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"
