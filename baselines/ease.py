"""EASE: Embarrassingly Shallow Autoencoders for Sparse Data. Steck, WWW 2019, doi 10.1145/3308558.3313710.
No official code; read: RecBole @ 7b02be5, RecTools @ 41a5a63, Elliot @ fc27efe, recpack @ d429977,
github.com/MaurizioFD/RecSys2019_DeepLearning_Evaluation @ f5618c6.  Dual form: derived here (Woodbury's identity).

A linear autoencoder without a hidden layer: B minimises |X - X B|^2 + lambda |B|^2 subject to diag(B) = 0. It has a
closed form: with P = (X^T X + lambda I)^-1, B_ij = -P_ij / P_jj off the diagonal. A history scores h B.

Axes: U users, N items, M fitted items, T histories, W width, E events. X [U, N+1] holds the training events.
Follows: Dense is the paper's closed form, Dual computes the same scores from a [U, U] inverse, neighbourhoods() solves
a small system per item; score() adds what the paper does not have.
Differences that matter, all others in the recipe:
 1. An event of the history counts decay^(events after it); the paper's set of items is the variant `set`.
 2. The history is the evaluation input, so at test time it holds the validation event, as for sequential models.
 3. Column j is divided by P_jj, as in the paper; RecTools divides rows, which gives another model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mmbench.data.batch import Batch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs
from mmbench.nn.interactions import Values, members, sum_rows, user_item_matrix
from mmbench.nn.neighbours import Neighbours, recency_weight, top_k
from mmbench.settings.config import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from scipy.sparse import csr_array

BLOCK = 1024  # rows of a matrix that are processed together


@dataclass(frozen=True, kw_only=True)
class EASEConfig:
    reg_weight: PositiveFloat  # lambda, on the scale of co-occurrence counts
    alpha: NonNegativeFloat = 0.0  # column j is multiplied by G_jj^-alpha; above 0 lifts rare items
    values: Values = "binary"  # "count": X holds how often a user took an item
    decay: Fraction  # a history item counts decay^(events after it); 0 = the last item only
    distinct: bool = False  # an item counts once per history
    self_sim: NonNegativeFloat = 0.0  # an item's weight for itself; 1 suits data with repeats
    pop_weight: NonNegativeFloat = 0.0  # adds pop_weight * popularity (1 = the most popular) to every score
    # "dense" inverts [N, N] and "dual" [U, U], with the same scores; "auto" takes the smaller of the two. Approximate:
    # "top" fits the max_items most popular items only, "sparse" each item with its k most correlated items.
    solver: Literal["auto", "dense", "dual", "top", "sparse"] = "auto"
    max_items: PositiveInt = 30_000  # rows of the largest matrix that is inverted
    k: PositiveInt = 200  # "sparse": items in each item's system, beside itself
    solve_precision: Literal["float32", "float64"] = "float32"  # of the inverse


def invert(matrix: np.ndarray) -> None:
    """Replace a symmetric positive definite matrix [M, M] by its inverse, without a second array of its size."""
    from scipy.linalg import get_lapack_funcs

    factorise, invert_factor = get_lapack_funcs(("potrf", "potri"), (matrix,))
    # LAPACK stores by column: the lower triangle of the transposed view is the upper triangle of `matrix`.
    factor, fault = factorise(matrix.T, lower=1, overwrite_a=1, clean=0)
    if not fault:
        _, fault = invert_factor(factor, lower=1, overwrite_c=1)
    if fault:
        raise ValueError(
            "the matrix of co-occurrences cannot be inverted; raise reg_weight, or solve_precision"
        )
    for start in range(0, len(matrix), BLOCK):
        end = min(start + BLOCK, len(matrix))
        square = matrix[start:end, start:end]
        square[:] = np.triu(square) + np.triu(square, 1).T
        matrix[end:, start:end] = matrix[start:end, end:].T


def gram(rows: "csr_array", precision: str) -> np.ndarray:
    """Return rows @ rows.T, dense [M, M], of a sparse matrix with M rows."""
    columns, size = rows.T.tocsr(), rows.shape[0]
    product = np.empty((size, size), dtype=precision)
    for start in range(0, size, BLOCK):
        product[start : start + BLOCK] = (rows[start : start + BLOCK] @ columns).toarray()
    return product


class Dense(nn.Module):
    """B itself, over the fitted items."""

    items: Tensor  # int64 [M], the fitted items
    place: Tensor  # int64 [N+1], index of each item among them; -1 = not fitted
    weights: Tensor  # [M, M], B

    def __init__(self, matrix: "csr_array", items: np.ndarray, config: EASEConfig) -> None:
        super().__init__()
        weights = gram(matrix[:, items].T.tocsr(), config.solve_precision)
        weights[np.diag_indices(len(items))] += config.reg_weight
        invert(weights)
        weights *= -1 / weights.diagonal()  # divides column j by P_jj
        np.fill_diagonal(weights, 0.0)
        self.n_items = matrix.shape[1] - 1
        index = torch.full((self.n_items + 1,), -1)
        index[torch.from_numpy(items)] = torch.arange(len(items))
        self.register_buffer("items", torch.from_numpy(items))
        self.register_buffer("place", index)
        self.register_buffer("weights", torch.from_numpy(weights))

    def score(self, item_seq: Tensor, weight: Tensor) -> Tensor:
        """Return h B [T, N] of histories int64 [T, W] with weights float64 [T, W]."""
        index = self.place[item_seq]
        row, column = (weight * (index >= 0)).nonzero(as_tuple=True)
        first = torch.searchsorted(row, torch.arange(len(item_seq), device=row.device))
        fitted = sum_rows(self.weights, index[row, column], weight[row, column], first)
        return fitted.new_zeros(len(item_seq), self.n_items).index_copy_(1, self.items - 1, fitted)


class Dual(nn.Module):
    """The same scores from an inverse over users, by Woodbury's identity; B is never formed.

    With D = 1 / lambda and K = (I + X D X^T)^-1: P = D - D X^T K X D, so (h B)_j = h_j - (h P)_j / P_jj.
    Users with a single item affect only the diagonal of X^T X: they raise the lambda of that item instead.
    """

    kernel: Tensor  # [U, U], K
    offsets: Tensor  # int64 [N+2], item i was taken by users[offsets[i]:offsets[i+1]]
    users: Tensor  # int64 [E]
    counts: Tensor  # [E], the entries of X
    inverse_reg: Tensor  # [N+1], the diagonal of D
    gap: Tensor  # [N+1], P_jj / D_jj = 1 - D_jj (X^T K X)_jj

    def __init__(self, matrix: "csr_array", config: EASEConfig) -> None:
        super().__init__()
        is_single = np.diff(matrix.indptr) < 2
        inverse_reg = 1 / (config.reg_weight + matrix[is_single].power(2).sum(0))
        matrix = matrix[~is_single]
        kernel = gram((matrix * np.sqrt(inverse_reg)[None, :]).tocsr(), config.solve_precision)
        kernel[np.diag_indices(len(kernel))] += 1.0
        invert(kernel)
        by_item = matrix.T.tocsr()
        diagonal = np.zeros(len(inverse_reg))
        for start in range(0, len(diagonal), BLOCK):
            rows = by_item[start : start + BLOCK]
            diagonal[start : start + BLOCK] = rows.multiply(rows @ kernel).sum(1)
        arrays = {
            "kernel": kernel, "offsets": by_item.indptr.astype(np.int64), "users": by_item.indices.astype(np.int64),
            "counts": by_item.data, "inverse_reg": inverse_reg, "gap": 1 - inverse_reg * diagonal,
        }  # fmt: skip
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array))

    def score(self, item_seq: Tensor, weight: Tensor) -> Tensor:
        """Return h B [T, N] of histories int64 [T, W] with weights float64 [T, W]."""
        row, column = weight.nonzero(as_tuple=True)
        item = item_seq[row, column]
        event, entry = members(self.offsets, item)
        first = torch.searchsorted(row[event], torch.arange(len(item_seq), device=row.device))
        step = (weight[row, column] * self.inverse_reg[item])[event] * self.counts[entry]
        reached = sum_rows(self.kernel, self.users[entry], step, first)  # h D X^T K, [T, U]
        passed = sum_rows(reached.T.contiguous(), self.users, self.counts, self.offsets[:-1])[1:].T  # .. X
        history = history_matrix(item_seq, weight, n_items=len(self.gap) - 1).to(passed.dtype)
        return history - (history - passed) / self.gap[1:]


def history_matrix(item_seq: Tensor, weight: Tensor, *, n_items: int) -> Tensor:
    """Return h [T, N]: the weights [T, W] of each history, summed by item."""
    return weight.new_zeros(len(item_seq), n_items + 1).scatter_add_(1, item_seq, weight)[:, 1:]


def neighbourhoods(matrix: "csr_array", config: EASEConfig) -> Neighbours:
    """Return B restricted to each item and the k items with the largest |Pearson correlation|.

    Column j is that of the closed form for these k + 1 items.
    """
    from scipy.linalg import solve

    n_items = matrix.shape[1] - 1
    products = (matrix.T @ matrix).tocsr()
    parts = []
    for item, block in blocks_of_items(matrix, products, k=config.k):
        system = products[block][:, block].toarray()
        system[np.diag_indices(len(block))] += config.reg_weight
        position = int(np.searchsorted(block, item))
        column = solve(system, np.eye(len(block))[position], assume_a="pos")
        column /= -column[position]
        column[position] = 0.0
        kept = column != 0
        parts.append((block[kept], np.full(int(kept.sum()), item), column[kept]))
    source, target, value = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True))
    return Neighbours(source, target, value, n_items=n_items)


def blocks_of_items(
    matrix: "csr_array", products: "csr_array", *, k: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield every item with the sorted ids of itself and its k strongest partners; ties go to the smaller id."""
    n_users, size = matrix.shape
    mean = matrix.sum(0) / n_users
    deviation = np.sqrt(np.maximum(products.diagonal() / n_users - mean**2, 0.0))
    for start in range(1, size, BLOCK):
        ids = np.arange(start, min(start + BLOCK, size))
        scale = deviation[ids][:, None] * deviation
        covariance = products[ids].toarray() / n_users - mean[ids][:, None] * mean
        strength = np.abs(np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0))
        strength[:, 0] = strength[np.arange(len(ids)), ids] = -np.inf
        chosen = top_k(torch.from_numpy(strength), k).numpy()
        chosen[np.arange(len(ids)), ids] = True
        for item, row in zip(ids, chosen, strict=True):
            yield int(item), np.flatnonzero(row)


