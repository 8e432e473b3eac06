"""One cell of an experiment - a model on a data set with a seed - from settings to a stored record.

Resolves the settings, gives the model what it may know, trains it, ranks valid and test, writes the record.
The test targets are opened only after the training is over.
"""

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmbench import checkpoint, metrics, registry, results
from mmbench.atomic import hash_json, write_text
from mmbench.config import Setting, TrainConfig, build, defaults_of, resolve
from mmbench.data.split import Split, make_split
from mmbench.data.store import Prepared, open_path
from mmbench.data.views import TargetView, TrainView, target_view, training_view
from mmbench.errors import MmbenchError, RunError, UsageError
from mmbench.evaluate import rank
from mmbench.features.store import FeatureSet, default_encoder, load_features
from mmbench.models.base import Catalog, Recommender
from mmbench.progress import Progress, Watcher
from mmbench.results import Ranks, RunRecord
from mmbench.runtime import derive_seed, environment, peak_memory, pick_device
from mmbench.train import BEST, LOG, RESUME, Trainer

METRIC_VERSION = 1  # raised when a metric's definition changes; rows with different versions never mix
FROM_PROTOCOL = ("max_len", "selection_metric", "patience", "mask_seen")
RANKING_SETTINGS = ("max_len", "mask_seen", "precision")
ENCODERS = ("text_encoder", "image_encoder")  # a result is identified by the features read, not by their name


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Everything that decides a result, resolved; made in the parent process, run anywhere."""

    dataset: str
    data_path: Path
    model: str
    seed: int
    settings: dict[str, Setting]
    features: dict[str, dict[str, Any]]  # modality -> {"encoder", "hash", "path"}; used ones only
    protocol: dict[str, Any]
    config_id: str
    path: Path
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        return hash_json(self.protocol)[:16]

    @property
    def title(self) -> str:
        return f"{self.model} on {self.dataset}, seed {self.seed}"


def resolve_settings(
    entry: registry.ModelEntry,
    variant: str,
    prepared: Prepared,
    overrides: list[tuple[str, Mapping[str, Any]]],
) -> dict[str, Setting]:
    """All settings of a model on a data set with the source of each value, validated."""
    protocol = {key: prepared.protocol[key] for key in FROM_PROTOCOL}
    layers: list[tuple[str, Mapping[str, Any]]] = [
        ("default", defaults_of(TrainConfig)),
        (f"protocol {prepared.protocol['name']}", protocol),
        *entry.layers(variant, prepared.name),
        *overrides,
    ]
    settings = resolve(layers, known=entry.known_settings(), where=entry.name)
    # As validated, so that dropout = 0 and dropout = 0.0 are one configuration.
    checked = {**vars_of(configs(entry, settings))}
    return {key: Setting(checked[key], one.source) for key, one in settings.items()}


def vars_of(built: tuple[Any, ...]) -> dict[str, Any]:
    """All fields of some configuration objects as JSON values."""
    return {
        one.name: list(value) if isinstance(value := getattr(config, one.name), tuple) else value
        for config in built
        for one in fields(config)
    }


def configs(entry: registry.ModelEntry, settings: Mapping[str, Setting]) -> tuple[Any, TrainConfig]:
    """The model's and the training's configuration objects; UsageError names a bad value."""
    shared = {one.name for one in fields(TrainConfig)}
    values = {key: one.value for key, one in settings.items()}
    train: TrainConfig = build(
        TrainConfig, {k: v for k, v in values.items() if k in shared}, where=entry.name
    )
    model: Any = build(
        entry.config_class(), {k: v for k, v in values.items() if k not in shared}, where=entry.name
    )
    metrics.parse_metric(train.selection_metric)
    return model, train


def choose_features(
    entry: registry.ModelEntry, prepared: Prepared, settings: Mapping[str, Setting]
) -> tuple[dict[str, FeatureSet], list[str]]:
    """The feature sets that a model reads, and a note for each modality that the data set lacks."""
    found: dict[str, FeatureSet] = {}
    notes = []
    model, (config, _) = entry.load(), configs(entry, settings)
    wanted = [
        one for one in ("text", "image") if one in entry.recipe.inputs and model.reads(config, one)
    ]
    for modality in wanted:
        name = str(settings[f"{modality}_encoder"].value)
        encoder = default_encoder(prepared, modality) if name == "auto" else name
        if encoder is None:
            notes.append(
                f"{entry.recipe.display} runs without {modality}: {prepared.name} has no {modality} features"
            )
        elif encoder != "none":
            found[modality] = load_features(prepared, modality, encoder)
            if found[modality].n_layers and not model.reads_layers:
                raise UsageError(
                    f"{entry.name} reads one vector an item, but {encoder} of {prepared.name} has "
                    f"{found[modality].n_layers} layers; choose another {modality}_encoder"
                )
    if wanted and not found and not all(settings[f"{one}_encoder"].value == "none" for one in wanted):
        raise UsageError(
            f"{entry.name} reads {' and '.join(wanted)}, but {prepared.name} has no features; "
            f"run: mmbench extract {prepared.name}"
        )
    return found, notes


def make_cell(
    *,
    results_dir: Path,
    prepared: Prepared,
    model: str,
    seed: int,
    overrides: list[tuple[str, Mapping[str, Any]]],
) -> Cell:
    """Resolve a cell; its folder's name is a hash of everything but the seed and the code."""
    entry, variant = registry.find(model)
    settings = resolve_settings(entry, variant, prepared, overrides)
    features, notes = choose_features(entry, prepared, settings)
    protocol = comparable(prepared, settings)
    own = {one.name for one in fields(entry.config_class())}
    keys = own | (set(settings) - set(ENCODERS) if entry.load().trainable else set(RANKING_SETTINGS))
    identity = {
        "settings": {key: settings[key].value for key in sorted(keys)},
        "features": {modality: one.hash for modality, one in features.items()},
        "protocol": protocol,
    }
    config_id = hash_json(identity)[:10]
    return Cell(
        dataset=prepared.name, data_path=prepared.path, model=model, seed=seed, settings=settings,
        features={m: {"encoder": one.encoder, "hash": one.hash} for m, one in features.items()},
        protocol=protocol, config_id=config_id, notes=tuple(notes),
        path=results.cell_path(results_dir, dataset=prepared.name, model=model, config_id=config_id, seed=seed),
    )  # fmt: skip


