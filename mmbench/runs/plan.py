"""Cells: a model on a data set with a seed, with everything that decides the result resolved."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mmbench.atomic import hash_json
from mmbench.data.protocol import Protocol
from mmbench.data.store import Prepared, open_prepared
from mmbench.errors import RunError, UsageError
from mmbench.evaluation import metrics
from mmbench.features.store import FeatureSet, default_encoder, load_features
from mmbench.features.use import FeatureUse
from mmbench.models import registry
from mmbench.runs import store
from mmbench.runs.sources import CellSource, SourceUse, choose_sources, identities_of
from mmbench.settings.config import (
    DELIBERATE,
    Layer,
    Origin,
    Setting,
    TrainConfig,
    build,
    defaults_of,
    resolve,
)
from mmbench.settings.feature_change import STORED
from mmbench.tracking import TrackedRun

METRIC_VERSION = 1  # raised when a metric's definition changes; rows with different versions never mix
FROM_PROTOCOL = ("max_len", "selection_metric", "patience", "mask_seen")
RANKING_SETTINGS = (
    "max_len",
    "mask_seen",
    "precision",
)  # of TrainConfig, all that counts in a model without training
ENCODERS = (
    "text_encoder",
    "image_encoder",
)  # not in the config id: the features themselves identify a result
FEATURE_CHANGES = ("text_features", "image_features")
LATE_FUSION = "late-fusion"
CONTROL_MODELS = (LATE_FUSION, "ease-text", "itemknn-cbf")  # what a multi-modal model is compared with


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What decides a result, resolved, and where it goes; made in the parent process, computed anywhere."""

    dataset: str
    data_path: Path
    model: str
    seed: int
    settings: dict[str, Setting]
    features: dict[str, FeatureUse]  # by modality; only those that the model reads
    protocol: dict[str, Any]
    config_id: str
    path: Path
    notes: tuple[str, ...] = ()
    sources: tuple[CellSource, ...] = ()  # other data sets that the model is pre-trained on
    track: tuple[str, ...] = ()  # names of trackers (mmbench.tracking); they decide nothing
    energy: str = ""  # country whose electricity is used; "": the energy is not measured. It decides nothing

    def with_seed(self, seed: int) -> "Cell":
        """Return the cell of the same configuration with another seed."""
        path = store.cell_path(
            self.path.parents[3], dataset=self.dataset, model=self.model, config_id=self.config_id, seed=seed
        )
        return replace(self, seed=seed, path=path)

    @property
    def fingerprint(self) -> str:
        return store.fingerprint_of(self.protocol)

    @property
    def input_identities(self) -> dict[str, str]:
        """Return what made the features that the model reads, by modality, and what it is pre-trained on."""
        others = {
            f"pre-training on {source.name}": hash_json(source.identity) for source in self.uses_of_sources
        }
        return {**identities(self.features), **others}

    @property
    def uses_of_sources(self) -> tuple[SourceUse, ...]:
        return tuple(source.use for source in self.sources)

    def tracked(self, *, title: str = "", folder: Path | None = None) -> TrackedRun:
        """Return what trackers are told of the cell, by default under its own folder's title."""
        return TrackedRun(
            title=title or store.run_title(self.dataset, self.model, self.config_id, self.seed),
            folder=folder or self.path, dataset=self.dataset, model=self.model, config_id=self.config_id,
            seed=self.seed, settings={key: setting.value for key, setting in self.settings.items()},
            identity={**self.protocol, "features": self.input_identities},
        )  # fmt: skip

    @property
    def title(self) -> str:
        return f"{self.model} on {self.dataset}, seed {self.seed}"


def resolve_settings(
    entry: registry.ModelEntry, prepared: Prepared, overrides: Sequence[Layer]
) -> dict[str, Setting]:
    """Return all settings of a model on a data set, validated, each with the origin of its value."""
    layers = [
        Layer(Origin.default, defaults_of(TrainConfig)),
        protocol_layer(prepared.protocol),
        *entry.layers(prepared.name),
        *overrides,
    ]
    settings = resolve(layers, known=entry.known_settings(), where=entry.name)
    # As validated, so that dropout = 0 and dropout = 0.0 are the same configuration.
    checked = values_of(make_configs(entry, settings))
    resolved = {key: Setting(checked[key], setting.origin, setting.note) for key, setting in settings.items()}
    return {**resolved, "selection_metric": fitting_selection(resolved["selection_metric"], prepared)}


