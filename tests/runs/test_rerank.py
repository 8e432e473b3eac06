"""Finished runs opened again and ranked under a change: what is stored, and that the weights do not undo the change."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbench.data.store import Prepared
from mmbench.errors import RunError
from mmbench.evaluation.evidence import RULES, Ranking
from mmbench.evaluation.interventions import AS_TRAINED, Intervention
from mmbench.evaluation.knockout_kinds import constant, history
from mmbench.runs import store
from mmbench.runs.execute import fail_cell, run_cell
from mmbench.runs.plan import Cell, make_cell
from mmbench.runs.rerank import reopen
from mmbench.runs.store import RANKINGS, RunRecord, read_record
from mmbench.settings.config import Layer, Origin
from tests.models.test_registry import write_own

# Its text lies in the checkpoint: loaded weights bring back the catalogue that they were trained with.
BY_TEXT = '''
"""Items whose text is like that of the newest event."""
from dataclasses import dataclass

import torch
from torch import nn

from mmbench.models.base import Recommender
from mmbench.settings.config import PositiveFloat


@dataclass(frozen=True, kw_only=True)
class ByTextConfig:
    scale: PositiveFloat = 1.0


class ByText(Recommender[ByTextConfig]):
    def __init__(self, config, catalog):
        super().__init__(config, catalog)
        self.scale = nn.Parameter(torch.tensor(config.scale))
        self.register_buffer("text", nn.functional.normalize(catalog.text_feat, dim=1))

    def loss(self, batch):
        return {"rec": (self.scale - 2) ** 2}

    def score(self, batch):
        return self.scale * self.text[batch.item_seq.flatten()[batch.slot]] @ self.text[1:].T
'''
RECIPE = """
name = "by-text"
display = "ByText"
class = "ByText"
summary = "items with like texts"
tags = []
inputs = ["item", "text"]

[settings]
scale = { value = 1.5, source = "chosen" }
"""


def finished(prepared: Prepared, folder: Path, model: str, **settings: Any) -> RunRecord:
    layer = Layer(Origin.user, {"max_epochs": 1, **settings})
    cell: Cell = make_cell(results_dir=folder, prepared=prepared, model=model, seed=1, overrides=[layer])
    record = run_cell(cell, device="cpu")
    assert record.status == "finished", record.reason
    return record


def rank_stored(
    record: RunRecord, intervention: Intervention, *, data_dir: Path, lists: int = 0
) -> list[Ranking]:
    """Rank a run under an intervention, and store both rankings beside the run's own."""
    rankings = reopen(record, data_dir=data_dir, device="cpu", intervention=intervention).rank(
        intervention, lists=lists
    )
    store.write_rankings(record.path, rankings)
    return rankings


@pytest.fixture
def by_text(toy: Prepared, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    own = write_own(tmp_path / "own", code=BY_TEXT, recipe=RECIPE, stem="by_text")
    monkeypatch.setenv("MMBENCH_MODELS", str(own))
    return finished(toy, tmp_path / "results", "by-text")


def test_weights_do_not_bring_back_what_an_intervention_took(by_text: RunRecord, data_dir: Path) -> None:
    valid, test = rank_stored(by_text, constant("text"), data_dir=data_dir)
    for ranking in (valid, test):
        assert (ranking.ranks("none").equal == by_text.n_items - 1).all()
    assert (by_text.ranking("test").ranks("none").equal == 0).mean() > 0.5
    model = reopen(by_text, data_dir=data_dir, device="cpu", intervention=constant("text")).model
    assert model.scale.item() != 1.5, "the trained weights are there"
    assert model.scale.item() == reopen(by_text, data_dir=data_dir, device="cpu").model.scale.item()


def test_rankings_under_a_change_are_stored_beside_the_run_s_own(by_text: RunRecord, data_dir: Path) -> None:
    folder = by_text.path / RANKINGS
    own = {file.name: file.read_bytes() for file in folder.iterdir()}
    record = (by_text.path / "run.json").read_bytes()
    made = rank_stored(by_text, history(2), data_dir=data_dir, lists=5)
    assert [ranking.name for ranking in made] == ["valid~history=2", "test~history=2"]
    assert {file.name for file in folder.iterdir()} == {
        *own, "valid~history-2.npz", "test~history-2.npz",
    }  # fmt: skip
    assert {name: (folder / name).read_bytes() for name in own} == own
    assert (by_text.path / "run.json").read_bytes() == record
    stored = read_record(by_text.path).ranking("test~history=2")
    assert stored.n_different(made[1]) == 0
    assert (stored.list_length, stored.made_by) == (5, by_text.ranking("test").made_by)
    assert stored.n_different(by_text.ranking("test")) == 0, "the model reads the newest event only"


def test_what_a_model_does_not_read_changes_nothing(by_text: RunRecord, data_dir: Path) -> None:
    for intervention in (AS_TRAINED, constant("image")):
        run = reopen(by_text, data_dir=data_dir, device="cpu", intervention=intervention)
        for ranking in run.rank(intervention):
            assert ranking.n_different(by_text.ranking(ranking.split)) == 0


def test_a_registered_multi_modal_model_uses_its_text(toy: Prepared, data_dir: Path, tmp_path: Path) -> None:
    record = finished(toy, tmp_path, "tmmsrec:id+text", hidden_dim=12)
    _, blind = rank_stored(record, constant("text"), data_dir=data_dir)
    assert (blind.n_different(record.ranking("test")) or 0) > 60
    without = finished(toy, tmp_path, "tmmsrec:id", hidden_dim=12)
    _, same = rank_stored(without, constant("text"), data_dir=data_dir)
    assert same.n_different(without.ranking("test")) == 0


def test_an_ensemble_s_parts_are_stored_as_interventions(
    toy: Prepared, data_dir: Path, tmp_path: Path
) -> None:
    record = finished(toy, tmp_path, "sasrec-ensemble", hidden_dim=8)
    run = reopen(record, data_dir=data_dir, device="cpu")
    names = [f"{split}~part-{name}.npz" for split in ("valid", "test") for name in run.model.parts]
    assert len(names) == 6
    stored = {file.name for file in (record.path / RANKINGS).iterdir()}
    assert stored == {"valid.npz", "test.npz", *names}
    alone = [record.ranking(f"test~part={name}") for name in run.model.parts]
    assert all(np.array_equal(ranking.target, alone[0].target) for ranking in alone)
    assert all((ranking.n_different(record.ranking("test")) or 0) > 0 for ranking in alone)
    assert all((ranking.spread or 0) > 0 and set(ranking.counts) == set(RULES) for ranking in alone)


def test_a_failed_run_has_no_weights_to_rank(toy: Prepared, data_dir: Path, tmp_path: Path) -> None:
    cell = make_cell(results_dir=tmp_path, prepared=toy, model="sasrec", seed=1, overrides=[])
    cell.path.mkdir(parents=True)
    with pytest.raises(RunError, match=r"did not finish .*; run it again first"):
        rank_stored(fail_cell(cell, "lost"), constant("text"), data_dir=data_dir)
