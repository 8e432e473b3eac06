"""What a cell is computed with: its data, its features, the catalogue that its model may know, the model."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmbench.data.loaded import LoadedData, load_data
from mmbench.data.store import open_path
from mmbench.errors import RunError, UsageError
from mmbench.features.store import FeatureSet, load_features
from mmbench.features.use import FeatureUse
from mmbench.models import registry
from mmbench.models.base import Catalog, Recommender
from mmbench.models.feature_change import change_features
from mmbench.runs.plan import Cell, make_configs
from mmbench.runs.sources import CellSource
from mmbench.runtime import derive_seed
from mmbench.settings.config import TrainConfig
from mmbench.settings.feature_change import FeatureChange
from mmbench.training.sources import Pretraining, Source


@lru_cache(maxsize=16)
def _load_features(path: Path, modality: str, use: FeatureUse) -> FeatureSet:
    """Open features that are made as they were when the run was planned; their values are verified once."""
    features = load_features(open_path(path), modality, use.encoder)
    if features.use.identity != use.identity:
        raise RunError(f"{features.path} changed since this run was planned; start it again")
    features.verify()
    return features


def make_catalog(data: LoadedData, features: Mapping[str, FeatureSet], max_len: int) -> Catalog:
    """Return what a model may know, as tensors; training events only."""
    prepared, train = data.prepared, data.train
    tensors: dict[str, Any] = {}
    for modality, stored in features.items():
        if stored.n_layers:
            tensors.setdefault("layer_feat", {})[modality] = _as_it_lies(stored.values)
        else:
            tensors[f"{modality}_feat"] = torch.from_numpy(np.array(stored.values, dtype=np.float32))
        tensors[f"has_{modality}"] = torch.from_numpy(np.array(stored.present, dtype=bool))
    offsets = np.concatenate([[0], np.asarray(prepared.category_offsets)])
    return Catalog(
        n_items=prepared.n_items, n_users=prepared.n_users, max_len=max_len,
        category_ids=torch.from_numpy(np.asarray(prepared.category_ids).astype(np.int64)),
        category_offsets=torch.from_numpy(offsets.astype(np.int64)),
        n_categories=len(prepared.category_names),
        train_items=torch.from_numpy(train.items), train_times=torch.from_numpy(train.times),
        train_offsets=torch.from_numpy(train.offsets), **tensors,
    )  # fmt: skip


def _as_it_lies(values: np.ndarray) -> torch.Tensor:
    """Return a tensor over a memory-mapped array, without a copy; no model writes to its features."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(values)


def _with_change(cell: Cell, catalog: Catalog, modality: str) -> Catalog:
    """Return the catalogue with the features that the cell's settings put in place of the stored ones."""
    change = FeatureChange.parse(str(cell.settings[f"{modality}_features"].value))
    try:
        return change_features(catalog, modality, change)
    except ValueError as error:
        raise UsageError(f"{cell.model} on {cell.dataset}: {error}") from error


def cell_catalog(cell: Cell, data: LoadedData) -> Catalog:
    """Return what the model of a cell may know: the training events, and features as its settings want them."""
    return _catalog_of(cell, data, cell.features)


def _catalog_of(cell: Cell, data: LoadedData, uses: Mapping[str, FeatureUse]) -> Catalog:
    """Return the catalogue of the cell's data set, or of one that it is pre-trained on."""
    entry = registry.find(cell.model)
    features = {modality: _load_features(data.prepared.path, modality, use) for modality, use in uses.items()}
    catalog = make_catalog(data, features, int(cell.settings["max_len"].value))
    for modality in features:
        catalog = _with_change(cell, catalog, modality)
    if "category" in entry.recipe.inputs:  # reading all records takes a second, so nobody else pays for it
        catalog = replace(catalog, brand_ids=torch.from_numpy(data.brand_ids))
    return catalog


def pretraining_of(cell: Cell, data: LoadedData) -> Pretraining | None:
    """Return the other data sets that the cell's model is pre-trained on; None without any.

    Of them, too, it sees training events only, and features as the cell's settings want them.
    """
    if not cell.sources:
        return None
    return Pretraining(tuple(_open_source(cell, source) for source in cell.sources), cell_catalog(cell, data))


def _open_source(cell: Cell, source: CellSource) -> Source:
    data = load_data(source.path, source.use.data)
    return Source(source.use.name, data.train, _catalog_of(cell, data, source.use.features))


def build_model(
    cell: Cell,
    data: LoadedData,
    device: str,
    change: Callable[[Catalog], Catalog] | None = None,
) -> tuple[Recommender[Any], TrainConfig]:
    """Return a freshly initialised model of the cell; the same seed gives the same weights.

    change  is made to the catalogue before the model gets it
    """
    entry = registry.find(cell.model)
    model_config, train_config = make_configs(entry, cell.settings)
    catalog = cell_catalog(cell, data)
    if change is not None:
        catalog = change(catalog)
    torch.manual_seed(derive_seed(cell.seed, "init"))
    try:
        model = entry.load()(model_config, catalog)
    except ValueError as error:
        raise UsageError(f"{cell.model} on {cell.dataset}: {error}") from error
    return model.to(device=device, dtype=getattr(torch, train_config.precision)), train_config
