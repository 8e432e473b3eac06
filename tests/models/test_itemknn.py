"""ItemKNN and ItemKNN-CBF: section "How to check it" of their specification."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmbench.errors import UsageError
from mmbench.models.base import Catalog
from mmbench.nn import neighbours
from mmbench.nn.neighbours import Neighbours, recency_weight, top_k
from tests.models.toy import catalog_of, history_batch, toy_catalog, toy_model, toy_view, view_of


def matrix_of(model: Any) -> Tensor:
    """The pruned similarities as a dense matrix [N, N], row = source."""
    table = model.neighbours
    source = torch.repeat_interleave(torch.arange(table.n_items + 1), table.offsets.diff())
    dense = torch.zeros(table.n_items + 1, table.n_items + 1, dtype=torch.float64)
    dense[source, table.targets] = table.values.double()
    return dense[1:, 1:]


def events(catalog: Catalog, *, binary: bool = True) -> np.ndarray:
    """R [U, N]."""
    matrix = np.zeros((catalog.n_users, catalog.n_items + 1))
    np.add.at(matrix, (catalog.histories.users.numpy(), catalog.train_items.numpy()), 1)
    return (matrix > 0).astype(float)[:, 1:] if binary else matrix[:, 1:]


def dense_similarity(
    r: np.ndarray, *, shrink: float = 0.0, asymmetry: float = 0.5, idf: np.ndarray | float = 1.0
) -> np.ndarray:
    """The specification's formula with loops, [source, target], zero diagonal."""
    r = r * idf
    n_items = r.shape[1]
    actual = np.zeros((n_items, n_items))
    for j in range(n_items):
        for i in range(n_items):
            if i != j:
                target, source = np.linalg.norm(r[:, i]), np.linalg.norm(r[:, j])
                scale = target ** (2 * asymmetry) * source ** (2 - 2 * asymmetry)
                actual[j, i] = r[:, j] @ r[:, i] / (scale + shrink + 1e-6)
    return actual


def pruned(similarity: np.ndarray, k: int, *, by_target: bool) -> np.ndarray:
    """Keep the k largest of each column (or row), ties to the smaller id, zeros are none."""
    s = similarity.T if by_target else similarity
    kept = np.zeros_like(s)
    for row in range(len(s)):
        order = sorted(
            (i for i in range(len(s)) if s[row, i] != 0 and i != row), key=lambda i: (-s[row, i], i)
        )
        kept[row, order[:k]] = s[row, order[:k]]
    return kept.T if by_target else kept


def test_hand_example() -> None:
    catalog = catalog_of(view_of([[1, 2], [1, 2], [2, 3]]), n_items=4, features=False)
    w = matrix_of(toy_model("itemknn", catalog))
    assert w[0, 1].item() == pytest.approx(2 / 6**0.5, rel=1e-6)
    assert w[0, 2] == 0
    assert w[1, 2].item() == pytest.approx(1 / 3**0.5, rel=1e-6)
    assert torch.equal(w, w.T)
    assert not w.diagonal().any()
    assert not w[3].any()


@pytest.mark.parametrize("prune", ["target", "source"])
@pytest.mark.parametrize(
    "setting",
    [{}, {"shrink": 3.0}, {"asymmetry": 0.3}, {"values": "count"}, {"use_idf": True, "shrink": 1.0}],
    ids=str,
)
def test_similarity_is_the_dense_formula(prune: str, setting: dict[str, Any]) -> None:
    catalog = toy_catalog(n_items=15)
    r = events(catalog, binary=setting.get("values") != "count")
    idf: np.ndarray | float = 1.0
    if setting.get("use_idf"):
        idf = np.log(catalog.n_users / np.maximum((r > 0).sum(0), 1))
    expected = dense_similarity(
        r, shrink=setting.get("shrink", 0.0), asymmetry=setting.get("asymmetry", 0.5), idf=idf
    )
    for k in (14, 3):
        w = matrix_of(toy_model("itemknn", catalog, k=k, prune=prune, **setting))
        want = pruned(expected, k, by_target=prune == "target")
        np.testing.assert_allclose(w.numpy(), want, rtol=1e-6, atol=1e-9)
        if k == 3:
            assert ((w != 0).sum(0 if prune == "target" else 1) <= 3).all()


