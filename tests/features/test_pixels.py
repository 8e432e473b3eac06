"""Preprocessing of pictures: torchvision's own numbers, every size of picture, an identity that says it all."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from mmbench.features.pixels import IMAGENET_MEAN, IMAGENET_STD, LONGEST_STRIP, Pixels, middle
from mmbench.features.torchvision_import import prepare_torchvision
from tests.features.toy import picture

SIZES = [(40, 60), (61, 37), (224, 224), (300, 225), (97, 331), (1, 5)]


def smooth(size: tuple[int, int]) -> Image.Image:
    return picture(9).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crop_is_what_torchvision_does(size: tuple[int, int], interpolation: str) -> None:
    if prepare_torchvision() not in ("complete", "declared"):
        pytest.skip("no torchvision to compare with")
    import torch
    from torchvision.transforms import InterpolationMode, v2

    reference = v2.Compose([
        v2.Resize(64, InterpolationMode(interpolation), antialias=True), v2.CenterCrop(56),
        v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ])  # fmt: skip
    ours = Pixels(
        shape="crop", resize=64, crop=56, interpolation=interpolation,  # type: ignore[arg-type]
        mean=IMAGENET_MEAN, std=IMAGENET_STD,
    )  # fmt: skip
    actual = ours(smooth(size))
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, reference(smooth(size)).numpy(), atol=1e-6)


def test_squash_keeps_the_corners() -> None:
    image = Image.new("RGB", (40, 120))
    image.paste((255, 0, 0), (0, 100, 40, 120))
    actual = Pixels(shape="squash", crop=48)(image)
    assert actual.shape == (3, 48, 48)
    assert (actual[0, -4:] == 1).all()
    assert (actual[:, :36] == -1).all()


def test_pad_keeps_the_aspect_ratio_and_fills_with_white() -> None:
    actual = Pixels(shape="pad", crop=48)(Image.new("RGB", (40, 120)))
    black = (actual == -1).all(0)
    assert black.sum() == 16 * 48
    assert black[:, 16:32].all()
    assert (actual[:, :, :16] == 1).all()


def test_a_thin_strip_costs_no_more_than_its_middle() -> None:
    image = Image.new("RGB", (2, 200_000), (9, 9, 9))
    image.paste((255, 255, 255), (0, 100_000 - LONGEST_STRIP, 2, 100_000 + LONGEST_STRIP))
    assert middle(image).size == (2, 2 * LONGEST_STRIP)
    assert (Pixels(shape="crop", resize=64, crop=56)(image) == 1).all()
    assert middle(image.transpose(Image.Transpose.ROTATE_90)).size == (2 * LONGEST_STRIP, 2)
    assert middle(smooth((30, 480))).size == (30, 480)


def test_other_modes_become_rgb() -> None:
    assert (Pixels(shape="squash", crop=8)(Image.new("L", (5, 5), 255)) == 1).all()


def test_every_setting_shows_in_the_description() -> None:
    base = Pixels(shape="crop", resize=64, crop=56)
    changed = [
        {"shape": "squash"}, {"shape": "pad"}, {"resize": 65}, {"crop": 48}, {"interpolation": "bicubic"},
        {"mean": (0.1, 0.5, 0.5)}, {"std": (0.1, 0.5, 0.5)}, {"scale": 1.0},
    ]  # fmt: skip
    assert {part for each in changed for part in each} == {field.name for field in dataclasses.fields(Pixels)}
    texts = {json.dumps(dataclasses.replace(base, **change).describe()) for change in changed}  # type: ignore[arg-type]
    assert len(texts | {json.dumps(base.describe())}) == len(changed) + 1
