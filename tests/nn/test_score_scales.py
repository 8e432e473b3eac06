"""Scales and weights of late fusion: numbers worked out apart from the code, and what each scale must not notice."""

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmbench.nn.score_scales import FusionWeights, Scale, rescale, simplex_grid, weighted_sum

FIRST = torch.tensor([[3.0, 0, 0, 1, 0], [0, 2, 5, 0, 1]], dtype=torch.float64)
SECOND = torch.tensor([[0.1, 0.9, 0.3, 0.5, -0.2], [0.4, 0.4, -0.1, 0.8, 0.2]], dtype=torch.float64)
WEIGHTS = torch.tensor([4, 6])
SCALES: tuple[Scale, ...] = ("raw", "zscore", "minmax", "prob", "logit", "rank")
EXPECTED: dict[Any, list[list[float]]] = {
    "zscore": [
        [0.3987456231, 0.6637473906, -0.3067475682, 0.3597479217, -1.1154933672],
        [-0.2225903871, 0.2087407057, -0.1648833812, 0.5939061938, -0.4151731312],
    ],
    "minmax": [
        [0.5636363636, 0.6, 0.2727272727, 0.5151515152, 0],
        [0.3333333333, 0.4933333333, 0.4, 0.6, 0.28],
    ],
    "prob": [
        [0.4011835063, 0.2154128389, 0.1252152058, 0.1761421906, 0.0820462584],
        [0.1245153820, 0.1404362300, 0.4438407890, 0.1845295473, 0.1066780517],
    ],
    "rank": [[0.0159323770, 0.0161852719, 0.0158730159, 0.0161290323, 0.0155799756]],
}


def fused(scale: Scale, *members: Tensor, weights: Tensor = WEIGHTS) -> Tensor:
    return weighted_sum(torch.stack([rescale(member, scale) for member in members]), weights)


def order(scores: Tensor) -> Tensor:
    return scores.argsort(dim=1, descending=True, stable=True)


def random_members(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(40, 25, generator=generator).double(), torch.randn(
        40, 25, generator=generator
    ).double()


@pytest.mark.parametrize("scale", EXPECTED)
def test_two_users_of_five_items(scale: Scale) -> None:
    expected = torch.tensor(EXPECTED[scale], dtype=torch.float64)
    result = fused(scale, FIRST, SECOND)[: len(expected)]
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-9)


def test_four_scales_have_other_best_items_of_the_second_user() -> None:
    scales: tuple[Scale, ...] = ("zscore", "minmax", "prob", "rank")
    assert [int(fused(scale, FIRST, SECOND)[1].argmax()) + 1 for scale in scales] == [4, 4, 3, 2]


@pytest.mark.parametrize("scale", SCALES)
def test_all_weight_on_one_member_and_equal_members_keep_its_order(scale: Scale) -> None:
    first, second = random_members()
    assert torch.equal(order(fused(scale, first, second, weights=torch.tensor([10, 0]))), order(first))
    assert torch.equal(order(fused(scale, first, first, weights=torch.tensor([3, 7]))), order(first))


@pytest.mark.parametrize("scale", SCALES)
def test_a_positive_affine_change_of_a_member_is_noticed_by_raw_prob_and_logit_only(scale: Scale) -> None:
    first, second = random_members()
    before, after = fused(scale, first, second), fused(scale, 7 * first + 5, second)
    assert torch.equal(order(before), order(after)) == (scale in ("zscore", "minmax", "rank"))


@pytest.mark.parametrize("scale", SCALES)
def test_the_order_of_members_does_not_matter(scale: Scale) -> None:
    first, second = random_members()
    torch.testing.assert_close(
        fused(scale, first, second), fused(scale, second, first, weights=WEIGHTS.flip(0))
    )


def test_logit_ranks_as_raw() -> None:
    first, second = random_members()
    apart = fused("logit", first, second) - fused("raw", first, second)
    torch.testing.assert_close(apart, apart[:, :1].expand_as(apart))


