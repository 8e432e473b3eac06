"""Weights of a late fusion: those of the best validation ranking, on planted scores whose answer is known."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mmbench.choices import RULES, MaskRule
from mmbench.data.batch import Batch
from mmbench.data.views import TargetView
from mmbench.evaluation.fusion import FEWEST_USERS, best_shares, choose_weights
from mmbench.evaluation.metrics import mean_value
from mmbench.evaluation.ranking import rank
from mmbench.models.late_fusion import FusionConfig, LateFused
from mmbench.nn.score_scales import simplex_grid
from tests.scorers import empty_catalog, random_view

N_ITEMS = 40


class Written(LateFused[FusionConfig]):
    """Members that give user u the scores table[u]."""

    trainable = False

    def __init__(self, *tables: Tensor, config: FusionConfig | None = None) -> None:
        n_users, n_items = tables[0].shape
        super().__init__(config or FusionConfig(), empty_catalog(n_items=n_items, n_users=n_users))
        self.tables = tables
        self.init_fusion(len(tables))

    def member_scores(self, batch: Batch) -> dict[str, Tensor]:
        return {str(k): table[batch.user] for k, table in enumerate(self.tables)}

    def presence(self) -> Mapping[str, Tensor | None]:
        return dict.fromkeys(map(str, range(len(self.tables))))

    def is_alone(self) -> bool:
        return len(self.tables) == 1


def planted(n_users: int, seed: int = 0) -> tuple[TargetView, Tensor, Tensor]:
    """A view, and two members: the first knows the targets of even users, the second those of odd ones."""
    view = random_view(n_users=n_users, n_items=N_ITEMS, seed=seed)
    rng = np.random.default_rng(seed + 1)
    tables = rng.normal(size=(2, n_users, N_ITEMS))
    tables[view.user % 2, view.user, view.target - 1] += 4
    return view, torch.from_numpy(tables[0]), torch.from_numpy(tables[1])


def ndcg(model: LateFused[FusionConfig], view: TargetView, rule: MaskRule = "none") -> float:
    return mean_value(rank(model, view, mask_seen=rule), "NDCG@10")


def test_the_fusion_beats_both_members_and_a_shuffled_one_loses_its_weight() -> None:
    view, first, second = planted(FEWEST_USERS)
    model = Written(first, second)
    choose_weights(model, view, mask_seen="none")
    assert model.weights_from == "validation NDCG@10"
    assert 0.3 < float(model.shares[0]) / 10 < 0.7
    alone = ndcg(Written(first), view)
    assert ndcg(model, view) > max(alone, ndcg(Written(second), view)) + 0.1
    noise = second[torch.from_numpy(np.random.default_rng(5).permutation(len(second)))]
    shuffled = Written(first, noise)
    choose_weights(shuffled, view, mask_seen="none")
    assert int(shuffled.shares[1]) <= 2
    error = rank_error(Written(first), view)
    assert abs(ndcg(shuffled, view) - alone) < 2 * error


def rank_error(model: LateFused[FusionConfig], view: TargetView) -> float:
    """Return the standard error of the mean NDCG@10, whose gains lie in 0..1."""
    ranks = rank(model, view)
    gains = np.where(ranks.greater < 10, 1 / np.log2(ranks.greater + 2), 0)
    return float(gains.std() / len(gains) ** 0.5)


@pytest.mark.parametrize("rule", RULES)
def test_no_point_of_the_grid_ranks_better_under_the_same_mask_rule(rule: MaskRule) -> None:
    view, first, second = planted(60)
    # Under a mask rule the second member is the better one: it puts items of the history first, then the target.
    second = second.clone()
    for k, user in enumerate(view.user):
        second[user, view.items[view.offsets[k] : view.offsets[k + 1]] - 1] += 9
    model = Written(first, second)
    weights = best_shares(model, view, mask_seen=rule)
    values = {}
    for point in simplex_grid(2).tolist():
        model.set_shares(point, "test")
        values[tuple(point)] = ndcg(model, view, rule)
    assert values[tuple(weights)] == max(values.values())
    best = [point for point, value in values.items() if value == max(values.values())]
    assert tuple(weights) == best[0], "the one nearest to equal weights"


def test_mask_rules_share_one_scale_and_may_choose_other_weights() -> None:
    view, first, second = planted(400)
    second = second.clone()
    for k, user in enumerate(view.user):
        second[user, view.items[view.offsets[k] : view.offsets[k + 1]] - 1] += 9
    model = Written(first, second)
    none, masked = (best_shares(model, view, mask_seen=rule) for rule in ("none", "input"))
    assert none[1] < masked[1]


def test_the_size_of_chunks_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    view, first, second = planted(300)
    whole = best_shares(Written(first, second), view, mask_seen="input")
    monkeypatch.setattr("mmbench.evaluation.ranking.MOST_USERS", {"cpu": 7})
    monkeypatch.setattr("mmbench.evaluation.ranking.FEWEST_USERS", 1)
    assert best_shares(Written(first, second), view, mask_seen="input") == whole


def test_weights_stay_equal_where_they_are_wanted_so_and_where_users_are_few() -> None:
    view, first, _ = planted(FEWEST_USERS)
    noise = torch.zeros_like(first)
    equal = Written(first, noise, config=FusionConfig(fusion_weights="equal"))
    choose_weights(equal, view, mask_seen="none")
    assert (equal.shares.tolist(), equal.weights_from) == ([1, 1], "equal")
    n = FEWEST_USERS - 1
    few = replace(
        view,
        user=view.user[:n],
        target=view.target[:n],
        offsets=view.offsets[: n + 1],
        train_len=view.train_len[:n],
    )
    model = Written(first, noise)
    choose_weights(model, few, mask_seen="none")
    assert model.shares.tolist() == [1, 1]
    assert model.weights_from == "equal: 1,999 validation users are fewer than 2,000"
