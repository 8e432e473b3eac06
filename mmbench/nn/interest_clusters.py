"""Clusters of item vectors that are found anew while they are learned: Lloyd's passes and density peaks.

Distances are formed for a block of rows at a time, sums in a fixed order. Axes: n rows, D width, K clusters.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 1024  # rows whose distances to all others, or to all centroids, are held at once


def nearest(rows: Tensor, centroids: Tensor) -> Tensor:
    """Return for each row [n, D] the nearest of the centroids [K, D], int64 [n]; of equal ones the first."""
    half = centroids.square().sum(1) / 2
    return torch.cat(
        [torch.addmm(half, block, centroids.T, alpha=-1).argmin(1) for block in rows.split(BLOCK)]
    )


def sum_by(rows: Tensor, label: Tensor, n_clusters: int) -> Tensor:
    """Return the sum of the rows [n, D] of each label [n], [K, D]; on a GPU in a fixed order too."""
    if rows.is_cuda:  # index_add_ adds in whatever order its threads come there
        return torch.ops.aten.embedding_dense_backward(rows, label, n_clusters, -1, False)
    return rows.new_zeros(n_clusters, rows.shape[1]).index_add_(0, label, rows)


def count_by(label: Tensor, n_clusters: int) -> Tensor:
    """Return how often each label occurs, int64 [K]."""
    return torch.zeros(n_clusters, dtype=torch.int64, device=label.device).scatter_add_(
        0, label, torch.ones_like(label)
    )


def lloyd(rows: Tensor, centroids: Tensor, n_passes: int) -> tuple[Tensor, Tensor]:
    """Return centroids [K, D] and the nearest one of each row, int64 [n], after k-means passes from the given ones.

    A pass moves each centroid to the mean of its rows; one without rows stays. It ends early when no row changes.
    """
    label = nearest(rows, centroids)
    for _ in range(n_passes):
        count = count_by(label, len(centroids))[:, None]
        means = sum_by(rows, label, len(centroids)) / count.clamp(min=1)
        centroids, before = torch.where(count > 0, means, centroids), label
        label = nearest(rows, centroids)
        if torch.equal(label, before):
            break
    return centroids, label


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
    for distances, own in zip(_distances(rows, rows), density.split(BLOCK), strict=True):
        to_denser = distances.masked_fill(density <= own[:, None], float("inf")).amin(1)
        gaps.append(torch.where(to_denser.isinf(), farthest, to_denser))
    centres = (density * torch.cat(gaps)).topk(n_clusters).indices
    label = nearest(rows, rows[centres])
    label[centres] = torch.arange(n_clusters, device=rows.device)
    count = count_by(label, n_clusters)[:, None]
    return sum_by(rows, label, n_clusters) / (count + 1e-4), label


def _distances(rows: Tensor, others: Tensor) -> Iterator[Tensor]:
    """Yield the distances of each block of rows to all others, divided by sqrt(D)."""
    return (torch.cdist(block, others) / rows.shape[1] ** 0.5 for block in rows.split(BLOCK))


def effective_number(label: Tensor, n_clusters: int) -> float:
    """Return exp(entropy) of how the labels [n] spread over the clusters: 1 .. K."""
    share = count_by(label, n_clusters).double() / len(label)
    return float(torch.special.entr(share).sum().exp())
