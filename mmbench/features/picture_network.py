"""What the networks for pictures share: device, loading once, batches, strictly checked `.pth` weights."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmbench.errors import DataError, UsageError
from mmbench.features.encoders import Input
from mmbench.features.manifest import Modality
from mmbench.features.pixels import Pixels
from mmbench.features.pretrained import check_whole, mixed, resolve_device
from mmbench.runtime import known_by_old_names

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

Forward = Callable[["torch.Tensor"], "torch.Tensor"]  # float32 [B, 3, H, W] -> [B, D] or [B, layers, D]


class PictureNetwork(ABC):
    """Base of the network encoders of pictures; a subclass defines `describe`, `pixels` and `build`.

    `channels_last`: set by convolutional networks; on a CPU it makes them about three times as fast.
    """

    modality: Modality = "image"
    channels_last = False

    def __init__(self, name: str, *, device: str = "auto", precision: str = "auto") -> None:
        self.name = name
        self._requested = (device, precision)

    @cached_property
    def _resolved(self) -> tuple[str, str]:
        return resolve_device(*self._requested)

    @property
    def device(self) -> str:
        return self._resolved[0]

    @property
    def precision(self) -> str:
        """float32, bfloat16 or float16. It decides the last digits of the values, so it is part of the identity."""
        return self._resolved[1]

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what decides the values besides the precision: network, weights, preprocessing, pooling."""

    @abstractmethod
    def pixels(self, image: "Image") -> np.ndarray:
        """Convert an RGB picture to float32 [3, H, W]."""

    @abstractmethod
    def build(self) -> tuple["torch.nn.Module", Forward]:
        """Return the network on the CPU with all its weights, and the function that computes features with it."""

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "version": 1, **self.describe(), "precision": self.precision}

    def prepare(self, raw: "Image") -> Input | None:
        return Input(self.pixels(raw))

    def load(self) -> None:
        _ = self._forward

    @cached_property
    def _forward(self) -> Forward:
        import torch

        network, forward = self.build()
        with known_by_old_names():  # torch gives its notice once, so `run` is quiet
            _ = torch.backends.cudnn.allow_tf32
        network.eval().requires_grad_(False).to(self.device)
        if self.channels_last:
            # Only the layout changes; torch's stubs know this call with a device or a dtype only.
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return forward

    def run(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Return float32 [B, D] or [B, layers, D] for pictures of float32 [3, H, W]."""
        import torch

        forward = self._forward
        pixels = torch.from_numpy(np.stack(batch)).to(self.device)
        if self.channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        # float32 must mean float32: on a GPU, convolutions would otherwise be rounded to TF32.
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.inference_mode(), mixed(self.device, self.precision), exact:
            values = forward(pixels)
        return values.float().cpu().numpy()


class ConvolutionalNetwork(PictureNetwork):
    """Base of networks with a fixed name, preprocessing and pooling, and without [CLS] states."""

    known_as: str
    preprocessing: Pixels
    channels_last = True

    def __init__(
        self,
        name: str = "",
        *,
        source: str = "",
        pooling: str | None = None,
        layers: bool = False,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        known = self.known_as
        if pooling is not None or layers:
            raise UsageError(
                f"the image encoder {known} has a fixed pooling and no [CLS] states; write {known} alone"
            )
        super().__init__(name or known, device=device, precision=precision)

    def pixels(self, image: "Image") -> np.ndarray:
        return self.preprocessing(image)


def load_strict(network: "torch.nn.Module", path: Path, *, unused: Sequence[str] = ()) -> None:
    """Fill `network` from a `.pth` file of tensors; every weight must exist, fit, and be needed.

    unused  patterns of weights that may be missing, because no output that is read depends on them
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and the system have different error classes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path} is not a readable file of weights ({reason}); get it again") from error
    if not isinstance(state, Mapping) or not all(
        isinstance(tensor, torch.Tensor) for tensor in state.values()
    ):
        raise DataError(f"{path} does not hold named tensors; save a state dict with torch.save")
    wanted = network.state_dict()
    check_whole(
        path,
        [
            name
            for name in wanted
            if name not in state and not any(fnmatchcase(name, pattern) for pattern in unused)
        ],
        [name for name in state if name not in wanted],
    )
    for name in state:
        if state[name].shape != wanted[name].shape:
            raise DataError(
                f"{path}: {name} has shape {list(state[name].shape)}, the network needs "
                f"{list(wanted[name].shape)}; give the file that belongs to it"
            )
    network.load_state_dict(state, strict=False)  # checked strictly above, except for the unused weights