@pytest.mark.parametrize("name", ["itemknn", "itemknn-cbf"])
@pytest.mark.parametrize("block", [1, 7, 30])
def test_blocks_do_not_matter(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = matrix_of(toy_model(name, toy_catalog(), k=4))
    monkeypatch.setattr(neighbours, "BLOCK", block)
    torch.testing.assert_close(matrix_of(toy_model(name, toy_catalog(), k=4)), whole, rtol=1e-6, atol=1e-7)


def test_set_scoring_is_r_times_w() -> None:
    view = toy_view(longest=8)
    catalog = catalog_of(view, n_items=30, features=False)
    model = toy_model("itemknn", catalog, distinct=True, k=5)
    histories = [h.tolist() for h in np.split(view.items, view.offsets[1:-1])]
    score = model.score(history_batch(model, histories))
    expected = torch.from_numpy(events(catalog)) @ matrix_of(model)
    torch.testing.assert_close(score, expected)
    assert score.dtype == torch.float64


def test_last_item_scoring_is_its_row_of_w() -> None:
    model = toy_model("itemknn:last", toy_catalog())
    score = model.score(history_batch(model, [[4, 9, 2], [7]]))
    assert torch.equal(score, matrix_of(model)[[1, 6]])


def test_sequence_scoring_weighs_by_recency() -> None:
    model = toy_model("itemknn", toy_catalog(), decay=0.5)
    w = matrix_of(model)
    expected = w[3] / 8 + w[8] / 4 + w[3] / 2 + w[1]
    torch.testing.assert_close(model.score(history_batch(model, [[4, 9, 4, 2]]))[0], expected)
    once = toy_model("itemknn", toy_catalog(), decay=0.5, distinct=True)
    expected = w[8] / 4 + w[3] / 2 + w[1]
    torch.testing.assert_close(once.score(history_batch(once, [[4, 9, 4, 2]]))[0], expected)


def test_recency_weights() -> None:
    item = torch.tensor([[5, 6, 5, 0], [7, 0, 0, 0]])
    mask = item > 0
    assert recency_weight(item, mask, decay=0.5, distinct=False).tolist() == [[0.25, 0.5, 1, 0], [1, 0, 0, 0]]
    assert recency_weight(item, mask, decay=0.5, distinct=True).tolist() == [[0, 0.5, 1, 0], [1, 0, 0, 0]]
    assert recency_weight(item, mask, decay=0.0, distinct=False).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert recency_weight(item, mask, decay=1.0, distinct=False).tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


def test_idf_weighs_history_items_too() -> None:
    catalog = toy_catalog(n_items=15)
    model = toy_model("itemknn", catalog, use_idf=True)
    n_users = (events(catalog) > 0).sum(0)
    idf = np.log(catalog.n_users / n_users)
    expected = idf[3] * matrix_of(model)[3] + idf[8] * matrix_of(model)[8]
    torch.testing.assert_close(model.score(history_batch(model, [[4, 9]]))[0], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["itemknn", "itemknn-cbf"])
def test_self_similarity_is_beside_the_k_neighbours(name: str) -> None:
    plain, repeats = (
        matrix_of(toy_model(name, toy_catalog(), k=3, self_sim=similarity)) for similarity in (0.0, 1.0)
    )
    assert not plain.diagonal().any()
    torch.testing.assert_close(repeats - plain, torch.eye(30, dtype=torch.float64))


def test_popularity_breaks_ties() -> None:
    catalog = toy_catalog()
    model = toy_model("itemknn", catalog, pop_weight=1e-6)
    batch = history_batch(model, [[4, 9]])
    plain = toy_model("itemknn", catalog).score(batch)
    count = torch.bincount(catalog.train_items, minlength=31)[1:].double()
    torch.testing.assert_close(model.score(batch), plain + 1e-6 * count / count.max(), rtol=0, atol=1e-15)
    untouched = (plain[0] == 0).nonzero()[:, 0]
    order = model.score(batch)[0, untouched].argsort(descending=True, stable=True)
    assert torch.equal(count[untouched][order], count[untouched].sort(descending=True).values)


def test_permuting_item_ids_permutes_scores() -> None:
    view = toy_view()
    rename = np.concatenate([[0], np.random.default_rng(0).permutation(30) + 1])
    renamed = replace(view, items=rename[view.items])
    model = toy_model("itemknn", catalog_of(view, n_items=30, features=False), k=29)
    other = toy_model("itemknn", catalog_of(renamed, n_items=30, features=False), k=29)
    history = [4, 9, 2, 9]
    score = model.score(history_batch(model, [history]))[0]
    permuted = other.score(history_batch(other, [rename[history].tolist()]))[0]
    assert torch.equal(permuted[rename[1:] - 1], score)


def test_equal_sums_are_equal_numbers() -> None:
    """Two candidates with the same similarities to different items tie, in whatever order they are added."""
    table = Neighbours(
        torch.tensor([1, 2, 3, 1, 2, 3]), torch.tensor([4, 4, 4, 5, 5, 5]),
        torch.tensor([0.1, 0.2, 0.3, 0.3, 0.2, 0.1], dtype=torch.float64), n_items=5,
    )  # fmt: skip
    score = table.score(torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.float64))[0]
    assert 0.1 + 0.2 + 0.3 != 0.3 + 0.2 + 0.1, "numbers that show nothing"
    assert score[3] == score[4]
    assert not score[:3].any()


@given(
    values=st.lists(
        st.lists(st.sampled_from([float("-inf"), -1.0, 0.0, 0.5, 2.0]), min_size=6, max_size=6),
        min_size=1,
        max_size=4,
    ),
    k=st.integers(1, 8),
)
@settings(max_examples=100, deadline=None)
def test_top_k_takes_the_smaller_id_of_equal_values(values: list[list[float]], k: int) -> None:
    kept = top_k(torch.tensor(values), k)
    for row, mask in zip(values, kept.tolist(), strict=True):
        order = sorted((i for i in range(6) if row[i] > float("-inf")), key=lambda i: (-row[i], i))
        assert [i for i in range(6) if mask[i]] == sorted(order[:k])


