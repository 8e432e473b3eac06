"""A finished run's checkpoint ranked once more: to replace its stored ranks, or under another masking rule."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.errors import DataError, RunError
from mmbench.evaluation.ranking import rank
from mmbench.features.use import FeatureUse
from mmbench.models import registry
from mmbench.models.base import Recommender
from mmbench.runs import store
from mmbench.runs.execute import LoadedData, build_model, load_data, rank_and_store, rank_parts
from mmbench.runs.plan import Cell
from mmbench.runs.store import SPLITS, Ranks, RunRecord
from mmbench.runtime import environment, pick_device
from mmbench.settings.config import Setting, TrainConfig
from mmbench.training import checkpoint
from mmbench.training.files import BEST


def cell_of(record: RunRecord, data_dir: Path) -> Cell:
    """The cell that made a record, for scoring its checkpoint again; refuses data that changed since."""
    from mmbench.data.store import open_prepared

    prepared = open_prepared(record.dataset, data_dir)
    if prepared.hash != record.data_hash:
        raise RunError(
            f"{record.path} was run on other data (hash {record.data_hash[:12]}, "
            f"{record.dataset} now has {prepared.hash[:12]})"
        )
    settings = {key: Setting(one["value"], one["source"]) for key, one in record.settings.items()}
    features = {
        modality: FeatureUse(use["encoder"], use["identity"], use["content"])
        for modality, use in record.features.items()
    }
    return Cell(
        dataset=record.dataset, data_path=prepared.path, model=record.model, seed=record.seed, settings=settings,
        features=features, protocol=record.protocol, config_id=record.config_id, path=record.path,
        notes=tuple(record.notes),
    )  # fmt: skip


@dataclass(frozen=True)
class RankedAgain:
    """What ranking a stored checkpoint again gave: how many targets' ranks changed, and the model's parts."""

    n_changed: int | None  # of valid and test; None where the ranks from before cannot be read
    parts: list[tuple[str, str, Ranks, float]]  # `rank_parts`


def evaluate_again(record: RunRecord, *, data_dir: Path, device: str = "auto") -> RankedAgain:
    """Rank a finished run's best checkpoint again and replace its stored ranks; the record says what ranked it."""
    model, data, config, chosen = _reopened(record, data_dir, device)
    before = _stored_ranks(record)
    rank_and_store(record.path, model, data, config, chosen)
    ranked = environment(chosen, registry.find(record.model).own_code())
    store.write_record(replace(record, environment={**record.environment, "ranked_again": ranked}))
    after = _stored_ranks(record)
    assert after is not None
    n_changed = None
    if before is not None and before.shape == after.shape:
        n_changed = int((before != after).any(0).sum())
    return RankedAgain(n_changed, list(rank_parts(model, data, config, chosen)))


def rank_masked(
    record: RunRecord, mask_seen: str, *, data_dir: Path, device: str = "auto"
) -> dict[str, Ranks]:
    """Ranks of valid and test from a finished run's checkpoint under another masking rule; nothing is stored."""
    model, data, _, chosen = _reopened(record, data_dir, device)
    return {split: rank(model, data.targets(split), mask_seen=mask_seen, device=chosen) for split in SPLITS}


def _reopened(
    record: RunRecord, data_dir: Path, device: str
) -> tuple[Recommender[Any], LoadedData, TrainConfig, str]:
    """A finished run's model with its best weights, its data, its training settings, and the device."""
    if record.status != "finished":
        raise RunError(f"{record.path} did not finish ({record.reason}); run it again first")
    cell = cell_of(record, data_dir)
    data = load_data(cell.data_path, record.data_hash)
    chosen = pick_device(device)
    model, config = build_model(cell, data, chosen)
    if model.trainable:
        checkpoint.load_weights(model, record.path / BEST)
    return model, data, config, chosen


def _stored_ranks(record: RunRecord) -> np.ndarray | None:
    """Counts of better and of equal candidates, [2, targets of valid and test]; None where they cannot be read."""
    try:
        both = [record.ranks(split) for split in SPLITS]
    except DataError:
        return None
    return np.stack([np.concatenate([getattr(one, part) for one in both]) for part in ("greater", "equal")])
