"""The data set that a stored run was made on, and what metrics read of it."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from mmbench.choices import SplitName
from mmbench.data.loaded import LoadedData, load_data
from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.evaluation.data_facts import DataFacts, Vectors
from mmbench.features.store import default_encoder, load_features
from mmbench.runs.plan import cell_of
from mmbench.runs.store import RunRecord


def data_of(record: RunRecord, data_dir: Path) -> LoadedData:
    """Return the data of a run; DataError where they are not prepared, RunError where they changed since."""
    return load_data(cell_of(record, data_dir).data_path, record.data_hash)


def data_facts(record: RunRecord, split: SplitName, data_dir: Path) -> DataFacts:
    """Return what metrics read of a run's data set; DataError where it is not prepared, RunError where it changed."""
    return _facts(cell_of(record, data_dir).data_path, record.data_hash, split)


@lru_cache(maxsize=4)
def _facts(path: Path, content: str, split: SplitName) -> DataFacts:
    data = load_data(path, content)
    prepared = data.prepared
    return DataFacts(
        train=data.train, view=data.targets(split), n_items=prepared.n_items,
        vectors=lru_cache(maxsize=3)(lambda kind: _vectors(prepared, kind)),
        names=lambda kind: "categories" if kind == "category" else f"{kind} features {_encoder(prepared, kind)}",
    )  # fmt: skip


def _encoder(prepared: Prepared, modality: str) -> str:
    """Return the features of a modality that a run reads by default; UsageError where there are none."""
    encoder = default_encoder(prepared, modality)
    if encoder is None:
        raise UsageError(
            f"ILD-{modality}: {prepared.name} has no {modality} features; "
            f"run: mmbench extract {prepared.name} --{modality}"
        )
    return encoder


def _vectors(prepared: Prepared, kind: str) -> Vectors:
    """Return an item's features, or its categories as ones, with rows of zeros for items that have none."""
    if kind == "category":
        return _categories(prepared)
    features = load_features(prepared, kind, _encoder(prepared, kind))
    values = np.array(features.values, dtype=np.float32)
    values[~np.asarray(features.present)] = 0
    return values


def _categories(prepared: Prepared) -> Vectors:
    from scipy.sparse import csr_array

    if not len(prepared.category_names):
        raise UsageError(f"ILD-category: the items of {prepared.name} have no categories; leave it out")
    offsets = np.concatenate([[0], np.asarray(prepared.category_offsets)]).astype(np.int64)
    ids = np.asarray(prepared.category_ids).astype(np.int64)
    shape = (prepared.n_items + 1, len(prepared.category_names))
    return csr_array((np.ones(len(ids)), ids, offsets), shape=shape)
