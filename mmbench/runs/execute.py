"""Cells from settings to stored records, one alone or several seeds in a stack.

Gives the model what it may know, trains it, ranks valid and test, writes the record.
The test targets are opened only after the training is over.
"""

import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from mmbench.atomic import write_text
from mmbench.data.split import Split, make_split
from mmbench.data.store import Prepared, open_path
from mmbench.data.views import TargetView, TrainView, target_view, training_view
from mmbench.errors import MmbenchError, RunError, UsageError
from mmbench.evaluation import metrics
from mmbench.evaluation.ranking import rank
from mmbench.features.store import FeatureSet, load_features
from mmbench.features.use import FeatureUse
from mmbench.models import registry
from mmbench.models.base import Catalog, Recommender
from mmbench.runs import store
from mmbench.runs.plan import Cell, configs
from mmbench.runs.store import SPLITS, Ranks, RunRecord, SplitName
from mmbench.runtime import derive_seed, environment, pick_device
from mmbench.settings.config import TrainConfig
from mmbench.training.devices import peak_memory, reset_peak_memory
from mmbench.training.files import BEST, LOG, RESUME
from mmbench.training.progress import Progress, Watcher
from mmbench.training.trainer import Trainer


@dataclass(frozen=True)
class LoadedData:
    prepared: Prepared
    split: Split
    train: TrainView
    valid: TargetView

    @cached_property
    def brand_ids(self) -> torch.Tensor:
        """A number of each item's brand, int64 [N + 1], from 1 in the order of the names; 0 = it has none."""
        brands = [record["brand"] for record in self.prepared.item_records]
        number = {name: k for k, name in enumerate(sorted({*brands} - {""}), start=1)}
        return torch.tensor([0, *(number.get(brand, 0) for brand in brands)])

    def targets(self, split: SplitName) -> TargetView:
        """What is ranked. The test targets are opened when they are asked for, after the training."""
        return self.valid if split == "valid" else target_view(self.prepared, self.split, split)


@lru_cache(maxsize=2)
def load_data(path: Path, content: str) -> LoadedData:
    """Training events and validation targets; one copy serves all cells of a data set."""
    prepared = open_path(path)
    if prepared.hash != content:
        raise RunError(f"{path} changed while the run was going on; start it again")
    prepared.verify()
    split = make_split(prepared.protocol, np.asarray(prepared.times), np.asarray(prepared.offsets))
    return LoadedData(prepared, split, training_view(prepared, split), target_view(prepared, split, "valid"))


@lru_cache(maxsize=16)
def _load_features(path: Path, modality: str, use: FeatureUse) -> FeatureSet:
    """Open features that are made as they were when the run was planned; their values are whole."""
    found = load_features(open_path(path), modality, use.encoder)
    if found.use.identity != use.identity:
        raise RunError(f"{found.path} changed since this run was planned; start it again")
    found.verify()
    return found


def make_catalog(data: LoadedData, features: Mapping[str, FeatureSet], max_len: int) -> Catalog:
    """What a model may know, as tensors; training events only."""
    prepared, train = data.prepared, data.train
    tensors: dict[str, Any] = {}
    for modality, one in features.items():
        if one.n_layers:
            tensors.setdefault("layer_feat", {})[modality] = _as_it_lies(one.values)
        else:
            tensors[f"{modality}_feat"] = torch.from_numpy(np.array(one.values, dtype=np.float32))
        tensors[f"has_{modality}"] = torch.from_numpy(np.array(one.present, dtype=bool))
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


def build_model(cell: Cell, data: LoadedData, device: str) -> tuple[Recommender[Any], TrainConfig]:
    """A freshly initialised model of the cell; the same seed gives the same weights."""
    entry = registry.find(cell.model)
    model_config, train_config = configs(entry, cell.settings)
    features = {
        modality: _load_features(data.prepared.path, modality, use) for modality, use in cell.features.items()
    }
    catalog = make_catalog(data, features, train_config.max_len)
    if (
        "category" in entry.recipe.inputs
    ):  # a brand is one more attribute, and reading all records takes a second
        catalog = replace(catalog, brand_ids=data.brand_ids)
    torch.manual_seed(derive_seed(cell.seed, "init"))
    try:
        model = entry.load()(model_config, catalog)
    except ValueError as error:
        raise UsageError(f"{cell.model} on {cell.dataset}: {error}") from error
    return model.to(device=device, dtype=getattr(torch, train_config.precision)), train_config


def metric_value(ranks: Ranks, name: str) -> float:
    """Mean over users, float64, unrounded."""
    return float(metrics.parse_metric(name).values(ranks).mean())


