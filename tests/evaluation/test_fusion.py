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
from mmbench.evaluation.fusion import FEWEST_USERS, best_on_grid, choose_weights, model_chunks, some_users
from mmbench.evaluation.metrics import mean_value
from mmbench.evaluation.ranking import rank
from mmbench.models.late_fusion import FusionConfig, LateFused
from mmbench.nn.score_scales import FusionWeights, gate_weights, simplex_grid
from tests.scorers import empty_catalog, random_view

N_ITEMS = 40


class Written(LateFused[FusionConfig]):
    """Members that give user u the scores table[u]."""

    trainable = False

    def __init__(self, *tables: Tensor, config: FusionConfig | None = None) -> None:
        n_users, n_items = tables[0].shape
        super().__init__(config or FusionConfig(), empty_catalog(n_items=n_items, n_users=n_users))
        self.tables = tables
        self.init_fusion(len(tables), torch.arange(1, n_items + 1).repeat_interleave(3))

    def member_scores(self, batch: Batch) -> dict[str, Tensor]:
        return {str(k): table[batch.user] for k, table in enumerate(self.tables)}

    def traits(self, batch: Batch) -> Tensor:
        """Only the user is known: even users have long histories that end with a rare item."""
        even = (batch.user % 2 == 0).double()
        return torch.stack([2 * even, 1 - even], 1)

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


def test_the_fusion_beats_both_members_and_a_shuffled_member_loses_its_weight() -> None:
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


def best_shares(model: LateFused[FusionConfig], view: TargetView, *, mask_seen: MaskRule) -> list[int]:
    """Return the best weights of a model's members, in tenths."""
    chunks = model_chunks(model, view, torch.device("cpu"))
    return best_on_grid(chunks, view, (len(model.shares), model.n_items), mask_seen=mask_seen)


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
        model.set_weights(FusionWeights(tuple(point), "test"))
        values[tuple(point)] = ndcg(model, view, rule)
    assert values[tuple(weights)] == max(values.values())
    best = [point for point, value in values.items() if value == max(values.values())]
    assert tuple(weights) == best[0], "the one nearest to equal weights"


def test_a_catalogue_smaller_than_the_cutoff_has_weights() -> None:
    view = random_view(n_users=30, n_items=6)
    tables = [torch.rand(30, 6, generator=torch.Generator().manual_seed(k)) for k in (1, 2)]
    assert sum(best_shares(Written(*tables), view, mask_seen="none")) == 10


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


def test_learned_weights_go_to_the_member_that_knows() -> None:
    view, first, _ = planted(FEWEST_USERS)
    both = first.clone()
    both[view.user, view.target - 1] += 4
    noise = torch.from_numpy(np.random.default_rng(9).normal(size=tuple(first.shape)))
    model = Written(noise, both, config=FusionConfig(fusion_weights="learned"))
    choose_weights(model, view, mask_seen="none")
    assert model.weights_from == "learned on 2,000 validation users"
    assert int(model.shares[1]) / int(model.shares.sum()) > 0.95
    assert model.fusion_state()["weights"][1] > 0.95


def likelihood(view: TargetView, tables: list[Tensor], weights: np.ndarray, rule: MaskRule) -> float:
    """The mean log probability of the targets, a user at a time: raw scores, weights [M] or [users, M]."""
    total = 0.0
    for k, (user, target) in enumerate(zip(view.user, view.target, strict=True)):
        of_user = weights[k] if weights.ndim == 2 else weights
        scores = sum(w * table[user].numpy() for w, table in zip(of_user, tables, strict=True))
        history = view.items[view.offsets[k] : view.offsets[k + 1]]
        n_seen = {"none": 0, "train": int(view.train_len[k]), "input": len(history)}[rule]
        seen = set(history[:n_seen].tolist())
        left = [item for item in range(1, N_ITEMS + 1) if item not in seen or item == target]
        kept = scores[np.array(left) - 1]
        total += scores[target - 1] - np.log(np.exp(kept).sum())
    return total / len(view)


@pytest.mark.parametrize("rule", RULES)
def test_learned_weights_are_those_of_the_likelihood_s_maximum(
    rule: MaskRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ratio of weights that is a little larger or smaller makes the targets less likely, each at its best scale."""
    from scipy.optimize import minimize_scalar

    monkeypatch.setattr("mmbench.evaluation.fusion.FEWEST_USERS", 1)
    view, first, second = planted(150)
    tables = [first / 2, second / 3]
    model = Written(*tables, config=FusionConfig(fusion_weights="learned", scale="raw"))
    choose_weights(model, view, mask_seen=rule)
    share = float(model.shares[0] / model.shares.sum())

    def best(part: float) -> float:
        actual = minimize_scalar(
            lambda size: -likelihood(view, tables, size * np.array([part, 1 - part]), rule),
            bounds=(0.1, 20.0),
            method="bounded",
        )
        return -float(actual.fun)

    assert best(share) > max(best(share - 0.02), best(share + 0.02))


def test_gated_weights_follow_the_user_where_one_weight_for_all_cannot() -> None:
    view, first, second = planted(FEWEST_USERS)
    gated = Written(first, second, config=FusionConfig(fusion_weights="gated"))
    learned = Written(first, second, config=FusionConfig(fusion_weights="learned"))
    for model in (gated, learned):
        choose_weights(model, view, mask_seen="none")
    gates = torch.tensor(gated.fusion_state()["gates"], dtype=torch.float64)
    even, odd = (
        gate_weights(gates, torch.tensor([trait], dtype=torch.float64))[:, 0]
        for trait in ((2.0, 0.0), (0.0, 1.0))
    )
    assert even[0] > 5 * even[1]
    assert odd[1] > 5 * odd[0]
    assert ndcg(gated, view) > ndcg(learned, view) + 0.05


def test_a_sample_of_users_is_evenly_spaced_and_keeps_their_histories() -> None:
    view = random_view(n_users=50)
    few = some_users(view, 7)
    assert len(few) == 7
    places = [int(np.flatnonzero(view.user == user)[0]) for user in few.user]
    assert (places[0], places[-1]) == (0, 49)
    for k, place in enumerate(places):
        history = few.items[few.offsets[k] : few.offsets[k + 1]]
        assert history.tolist() == view.items[view.offsets[place] : view.offsets[place + 1]].tolist()
        assert few.target[k] == view.target[place]
    assert some_users(view, 50) is view


def test_of_more_users_than_fit_some_are_taken_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    view, first, second = planted(FEWEST_USERS)
    monkeypatch.setattr("mmbench.evaluation.fusion.MOST_HELD", 2 * N_ITEMS * 500)
    model = Written(first, second, config=FusionConfig(fusion_weights="learned"))
    choose_weights(model, view, mask_seen="none")
    assert model.weights_from == "learned on 500 of 2,000 validation users"
    assert 0.3 < float(model.shares[0] / model.shares.sum()) < 0.7
