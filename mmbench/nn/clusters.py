"""Clusters of vectors: principal components, k-means, Lloyd's passes from chosen centroids, product codes, density
peaks.

Nothing is drawn. Distances are formed for a block of rows at a time, sums in a fixed order.
Axes: n rows, F features, D width, K clusters.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from mmbench.nn.parts import on_gpu

BLOCK = 1024  # rows whose distances to all others, or to all centroids, are in memory together
MOST_PASSES = 50
GOLDEN = 0.6180339887498949  # its multiples, without the integer part, fill [0, 1) evenly


def principal_components(x: Tensor, dim: int) -> Tensor:
    """Return the coordinates of rows x [n, F] along their `dim` directions of largest variance, float64 [n, dim].

    The largest weight of each direction is positive. Columns beyond F are zero.
    """
    mean = torch.stack([block.sum(0) for block in _blocks(x)]).sum(0) / max(len(x), 1)
    covariance = torch.stack([(block - mean).T @ (block - mean) for block in _blocks(x)]).sum(0)
    directions = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :dim]  # ascending before the flip
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    directions = directions * largest.sign()
    coordinates = torch.cat([(block - mean) @ directions for block in _blocks(x)])
    return torch.nn.functional.pad(coordinates, (0, dim - coordinates.shape[1]))


def _blocks(x: Tensor) -> Iterator[Tensor]:
    """Yield the rows of x in float64, a block at a time."""
    return (block.double() for block in x.split(BLOCK))


# -- k-means -----------------------------------------------------------------------------------------------------


def nearest(rows: Tensor, centroids: Tensor) -> Tensor:
    """Return the centroid [K, D] nearest to each row [n, D], int64 [n]; of equal centroids the first.

    A product of matrices may give equal columns other last digits, which depends on the processor.
    """
    _, group = centroids.unique(dim=0, return_inverse=True)
    first = torch.full_like(group, len(group)).scatter_reduce_(
        0, group, torch.arange(len(group), device=group.device), "amin"
    )
    return first[group][torch.cat([gaps.argmin(1) for gaps in _gaps(rows, centroids)])]


def nearest_few(rows: Tensor, centroids: Tensor, k: int) -> Tensor:
    """Return the k centroids [K, D] nearest to each row [n, D], int64 [n, k], nearest first; k <= K."""
    return torch.cat([gaps.topk(k, largest=False).indices for gaps in _gaps(rows, centroids)])


def _gaps(rows: Tensor, centroids: Tensor) -> Iterator[Tensor]:
    """Yield numbers [b, K] for each block of rows that order the centroids by distance from a row."""
    half_squares = centroids.square().sum(1) / 2
    return (torch.addmm(half_squares, block, centroids.T, alpha=-1) for block in rows.split(BLOCK))


def k_means(x: Tensor, n_clusters: int, *, n_passes: int = MOST_PASSES, refill: bool = False) -> Tensor:
    """Return centres of rows x [n, D], float64 [K, D]; K is below n_clusters only where fewer rows differ.

    The start is that of k-means++ with evenly spread numbers instead of random ones: a row becomes a centre with a
    probability proportional to its squared distance from the previous centres. Lloyd's passes follow; see `lloyd`.
    """
    rows = x.double()
    return lloyd(rows, _first_centres(rows, n_clusters), n_passes, refill=refill)[0]


def _first_centres(rows: Tensor, n_clusters: int) -> Tensor:
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


def lloyd(rows: Tensor, centroids: Tensor, n_passes: int, *, refill: bool = False) -> tuple[Tensor, Tensor]:
    """Return centroids [K, D] after k-means passes from `centroids`, and the nearest of each row, int64 [n].

    A pass moves each centroid to the mean of its rows; a centroid without rows stays, or with `refill` moves to the
    row that is farthest from its own. Passes end when no label changes.
    """
    label = nearest(rows, centroids)
    for _ in range(n_passes):
        count = count_by(label, len(centroids))[:, None]
        means = sum_by(rows, label, len(centroids)) / count.clamp(min=1)
        centroids, before = torch.where(count > 0, means, centroids), label
        if refill:
            centroids = _refilled(rows, centroids, label, count[:, 0] == 0)
        label = nearest(rows, centroids)
        if torch.equal(label, before):
            break
    return centroids, label


def _refilled(rows: Tensor, centroids: Tensor, label: Tensor, is_empty: Tensor) -> Tensor:
    """Return centroids of which the k-th empty one is the row that is k-th farthest from its own."""
    gaps = (rows - centroids[label]).square().sum(1)
    farthest = gaps.argsort(descending=True, stable=True)[: int(is_empty.sum())]
    moved = centroids.clone()
    moved[is_empty.nonzero()[: len(farthest), 0]] = rows[farthest]
    return moved


def product_codes(x: Tensor, n_blocks: int, n_codes: int, n_passes: int) -> Tensor:
    """Return codes 0 .. n_codes - 1 of rows x [n, F], int64 [n, n_blocks]: k-means in each block of columns.

    Blocks are consecutive columns, of equal number up to a single column.
    """
    codes = []
    for block in x.double().tensor_split(n_blocks, dim=1):
        centres = k_means(block, n_codes, n_passes=n_passes, refill=True)
        codes.append(nearest(block, centres))
    return torch.stack(codes, 1)


# -- density peaks -----------------------------------------------------------------------------------------------


def density_peaks(rows: Tensor, n_clusters: int, neighbour_share: float) -> tuple[Tensor, Tensor]:
    """Return centroids [K, D] and the cluster of each row, int64 [n], by DPC-KNN.

    Distances are divided by sqrt(D). A row's density is exp(-mean of its squared distances to the nearest
    `neighbour_share` of all rows, itself included). The K rows with the largest density x distance to the nearest
    denser row are centres; the others join the nearest centre.
    """
    k = -int(-len(rows) * neighbour_share // 1)
    near = [distances.square().topk(k, largest=False).values.mean(1) for distances in _distances(rows, rows)]
    density = torch.cat(near).neg().exp()
    farthest = torch.stack([distances.max() for distances in _distances(rows, rows)]).max()
    gaps = []
    for distances, density_of_rows in zip(_distances(rows, rows), density.split(BLOCK), strict=True):
        to_denser = distances.masked_fill(density <= density_of_rows[:, None], float("inf")).amin(1)
        gaps.append(torch.where(to_denser.isinf(), farthest, to_denser))
    centres = (density * torch.cat(gaps)).topk(n_clusters).indices
    label = nearest(rows, rows[centres])
    label[centres] = torch.arange(n_clusters, device=rows.device)
    count = count_by(label, n_clusters)[:, None]
    return sum_by(rows, label, n_clusters) / (count + 1e-4), label


def _distances(rows: Tensor, others: Tensor) -> Iterator[Tensor]:
    """Yield the distances of each block of rows to all others, divided by sqrt(D)."""
    return (torch.cdist(block, others) / rows.shape[1] ** 0.5 for block in rows.split(BLOCK))


# -- sums over labels --------------------------------------------------------------------------------------------


def sum_by(rows: Tensor, label: Tensor, n_clusters: int) -> Tensor:
    """Return the sum of the rows [n, D] of each label [n], [K, D]; in a fixed order on a GPU too."""
    if on_gpu(rows):  # the threads of index_add_ add in whatever order they arrive
        return torch.ops.aten.embedding_dense_backward(rows, label, n_clusters, -1, False)
    return rows.new_zeros(n_clusters, rows.shape[1]).index_add_(0, label, rows)


def count_by(label: Tensor, n_clusters: int) -> Tensor:
    """Return how often each label occurs, int64 [K]."""
    return torch.zeros(n_clusters, dtype=torch.int64, device=label.device).scatter_add_(
        0, label, torch.ones_like(label)
    )


def effective_number(label: Tensor, n_clusters: int) -> float:
    """Return exp(entropy) of how the labels [n] spread over the clusters: 1 .. K."""
    share = count_by(label, n_clusters).double() / len(label)
    return float(torch.special.entr(share).sum().exp())
