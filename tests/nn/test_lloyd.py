"""Clusters against scipy and plain loops, and the specification's numbers."""

import math
import sys
from unittest import mock

import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from mmbench.models.registry import find
from mmbench.nn import clusters
from mmbench.nn.clusters import (
    count_by,
    density_peaks,
    effective_number,
    lloyd,
    nearest,
    product_codes,
    sum_by,
)

RELEASED = sys.modules[find("missrec:as-released").load().__module__]
BLOCKS = pytest.mark.parametrize("block", [5, 1024])


def rows_of(n: int, dim: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numbered() -> tuple[Tensor, Tensor]:
    i, j = torch.arange(12, dtype=torch.float64)[:, None], torch.arange(3, dtype=torch.float64)
    return (3 * i + 2 * j**2).sin(), torch.tensor([0, 3, 5, 8])


def close(found: Tensor, *expected: float) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=6e-11)


def test_numbers_of_k_means() -> None:
    z, first = numbered()
    centroids, label = lloyd(z, z[first], 5)
    assert label.tolist() == [0, 1, 0, 1, 0, 1, 3, 2, 3, 2, 3, 2]
    close(centroids[0], -0.2719961387, 0.9630876764, 0.9643036177)


def test_numbers_of_the_released_pass() -> None:
    z, first = numbered()
    centroids, label = RELEASED.one_pass(z, first)
    assert label.tolist() == [0, 2] * 6
    close(centroids[0], 0.2719961387, 0.9630876764, 0.9643036177)
    assert (centroids >= 0).all()


def one_pass_by_hand(
    z: list[list[float]], first: list[int], size: int
) -> tuple[list[list[float]], list[int]]:
    """The released loop, one row after the other."""
    n_clusters, width = len(first), len(z[0])

    def closest(row: list[float], centroids: list[list[float]]) -> int:
        distances = [sum((a - b) ** 2 for a, b in zip(row, c, strict=True)) for c in centroids]
        return distances.index(min(distances))

    batches = [z[k : k + size] for k in range(0, len(z), size)]
    if len(batches) > 1 and len(batches[-1]) <= n_clusters:
        last = batches.pop()
        batches[-1] = batches[-1] + last
    centroids, count = [list(z[k]) for k in first], [1] * n_clusters
    for batch in batches:
        labels = [closest(row, centroids) for row in batch]
        for k in range(n_clusters):
            members = [[abs(x) for x in row] for row, label in zip(batch, labels, strict=True) if label == k]
            for d in range(width):
                mean = sum(row[d] for row in members) / max(len(members), 1)
                centroids[k][d] = (1 - 1 / count[k]) * abs(centroids[k][d]) + mean / count[k]
            count[k] += len(members)
    return centroids, [closest(row, centroids) for row in z]


@pytest.mark.parametrize(("n", "size"), [(40, 12), (43, 20), (9, 20), (26, 20)])
def test_the_released_pass_over_several_batches(n: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RELEASED, "BATCH", size)
    z, first = rows_of(n), torch.tensor([4, 0, 7, 2, 8, 1])
    centroids, label = RELEASED.one_pass(z, first)
    expected, labels = one_pass_by_hand(z.tolist(), first.tolist(), size)
    assert label.tolist() == labels
    torch.testing.assert_close(centroids.tolist(), expected)


def test_batches_of_the_released_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [RELEASED.batch_size(k) for k in (5, 2047, 2048, 4000)] == [2048, 2048, 2252, 4400]


@BLOCKS
@pytest.mark.parametrize("n_passes", [1, 2, 5])
def test_passes_are_those_of_scipy(block: int, n_passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "BLOCK", block)
    z = rows_of(60)
    centroids, label = lloyd(z, z[:7], n_passes)
    expected, _ = kmeans2(z.numpy(), z[:7].numpy(), iter=n_passes, minit="matrix")
    torch.testing.assert_close(centroids, torch.from_numpy(expected))
    assert label.tolist() == ((z[:, None] - centroids).square().sum(2)).argmin(1).tolist()


def test_within_sums_never_rise_and_centroids_end_as_means() -> None:
    z, sums = rows_of(80), []
    for n_passes in (0, 1, 2, 3, 4, 50):
        centroids, label = lloyd(z, z[:9], n_passes)
        sums.append((z - centroids[label]).square().sum().item())
    assert sums == sorted(sums, reverse=True)
    assert sums[0] > 1.05 * sums[-1]
    for k in range(9):
        torch.testing.assert_close(centroids[k], z[label == k].mean(0))