def test_equal_scores_share_a_rank_that_counts_those_above_only() -> None:
    result = rescale(torch.tensor([[2.0, 5, 2, 1, 5]]), "rank")
    torch.testing.assert_close(result, 1 / (60 + torch.tensor([[3.0, 1, 3, 5, 1]], dtype=torch.float64)))


@pytest.mark.parametrize("scale", ["zscore", "minmax"])
def test_a_row_of_equal_scores_is_zero(scale: Scale) -> None:
    assert not rescale(torch.full((2, 5), 0.1), scale).any()


def test_float32_scores_far_from_zero_are_standardised_in_float64() -> None:
    values = torch.arange(100_000.0)[None] / 8 + 1e6
    expected = (values.double().numpy() - values.double().numpy().mean()) / values.double().numpy().std()
    np.testing.assert_allclose(rescale(values, "zscore").numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", SCALES)
def test_items_that_a_member_does_not_know_have_the_mean_of_the_others(scale: Scale) -> None:
    present = torch.tensor([True, False, True, True, False])
    result = rescale(FIRST, scale, present)
    known = rescale(FIRST[:, present], scale)
    torch.testing.assert_close(result[:, present], known)
    torch.testing.assert_close(result[:, ~present], known.mean(1, keepdim=True).expand(2, 2))
    if scale == "zscore":
        assert result[:, ~present].abs().max() < 1e-12


def test_a_member_that_knows_nothing_of_a_history_is_left_out() -> None:
    scaled = torch.stack([rescale(member, "zscore") for member in random_members()])
    knows = torch.ones(2, 40, dtype=torch.bool)
    knows[1, 3] = knows[0, 4] = False
    result = weighted_sum(scaled, torch.tensor([10, 0]), knows)
    torch.testing.assert_close(result[3], scaled[0, 3])
    torch.testing.assert_close(result[4], scaled[1, 4], msg="all weight was on the member that is left out")
    torch.testing.assert_close(result[0], scaled[0, 0])
    both = weighted_sum(scaled, WEIGHTS, knows)
    torch.testing.assert_close(both[0], 0.4 * scaled[0, 0] + 0.6 * scaled[1, 0], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(both[3], scaled[0, 3])


def test_gates_weigh_the_members_that_know_something_of_a_history() -> None:
    """Weights exp(g0 + g1 log(1 + length) + g2 log(1 + popularity)) of each user, divided by their sum."""
    gates = ((0.2, 0.5, -0.3), (0.1, -0.4, 0.6), (-0.5, 0.1, 0.2))
    traits = [(1.0, 2.0), (0.5, 3.0), (2.0, 0.0)]
    knows = [[True, True, True], [True, True, False], [True, False, True]]  # by member, then by user
    scaled = torch.randn(3, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    actual = FusionWeights((1, 1, 1), "gated", gates).combine(
        scaled, torch.tensor(knows), torch.tensor(traits, dtype=torch.float64)
    )
    for user, (length, popularity) in enumerate(traits):
        weights = [
            knows[m][user] * math.exp(g0 + g1 * length + g2 * popularity)
            for m, (g0, g1, g2) in enumerate(gates)
        ]
        parts = [weight / sum(weights) * scaled[m, user] for m, weight in enumerate(weights)]
        torch.testing.assert_close(actual[user], torch.stack(parts).sum(0))


@pytest.mark.parametrize(("n_members", "n_points"), [(1, 1), (2, 11), (3, 66)])
def test_the_grid_holds_every_point_of_the_simplex_once_and_the_most_equal_first(
    n_members: int, n_points: int
) -> None:
    grid = simplex_grid(n_members)
    points = {part for part in product(range(11), repeat=n_members) if sum(part) == 10}
    assert {tuple(point) for point in grid.tolist()} == points
    assert len(grid) == n_points
    distance = (n_members * grid - 10).square().sum(1)
    assert (distance.diff() >= 0).all()
    if n_members == 2:
        assert grid[1].tolist() == [6, 4], "the earlier member has the larger weight"
