"""Clusters of feature vectors that rest on the data alone: principal components, k-means, nearest centres.

Nothing is drawn, so all seeds of a model have the same clusters. Sums are in float64 and over blocks of rows.
Axes: n rows, F features, D components, C clusters.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 4096  # rows whose distances to all centres are held at once
MOST_ROUNDS = 50
GOLDEN = 0.6180339887498949  # its multiples, without the whole part, fill [0, 1) evenly


def _blocks(x: Tensor) -> Iterator[Tensor]:
    """Yield the rows of x in float64, a block at a time."""
    return (block.double() for block in x.split(BLOCK))


def principal_components(x: Tensor, dim: int) -> Tensor:
    """Return the coordinates of rows x [n, F] along their `dim` directions of largest variance, float64 [n, dim].

    The largest weight of each direction is positive. There are zeros where F is smaller than dim.
    """
    mean = torch.stack([block.sum(0) for block in _blocks(x)]).sum(0) / max(len(x), 1)
    covariance = torch.stack([(block - mean).T @ (block - mean) for block in _blocks(x)]).sum(0)
    directions = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :dim]  # ascending before the flip
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    directions = directions * largest.sign()
    coordinates = torch.cat([(block - mean) @ directions for block in _blocks(x)])
    return torch.nn.functional.pad(coordinates, (0, dim - coordinates.shape[1]))


def k_means(x: Tensor, n_clusters: int) -> Tensor:
    """Return centres of rows x [n, D], float64 [C, D]; C is below n_clusters only where fewer rows differ.

    Begins like k-means++ with evenly spread numbers in place of random ones: a row is a centre with a probability
    proportional to its squared distance from the centres before. Then Lloyd's rounds, until no row moves.
    """
    centres, label = _first_centres(x, n_clusters), None
    for _ in range(MOST_ROUNDS):
        before, label = label, nearest(x, centres, 1)[:, 0]
        if before is not None and torch.equal(before, label):
            break
        centres = _means(x, label, centres)
    return centres


def nearest(x: Tensor, centres: Tensor, k: int) -> Tensor:
    """Return the k centres [C, D] nearest to each row of x [n, D], int64 [n, k], nearest first; k <= C."""
    half_squares = centres.square().sum(1) / 2
    found = [(half_squares - block @ centres.T).topk(k, largest=False).indices for block in _blocks(x)]
    return torch.cat(found) if found else torch.zeros(0, k, dtype=torch.int64)


def _first_centres(x: Tensor, n_clusters: int) -> Tensor:
    rows = x.double()
    distance = (rows - rows.mean(0)).square().sum(1)
    chosen = [int(distance.argmin())]
    distance = (rows - rows[chosen[0]]).square().sum(1)
    for number in range(1, min(n_clusters, len(rows))):
        total = distance.cumsum(0)
        if total[-1] == 0:  # every row is a centre
            break
        chosen.append(int(torch.searchsorted(total, total[-1] * (number * GOLDEN % 1), right=True)))
        distance = torch.minimum(distance, (rows - rows[chosen[-1]]).square().sum(1))
    return rows[chosen]


def _means(x: Tensor, label: Tensor, centres: Tensor) -> Tensor:
    """Return the mean of each cluster's rows; a centre that has none stays."""
    sums = torch.zeros_like(centres).index_add_(0, label, x.double())
    count = torch.bincount(label, minlength=len(centres))[:, None]
    return torch.where(count > 0, sums / count.clamp(min=1), centres)