def fitting_selection(setting: Setting, prepared: Prepared) -> Setting:
    """Return the metric that selects the epoch, with all items as its cutoff where there are fewer than that.

    UsageError for a cutoff that somebody chose for this run.
    """
    metric = metrics.parse_metric(setting.value)
    if metric.fits(prepared.n_items):
        return setting
    largest = f"{metric.name}@{prepared.n_items}"
    if setting.origin in DELIBERATE:
        raise UsageError(
            f"selection_metric={metric}: {prepared.name} has only {prepared.n_items} items; the largest cutoff is "
            f"selection_metric={largest}"
        )
    return Setting(
        largest, setting.origin, f"{metric} on larger catalogues; {prepared.n_items} items are ranked"
    )


def protocol_layer(protocol: Protocol) -> Layer:
    """Return the settings that a data set's protocol sets."""
    return Layer(Origin.protocol, {key: getattr(protocol, key) for key in FROM_PROTOCOL}, protocol.name)


def values_of(configs: tuple[Any, ...]) -> dict[str, Any]:
    """Return all fields of some configuration objects as JSON values."""
    return {
        parameter.name: list(value) if isinstance(value := getattr(config, parameter.name), tuple) else value
        for config in configs
        for parameter in fields(config)
    }


def make_configs(entry: registry.ModelEntry, settings: Mapping[str, Setting]) -> tuple[Any, TrainConfig]:
    """Return the model's and the training's configuration objects; UsageError names a bad value."""
    shared = {parameter.name for parameter in fields(TrainConfig)}
    values = {key: setting.value for key, setting in settings.items()}
    train: TrainConfig = build(
        TrainConfig, {k: v for k, v in values.items() if k in shared}, where=entry.name
    )
    model: Any = build(
        entry.config_class(), {k: v for k, v in values.items() if k not in shared}, where=entry.name
    )
    metrics.parse_metric(train.selection_metric).check_of_ranks("selection_metric")
    return model, train


def choose_features(
    entry: registry.ModelEntry, prepared: Prepared, settings: Mapping[str, Setting]
) -> tuple[dict[str, FeatureSet], list[str]]:
    """Return the feature sets that a model reads, and a note for each modality that the data set lacks."""
    chosen: dict[str, FeatureSet] = {}
    notes = []
    model_class, (config, _) = entry.load(), make_configs(entry, settings)
    if not prepared.has_times and "time" in entry.recipe.inputs and model_class.reads(config, "time"):
        raise UsageError(
            f"{entry.name} reads times, but the interactions of {prepared.name} only have an order (unit = 'order'); "
            "choose a model or a variant that reads none, or prepare the data with times"
        )
    wanted = [
        name for name in ("text", "image") if name in entry.recipe.inputs and model_class.reads(config, name)
    ]
    for modality in wanted:
        name = str(settings[f"{modality}_encoder"].value)
        encoder = default_encoder(prepared, modality) if name == "auto" else name
        if encoder is None:
            notes.append(
                f"{entry.recipe.display} runs without {modality}: {prepared.name} has no {modality} features"
            )
        elif encoder != "none":
            try:
                chosen[modality] = load_features(prepared, modality, encoder)
            except UsageError as error:
                raise UsageError(f"{entry.name}: {error}") from None
            made = chosen[modality].manifest
            if name == "auto" and made.is_imported:
                notes.append(
                    f"{entry.recipe.display} reads the imported {modality} features {encoder} ({made.n_present:,} of "
                    f"{made.n_items:,} items), because {prepared.name} has no extracted features; "
                    f"--set {modality}_encoder={encoder} chooses them without this note"
                )
            if chosen[modality].n_layers and not model_class.reads_layers:
                raise UsageError(
                    f"{entry.name} reads a single vector per item, but {encoder} of {prepared.name} has "
                    f"{chosen[modality].n_layers} layers; choose another {modality}_encoder"
                )
    if wanted and not chosen and not all(settings[f"{name}_encoder"].value == "none" for name in wanted):
        raise UsageError(
            f"{entry.name} reads {' and '.join(wanted)}, but {prepared.name} has no features; "
            f"run: mmbench extract {prepared.name}"
        )
    return chosen, notes


def effective_settings(entry: registry.ModelEntry) -> set[str]:
    """Return the settings that can change what a model does; in a model without training, training settings cannot."""
    of_model = {parameter.name for parameter in fields(entry.config_class())}
    ranking = of_model.union(RANKING_SETTINGS, ENCODERS, FEATURE_CHANGES)
    keys = set(entry.known_settings()) if entry.load().trainable else ranking
    return keys - entry.unread_settings()


