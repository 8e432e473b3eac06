"""Features that stand in for the stored ones: what each change keeps and what it destroys."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from mmbench.models.base import Catalog
from mmbench.models.feature_change import change_features, gaussian
from mmbench.settings.feature_change import FeatureChange, FeatureText
from tests.models.toy import toy_catalog

ALL = ("shuffled:1", "shuffled-together:1", "random:1", "gauss:1", "constant", "zero")


def changed(text: str, catalog: Catalog | None = None, modality: str = "text") -> Catalog:
    return change_features(catalog or toy_catalog(), modality, FeatureChange.parse(text))


def rows(catalog: Catalog, modality: str = "text") -> Tensor:
    present: Tensor = getattr(catalog, f"has_{modality}")
    values: Tensor = getattr(catalog, f"{modality}_feat")
    return values[present]


@pytest.mark.parametrize("text", ALL)
@pytest.mark.parametrize(("modality", "other"), [("text", "image"), ("image", "text")])
def test_shapes_precision_presence_and_the_other_modality_stay(text: str, modality: str, other: str) -> None:
    before = toy_catalog()
    after = changed(text, before, modality)
    for name in (f"{modality}_feat", "layer_feat"):
        old, new = getattr(before, name), getattr(after, name)
        old, new = (old[modality], new[modality]) if name == "layer_feat" else (old, new)
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
        absent = ~getattr(before, f"has_{modality}")
        assert torch.equal(new[absent], old[absent]), "row 0 and items without the modality"
        assert not torch.equal(new, old)
    assert after.layer_feat[other] is before.layer_feat[other]
    for name in (f"has_{modality}", f"{other}_feat", f"has_{other}", "category_ids", "train_items"):
        assert getattr(after, name) is getattr(before, name)


@pytest.mark.parametrize("text", ALL)
def test_the_same_text_gives_the_same_numbers_and_another_seed_others(text: str) -> None:
    first, second = changed(text), changed(text)
    assert torch.equal(rows(first), rows(second))
    if ":" in text:
        assert not torch.equal(rows(first), rows(changed(text.replace("1", "2"))))


def test_stored_and_a_catalogue_without_the_modality_stay_the_same_object() -> None:
    catalog, bare = toy_catalog(), toy_catalog(features=False)
    assert changed("stored", catalog) is catalog
    assert changed("shuffled:1", bare) is bare


def test_a_shuffle_is_a_permutation_that_leaves_no_vector_in_its_place() -> None:
    for seed in range(30):
        before, after = rows(toy_catalog()), rows(changed(f"shuffled:{seed}"))
        source = (after[:, None] == before[None]).all(2)
        assert (source.sum(1) == 1).all(), "each vector is a stored one"
        assert source.int().argmax(1).unique().numel() == len(before), "each of them once"
        assert not source.diagonal().any()


def test_text_and_pictures_are_permuted_independently() -> None:
    catalog = toy_catalog()
    numbers = torch.arange(31.0)[:, None].expand(31, 4).contiguous()
    everywhere = torch.arange(31) > 0
    catalog = replace(
        catalog, text_feat=numbers, image_feat=numbers, has_text=everywhere, has_image=everywhere
    )
    text, image = changed("shuffled:1", catalog).text_feat, changed("shuffled:1", catalog, "image").image_feat
    assert text is not None
    assert image is not None
    assert (text == image).all(1)[1:].float().mean() < 0.3


def test_a_shuffle_moves_all_layers_of_an_item_together_and_as_its_one_vector() -> None:
    """So that duplicates stay duplicates, and two forms of the same features tell the same story."""
    catalog = toy_catalog()
    assert catalog.text_feat is not None
    deep = catalog.text_feat[:, None, :].repeat(1, 3, 1).half()
    after = changed("shuffled:4", replace(catalog, layer_feat={"text": deep}))
    assert after.text_feat is not None
    torch.testing.assert_close(after.layer_feat["text"], after.text_feat[:, None, :].repeat(1, 3, 1).half())


def test_random_vectors_have_the_norms_of_those_they_replace_and_no_direction_of_them() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2001, 40, generator=generator) * torch.rand(2001, 1, generator=generator) + 3
    values[0] = values[5] = 0
    present = torch.arange(2001) > 0
    catalog = replace(
        toy_catalog(), text_feat=values, has_text=present, layer_feat={"text": values[:, None].half()}
    )
    after = changed("random:1", catalog)
    new = rows(after)
    torch.testing.assert_close(new.norm(dim=1), values[present].norm(dim=1))
    assert not new[4].any(), "a vector without a length stays so"
    cosine = torch.cosine_similarity(new, values[present])
    assert abs(float(cosine.mean())) < 4 / 80_000**0.5  # 2,000 cosines of standard deviation 1 / sqrt(40)
    deep = after.layer_feat["text"][present, 0].float()
    torch.testing.assert_close(deep.norm(dim=1), values[present].norm(dim=1), rtol=2e-3, atol=1e-3)


def test_gauss_draws_have_the_mean_and_the_covariance_of_the_rows_whatever_its_rank() -> None:
    rng = np.random.default_rng(0)
    stored = torch.from_numpy(rng.normal(size=(60_000, 2)) @ rng.normal(size=(2, 5)) + rng.normal(size=5))
    drawn = gaussian(stored, torch.Generator().manual_seed(1)).numpy()
    np.testing.assert_allclose(drawn.mean(0), stored.mean(0), atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(stored.numpy().T), atol=0.06)
    assert np.linalg.matrix_rank(drawn - drawn.mean(0), tol=1e-6) == 2, "anisotropy is kept"
    few = gaussian(stored[:3], torch.Generator().manual_seed(1))
    assert few.shape == (3, 5)
    assert np.linalg.matrix_rank((few - stored[:3].mean(0)).numpy(), tol=1e-6) <= 2


def test_constant_is_the_mean_of_the_items_that_have_the_modality_layer_by_layer() -> None:
    catalog = toy_catalog()
    assert catalog.has_text is not None
    np.testing.assert_allclose(
        rows(changed("constant")), rows(catalog).double().mean(0).expand(28, 12), rtol=1e-5
    )
    states = catalog.layer_feat["text"][catalog.has_text].double().mean(0).half()
    assert torch.equal(changed("constant").layer_feat["text"][catalog.has_text], states.expand(28, 13, 12))
    assert not rows(changed("zero")).any()


def test_one_item_cannot_be_shuffled() -> None:
    catalog = replace(toy_catalog(), has_text=torch.arange(31) == 2)
    with pytest.raises(
        ValueError, match="text_features = shuffled needs two items with text; the data set has 1"
    ):
        changed("shuffled:1", catalog)


@pytest.mark.parametrize(
    "text", ["", "shuffled", "shuffled:", "shuffled:-1", "shuffled:1.5", "zero:1", "Random:1", "random:01"]
)
def test_another_text_is_refused(text: Any) -> None:
    with pytest.raises(ValidationError, match="must be stored, constant, zero, or with a seed shuffled:1"):
        TypeAdapter(FeatureText).validate_python(text)


def test_shuffled_together_moves_an_item_s_text_and_picture_to_the_same_item() -> None:
    before = toy_catalog()
    texts = change_features(before, "text", FeatureChange.parse("shuffled-together:3"))
    both = change_features(texts, "image", FeatureChange.parse("shuffled-together:3"))
    has_both = before.has_text & before.has_image  # type: ignore[operator]
    moved = 0
    for item in has_both.nonzero()[:, 0].tolist():
        (of_text,) = (before.text_feat == both.text_feat[item]).all(1).nonzero()[:, 0].tolist()  # type: ignore[index,union-attr]
        (of_image,) = (before.image_feat == both.image_feat[item]).all(1).nonzero()[:, 0].tolist()  # type: ignore[index,union-attr]
        assert of_text == of_image != item
        assert has_both[of_text]
        moved += 1
    assert moved > 10
    alone = change_features(before, "text", FeatureChange.parse("shuffled:3"))
    assert not torch.equal(rows(alone), rows(texts))