def run_cell(
    cell: Cell, *, device: str = "auto", watcher: Watcher | None = None, debug: bool = False
) -> RunRecord:
    """Train, rank and store a cell. A failure becomes a record with its reason (or is raised with `debug`)."""

    def work() -> RunRecord:
        opened = _open(cell, pick_device(device), watcher)
        if opened.trainer is not None:
            opened.trainer.fit()
        return _close(opened)

    return _guarded(cell, work, debug=debug)


def run_stack(
    cells: Sequence[Cell], *, device: str = "auto", watcher: Watcher | None = None, debug: bool = False
) -> Iterator[RunRecord]:
    """Train cells that differ in their seeds as one stack; each is ranked and stored when it ends, and yielded.

    A model that cannot be stacked is trained seed after seed, one model at a time, and the watcher hears why.
    """
    from mmbench.training.stack import why_not

    def opened(cell: Cell) -> _Opened | RunRecord:
        return _guarded(cell, partial(_open, cell, pick_device(device)), debug=debug)

    waiting = iter(cells)
    for cell in waiting:
        first = opened(cell)
        if isinstance(first, _Opened) and first.trainer is not None:
            break
        yield from _train([first], watcher, debug=debug)
    else:
        return
    reason = why_not(first.trainer)
    if not reason:
        yield from _train([first, *map(opened, waiting)], watcher, debug=debug)
        return
    note = f"trained seed after seed: {reason}"
    if watcher is not None:
        watcher.note(note)
    yield from _train([first], watcher, note, debug=debug)
    del first  # its model, before the next one's is made
    for cell in waiting:
        yield from _train([opened(cell)], watcher, note, debug=debug)


def _train(
    found: "Sequence[_Opened | RunRecord]", watcher: Watcher | None, *notes: str, debug: bool
) -> Iterator[RunRecord]:
    """Records of opened cells, in the order of their ends; of those that could not be opened, first.

    notes  what the records say besides.
    """
    yield from (one for one in found if isinstance(one, RunRecord))
    runs = {one.trainer: one for one in found if isinstance(one, _Opened) and one.trainer is not None}
    for trainer in runs:
        trainer.progress.note(*notes)
    for trainer, fault in _fit_all(list(runs), len(runs), watcher):

        def work(one: _Opened = runs[trainer], fault: Exception | None = fault) -> RunRecord:
            if fault is not None:
                raise fault
            return _close(one)

        yield _guarded(runs[trainer].cell, work, debug=debug)


def _fit_all(
    trainers: Sequence[Trainer], size: int, watcher: Watcher | None
) -> Iterator[tuple[Trainer, Exception | None]]:
    """Each run when its training ends, with what stopped it; an unforeseen error stops all that are left."""
    from mmbench.training.stack import fit_together

    left = dict(enumerate(trainers))
    try:
        for number, fault in fit_together(trainers, size=size, watcher=watcher):
            yield left.pop(number), fault
    except Exception as error:
        yield from ((one, error) for one in left.values())


R = TypeVar("R")


def _guarded(cell: Cell, work: Callable[[], R], *, debug: bool) -> R | RunRecord:
    """What `work` returns, or the record of the failed cell. A result's record is stored."""
    try:
        cell.path.mkdir(parents=True, exist_ok=True)
        found = work()
        if isinstance(found, RunRecord):
            store.write_record(found)
            for leftover in (RESUME, "traceback.txt"):
                (cell.path / leftover).unlink(missing_ok=True)
        return found
    except Exception as error:
        if debug:
            raise
        if not isinstance(error, (MmbenchError, OSError)):
            write_text(cell.path / "traceback.txt", traceback.format_exc())
        reason = str(error) if isinstance(error, MmbenchError) else f"{type(error).__name__}: {error}"
        return fail_cell(cell, reason)


def fail_cell(cell: Cell, reason: str) -> RunRecord:
    """Store why there is no result; what was computed stays and is gone on from at the next try."""
    record = replace(_base_record(cell), status="failed", reason=" ".join(reason.split())[:500])
    store.write_record(record)
    return record


def _base_record(cell: Cell) -> RunRecord:
    entry = registry.find(cell.model)
    prepared = open_path(cell.data_path)
    return RunRecord(
        path=cell.path, dataset=cell.dataset, model=cell.model, config_id=cell.config_id, seed=cell.seed,
        display=entry.display,
        status="finished", deterministic=entry.load().deterministic, synthetic=prepared.synthetic,
        # What is not trained is not selected either, and its cell is the same one under both settings.
        leaky=entry.load().trainable and cell.settings["validation"].value == "test-item",
        data_hash=prepared.hash,
        protocol=cell.protocol, fingerprint=cell.fingerprint, n_items=prepared.n_items,
        settings={key: {"value": one.value, "source": one.source} for key, one in cell.settings.items()},
        features={modality: use.to_json() for modality, use in cell.features.items()}, notes=list(cell.notes),
    )  # fmt: skip


