"""BPR-MF: section "How to check it" of its specification."""

from typing import Any

import pytest
import torch
from scipy.stats import spearmanr

from mmbench.errors import UsageError
from mmbench.models.base import Recommender
from tests.models.toy import (
    catalog_of,
    gradients,
    history_batch,
    overfit,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)


def scores_of(model: Recommender[Any], users: list[int]) -> torch.Tensor:
    """[len(users), N]; the history of a user is not read."""
    with torch.no_grad():
        return model.score(history_batch(model, [[1]] * len(users), users=users))


def test_gradient_of_one_triple() -> None:
    model = toy_model("bpr-mf", toy_catalog(), init="xavier", n_negatives=1).double()
    with torch.no_grad():
        model.item_bias.weight[1:].normal_()
    batch = training_batch(model, view_of([[4]]))
    i, j = 4, int(batch.negatives[0, 0])
    _, actual = gradients(model, batch)
    user, q_i, q_j = model.user_emb.weight[0], model.item_emb.weight[i], model.item_emb.weight[j]
    b = model.item_bias.weight
    s = torch.sigmoid(-(user @ q_i + b[i] - user @ q_j - b[j]))
    torch.testing.assert_close(actual["user_emb.weight"][0], -s * (q_i - q_j))
    torch.testing.assert_close(actual["item_emb.weight"][i], -s * user)
    torch.testing.assert_close(actual["item_emb.weight"][j], s * user)
    torch.testing.assert_close(actual["item_bias.weight"][[i, j], 0], torch.cat([-s, s]))
    assert not actual["user_emb.weight"][1:].any()
    others = [k for k in range(31) if k not in (i, j)]
    assert not actual["item_emb.weight"][others].any()


def test_bias_alone_learns_popularity() -> None:
    histories = [[i for i in range(1, 13) if (user + 3 * i) % 13 < i] for user in range(60)]
    view = view_of(histories)
    model = toy_model("bpr-mf", catalog_of(view, n_items=12, features=False), hidden_dim=1)
    with torch.no_grad():
        model.user_emb.weight.zero_()
        model.item_emb.weight.zero_()
    model.user_emb.weight.requires_grad_(False)
    model.item_emb.weight.requires_grad_(False)
    optimizer = torch.optim.Adam([model.item_bias.weight], lr=0.05)
    for seed in range(150):
        optimizer.zero_grad()
        model.loss(training_batch(model, view, seed=seed))["bpr"].backward()
        optimizer.step()
    count = torch.bincount(torch.from_numpy(view.items), minlength=13)[1:]
    assert spearmanr(count, model.item_bias.weight[1:, 0].detach()).statistic > 0.95


def test_negatives_are_not_the_users_and_never_padding() -> None:
    view = toy_view()
    model = toy_model("bpr-mf", toy_catalog(), n_negatives=50)
    batch = training_batch(model, view)
    assert batch.negatives.shape == (len(view.items), 50)
    assert batch.negatives.min() >= 1
    own = set(zip(view.users.tolist(), view.items.tolist(), strict=True))
    drawn = zip(batch.user.repeat_interleave(50).tolist(), batch.negatives.flatten().tolist(), strict=True)
    assert not own & set(drawn)
    assert batch.target.tolist() == view.items.tolist()


def test_finds_planted_blocks() -> None:
    """Two groups of users with a group of items each; a user has 6 of the 10, the others are to be found."""
    generator = torch.Generator().manual_seed(0)
    blocks = [(torch.randperm(10, generator=generator) + 1 + 10 * (user % 2)).tolist() for user in range(40)]
    view = view_of([block[:6] for block in blocks])
    model = toy_model("bpr-mf", catalog_of(view, n_items=20, features=False), hidden_dim=8)
    seeds = iter(range(1000))
    overfit(
        model,
        lambda: model.loss(training_batch(model, view, seed=next(seeds)))["bpr"],
        lambda: False,
        lr=0.03,
        n_steps=80,
    )
    scores = scores_of(model, list(range(40)))
    pop = toy_model("pop", catalog_of(view, n_items=20, features=False))
    popular = pop.score(history_batch(pop, [[1]] * 40))
    hits = pop_hits = 0.0
    for user, block in enumerate(blocks):
        for held_out in block[6:]:
            hits += (scores[user] > scores[user, held_out - 1]).sum().item() < 10
            pop_hits += (popular[user] > popular[user, held_out - 1]).sum().item() < 10
    assert hits / 160 > 0.95
    assert pop_hits / 160 < 0.7


