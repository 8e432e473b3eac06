"""colour-gradient: what it must see, what it must not, and that it is the same every time."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mmbench.features.image import ColourGradient, describe, to_lab
from tests.features.toy import picture


def shape(kind: str, colour: str, shift: int = 0) -> Image.Image:
    image = Image.new("RGB", (80, 100), "white")
    pen = ImageDraw.Draw(image)
    box = (15 + shift, 15, 60 + shift, 80)
    if kind == "circle":
        pen.ellipse(box, fill=colour)
    else:
        for x in range(box[0], box[2], 10):
            pen.rectangle((x, box[1], x + 4, box[3]), fill=colour)
    return image


def test_rows_have_length_one_and_equal_pictures_equal_rows() -> None:
    values, present = ColourGradient().encode([picture(1), None, picture(1), picture(2)])
    assert values.dtype == np.float32
    assert values.shape == (4, 594)
    assert present.tolist() == [True, False, True, True]
    assert not values[1].any()
    np.testing.assert_allclose(np.linalg.norm(values[[0, 2, 3]], axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(values[0], values[2])


def test_same_picture_same_bits_whatever_its_neighbours() -> None:
    """Pictures are worked on in chunks; the chunk must not show in the result."""
    many = [picture(seed) for seed in range(70)]
    alone = ColourGradient().encode([many[69]])[0]
    assert ColourGradient().encode(many)[0][69].tobytes() == alone[0].tobytes()


def test_colour_and_shape_both_bring_pictures_together() -> None:
    kinds = [("circle", "red"), ("circle", "blue"), ("stripes", "red"), ("stripes", "blue")]
    values, _ = ColourGradient().encode([shape(*kind) for kind in kinds] + [shape("circle", "red", shift=3)])
    near = values @ values.T
    assert near[4].argsort()[::-1][:2].tolist() == [4, 0]
    assert near[0, 3] < min(near[0, 1], near[0, 2])  # neither colour nor shape in common


def test_size_of_the_picture_does_not_matter() -> None:
    small, large = (shape("circle", "red").resize(size) for size in ((96, 120), (400, 500)))
    values, _ = ColourGradient().encode([small, large, shape("stripes", "red")])
    near = values @ values.T
    assert near[0, 1] > 0.97
    assert near[0, 1] > near[0, 2]


def test_lab_of_known_colours() -> None:
    """Published CIE L*a*b* (D65) values of sRGB primaries."""
    rgb = np.array([[1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1]], np.float32)
    known = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]]
    np.testing.assert_allclose(to_lab(rgb), known, atol=0.05)


def test_upright_and_lying_edges_fill_other_bins() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::8] = 255
    both = np.stack([np.stack([grey] * 3, axis=-1) for grey in (stripes, stripes.T)])
    gradient = describe(both)[:, -288:].reshape(2, 36, 8).sum(axis=1)
    assert gradient[0].argmax() == 0  # the gradient of upright edges runs along x
    assert gradient[1].argmax() == 4  # 90 degrees on


def test_no_pictures() -> None:
    assert ColourGradient().encode([])[0].shape == (0, 594)
    values, present = ColourGradient().encode([None, None])
    assert not values.any()
    assert not present.any()


@pytest.mark.realdata
@pytest.mark.skipif("MMBENCH_REAL_DATA" not in os.environ, reason="MMBENCH_REAL_DATA is not set")
def test_neighbours_among_real_products_are_of_the_same_kind() -> None:
    """300 H&M products: the 5 nearest share type and colour far more often than chance."""
    import pandas as pd

    folder = Path(os.environ["MMBENCH_REAL_DATA"]) / "hm-fashion"
    products = pd.read_csv(folder / "items.tsv.gz", sep="\t", dtype=str).drop_duplicates("product_code")
    products = products.sample(300, random_state=0)
    with zipfile.ZipFile(folder / "images.zip") as archive:
        files = [archive.read(f"{item}.jpg") for item in products["item_id"]]
    values, _ = ColourGradient().encode(Image.open(io.BytesIO(file)) for file in files)
    near = values @ values.T
    np.fill_diagonal(near, -1)
    nearest = near.argsort(axis=1)[:, -5:]
    for column, least in (("product_type_name", 4.0), ("colour_group_name", 1.6)):
        label = products[column].to_numpy(dtype=object)
        chance = (np.equal.outer(label, label).sum() - 300) / (300 * 299)
        share = (label[nearest] == label[:, None]).mean()
        assert share > least * chance, f"{column}: {share:.3f} against {chance:.3f} by chance"