def content_by_hand(catalog: Catalog, image_weight: float) -> Tensor:
    """[N, N] weighted cosines, zero diagonal and zero where a feature is missing."""
    total = torch.zeros(catalog.n_items, catalog.n_items)
    for weight, feat in ((1 - image_weight, catalog.text_feat), (image_weight, catalog.image_feat)):
        assert feat is not None
        unit = torch.nn.functional.normalize(feat[1:], dim=1)
        total += weight * unit @ unit.T
    return total.fill_diagonal_(0).double()


@pytest.mark.parametrize("image_weight", [0.0, 0.3, 1.0])
def test_content_similarity_is_the_weighted_cosine(image_weight: float) -> None:
    catalog = toy_catalog()
    model = toy_model("itemknn-cbf", catalog, k=29, image_weight=image_weight)
    expected = content_by_hand(catalog, image_weight)
    torch.testing.assert_close(matrix_of(model), expected, rtol=1e-5, atol=1e-6)
    assert not matrix_of(model)[2].any(), "item 3 has neither text nor picture"
    for prune in ("target", "source"):
        w = matrix_of(toy_model("itemknn-cbf", catalog, k=4, image_weight=image_weight, prune=prune))
        assert ((w != 0).sum(0 if prune == "target" else 1) <= 4).all()
        kept = w[w != 0]
        torch.testing.assert_close(kept, expected[w != 0], rtol=1e-5, atol=1e-6)


def test_content_reacts_to_features_alone() -> None:
    catalog = toy_catalog()
    first = matrix_of(toy_model("itemknn-cbf", catalog))
    scale = torch.rand(31, 1, generator=torch.Generator().manual_seed(0)) * 9 + 0.1
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1))).Q
    assert catalog.text_feat is not None
    assert catalog.image_feat is not None
    other = replace(
        catalog, text_feat=catalog.text_feat * scale @ rotation, image_feat=catalog.image_feat * scale
    )
    torch.testing.assert_close(matrix_of(toy_model("itemknn-cbf", other)), first, rtol=1e-4, atol=1e-5)
    shuffled = replace(catalog, train_items=catalog.train_items.flip(0))
    assert torch.equal(matrix_of(toy_model("itemknn-cbf", shuffled)), first)


def test_content_scoring_weighs_by_recency() -> None:
    catalog = toy_catalog()
    model, once = (
        toy_model("itemknn-cbf", catalog, decay=0.5, distinct=distinct) for distinct in (False, True)
    )
    w = matrix_of(model)
    expected = w[3] / 8 + w[8] / 4 + w[3] / 2 + w[1]
    torch.testing.assert_close(model.score(history_batch(model, [[4, 9, 4, 2]]))[0], expected)
    expected = w[8] / 4 + w[3] / 2 + w[1]
    torch.testing.assert_close(once.score(history_batch(once, [[4, 9, 4, 2]]))[0], expected)


def test_concatenated_form_with_shrink() -> None:
    catalog = toy_catalog()
    model = toy_model("itemknn-cbf", catalog, form="concatenated", shrink=10.0, k=29)
    assert catalog.text_feat is not None
    assert catalog.image_feat is not None
    feat = torch.cat([catalog.text_feat, catalog.image_feat], 1)[1:]
    norm = feat.norm(dim=1)
    expected = (feat @ feat.T / (norm[:, None] * norm + 10)).fill_diagonal_(0).double()
    torch.testing.assert_close(matrix_of(model), expected, rtol=1e-5, atol=1e-6)


def test_one_modality_is_enough_and_none_is_an_error() -> None:
    catalog = toy_catalog()
    only_text = replace(catalog, image_feat=None, has_image=None)
    model = toy_model("itemknn-cbf", only_text, k=29)
    torch.testing.assert_close(matrix_of(model), content_by_hand(catalog, 0.0), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="need text or image features"):
        toy_model("itemknn-cbf", replace(only_text, text_feat=None, has_text=None))
    with pytest.raises(UsageError, match="needs form = 'concatenated'"):
        toy_model("itemknn-cbf", catalog, shrink=1.0)
    broken = replace(catalog, text_feat=torch.full((31, 12), float("nan")))
    with pytest.raises(ValueError, match="not a finite number"):
        toy_model("itemknn-cbf", broken)


@pytest.mark.parametrize("name", ["itemknn", "itemknn:last", "itemknn-cbf", "itemknn-cbf:mmrec"])
def test_state_is_the_model(name: str) -> None:
    """An empty history scores nothing, and the buffers alone reproduce the scores."""
    catalog = toy_catalog()
    first, second = toy_model(name, catalog, seed=0), toy_model(name, catalog, seed=1)
    batch = history_batch(first, [[4, 9, 2], []])
    before = first.score(batch)
    assert before[0].any()
    assert not before[1].any()
    second.load_state_dict(first.state_dict())
    assert torch.equal(before, second.to(torch.float32).score(batch))
    assert not list(first.parameters())