def test_a_centroid_without_rows_stays() -> None:
    z = torch.tensor([[0.0], [1.0], [2.0]]).double()
    centroids, label = lloyd(z, torch.tensor([[1.0], [50.0]]).double(), 5)
    assert centroids.tolist() == [[1.0], [50.0]]
    assert label.tolist() == [0, 0, 0]


def peaks_by_hand(z: list[list[float]], n_clusters: int, share: float) -> tuple[list[list[float]], list[int]]:
    n, width = len(z), len(z[0])
    distance = [[math.dist(a, b) / math.sqrt(width) for b in z] for a in z]
    k = math.ceil(n * share)
    density = [math.exp(-sum(d * d for d in sorted(row)[:k]) / k) for row in distance]
    gap = []
    for i in range(n):
        denser = [distance[i][j] for j in range(n) if density[j] > density[i]]
        gap.append(min(denser) if denser else max(max(row) for row in distance))
    centres = sorted(range(n), key=lambda i: -density[i] * gap[i])[:n_clusters]
    label = [min(range(n_clusters), key=lambda c: distance[i][centres[c]]) for i in range(n)]
    sums = [
        [sum(z[i][d] for i in range(n) if label[i] == c) for d in range(width)] for c in range(n_clusters)
    ]
    return [[x / (label.count(c) + 1e-4) for x in row] for c, row in enumerate(sums)], label


@BLOCKS
@pytest.mark.parametrize("share", [0.1, 0.2])
def test_density_peaks_are_what_their_formula_says(
    block: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "BLOCK", block)
    z = rows_of(34)
    centroids, label = density_peaks(z, 6, share)
    expected, labels = peaks_by_hand(z.tolist(), 6, share)
    assert label.tolist() == labels
    torch.testing.assert_close(centroids.tolist(), expected)


def test_equal_centres_are_their_own_members() -> None:
    z = torch.cat([rows_of(5), rows_of(5)])
    _, label = density_peaks(z, 10, 0.2)
    assert sorted(label.tolist()) == list(range(10))


@BLOCKS
def test_nearest_counts_and_sums(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "BLOCK", block)
    z, centroids = rows_of(31), rows_of(6, seed=1)
    label = nearest(z, centroids)
    assert label.tolist() == torch.cdist(z, centroids).argmin(1).tolist()
    assert count_by(label, 8).tolist() == np.bincount(label.numpy(), minlength=8).tolist()
    for k in range(8):
        torch.testing.assert_close(sum_by(z, label, 8)[k], z[label == k].sum(0))


def test_effective_number_of_clusters() -> None:
    assert effective_number(torch.tensor([0, 1, 2, 3] * 5), 9) == pytest.approx(4)
    assert effective_number(torch.zeros(7, dtype=torch.int64), 9) == pytest.approx(1)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_number(torch.tensor([5, 5, 5, 1]), 9) == pytest.approx(math.exp(entropy))


def test_a_centroid_without_rows_moves_to_the_row_farthest_from_its_own() -> None:
    z = torch.tensor([[0.0], [1.0], [2.0], [9.0]]).double()
    first = torch.tensor([[1.0], [-50.0], [70.0]]).double()
    centroids, label = lloyd(z, first, 1, refill=True)
    assert centroids.tolist() == [
        [3.0],
        [9.0],
        [0.0],
    ]  # the mean of all rows, and the two that are farthest from 1
    assert label.tolist() == [2, 2, 0, 1]
    assert lloyd(z, first, 1)[0].tolist() == [[3.0], [-50.0], [70.0]]


def test_product_codes_are_the_nearest_of_each_blocks_own_means() -> None:
    z = rows_of(60, dim=7)
    codes = product_codes(z, 3, 5, 25)
    assert codes.shape == (60, 3)
    for k, columns in enumerate((slice(0, 3), slice(3, 5), slice(5, 7))):
        means = torch.stack([z[codes[:, k] == code, columns].mean(0) for code in range(5)])
        nearest_mean = (z[:, None, columns] - means).square().sum(2).argmin(1)
        assert torch.equal(codes[:, k], nearest_mean), "Lloyd's passes have not ended in their fixed point"


@pytest.mark.parametrize("n_clusters", [3, 8, 13, 40])
def test_of_equal_centroids_the_first_is_nearest_whatever_the_product_s_last_digits(n_clusters: int) -> None:
    """Vector units and their remainders may give equal columns of a product other last digits."""
    rows = torch.randn(50, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    different = rows[: (n_clusters + 2) // 3]
    centroids = different.repeat(3, 1)[:n_clusters]
    assert (nearest(rows, centroids) < len(different)).all()
    with mock.patch.object(
        clusters, "_gaps", lambda x, c: iter([torch.cdist(x, c) - 1e-9 * torch.arange(len(c))])
    ):
        assert (nearest(rows, centroids) < len(different)).all()
