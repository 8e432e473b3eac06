"""tfidf-svd: unit rows, near texts near, the same every time, every odd text handled."""

import numpy as np
import pytest

from mmbench.features.text import TfidfSvd

TEXTS = [
    "Cherry red lip stick, Makeup", "Rose lip stick, Makeup", "Lip stick set, Makeup",
    "Steel frying pan, Kitchen", "Iron frying pan, Kitchen", "Frying pan with lid, Kitchen",
]  # fmt: skip


def test_rows_have_length_one_and_near_texts_are_near() -> None:
    values, present = TfidfSvd().encode(TEXTS)
    assert values.dtype == np.float32
    assert values.shape == (6, 6)  # no more directions than texts
    assert present.all()
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, rtol=1e-5)
    near = values @ values.T
    assert near[:3, :3].min() > near[:3, 3:].max()
    assert near[3:, 3:].min() > near[:3, 3:].max()


def test_full_width_keeps_the_angles_of_tfidf() -> None:
    """With as many directions as texts nothing is cut, so the SVD must be a rotation of the TF-IDF rows."""
    encoder = TfidfSvd()
    weights = encoder._weights(TEXTS).toarray()
    values, _ = encoder.encode(TEXTS)
    np.testing.assert_allclose(values @ values.T, weights @ weights.T, atol=1e-5)


def test_same_texts_same_bits() -> None:
    first, second = (TfidfSvd().encode(TEXTS)[0] for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_signs_do_not_depend_on_the_solver() -> None:
    """Another random start of the solver may flip components; the largest loading decides the sign."""
    first, two = (TfidfSvd(random_state=seed).encode(TEXTS)[0] for seed in (0, 7))
    np.testing.assert_allclose(first, two, atol=1e-4)


def test_dim_is_the_limit() -> None:
    assert TfidfSvd(dim=2).encode(TEXTS)[0].shape == (6, 2)


def test_absent_texts_are_zero_and_do_not_move_the_others_apart() -> None:
    values, present = TfidfSvd().encode([*TEXTS, None, "", "... !"])
    assert present.tolist() == [True] * 6 + [False] * 3
    assert not values[6:].any()


@pytest.mark.parametrize(
    ("texts", "width"), [([None, "!"], 0), (["a", "a"], 1), (["one word"], 1), (["naïve café"] * 3, 3)]
)
def test_tiny_catalogues(texts: list[str | None], width: int) -> None:
    values, present = TfidfSvd().encode(texts)
    assert values.shape == (len(texts), width)
    assert present.tolist() == [text is not None and text != "!" for text in texts]


def test_accents_and_case_do_not_matter() -> None:
    values, _ = TfidfSvd().encode(["CAFÉ noir", "cafe NOIR", "tea"])
    np.testing.assert_allclose(values[0], values[1], atol=1e-6)