@dataclass
class _Opened:
    """A cell with its data and a fresh model; `trainer` None = nothing is trained."""

    cell: Cell
    data: LoadedData
    model: Recommender[Any]
    config: TrainConfig
    device: str
    trainer: Trainer | None
    done: Progress  # of what is not trained

    @property
    def progress(self) -> Progress:
        return self.trainer.progress if self.trainer is not None else self.done


def _open(cell: Cell, device: str, watcher: Watcher | None = None) -> _Opened:
    for leftover in cell.path.glob(".*.tmp"):  # of a run that was killed while it wrote
        leftover.unlink(missing_ok=True)
    data = load_data(cell.data_path, open_path(cell.data_path).hash)
    reset_peak_memory(device)
    began = time.perf_counter()
    model, config = build_model(cell, data, device)
    if not model.trainable:
        for stale in (LOG, BEST):
            (cell.path / stale).unlink(missing_ok=True)
        spent = {"train": time.perf_counter() - began, "valid": 0.0}
        return _Opened(
            cell, data, model, config, device, None, Progress(stopped="closed form", seconds=spent)
        )
    leaky = config.validation == "test-item"
    judged = data.targets("test" if leaky else "valid")

    def validate(current: Recommender[Any]) -> float:
        return metric_value(
            rank(current, judged, mask_seen=config.mask_seen, device=device), config.selection_metric
        )

    trainer = Trainer(
        model, data.train, validate, config, seed=cell.seed, folder=cell.path, device=device, watcher=watcher
    )
    return _Opened(cell, data, model, config, device, trainer, Progress())


def _close(opened: _Opened) -> RunRecord:
    """Rank, and tell how it went."""
    cell, model, progress = opened.cell, opened.model, opened.progress
    seconds = rank_and_store(cell.path, model, opened.data, opened.config, opened.device)
    numbers = progress.epoch_seconds
    return replace(
        _base_record(cell),
        n_parameters=sum(one.numel() for one in model.parameters()),
        n_epochs=progress.earlier + progress.epoch,
        best_epoch=progress.best_epoch, stopped=progress.stopped, curve=progress.curve,
        seconds={**progress.seconds, **seconds, **({"epoch": float(np.median(numbers))} if numbers else {})},
        peak_memory=peak_memory(opened.device), extra={**model.extra_state(), **worth_of_parts(opened)},
        environment={
            **environment(opened.device, registry.find(cell.model).own_code()),
            **({"stack": progress.stack} if progress.stack else {}),
            **({"notes": progress.notes} if progress.notes else {}),
        },
    )  # fmt: skip


def rank_and_store(
    path: Path, model: Recommender[Any], data: LoadedData, config: TrainConfig, device: str
) -> dict[str, float]:
    """Rank valid and test with the model as it is and store both; returns the seconds of each."""
    seconds, ranks = {}, {}
    for split in SPLITS:
        began = time.perf_counter()
        ranks[split] = rank(model, data.targets(split), mask_seen=config.mask_seen, device=device)
        seconds[f"rank_{split}"] = time.perf_counter() - began
    store.write_ranks(path, valid=ranks["valid"], test=ranks["test"])
    return seconds


def rank_parts(
    model: Recommender[Any], data: LoadedData, config: TrainConfig, device: str
) -> Iterator[tuple[str, str, Ranks, float]]:
    """(part, "valid" or "test", ranks, spread) of each of the model's parts by itself.

    The spread is the mean over users of the standard deviation of its scores over items: in a sum of scores the
    part that spreads most decides.
    """
    views = {split: data.targets(split) for split in SPLITS} if model.parts else {}
    for part in model.parts:
        for split, view in views.items():
            spread: list[torch.Tensor] = []
            note = partial(_note_spread, spread)
            with model.alone(part):
                ranks = rank(model, view, mask_seen=config.mask_seen, device=device, on_scores=note)
            yield part, split, ranks, torch.cat(spread).double().mean().item()


def _note_spread(seen: list[torch.Tensor], scores: torch.Tensor) -> None:
    seen.append(scores.std(1))


def worth_of_parts(opened: _Opened) -> dict[str, Any]:
    """For run.json: metrics of each part alone, and its spread; nothing for a model without parts."""
    found: dict[str, Any] = {}
    for part, split, ranks, spread in rank_parts(opened.model, opened.data, opened.config, opened.device):
        values = {name: metric_value(ranks, name) for name in ("NDCG@10", "MRR@10", "HR@10")}
        found.setdefault(part, {})[split] = {**values, "spread": spread}
    return {"alone": found} if found else {}