def test_rotation_and_a_constant_bias_do_not_matter() -> None:
    model = toy_model("bpr-mf", toy_catalog(), init="xavier", hidden_dim=6).double()
    with torch.no_grad():
        model.item_bias.weight[1:].normal_()
    before = scores_of(model, [0, 5, 19])
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    with torch.no_grad():
        model.user_emb.weight.copy_(model.user_emb.weight @ rotation)
        model.item_emb.weight.copy_(model.item_emb.weight @ rotation)
        torch.testing.assert_close(scores_of(model, [0, 5, 19]), before)
        model.item_bias.weight[1:] += 3.5
    after = scores_of(model, [0, 5, 19])
    torch.testing.assert_close(after, before + 3.5)
    assert torch.equal(after.argsort(1), before.argsort(1))


def test_score_is_the_users_and_ignores_the_history() -> None:
    model = toy_model("bpr-mf", toy_catalog(), init="xavier")
    with torch.no_grad():
        model.item_bias.weight[1:].normal_()
        actual = model.score(history_batch(model, [[1], [5, 6, 7]], users=[3, 3]))
    expected = model.item_emb.weight[1:] @ model.user_emb.weight[3] + model.item_bias.weight[1:, 0]
    torch.testing.assert_close(actual[0], actual[1])
    torch.testing.assert_close(actual[0], expected.detach())


def test_users_without_events_are_ranked_by_the_bias() -> None:
    catalog = catalog_of(view_of([[1, 2], [], [3]]), n_items=5, features=False)
    for init in ("normal", "xavier"):
        model = toy_model("bpr-mf", catalog, init=init)
        assert model.user_emb.weight.any(1).tolist() == [True, False, True]
        with torch.no_grad():
            model.item_bias.weight[1:].normal_()
        assert torch.equal(scores_of(model, [1])[0], model.item_bias.weight[1:, 0].detach())


def test_same_seed_same_losses() -> None:
    view = toy_view()

    def losses(seed: int) -> list[float]:
        model = toy_model("bpr-mf", toy_catalog(), seed=seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        actual = []
        for step in range(5):
            optimizer.zero_grad()
            loss = model.loss(training_batch(model, view, seed=100 * seed + step))["bpr"]
            loss.backward()
            optimizer.step()
            actual.append(loss.item())
        return actual

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


@pytest.mark.parametrize("use_bias", [True, False])
def test_regularisation_closed_forms(use_bias: bool) -> None:
    view, lam = toy_view(), 0.3
    base = {"init": "xavier", "use_bias": use_bias, "n_negatives": 2}
    plain = toy_model("bpr-mf", toy_catalog(), **base).double()
    batch = training_batch(plain, view)
    if use_bias:
        with torch.no_grad():
            plain.item_bias.weight[1:].normal_()
    weights = plain.state_dict()
    user = weights["user_emb.weight"][batch.user]
    positive = weights["item_emb.weight"][batch.target]
    negative = weights["item_emb.weight"][batch.negatives]
    bias = plain.item_bias.weight.detach() if use_bias else torch.zeros(31, 1, dtype=torch.float64)
    own_bias, other_bias = (bias[items].square().sum() for items in (batch.target, batch.negatives))
    squares = [vectors.square().sum() for vectors in (user, positive, negative)]
    n = 2 * len(batch.user)
    expected = {
        "l2": lam * (sum(squares) + own_bias + other_bias) / n,
        "paper": (0.1 * squares[0] + 0.2 * (squares[1] + own_bias) + 0.4 * (squares[2] + other_bias)) / n,
        "mmrec": lam * sum(square.sqrt() for square in squares) / len(batch.user),
    }
    own = {"paper": {"user_reg": 0.1, "positive_reg": 0.2, "negative_reg": 0.4}}
    assert plain.loss(batch).keys() == {"bpr"}
    for reg, value in expected.items():
        settings = own.get(reg, {"reg_weight": lam})
        model = toy_model("bpr-mf", toy_catalog(), **base, reg=reg, **settings).double()
        model.load_state_dict(weights)
        terms = model.loss(batch)
        torch.testing.assert_close(terms["reg"], value)
        torch.testing.assert_close(terms["bpr"], plain.loss(batch)["bpr"])


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="belong to reg = 'paper'"):
        toy_model("bpr-mf", toy_catalog(), user_reg=0.1)
    with pytest.raises(UsageError, match="instead of reg_weight"):
        toy_model("bpr-mf", toy_catalog(), reg="paper", reg_weight=0.1)


def test_several_negatives_are_averaged() -> None:
    model = toy_model("bpr-mf", toy_catalog(), n_negatives=3, init="xavier").double()
    batch = training_batch(model, toy_view())
    each = [model.loss(batch.with_drawn(negatives=batch.negatives[:, [k]]))["bpr"] for k in range(3)]
    torch.testing.assert_close(model.loss(batch)["bpr"], torch.stack(each).mean())