def check_feature_changes(
    entry: registry.ModelEntry, settings: Mapping[str, Setting], read: Collection[str]
) -> None:
    """Raise UsageError for a change of features of a modality that is not among those read."""
    for modality in ("text", "image"):
        key = f"{modality}_features"
        if settings[key].value != STORED and modality not in read:
            name = f"{entry.name}:{entry.variant}" if entry.variant else entry.name
            raise UsageError(
                f"{key} = {settings[key].value}: {name} reads no {modality} features here; leave {key} out, or set it "
                f"for a model that reads them (--set MODEL.{key}=...)"
            )


def make_cell(
    *,
    results_dir: Path,
    prepared: Prepared,
    model: str,
    seed: int,
    overrides: Sequence[Layer],
) -> Cell:
    """Resolve a cell. Its folder is named by a hash of effective settings, features, protocol and a plugin's code."""
    entry = registry.find(model)
    settings = resolve_settings(entry, prepared, overrides)
    features, notes = choose_features(entry, prepared, settings)
    check_feature_changes(entry, settings, features)
    uses = {modality: stored.use for modality, stored in features.items()}
    protocol = comparison_protocol(prepared, settings)
    values = {key: settings[key].value for key in effective_settings(entry) - set(ENCODERS)}
    sources = choose_sources(values, prepared, features)
    config_id = configuration_id(
        model,
        values,
        uses,
        protocol=protocol,
        plugin=entry.plugin_facts(),
        sources=[source.use for source in sources],
    )
    return Cell(
        dataset=prepared.name, data_path=prepared.path, model=model, seed=seed, settings=settings,
        features=uses, protocol=protocol, config_id=config_id, notes=tuple(notes), sources=sources,
        path=store.cell_path(results_dir, dataset=prepared.name, model=model, config_id=config_id, seed=seed),
    )  # fmt: skip


def identities(features: Mapping[str, FeatureUse]) -> dict[str, str]:
    """Return what made some features, by modality: a result is identified by it."""
    return {modality: use.identity for modality, use in features.items()}


def configuration_id(
    model: str,
    settings: Mapping[str, Any],
    features: Mapping[str, FeatureUse],
    *,
    protocol: Mapping[str, Any],
    plugin: Mapping[str, str] | None = None,
    sources: Sequence[SourceUse] = (),
) -> str:
    """Return the name of a configuration, which differs wherever the result of a seed may differ.

    Features count by what made them, so that a result of another processor, whose features differ in the last
    digits, has the same name. Data sets of a pre-training count by their content. The model's name counts, so that
    no two models share a folder.

    plugin  package, version and code of a model from an installed package, whose author may change it any day
    """
    identity: dict[str, Any] = {
        "model": model,
        "settings": dict(settings),
        "features": identities(features),
        "protocol": dict(protocol),
        **({"plugin": dict(plugin)} if plugin else {}),
    }
    if sources:
        identity["sources"] = identities_of(sources)
    return hash_json(identity)[:10]


def comparison_protocol(prepared: Prepared, settings: Mapping[str, Setting]) -> dict[str, Any]:
    """Return the fields of the protocol that two rows must share to stand in the same table."""
    kept = {k: v for k, v in prepared.protocol.to_json().items() if k not in (*FROM_PROTOCOL, "name")}
    return {
        **kept,
        "data": prepared.hash,
        "mask_seen": settings["mask_seen"].value,
        "candidates": "all items",
        "ranks_of_ties": "expected",
        "metrics": METRIC_VERSION,
    }


def cell_of(record: store.RunRecord, data_dir: Path) -> Cell:
    """Return the cell of a record for ranking, without sources and trackers; RunError for data that changed since."""
    prepared = open_prepared(record.dataset, data_dir)
    if prepared.hash != record.data_hash:
        raise RunError(
            f"{record.path} was run on other data (hash {record.data_hash[:12]}, "
            f"{record.dataset} now has {prepared.hash[:12]})"
        )
    return Cell(
        dataset=record.dataset, data_path=prepared.path, model=record.model, seed=record.seed,
        settings=record.settings, features=record.features, protocol=record.protocol,
        config_id=record.config_id, path=record.path, notes=tuple(record.notes),
    )  # fmt: skip