def comparable(prepared: Prepared, settings: Mapping[str, Setting]) -> dict[str, Any]:
    """The protocol's fields that two rows must share to stand in one table."""
    kept = {k: v for k, v in prepared.protocol.items() if k not in (*FROM_PROTOCOL, "name")}
    return {
        **kept,
        "data": prepared.hash,
        "mask_seen": settings["mask_seen"].value,
        "candidates": "all items",
        "ranks_of_ties": "expected",
        "metrics": METRIC_VERSION,
    }


@dataclass(frozen=True)
class LoadedData:
    prepared: Prepared
    split: Split
    train: TrainView
    valid: TargetView


@lru_cache(maxsize=2)
def _load(path: Path, content: str) -> LoadedData:
    """Training events and validation targets; one copy serves all cells of a data set."""
    prepared = open_path(path)
    if prepared.hash != content:
        raise RunError(f"{path} changed while the run was going on; start it again")
    prepared.verify()
    split = make_split(prepared.protocol, np.asarray(prepared.times), np.asarray(prepared.offsets))
    return LoadedData(prepared, split, training_view(prepared, split), target_view(prepared, split, "valid"))


@lru_cache(maxsize=16)
def _load_features(path: Path, modality: str, encoder: str, content: str) -> FeatureSet:
    """A feature set as it was when the run was planned; its values are compared with their hash once."""
    found = load_features(open_path(path), modality, encoder)
    if found.hash != content:
        raise RunError(f"{found.path} changed since this run was planned; start it again")
    found.verify()
    return found


def make_catalog(data: LoadedData, features: Mapping[str, FeatureSet], max_len: int) -> Catalog:
    """What a model may know, as tensors; training events only."""
    prepared, train = data.prepared, data.train
    tensors: dict[str, Any] = {}
    for modality, one in features.items():
        values = torch.from_numpy(np.array(one.values, dtype=np.float32))
        if one.n_layers:
            tensors.setdefault("layer_feat", {})[modality] = values
        else:
            tensors[f"{modality}_feat"] = values
        tensors[f"has_{modality}"] = torch.from_numpy(np.array(one.present, dtype=bool))
    offsets = np.concatenate([[0], np.asarray(prepared.category_offsets)])
    return Catalog(
        n_items=prepared.n_items, n_users=prepared.n_users, max_len=max_len,
        category_ids=torch.from_numpy(np.asarray(prepared.category_ids).astype(np.int64)),
        category_offsets=torch.from_numpy(offsets.astype(np.int64)),
        n_categories=len(prepared.category_names),
        train_users=torch.from_numpy(train.users), train_items=torch.from_numpy(train.items),
        train_times=torch.from_numpy(train.times), **tensors,
    )  # fmt: skip


def build_model(cell: Cell, data: LoadedData, device: str) -> tuple[Recommender[Any], TrainConfig]:
    """A freshly initialised model of the cell; the same seed gives the same weights."""
    entry, _ = registry.find(cell.model)
    model_config, train_config = configs(entry, cell.settings)
    features = {
        modality: _load_features(data.prepared.path, modality, used["encoder"], used["hash"])
        for modality, used in cell.features.items()
    }
    catalog = make_catalog(data, features, train_config.max_len)
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
    chosen = pick_device(device)
    try:
        cell.path.mkdir(parents=True, exist_ok=True)
        for leftover in cell.path.glob(".*.tmp"):  # of a run that was killed while it wrote
            leftover.unlink(missing_ok=True)
        record = _run(cell, chosen, watcher)
    except Exception as error:
        if debug:
            raise
        if not isinstance(error, (MmbenchError, OSError)):
            write_text(cell.path / "traceback.txt", traceback.format_exc())
        reason = str(error) if isinstance(error, MmbenchError) else f"{type(error).__name__}: {error}"
        return fail_cell(cell, reason)
    results.write_record(record)
    (cell.path / RESUME).unlink(missing_ok=True)
    (cell.path / "traceback.txt").unlink(missing_ok=True)
    return record


