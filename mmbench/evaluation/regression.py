"""Least squares on 0/1 columns, with errors that unequal variances do not spoil: many causes of a gain at once.

HC3: MacKinnon and White (1985), doi:10.1016/0304-4076(85)90158-7; the default that Long and Ervin (2000) recommend.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_DEPENDENT = 1e-8  # a column whose part outside the columns before it is smaller, relative to itself
_ROUNDING = 1e-12  # a standard error that is smaller, relative to the largest observation
_SINGULAR = 1e-10  # an eigenvalue of a covariance that is smaller, relative to the largest


@dataclass(frozen=True)
class Fit:
    """Coefficients of columns [k], without the constant's, and their HC3 covariance [k, k].

    kept   which of the columns asked for these are: the others follow from columns before them
    df     observations minus coefficients, the constant's included
    scale  the largest size of an observation
    """

    coefficients: np.ndarray
    covariance: np.ndarray
    kept: tuple[int, ...]
    df: int
    scale: float

    @property
    def tested(self) -> list[int]:
        """Return the coefficients that have an error; observations that are all equal give none."""
        return [k for k in range(len(self.kept)) if self._error(k) > _ROUNDING * self.scale]

    def interval(self, k: int) -> tuple[float, float]:
        """Return the 95 % interval of coefficient k, by Student's t."""
        from scipy import stats

        half = float(stats.t.ppf(0.975, self.df)) * self._error(k)
        return float(self.coefficients[k]) - half, float(self.coefficients[k]) + half

    def p(self, k: int) -> float:
        """Return the two-sided p of coefficient k being 0."""
        from scipy import stats

        return float(2 * stats.t.sf(abs(self.coefficients[k]) / self._error(k), self.df))

    def joint_p(self, chosen: Sequence[int]) -> float:
        """Return the p of all chosen coefficients being 0 (Wald's test, F with as many degrees of freedom).

        Coefficients whose errors are the same, as where only the reference varies, count once.
        """
        from scipy import stats

        part, covariance = self.coefficients[list(chosen)], self.covariance[np.ix_(chosen, chosen)]
        values, vectors = np.linalg.eigh(covariance)
        is_large = values > _SINGULAR * values.max()
        wald = float(((vectors.T @ part)[is_large] ** 2 / values[is_large]).sum())
        rank = int(is_large.sum())
        return float(stats.f.sf(wald / rank, rank, self.df))

    def _error(self, k: int) -> float:
        return float(np.sqrt(self.covariance[k, k]))


def least_squares(values: np.ndarray, columns: np.ndarray) -> Fit:
    """Return the fit of values [n] by a constant and columns [n, k]; each column beside the constant has both 0 and 1.

    Raises ValueError where no column is left, or fewer than two observations more than coefficients.
    """
    design = np.column_stack([np.ones(len(values)), columns]).astype(np.float64)
    kept = [j for j in _independent(design) if j]
    design = design[:, [0, *kept]]
    n, k = design.shape
    if not kept or n < k + 2:
        raise ValueError(f"{n} observations cannot tell {len(kept)} columns apart")
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ (design.T @ values)
    leverage = np.einsum("nk,kl,nl->n", design, inverse, design)
    errors = (values - design @ coefficients) / np.clip(1 - leverage, 1e-12, None)
    covariance = inverse @ ((design * (errors**2)[:, None]).T @ design) @ inverse
    scale = float(np.abs(values).max())
    return Fit(coefficients[1:], covariance[1:, 1:], tuple(j - 1 for j in kept), n - k, scale)


def _independent(design: np.ndarray) -> list[int]:
    """Return the columns that do not follow from those before them."""
    factor: np.ndarray = np.linalg.qr(design, mode="r")  # type: ignore[assignment]  # an array in this mode
    norms = np.linalg.norm(design, axis=0)
    return [j for j in range(design.shape[1]) if abs(factor[j, j]) > _DEPENDENT * norms[j]]
