"""Data sets that a model is pre-trained on, joined, so that a step holds users of all of them.

Axes: N items, U users, E training events, of all sources together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmbench.data.views import TrainView
from mmbench.errors import UsageError
from mmbench.models.base import Catalog, Recommender
from mmbench.training.stages import StagePlan


@dataclass(frozen=True)
class Source:
    """A data set to pre-train on: its training events, and what a model may know of it."""

    name: str
    view: TrainView
    catalog: Catalog


@dataclass(frozen=True)
class Pretraining:
    """What stages with data = "source" are trained on, and the run's own catalogue to return to."""

    sources: tuple[Source, ...]
    target: Catalog

    @cached_property
    def joined(self) -> Source:
        """Return all sources joined (`join_sources`); the seeds of a stack share the result."""
        return join_sources(self.sources)


def source_data(
    model: Recommender[Any], stages: Sequence[StagePlan], train: TrainView, pretraining: Pretraining | None
) -> dict[str, tuple[TrainView, Catalog]] | None:
    """Return the events and the catalogue of the "target" and of the "source" data; None if no stage is on these.

    UsageError when such a stage has no source data, or the model cannot change its data set.
    """
    if all(stage.data == "target" for stage in stages):
        return None
    name = type(model).__name__
    if pretraining is None:
        raise UsageError(f"{name} is pre-trained on other data sets, and none are given")
    if type(model).use_catalog is Recommender.use_catalog:
        raise UsageError(f"{name} has a stage on source data, but no use_catalog() that takes their items")
    joined = pretraining.joined
    return {"target": (train, pretraining.target), "source": (joined.view, joined.catalog)}


def join_sources(sources: Sequence[Source]) -> Source:
    """Return all sources joined; users, items and categories are numbered on from source to source.

    An item of a source without a modality that others have lacks it. UsageError when features differ in width.
    """
    if not sources:
        raise UsageError("no source data set is given, but the model has a stage on source data")
    _check_equal(sources, "max_len", lambda source: source.catalog.max_len)
    catalogs = [source.catalog for source in sources]
    shift = np.cumsum([0, *(catalog.n_items for catalog in catalogs)])
    views = [source.view for source in sources]
    view = TrainView(
        items=np.concatenate([part.items + first for part, first in zip(views, shift, strict=False)]),
        times=np.concatenate([part.times for part in views]),
        offsets=_join_offsets([part.offsets for part in views]),
    )
    catalog = Catalog(
        n_items=int(shift[-1]), n_users=sum(catalog.n_users for catalog in catalogs), max_len=catalogs[0].max_len,
        train_items=torch.from_numpy(view.items), train_times=torch.from_numpy(view.times),
        train_offsets=torch.from_numpy(view.offsets), **_join_features(sources), **_join_categories(catalogs),
    )  # fmt: skip
    return Source(" + ".join(source.name for source in sources), view, catalog)


def _join_offsets(offsets: Sequence[np.ndarray]) -> np.ndarray:
    """Return the offsets of lists that stand one part after the other."""
    lengths = np.concatenate([np.diff(part) for part in offsets])
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _check_equal(sources: Sequence[Source], what: str, read: Callable[[Source], object]) -> None:
    first = sources[0]
    for source in sources[1:]:
        if read(source) != read(first):
            raise UsageError(
                f"source data sets must have the same {what}: {first.name} has {read(first)}, "
                f"{source.name} has {read(source)}"
            )


# -- features ---------------------------------------------------------------------------------------------


def _join_features(sources: Sequence[Source]) -> dict[str, Any]:
    """Return the joined features of a catalogue, of those modalities that some source has."""
    fields: dict[str, Any] = {}
    layers: dict[str, Tensor] = {}
    for modality in ("text", "image"):
        flat = [(source, getattr(source.catalog, f"{modality}_feat")) for source in sources]
        deep = [(source, source.catalog.layer_feat.get(modality)) for source in sources]
        if (joined := _join_tables(flat, f"{modality} features")) is not None:
            fields[f"{modality}_feat"] = joined
        if (joined := _join_tables(deep, f"{modality} features per layer")) is not None:
            layers[modality] = joined
        if f"{modality}_feat" in fields or modality in layers:
            present = [_present(source.catalog, modality) for source in sources]
            fields[f"has_{modality}"] = torch.cat([torch.zeros(1, dtype=torch.bool), *present])
    return {**fields, "layer_feat": layers}


def _join_tables(tables: Sequence[tuple[Source, Tensor | None]], what: str) -> Tensor | None:
    """Return the tables joined to [N+1, ...], zeros for the items of sources without a table; None without any."""
    existing = [(source, table) for source, table in tables if table is not None]
    if not existing:
        return None
    first, model = existing[0]
    for source, table in existing[1:]:
        if table.shape[1:] != model.shape[1:]:
            raise UsageError(
                f"{what} of {first.name} are {_shape(model)} wide, those of {source.name} {_shape(table)}; "
                "extract both with the same encoder"
            )
    rows = [
        model.new_zeros(source.catalog.n_items, *model.shape[1:])
        if table is None
        else table[1:].to(model.dtype)
        for source, table in tables
    ]
    return torch.cat([model.new_zeros(1, *model.shape[1:]), *rows])


def _shape(table: Tensor) -> str:
    return " x ".join(str(size) for size in table.shape[1:])


def _present(catalog: Catalog, modality: str) -> Tensor:
    """Return which items 1..N of a source have the modality, bool [N]."""
    known = getattr(catalog, f"has_{modality}")
    if known is not None:
        return known[1:]
    table = getattr(catalog, f"{modality}_feat")
    table = catalog.layer_feat.get(modality) if table is None else table
    if table is None:
        return torch.zeros(catalog.n_items, dtype=torch.bool)
    return table[1:].flatten(1).ne(0).any(1)


def _join_categories(catalogs: Sequence[Catalog]) -> dict[str, Any]:
    """Return the joined categories; those of different sources are different categories."""
    ids, lengths, n_categories = [], [torch.zeros(1, dtype=torch.int64)], 0
    for catalog in catalogs:
        if catalog.category_ids is None or catalog.category_offsets is None:
            lengths.append(torch.zeros(catalog.n_items, dtype=torch.int64))
            continue
        ids.append(catalog.category_ids + n_categories)
        lengths.append(catalog.category_offsets.diff()[1:])
        n_categories += catalog.n_categories
    if not ids:
        return {}
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(lengths).cumsum(0)])
    return {"category_ids": torch.cat(ids), "category_offsets": offsets, "n_categories": n_categories}
