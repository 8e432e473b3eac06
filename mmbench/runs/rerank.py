"""Rankings of a run's model: at the end of its training, once more from its weights, and under interventions."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmbench.choices import DEFAULT_LISTS, SPLITS
from mmbench.data.loaded import LoadedData, load_data
from mmbench.errors import DataError, RunError
from mmbench.evaluation.evidence import MadeBy, Ranking
from mmbench.evaluation.interventions import AS_TRAINED, Intervention, part, rank_under
from mmbench.models import registry
from mmbench.models.base import Recommender
from mmbench.models.late_fusion import LateFused
from mmbench.nn.score_scales import FusionWeights
from mmbench.runs import store
from mmbench.runs.build import build_model
from mmbench.runs.plan import cell_of
from mmbench.runs.store import RunRecord
from mmbench.runtime import code_version, environment, pick_device
from mmbench.training import checkpoint
from mmbench.training.files import BEST

MEMBERS = "fused_runs"  # of a record that `mmbench fuse` made: the titles of its members


@dataclass(frozen=True)
class Evaluated:
    """What ranking a stored run again gave.

    n_changed  users of valid and test whose counts changed; None where those from before cannot be read
    """

    rankings: list[Ranking]
    n_changed: int | None


@dataclass
class RunModel:
    """A run's model, ready to be ranked.

    title    names the run in its rankings
    seconds  what each ranking took, "rank_test" and so on
    weights  hash of the tensors as they were trained, if an intervention changed some; "" for those of the model
    """

    title: str
    model: Recommender[Any]
    data: LoadedData
    device: str
    seconds: dict[str, float] = field(default_factory=dict)
    weights: str = ""

    @cached_property
    def made_by(self) -> MadeBy:
        return MadeBy(
            run=self.title, data=self.data.prepared.hash, code=code_version()["source_hash"],
            weights=self.weights or checkpoint.hash_tensors(self.model.state_dict()), torch=torch.__version__,
            device=torch.device(self.device).type, threads=torch.get_num_threads(),
        )  # fmt: skip

    def rank(self, intervention: Intervention, *, lists: int = 0) -> list[Ranking]:
        """Rank valid and test, in this order; the test targets with lists of this length."""
        rankings = []
        for split in SPLITS:
            began = time.perf_counter()
            ranking = rank_under(
                intervention, self.model, self.data.targets(split), split,
                lists=lists if split == "test" else 0, with_spread=intervention.model is not None,
                device=self.device, made_by=self.made_by,
            )  # fmt: skip
            rankings.append(ranking)
            self.seconds[f"rank_{ranking.name}"] = time.perf_counter() - began
        return rankings

    def rank_as_trained(self, *, lists: int) -> list[Ranking]:
        """Rank as every run is: as it was trained, and each of the model's parts alone."""
        parts = [ranking for name in self.model.parts for ranking in self.rank(part(name))]
        return [*self.rank(AS_TRAINED, lists=lists), *parts]


# -- stored runs ------------------------------------------------------------------------------------------


def reopen(
    record: RunRecord, *, data_dir: Path, device: str = "auto", intervention: Intervention = AS_TRAINED
) -> RunModel:
    """Return a finished run's model with its best weights; RunError when it cannot be rebuilt.

    What the intervention changes in the catalogue is changed in the model.
    """
    if record.status != "finished":
        raise RunError(f"{record.path} did not finish ({record.reason}); run it again first")
    if MEMBERS in record.extra:
        raise RunError(
            f"{record.path} has no weights of its own: it is a fusion; rank its members, then mmbench fuse them"
        )
    cell, chosen = cell_of(record, data_dir), pick_device(device)
    data = load_data(cell.data_path, record.data_hash)
    model, _ = build_model(cell, data, chosen, intervention.catalog)
    if intervention.catalog is None:
        if model.trainable:
            checkpoint.load_weights(model, record.path / BEST)
        _take_shares(model, record)
        return RunModel(record.title, model, data, chosen)
    intact, _ = build_model(cell, data, chosen)
    if model.trainable:
        changed = _changed_buffers(model, intact)
        for each in (model, intact):
            checkpoint.load_weights(each, record.path / BEST)
        for name, value in changed.items():
            model.get_buffer(name).copy_(value)
    for each in (model, intact):
        _take_shares(each, record)
    weights = checkpoint.hash_tensors(intact.state_dict())
    return RunModel(record.title, model, data, chosen, weights=weights)


def _take_shares(model: Recommender[Any], record: RunRecord) -> None:
    """Give a fusion the weights of its members that were chosen after the training."""
    if isinstance(model, LateFused):
        gates = tuple(tuple(gate) for gate in record.extra.get("gates", []))
        shares = tuple(record.extra["shares"])
        model.set_weights(FusionWeights(shares, record.extra["weights_from"], gates))


def _changed_buffers(model: Recommender[Any], intact: Recommender[Any]) -> dict[str, Tensor]:
    """Return the buffers that differ because the catalogue was changed: a checkpoint must not bring them back."""
    expected = dict(intact.named_buffers())
    return {
        name: value.clone()
        for name, value in model.named_buffers()
        if name in expected and not torch.equal(value, expected[name])
    }


def rank_again(
    record: RunRecord, *, data_dir: Path, device: str = "auto", lists: int = DEFAULT_LISTS
) -> Evaluated:
    """Rank a finished run's best weights again and replace its own rankings; the record says what ranked it."""
    run = reopen(record, data_dir=data_dir, device=device)
    before = _readable_rankings(record)
    rankings = run.rank_as_trained(lists=lists)
    store.write_rankings(record.path, rankings)
    ranked = environment(run.device, registry.find(record.model).code_facts())
    store.write_record(replace(record, environment={**record.environment, "ranked_again": ranked}))
    return Evaluated(rankings, _n_changed(before, rankings))


def _readable_rankings(record: RunRecord) -> dict[str, Ranking]:
    """Return valid and test as they are stored; {} where either cannot be read."""
    try:
        return {split: record.ranking(split) for split in SPLITS}
    except DataError:
        return {}


def _n_changed(before: Mapping[str, Ranking], now: Sequence[Ranking]) -> int | None:
    """Return how many users' counts differ under some mask rule; None where there is nothing to compare."""
    pairs = [(before.get(ranking.name), ranking) for ranking in now if not ranking.condition]
    counts = [None if old is None else old.n_different(new) for old, new in pairs]
    return None if None in counts else sum(count for count in counts if count is not None)
