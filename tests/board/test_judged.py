"""What the checks of a bundle say of records that are written by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from mmbench.board import retraining
from mmbench.board.checks import _curve, _run
from mmbench.board.opened import Bundle
from mmbench.evaluation.evidence import Ranking
from mmbench.runs.store import Selection
from mmbench.settings.config import Origin, Setting


@pytest.mark.parametrize(
    ("rule", "epoch", "status"),
    [("strict", 1, "ok"), ("strict", 3, "fault"), ("recbole", 3, "ok"), ("recbole", 1, "fault")],
)
def test_the_ranked_epoch_is_the_best_by_the_run_s_own_rule(rule: str, epoch: int, status: str) -> None:
    values = {1: 0.20004, 2: 0.1, 3: 0.20001}
    run = SimpleNamespace(
        seed=1, selection=Selection("NDCG@20", values[epoch], epoch),
        curve=[{"epoch": number, "NDCG@20": value} for number, value in values.items()],
        settings={"patience_rule": Setting(rule, Origin.user)},
    )  # fmt: skip
    assert _run("curve", _curve, cast(Bundle, SimpleNamespace(records=[run]))).status == status


def test_a_catalogue_smaller_than_the_cutoff_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = np.array([0, 2, 4]), np.zeros(3, np.int64)
    ranking = Ranking(
        name="test", user=np.arange(3), target=np.ones(3, int), counts={"none": counts}, n_items=5
    )
    run = SimpleNamespace(
        deterministic=True, seed=1, n_items=5, mask_seen="none", ranking=lambda name: ranking
    )
    bundle = SimpleNamespace(records=[run], sha256="0", ranking=lambda record, name: ranking)
    monkeypatch.setattr(retraining, "_train", lambda *args, **options: [run])
    options = {"date": "2026-01-01", "data_dir": tmp_path, "device": "cpu", "work": tmp_path, "say": print}
    check, _ = retraining.retrain(cast(Bundle, bundle), 1, **options)
    assert (check.status, check.text[:13]) == ("ok", "NDCG@5 0.6290")
