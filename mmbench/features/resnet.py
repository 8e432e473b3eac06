"""`resnet50`: torchvision's ResNet-50 trained on ImageNet, with pooled features of 2048 numbers (TMMSRec).

Weights: IMAGENET1K_V1. TMMSRec names the network only; V1 is what `resnet50(pretrained=True)` always meant, and what
the paper that TMMSRec cites used. They come from torch.hub's cache or, once, from its server. To use other ResNet-50
weights, set the environment variable MMBENCH_RESNET50 to their file.
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbench.errors import DataError, UsageError
from mmbench.features.picture_network import ConvolutionalNetwork, Forward, load_strict
from mmbench.features.pixels import IMAGENET_MEAN, IMAGENET_STD, Pixels
from mmbench.features.pretrained import Checkpoint
from mmbench.features.torchvision_import import prepare_torchvision

if TYPE_CHECKING:
    import torch

NAME = "resnet50"
FILE = "MMBENCH_RESNET50"  # the environment variable that names a file of weights
PUBLISHED = "resnet50-0676ba61.pth"  # IMAGENET1K_V1; the digits are the first of the file's sha256
URL = f"https://download.pytorch.org/models/{PUBLISHED}"
PIXELS = Pixels(shape="crop", resize=256, crop=224, mean=IMAGENET_MEAN, std=IMAGENET_STD)


class ResNet50(ConvolutionalNetwork):
    """Encodes a picture as 2048 non-negative numbers: the input of torchvision's classifier."""

    known_as, preprocessing = NAME, PIXELS

    def describe(self) -> dict[str, Any]:
        weights = weights_file()
        return {
            "network": "torchvision resnet50",
            "weights": weights.name,
            "weights_sha256": _hash(weights),
            "preprocessing": PIXELS.describe(),
            "pooling": "mean over space of the last feature map",
        }

    def build(self) -> tuple["torch.nn.Module", Forward]:
        if prepare_torchvision() not in ("complete", "declared"):
            raise UsageError(
                f"the image encoder {NAME} needs torchvision, which is missing or broken here; see: mmbench doctor"
            )
        import torch
        from torchvision.models import resnet50

        network = resnet50(weights=None)
        # Files from before 2018 lack the counts of batches, which eval mode does not read.
        load_strict(network, weights_file(), unused=["fc.*", "*.num_batches_tracked"])
        network.fc = torch.nn.Identity()
        return network, network


def cached_file() -> Path:
    """Return the path at which torch.hub keeps the published weights."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / PUBLISHED


def weights_file() -> Path:
    """Return the file that MMBENCH_RESNET50 names, else the published file, which is fetched if torch.hub lacks it."""
    named = os.environ.get(FILE)
    if named:
        if not Path(named).is_file():
            raise UsageError(f"{FILE} names {named}, which is not a file; give a .pth of ResNet-50 weights")
        return Path(named)
    path = cached_file()
    if not path.is_file():
        _fetch(path)
    digits = re.findall(r"-([0-9a-f]{8,})\.", PUBLISHED)[0]
    if not _hash(path).startswith(digits):
        raise DataError(
            f"{path} is damaged: its sha256 does not begin with {digits}; remove it and try again"
        )
    return path


def _fetch(path: Path) -> None:
    import torch

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The function writes beside the file, compares the hash and renames.
        torch.hub.download_url_to_file(URL, str(path), hash_prefix=PUBLISHED[-12:-4], progress=False)
    except Exception as error:  # urllib, http, ssl and the system have different error classes
        raise DataError(
            f"cannot fetch {URL} ({' '.join(str(error).split())}); put the file into {path.parent}, "
            f"or name a file of weights in {FILE}"
        ) from error


def _hash(path: Path) -> str:
    return Checkpoint(path.parent).hashes([path])[path.name]
