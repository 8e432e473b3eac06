"""EASE: section "How to check it" of its specification, and oracles that form no inverse of the whole matrix."""

import sys
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmbench.models import registry
from mmbench.models.base import Catalog
from tests.models.toy import catalog_of, history_batch, toy_catalog, toy_model, toy_view, view_of

SMALL = [[1, 2, 3], [1, 2], [1, 4], [1, 2, 4, 5], [3, 5], [2], [1]]  # of six items, the last one cold
HISTORY = [1, 3, 1]
EXACT = {"solve_precision": "float64"}


def small_catalog(histories: Sequence[Sequence[int]] = SMALL, n_items: int = 6) -> Catalog:
    return catalog_of(view_of(histories), n_items=n_items, features=False)


def events(catalog: Catalog, values: str = "binary") -> np.ndarray:
    """X [U, N]."""
    matrix = np.zeros((catalog.n_users, catalog.n_items + 1))
    np.add.at(matrix, (catalog.histories.users.numpy(), catalog.train_items.numpy()), 1)
    return (np.minimum(matrix, 1) if values == "binary" else matrix)[:, 1:]


def column_by_hand(x: np.ndarray, j: int, reg_weight: float) -> np.ndarray:
    """Ridge regression of x_j on all other columns, [N]; 0 at j itself."""
    others = np.delete(np.arange(x.shape[1]), j)
    left = x[:, others].T @ x[:, others] + reg_weight * np.eye(len(others))
    column = np.zeros(x.shape[1])
    column[others] = np.linalg.solve(left, x[:, others].T @ x[:, j])
    return column


def matrix_by_hand(x: np.ndarray, reg_weight: float) -> np.ndarray:
    """B [N, N], one regression a column."""
    return np.stack([column_by_hand(x, j, reg_weight) for j in range(x.shape[1])], 1)


def weights_of(model: Any) -> Tensor:
    """B [N, N] as the model scores single items."""
    every = [[item] for item in range(1, model.n_items + 1)]
    return model.score(history_batch(model, every)).double()