def fail_cell(cell: Cell, reason: str) -> RunRecord:
    """Store why there is no result; what was computed stays and is gone on from at the next try."""
    record = replace(_base_record(cell), status="failed", reason=" ".join(reason.split())[:500])
    results.write_record(record)
    return record


def _base_record(cell: Cell) -> RunRecord:
    entry, variant = registry.find(cell.model)
    prepared = open_path(cell.data_path)
    return RunRecord(
        path=cell.path, dataset=cell.dataset, model=cell.model, config_id=cell.config_id, seed=cell.seed,
        display=f"{entry.recipe.display}:{variant}" if variant else entry.recipe.display,
        status="finished", deterministic=entry.load().deterministic, synthetic=prepared.synthetic,
        leaky=cell.settings["validation"].value == "test-item", data_hash=prepared.hash,
        protocol=cell.protocol, fingerprint=cell.fingerprint, n_items=prepared.n_items,
        settings={key: {"value": one.value, "source": one.source} for key, one in cell.settings.items()},
        features=cell.features, notes=list(cell.notes),
    )  # fmt: skip


def _run(cell: Cell, device: str, watcher: Watcher | None) -> RunRecord:
    data = _load(cell.data_path, open_path(cell.data_path).hash)
    began = time.perf_counter()
    model, config = build_model(cell, data, device)
    leaky = config.validation == "test-item"
    judged = target_view(data.prepared, data.split, "test") if leaky else data.valid

    def validate(current: Recommender[Any]) -> float:
        return metric_value(
            rank(current, judged, mask_seen=config.mask_seen, device=device), config.selection_metric
        )

    if model.trainable:
        trainer = Trainer(
            model,
            data.train,
            validate,
            config,
            seed=cell.seed,
            folder=cell.path,
            device=device,
            watcher=watcher,
        )
        progress = trainer.fit()
    else:
        progress = Progress(
            stopped="closed form", seconds={"train": time.perf_counter() - began, "valid": 0.0}
        )
        for stale in (LOG, BEST):
            (cell.path / stale).unlink(missing_ok=True)
    seconds = rank_and_store(cell.path, model, data, config, device)
    numbers = progress.epoch_seconds
    return replace(
        _base_record(cell),
        n_parameters=sum(one.numel() for one in model.parameters()),
        n_epochs=progress.epoch, best_epoch=progress.best_epoch, stopped=progress.stopped, curve=progress.curve,
        seconds={**progress.seconds, **seconds, **({"epoch": float(np.median(numbers))} if numbers else {})},
        peak_memory=peak_memory(), extra=model.extra_state(),
        environment={**environment(device), "finished": datetime.now(UTC).isoformat(timespec="seconds")},
    )  # fmt: skip


def rank_and_store(
    path: Path, model: Recommender[Any], data: LoadedData, config: TrainConfig, device: str
) -> dict[str, float]:
    """Rank valid and test with the model as it is and store both; returns the seconds of each."""
    seconds, ranks = {}, {}
    for part in ("valid", "test"):
        view = data.valid if part == "valid" else target_view(data.prepared, data.split, "test")
        began = time.perf_counter()
        ranks[part] = rank(model, view, mask_seen=config.mask_seen, device=device)
        seconds[f"rank_{part}"] = time.perf_counter() - began
    results.write_ranks(path, valid=ranks["valid"], test=ranks["test"])
    return seconds


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
    return Cell(
        dataset=record.dataset, data_path=prepared.path, model=record.model, seed=record.seed, settings=settings,
        features=record.features, protocol=record.protocol, config_id=record.config_id, path=record.path,
        notes=tuple(record.notes),
    )  # fmt: skip


def evaluate_again(record: RunRecord, *, data_dir: Path, device: str = "auto") -> Ranks:
    """Rank a finished run's best checkpoint again and replace its stored ranks; returns those of test."""
    if record.status != "finished":
        raise RunError(f"{record.path} did not finish ({record.reason}); run it again first")
    cell = cell_of(record, data_dir)
    data = _load(cell.data_path, record.data_hash)
    chosen = pick_device(device)
    model, config = build_model(cell, data, chosen)
    if model.trainable:
        checkpoint.load_weights(model, record.path / BEST)
    rank_and_store(record.path, model, data, config, chosen)
    return record.ranks("test")