class EASE(Recommender[EASEConfig]):
    trainable = False
    deterministic = True
    count: Tensor

    def __init__(self, config: EASEConfig, catalog: Catalog) -> None:
        super().__init__(config, catalog)
        self.register_buffer("count", torch.bincount(catalog.train_items, minlength=catalog.n_items + 1))
        matrix = user_item_matrix(
            catalog.histories.users, catalog.train_items,
            n_users=catalog.n_users, n_items=catalog.n_items, values=config.values,
        )  # fmt: skip
        self.solver, self.items = config.solver, np.flatnonzero(self.count.numpy())
        n_users = int((np.diff(matrix.indptr) > 1).sum())
        if config.solver == "auto":
            self.solver = "dual" if n_users < len(self.items) else "dense"
        if self.solver in ("dense", "dual"):
            self._check_size(n_users)
        if self.solver == "top":
            order = np.argsort(-self.count.numpy()[self.items], kind="stable")
            self.items = np.sort(self.items[order[: config.max_items]])
        self.solution = self._solve(matrix)
        # The diagonal of X^T X; items that nobody took score 0 with any factor.
        diagonal = torch.from_numpy(matrix.power(2).sum(0)).clamp(min=1.0)
        self.register_buffer("factor", diagonal**-config.alpha)
        self.factor: Tensor

    def _check_size(self, n_users: int) -> None:
        """Raise ValueError if the exact solution needs a larger matrix than `max_items` allows."""
        config, n_items = self.config, len(self.items)
        size = n_users if self.solver == "dual" else n_items
        if size > config.max_items:
            needed = size**2 * np.dtype(config.solve_precision).itemsize / 1e9
            raise ValueError(
                f"{n_items:,} items and {n_users:,} users with two items or more need a matrix of {size:,} x "
                f"{size:,} ({needed:.1f} GB), and max_items is {config.max_items:,}; raise it "
                f"(--set ease.max_items={size}) if memory allows, or approximate: "
                "--set ease.solver=sparse (k partners of each item) or ease.solver=top (the most popular items)"
            )

    def _solve(self, matrix: "csr_array") -> "Dense | Dual | Neighbours":
        if self.solver == "dual":
            return Dual(matrix, self.config)
        if self.solver == "sparse":
            return neighbourhoods(matrix, self.config)
        return Dense(matrix, self.items, self.config)

    @property
    def needs(self) -> Needs:
        return Needs(layout="padded", samples=(), causal=False)

    def score(self, batch: Batch) -> Tensor:
        """Return [T, N]; items without a common user with the history tie at 0 (or at their popularity)."""
        config, count = self.config, self.count.double()
        weight = recency_weight(batch.item_seq, batch.mask, decay=config.decay, distinct=config.distinct)
        scores = self.solution.score(batch.item_seq, weight)
        if config.alpha:
            scores = scores * self.factor[1:]
        if config.self_sim:
            scores = scores + config.self_sim * history_matrix(batch.item_seq, weight, n_items=self.n_items)
        if config.pop_weight:
            scores = scores + config.pop_weight * (count / count.max().clamp(min=1))[1:]
        return scores

    def extra_state(self) -> dict[str, Any]:
        """Return the solver, and the share of training events whose item it fitted."""
        fitted = self.count[torch.from_numpy(self.items)].sum() / self.count.sum().clamp(min=1)
        return {
            "solver": self.solver,
            "fitted_items": len(self.items),
            "fitted_events": round(float(fitted), 6),
        }
