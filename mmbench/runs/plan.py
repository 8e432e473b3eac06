"""A cell of an experiment - a model on a data set with a seed - with everything that decides its result, resolved."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mmbench.atomic import hash_json
from mmbench.data.store import Prepared
from mmbench.errors import UsageError
from mmbench.evaluation import metrics
from mmbench.features.store import FeatureSet, default_encoder, load_features
from mmbench.features.use import FeatureUse
from mmbench.models import registry
from mmbench.runs import store
from mmbench.settings.config import Setting, TrainConfig, build, defaults_of, resolve

METRIC_VERSION = 1  # raised when a metric's definition changes; rows with different versions never mix
FROM_PROTOCOL = ("max_len", "selection_metric", "patience", "mask_seen")
RANKING_SETTINGS = ("max_len", "mask_seen", "precision")
LATER_SETTINGS = {"compile": False}  # added after results were stored
ENCODERS = ("text_encoder", "image_encoder")  # a result is identified by the features read, not by their name


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Everything that decides a result, resolved; made in the parent process, run anywhere."""

    dataset: str
    data_path: Path
    model: str
    seed: int
    settings: dict[str, Setting]
    features: dict[str, FeatureUse]  # by modality; used ones only
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
    prepared: Prepared,
    overrides: list[tuple[str, Mapping[str, Any]]],
) -> dict[str, Setting]:
    """All settings of a model on a data set with the source of each value, validated."""
    protocol = {key: getattr(prepared.protocol, key) for key in FROM_PROTOCOL}
    layers: list[tuple[str, Mapping[str, Any]]] = [
        ("default", defaults_of(TrainConfig)),
        (f"protocol {prepared.protocol.name}", protocol),
        *entry.layers(prepared.name),
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
    wanted = [one for one in ("text", "image") if one in entry.recipe.inputs and model.reads(config, one)]
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


def settings_of_use(entry: registry.ModelEntry) -> set[str]:
    """Settings that can change what a model does: not those of training where nothing is trained, and so on."""
    own = {one.name for one in fields(entry.config_class())}
    ranking = own.union(RANKING_SETTINGS, ENCODERS)
    keys = set(entry.known_settings()) if entry.load().trainable else ranking
    return keys - {f"{one}_encoder" for one in ("text", "image") if one not in entry.recipe.inputs}


def make_cell(
    *,
    results_dir: Path,
    prepared: Prepared,
    model: str,
    seed: int,
    overrides: list[tuple[str, Mapping[str, Any]]],
) -> Cell:
    """Resolve a cell; its folder's name is a hash of everything but the seed and the code."""
    entry = registry.find(model)
    settings = resolve_settings(entry, prepared, overrides)
    features, notes = choose_features(entry, prepared, settings)
    protocol = comparable(prepared, settings)
    if entry.load().trainable:
        metrics.parse_metric(settings["selection_metric"].value).check(prepared.n_items)
    keys = settings_of_use(entry) - set(ENCODERS)
    identity = {
        "settings": {key: settings[key].value for key in sorted(keys) if not _came_later(key, settings[key])},
        "features": {modality: one.use.identity for modality, one in features.items()},
        "protocol": protocol,
    }
    config_id = hash_json(identity)[:10]
    return Cell(
        dataset=prepared.name, data_path=prepared.path, model=model, seed=seed, settings=settings,
        features={modality: one.use for modality, one in features.items()},
        protocol=protocol, config_id=config_id, notes=tuple(notes),
        path=store.cell_path(results_dir, dataset=prepared.name, model=model, config_id=config_id, seed=seed),
    )  # fmt: skip


def _came_later(key: str, setting: Setting) -> bool:
    """A setting that older results lack, at the value that means what they did: it leaves their names alone."""
    return key in LATER_SETTINGS and setting.value == LATER_SETTINGS[key]


def comparable(prepared: Prepared, settings: Mapping[str, Setting]) -> dict[str, Any]:
    """The protocol's fields that two rows must share to stand in one table."""
    kept = {k: v for k, v in prepared.protocol.to_json().items() if k not in (*FROM_PROTOCOL, "name")}
    return {
        **kept,
        "data": prepared.hash,
        "mask_seen": settings["mask_seen"].value,
        "candidates": "all items",
        "ranks_of_ties": "expected",
        "metrics": METRIC_VERSION,
    }