def test_hand_example() -> None:
    catalog = small_catalog([[1, 2], [1, 2, 3], [3], [1]], n_items=3)
    for solver in ("dense", "dual", "sparse"):
        b = weights_of(toy_model("ease", catalog, reg_weight=1.0, solver=solver, **EXACT))
        printed = [[0, 5 / 11, 1 / 8], [5 / 8, 0, 1 / 4], [1 / 8, 2 / 11, 0]]
        torch.testing.assert_close(b, torch.tensor(printed).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("solver", ["dense", "dual"])
@pytest.mark.parametrize(
    ("settings", "printed"),
    [
        (
            {"decay": 1.0, "distinct": True},
            [0.1447368421, 0.5109034268, 0.1067961165, 0.1412803532, 0.2352941176, 0],
        ),
        ({"decay": 0.5}, [0.0723684211, 0.5451713396, 0.1334951456, 0.2693156733, 0.1247058824, 0]),
        (
            {"decay": 0.5, "alpha": 0.5},
            [0.0323641418, 0.2725856698, 0.0943953227, 0.1904349389, 0.0881803751, 0],
        ),
    ],
    ids=str,
)
def test_numbers_of_the_specification(solver: str, settings: dict[str, Any], printed: list[float]) -> None:
    model = toy_model("ease", small_catalog(), reg_weight=2.0, solver=solver, **EXACT, **settings)
    assert model.score(history_batch(model, [HISTORY]))[0].tolist() == pytest.approx(printed, abs=6e-11)


def test_weights_of_the_specification() -> None:
    printed = {
        (1, 2): 0.3862928349, (2, 1): 0.4078947368, (1, 3): 0.1067961165, (3, 1): 0.1447368421,
        (4, 3): -0.1359223301, (3, 4): -0.1236203091,
    }  # fmt: skip
    b = weights_of(toy_model("ease", small_catalog(), reg_weight=2.0, solver="dense", **EXACT))
    for (source, target), value in printed.items():
        assert b[source - 1, target - 1].item() == pytest.approx(value, abs=6e-11)


@pytest.mark.parametrize("values", ["binary", "count"])
@pytest.mark.parametrize("n_users", [20, 60])  # fewer and more than there are items
@pytest.mark.parametrize("solver", ["dense", "dual"])
def test_columns_are_ridge_regressions(solver: str, n_users: int, values: str) -> None:
    catalog = catalog_of(toy_view(n_users=n_users), n_items=33, features=False)  # items 31 to 33 are cold
    x = events(catalog, values)
    model = toy_model("ease", catalog, reg_weight=3.0, solver=solver, values=values, **EXACT)
    b = weights_of(model).numpy()
    np.testing.assert_allclose(b, matrix_by_hand(x, 3.0), rtol=0, atol=1e-9)
    assert not np.diag(b).any() or solver == "dual"
    np.testing.assert_allclose(np.diag(b), 0, atol=1e-12)
    # Off the row j, (G + lambda I) B_j equals G_j.
    g = x.T @ x
    left = (g + 3.0 * np.eye(33)) @ b
    off = ~np.eye(33, dtype=bool)
    np.testing.assert_allclose(left[off], g[off], rtol=0, atol=1e-9)
    assert (b < -1e-3).any(), "negative weights are kept"
    assert not b[30:].any()
    assert not b[:, 30:].any()


@pytest.mark.parametrize("n_users", [20, 60])
def test_dual_and_dense_score_alike(n_users: int) -> None:
    """With repeats in the history, items that nobody took, users with one item, and all settings of the score."""
    view = toy_view(n_users=n_users, longest=9)
    catalog = catalog_of(view, n_items=33, features=False)
    assert (np.diff(view.offsets) == 1).any()
    histories = [[1, 2, 1, 3], [31], [5], [32, 4, 4], list(range(1, 9)), []]
    for settings in ({}, {"alpha": 0.4, "self_sim": 1.0, "pop_weight": 0.1}, {"values": "count"}):
        dense, dual = (
            toy_model("ease", catalog, reg_weight=2.0, solver=solver, **EXACT, **settings)
            for solver in ("dense", "dual")
        )
        scores = dense.score(history_batch(dense, histories))
        torch.testing.assert_close(dual.score(history_batch(dual, histories)), scores, rtol=0, atol=1e-9)


def test_the_smaller_matrix_is_inverted() -> None:
    for n_users, solver in ((20, "dual"), (60, "dense")):
        model = toy_model("ease", catalog_of(toy_view(n_users=n_users), n_items=33, features=False))
        assert model.extra_state() == {"solver": solver, "fitted_items": 30, "fitted_events": 1.0}
        assert max(max(buffer.shape) for buffer in model.solution.buffers() if buffer.dim() == 2) <= 30


@pytest.mark.parametrize("values", ["binary", "count"])
def test_sparse_with_all_partners_is_exact(values: str) -> None:
    catalog = catalog_of(toy_view(n_users=60), n_items=33, features=False)
    settings = {"reg_weight": 2.0, "values": values, **EXACT}
    dense = toy_model("ease", catalog, solver="dense", **settings)
    sparse = toy_model("ease", catalog, solver="sparse", k=32, **settings)
    torch.testing.assert_close(weights_of(sparse), weights_of(dense), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("values", ["binary", "count"])
def test_sparse_solves_a_system_for_each_item(values: str) -> None:
    """The partners by numpy's correlations, the column by the ridge regression among them."""
    catalog = catalog_of(toy_view(n_users=60), n_items=30, features=False)
    x = events(catalog, values)
    correlation = np.abs(np.corrcoef(x.T))
    model = toy_model("ease", catalog, reg_weight=2.0, solver="sparse", k=4, values=values)
    b = weights_of(model).numpy()
    for j in range(30):
        others = [i for i in range(30) if i != j]
        partners = sorted(others, key=lambda i: (-round(correlation[j, i], 9), i))[:4]
        block = sorted([j, *partners])
        expected = np.zeros(30)
        expected[block] = column_by_hand(x[:, block], block.index(j), 2.0)
        np.testing.assert_allclose(b[:, j], expected, rtol=1e-6, atol=1e-9)


def test_top_fits_the_most_popular_items() -> None:
    catalog = small_catalog()
    model = toy_model("ease", catalog, reg_weight=2.0, solver="top", max_items=3, **EXACT)
    kept = small_catalog([[i for i in history if i <= 3] for history in SMALL], n_items=3)
    smaller = toy_model("ease", kept, reg_weight=2.0, solver="dense", **EXACT)  # 3 before 4 and 5: as popular
    scores = model.score(history_batch(model, [[4, 1, 3], [5]]))
    expected = smaller.score(history_batch(smaller, [[1, 3]]))
    torch.testing.assert_close(scores[:1, :3], expected, rtol=0, atol=1e-12)
    assert not scores[:, 3:].any()
    assert not scores[1].any()
    assert model.extra_state() == {
        "solver": "top", "fitted_items": 3, "fitted_events": round(11 / 15, 6),
    }  # fmt: skip


def test_too_large_a_catalogue_is_refused_in_one_line() -> None:
    catalog = small_catalog()
    with pytest.raises(
        ValueError,
        match=r"^5 items and 5 users with two items or more need a matrix of 5 x 5 .*max_items is 4",
    ) as fault:
        toy_model("ease", catalog, max_items=4)
    assert "\n" not in str(fault.value)
    for advice in ("max_items=5", "solver=sparse", "solver=top"):
        assert advice in str(fault.value)
    toy_model("ease", catalog, max_items=5)
    toy_model("ease", catalog, max_items=4, solver="sparse")
    with pytest.raises(ValueError, match=r"30 items and 18 users .* need a matrix of 18 x 18"):
        toy_model("ease", toy_catalog(features=False), max_items=17)


def test_a_lambda_too_small_for_the_precision_is_an_error() -> None:
    """Two items that the same users took leave float32 nothing to divide by."""
    catalog = small_catalog([[1, 2], [1, 2], [1, 2, 3], [3]], n_items=3)
    with pytest.raises(ValueError, match="raise reg_weight, or solve_precision"):
        toy_model("ease", catalog, reg_weight=1e-12, solver="dense")


def test_a_large_lambda_counts_common_users() -> None:
    catalog = catalog_of(toy_view(n_users=60), n_items=30, features=False)
    x = events(catalog)
    b = weights_of(toy_model("ease", catalog, reg_weight=1e9, solver="dense", **EXACT)).numpy() * 1e9
    together = x.T @ x
    np.fill_diagonal(together, 0)
    np.testing.assert_allclose(b, together, atol=1e-5)


def test_columns_are_divided_not_rows() -> None:
    """B_ij / B_ji = P_ii / P_jj; the transposed slip has the inverse of it."""
    catalog = catalog_of(toy_view(n_users=60), n_items=30, features=False)
    x = events(catalog)
    p = np.diag(np.linalg.inv(x.T @ x + 2.0 * np.eye(30)))
    b = weights_of(toy_model("ease", catalog, reg_weight=2.0, solver="dense", **EXACT)).numpy()
    both = np.abs(b * b.T) > 1e-12
    ratio = np.divide(b, b.T, out=np.ones_like(b), where=both)
    np.testing.assert_allclose(ratio[both], (p[:, None] / p[None, :])[both], rtol=1e-6)
    assert np.abs(np.log(p[:, None] / p[None, :])).max() > 0.1, "the data tell the two apart"


def test_the_set_form_is_x_times_b_and_last_a_row() -> None:
    catalog = toy_catalog(features=False)
    settings = {"reg_weight": 2.0, **EXACT}
    sets, last, plain = (toy_model(name, catalog, **settings) for name in ("ease:set", "ease:last", "ease"))
    b = weights_of(plain)
    history = [4, 9, 4, 2]
    batch = history_batch(plain, [history])
    torch.testing.assert_close(sets.score(batch)[0], b[3] + b[8] + b[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(last.score(batch)[0], b[1], rtol=0, atol=1e-12)
    expected = b[1] + 0.7 * b[3] + 0.49 * b[8] + 0.343 * b[3]
    torch.testing.assert_close(plain.score(batch)[0], expected, rtol=0, atol=1e-12)
    repeats = toy_model("ease", catalog, self_sim=2.0, **settings).score(batch)[0]
    expected[[1, 3, 8]] += 2 * torch.tensor([1.0, 0.7 + 0.343, 0.49], dtype=torch.float64)
    torch.testing.assert_close(repeats, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("values", ["binary", "count"])
def test_alpha_divides_by_a_power_of_the_diagonal_of_co_occurrences(values: str) -> None:
    """With counts it is the sum of their squares, not the number of users or events."""
    catalog = small_catalog([[1, 1, 1, 2], [1, 2, 2, 3], [3, 2], [1, 3]], n_items=3)
    plain, lifted = (toy_model("ease", catalog, values=values, alpha=alpha, **EXACT) for alpha in (0.0, 0.4))
    batch = history_batch(plain, [[1, 2], [3]])
    diagonal = np.square(events(catalog, values)).sum(0)
    assert diagonal.tolist() == ([11, 6, 3] if values == "count" else [3, 3, 3])
    expected = plain.score(batch) * torch.from_numpy(diagonal**-0.4)
    torch.testing.assert_close(lifted.score(batch), expected)


def test_popularity_breaks_ties() -> None:
    catalog = small_catalog()
    plain, model = (toy_model("ease", catalog, pop_weight=weight, **EXACT) for weight in (0.0, 1e-6))
    batch = history_batch(model, [[1], [6]])
    count = torch.tensor([5, 4, 2, 2, 2, 0]).double()
    torch.testing.assert_close(model.score(batch), plain.score(batch) + 1e-6 * count / 5, rtol=0, atol=1e-15)
    assert not plain.score(batch)[1].any()


@pytest.mark.parametrize("solver", ["dense", "dual", "sparse"])
def test_ids_of_items_and_users_mean_nothing(solver: str) -> None:
    view = toy_view()
    rng = np.random.default_rng(0)
    rename = np.concatenate([[0], rng.permutation(30) + 1])
    histories = [history.tolist() for history in np.split(view.items, view.offsets[1:-1])]
    shuffled = [histories[user] for user in rng.permutation(len(histories))]
    model, other_items, other_users = (
        toy_model(
            "ease",
            catalog_of(events, n_items=30, features=False),
            solver=solver,
            k=29,
            reg_weight=2.0,
            **EXACT,
        )
        for events in (view, replace(view, items=rename[view.items]), view_of(shuffled))
    )
    history = [4, 9, 2, 9]
    scores = model.score(history_batch(model, [history]))[0]
    renamed = other_items.score(history_batch(other_items, [rename[history].tolist()]))[0]
    torch.testing.assert_close(renamed[rename[1:] - 1], scores, rtol=1e-6, atol=1e-9)
    same = other_users.score(history_batch(other_users, [history]))[0]
    torch.testing.assert_close(same, scores, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("solver", ["dense", "dual"])
def test_float32_is_close(solver: str) -> None:
    catalog = catalog_of(toy_view(n_users=60, n_items=80), n_items=80, features=False)
    exact, single = (
        toy_model("ease", catalog, solver=solver, solve_precision=precision, reg_weight=1.0)
        for precision in ("float64", "float32")
    )
    batch = history_batch(exact, [[4, 9, 2, 9], list(range(1, 9))])
    assert single.score(batch).dtype == torch.float32 or solver == "dual"
    torch.testing.assert_close(
        single.float().score(batch).double(), exact.score(batch).double(), rtol=0, atol=1e-5
    )


def test_one_array_of_the_inverse_s_size_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """The factor and the inverse take the place of the matrix; blocks are all that comes beside it."""
    module = sys.modules[registry.find("ease").load().__module__]
    monkeypatch.setattr(module, "BLOCK", 64)
    rng = np.random.default_rng(0)
    n_items = 1500
    histories = [rng.choice(n_items, 4, replace=False) + 1 for _ in range(2 * n_items)]
    catalog = catalog_of(
        view_of([history.tolist() for history in histories]), n_items=n_items, features=False
    )
    toy_model("ease", small_catalog(), solver="dense")  # what is imported on the way is there now
    tracemalloc.start()
    model = toy_model("ease", catalog, solver="dense")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = model.solution.weights.numel() * 4
    assert size > 8.9e6
    assert peak < 1.5 * size
