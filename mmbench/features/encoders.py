"""What an encoder is, and the names of those that ship with mmbench. Code is imported when one is built."""

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mmbench.errors import UsageError, suggest
from mmbench.features.store import Modality, check_modality


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


class NetworkEncoder(Protocol):
    """A pretrained network. It sees one batch at a time, so that its work can be interrupted and taken up again.

    Built by name with a device and a precision; weights are loaded at the first `run`, not before, because
    features that are already stored need `identity` only.
    """

    @property
    def name(self) -> str: ...

    @property
    def modality(self) -> Modality: ...

    def identity(self) -> dict[str, Any]:
        """Everything that decides the values (JSON): revision, hash of the weights, preprocessing, pooling."""
        ...

    def prepare(self, raw: Any) -> Input | None:
        """One `str` or RGB picture -> network input, on the CPU; None when nothing is left to encode."""
        ...

    def run(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Inputs of one batch -> float32 [B, D], or [B, layers, D] for one state per layer."""
        ...


ENCODERS: dict[Modality, dict[str, str]] = {
    "text": {"tfidf-svd": "mmbench.features.text:TfidfSvd"},
    "image": {"colour-gradient": "mmbench.features.image:ColourGradient"},
}
DEFAULT: dict[Modality, str] = {"text": "tfidf-svd", "image": "colour-gradient"}


def get_encoder(modality: str, name: str | None = None) -> Encoder:
    """Build an encoder by name; None = the modality's default. UsageError suggests the nearest name."""
    known = check_modality(modality)
    name = DEFAULT[known] if name is None else name
    if name not in ENCODERS[known]:
        raise UsageError(suggest(name, ENCODERS[known], what=f"{known} encoder"))
    module, _, attribute = ENCODERS[known][name].partition(":")
    encoder: Encoder = getattr(importlib.import_module(module), attribute)()
    return encoder
