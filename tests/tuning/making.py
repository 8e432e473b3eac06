"""Small studies of SASRec on the toy data set."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from mmbench.data.store import Prepared
from mmbench.tuning.ledger import Ledger
from mmbench.tuning.records import Trial
from mmbench.tuning.study import Budget, plan_study

FIXED = {"hidden_dim": 8, "inner_dim": 8, "n_layers": 1, "n_heads": 1, "max_epochs": 3, "batch_size": 128}
LISTS = {"lr": [0.003, 0.03], "dropout": [0.0, 0.3]}


def open_study(toy: Prepared, results: Path, **options: Any) -> Ledger:
    settings = {
        "budget": Budget(trials=4), "sampler": "random", "kind": "recipe", "settings": FIXED | {"attn_dropout": 0.0},
        "lists": LISTS, **options,
    }  # fmt: skip
    return Ledger.open(results, plan_study(toy, "sasrec", results_dir=results, **settings))


def facts(trials: list[Trial]) -> list[Trial]:
    return [replace(trial, seconds=0.0) for trial in trials]
