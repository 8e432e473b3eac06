"""Principal components against the singular value decomposition, k-means against scipy's, planted clusters."""

import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from mmbench.nn import clusters
from mmbench.nn.clusters import k_means, lloyd, nearest_few, principal_components


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(n_clusters: int, n_each: int = 30) -> tuple[Tensor, Tensor]:
    """Return rows around far centres, shuffled, and the centre of each; the first centre has ten times as many."""
    label = torch.arange(n_clusters).repeat_interleave(n_each)
    label = torch.cat([label, torch.zeros(9 * n_each, dtype=torch.int64)])
    label = label[torch.randperm(len(label), generator=torch.Generator().manual_seed(1))]
    return 20 * noise(n_clusters, 6)[label] + 0.1 * noise(len(label), 6, seed=2), label


@pytest.mark.parametrize("block", [7, 4096])
def test_components_are_those_of_the_singular_value_decomposition(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "BLOCK", block)
    x = (noise(50, 9) * torch.arange(1, 10) + 3).float()
    centred = x.double().numpy() - x.double().numpy().mean(0)
    u, s, v = np.linalg.svd(centred, full_matrices=False)
    expected = torch.from_numpy(u * s)[:, :4]
    actual = principal_components(x, 4)
    torch.testing.assert_close(actual.abs(), expected.abs(), rtol=0, atol=1e-9)
    for row, coordinates, direction in zip(expected.T, actual.T, v[:4], strict=True):
        sign = np.sign(direction[np.abs(direction).argmax()])
        torch.testing.assert_close(coordinates, row * sign, rtol=0, atol=1e-9)


def test_components_of_fewer_features_are_filled_with_zeros() -> None:
    actual = principal_components(noise(20, 3), 5)
    assert actual.shape == (20, 5)
    assert actual[:, :3].abs().sum(0).min() > 0
    assert not actual[:, 3:].any()


@pytest.mark.parametrize("n_clusters", [1, 2, 5, 12])
def test_planted_clusters_are_found(n_clusters: int) -> None:
    """Also where one of them is ten times as large as the others."""
    x, label = planted(n_clusters)
    actual = nearest_few(x, k_means(x, n_clusters), 1)[:, 0]
    for own in range(n_clusters):
        assert len(actual[label == own].unique()) == 1
    assert len(actual.unique()) == n_clusters


@pytest.mark.parametrize("block", [7, 4096])
def test_rounds_are_those_of_scipy(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same first centres to the same last ones, which are the means of their rows."""
    monkeypatch.setattr(clusters, "BLOCK", block)
    x = noise(200, 4)
    first, centres = clusters._first_centres(x, 8), k_means(x, 8)
    expected, label = kmeans2(x.numpy(), first.numpy(), iter=100, minit="matrix")
    torch.testing.assert_close(centres, torch.from_numpy(expected), rtol=0, atol=1e-12)
    assert nearest_few(x, centres, 1)[:, 0].tolist() == label.tolist()
    for number in range(8):
        torch.testing.assert_close(centres[number], x[torch.from_numpy(label) == number].mean(0))


def test_the_first_centres_are_rows_far_from_each_other() -> None:
    x, label = planted(12)
    first = clusters._first_centres(x, 12)
    rows = [(x == centre).all(1).nonzero().item() for centre in first]
    assert sorted(label[rows].tolist()) == list(range(12))


def test_nothing_is_drawn() -> None:
    x = noise(100, 3)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    first = k_means(x, 6)
    torch.manual_seed(2)
    assert torch.equal(k_means(x, 6), first)
    torch.set_rng_state(state)


def test_equal_rows_are_one_cluster() -> None:
    x = torch.tensor([[1.0, 0.0], [5.0, 2.0], [-3.0, 1.0]])[torch.arange(60) % 3]
    centres = k_means(x, 10)
    assert sorted(centres.tolist()) == [[-3, 1], [1, 0], [5, 2]]
    assert k_means(x[:1], 10).tolist() == [[1, 0]]


def test_a_centre_without_rows_stays() -> None:
    x = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    assert lloyd(x, torch.tensor([[0.5], [70.0]]).double(), 1)[0].tolist() == [[1.0], [70.0]]


@pytest.mark.parametrize("block", [7, 4096])
def test_nearest_centres_come_in_the_order_of_their_distances(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "BLOCK", block)
    x, centres = noise(40, 3), noise(9, 3, seed=5) + 2
    expected = torch.cdist(x, centres).argsort(1)[:, :4]
    assert torch.equal(nearest_few(x, centres, 4), expected)
    assert nearest_few(x[:0], centres, 2).shape == (0, 2)
