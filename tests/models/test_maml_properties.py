"""MAML: properties of its score, its features, its training and its dropout; numbers and loops are in test_maml.py."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmbench.errors import UsageError
from mmbench.models.base import Recommender
from mmbench.models.registry import find
from mmbench.settings.config import TrainConfig
from mmbench.training.stack import fit_together
from mmbench.training.trainer import Trainer
from tests.models.make_maml import AS_THE_CODE, PLAIN, STILL, exact_model, joined_by_hand, unit
from tests.models.planted import finds_taste, planted_shop, trained
from tests.models.toy import (
    MAX_LEN,
    all_scores,
    catalog_of,
    gradients,
    set_weights,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)
from tests.scorers import state_of

# -- properties ----------------------------------------------------------------------------------------------------


def test_weights_sum_to_the_width_and_uniform_ones_give_squared_distances() -> None:
    model = exact_model()
    users, items = model.attention.user_side(model.user_emb.weight[:, None]), model.items_side()
    weights = model.eval().attention.weights(users, items)
    assert weights.shape == (20, 30, 4)
    torch.testing.assert_close(weights.sum(-1), torch.full((20, 30), 4.0, dtype=torch.float64))
    assert weights.std() > 0.01
    set_weights(model, {f"attention.second.{kind}": torch.tensor(0.0) for kind in ("weight", "bias")})
    gap = model.user_emb.weight[:, None] - model.item_emb.weight[1:]
    torch.testing.assert_close(all_scores(model, 20), -gap.square().sum(-1).detach())


@pytest.mark.parametrize(("hidden", "items"), [(1, 7), (2**18, 30), (900, 11)])
def test_blocks_do_not_change_the_scores(hidden: int, items: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = exact_model().eval()
    with torch.no_grad():
        users, every = model.attention.user_side(model.user_emb.weight[:, None]), model.items_side()
        expected = -model.attention.distance(users, every)
    module = type(model).score.__globals__
    monkeypatch.setitem(module["MOST_HIDDEN"], "cpu", hidden)
    monkeypatch.setitem(module["ITEM_BLOCK"], "cpu", items)
    torch.testing.assert_close(all_scores(model, 20), expected, rtol=1e-12, atol=1e-12)


def test_distances_are_bounded_and_not_negative() -> None:
    """Weights are at most D and points lie in the unit ball, so D(u, i) <= 4 D^2; the margin must be reachable."""
    model = exact_model()
    with torch.no_grad():
        model.constrain(dict(model.named_parameters()))
    scores = all_scores(model, 20)
    assert (scores <= 0).all()
    assert (scores >= -4 * 4**2).all()
    assert (scores.amax(1) - scores.amin(1)).max() > 1.6


def test_items_begin_where_their_features_are() -> None:
    for settings in ({}, {"dropout": 0.5}):
        model = toy_model("maml", toy_catalog(), **settings)
        assert model.feature_net.training
        with torch.no_grad():
            f = model.eval().feature_net(model.feat[1:])
        torch.testing.assert_close(model.item_emb.weight[1:].detach(), f)
        assert (f.norm(dim=1) <= 1 + 1e-6).all()
    long = into_long(toy_model("maml", toy_catalog()))
    with torch.no_grad():
        torch.testing.assert_close(long.eval().feature_net(long.feat[1:]).norm(dim=1), torch.ones(30))


def into_long(model: Recommender[Any]) -> Recommender[Any]:
    """Return the model with a last layer that leaves the unit ball far behind."""
    with torch.no_grad():
        model.feature_net.layers[3].bias.fill_(3.0)
    return model


def test_initial_weights() -> None:
    model = toy_model("maml", toy_catalog(n_users=400), hidden_dim=64)
    assert model.user_emb.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)
    for name, fans in (
        ("feature_net.layers.0", 20 + 256),
        ("feature_net.layers.2", 256),
        ("attention.first", 8 * 64),
    ):
        weight, bound = model.get_parameter(f"{name}.weight"), (6 / fans) ** 0.5
        assert 0.95 * bound < weight.abs().max().item() <= bound, name
        assert not model.get_parameter(f"{name}.bias").any()
    absent = toy_model("maml", catalog_of(view_of([[1, 2], [], [3]]), n_items=5))
    assert absent.user_emb.weight.any(1).tolist() == [True, False, True]


def test_loss_and_rank_at_their_ends() -> None:
    """Positives nearer than every negative by more than the margin: 0. All negatives impostors: log(N + 1)."""
    model = exact_model(margin=0.1, covariance_weight=0.0, feature_weight=0.0, **STILL)
    batch = training_batch(model, view_of([[4]]))
    order = all_scores(model.train(), 1)[0].argsort(descending=True) + 1
    best, worst = order[:1], order[-4:]
    near = replace(batch, target=best).with_drawn(negatives=worst[None])
    assert model.train().loss(near)["rank"] == 0
    far = replace(batch, target=worst[-1:]).with_drawn(negatives=order[None, :4])
    scores = all_scores(model, 1)[0]
    hinge = scores[order[0] - 1] - scores[worst[-1] - 1] + 0.1
    assert model.train().loss(far)["rank"].item() == pytest.approx(float(hinge) * math.log(31), rel=1e-9)


def test_the_rank_carries_no_gradient() -> None:
    """The rank weight is a constant: scaling it scales the gradient, as the hinge's alone."""
    model = exact_model(margin=1.5, covariance_weight=0.0, feature_weight=0.0, n_negatives=2, **STILL)
    batch = training_batch(model, view_of([[4]]))
    _, grads = gradients(model, batch)
    users = model.attention.user_side(model.user_emb(batch.user)[:, None])
    ids = torch.cat([batch.target[:, None], batch.negatives], 1)
    f = model.feature_net(model.feat[ids])
    distance = model.attention.distance(users, model.attention.item_side(model.item_emb(ids), f))[0]
    rank = 30 * float((distance[0] - distance[1:] + 1.5 > 0).double().mean())
    model.zero_grad()
    (math.log(1 + rank) * (distance[0] - distance[1:].min() + 1.5)).backward()
    torch.testing.assert_close(grads["user_emb.weight"], model.user_emb.weight.grad)
    torch.testing.assert_close(grads["attention.first.weight"], model.attention.first.weight.grad)


# -- features ------------------------------------------------------------------------------------------------------


def test_features_are_centred_scaled_and_joined_text_first() -> None:
    catalog = toy_catalog()
    model = toy_model("maml", catalog)
    for item in range(1, 31):
        joined = joined_by_hand(catalog, item)
        torch.testing.assert_close(model.feat[item], unit(joined).float())
    assert not model.feat[3].any()  # item 3 has neither
    raw = toy_model("maml", catalog, **PLAIN).feat
    together = torch.cat([catalog.text_feat, catalog.image_feat], 1)
    torch.testing.assert_close(raw, torch.nn.functional.normalize(together, dim=1))


def test_a_sample_of_items_estimates_the_feature_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every item drawn once: the loss over all of them, in both reductions."""
    draw = torch.rand

    def all_in_turn(*shape: int, **options: Any) -> Tensor:
        return (torch.arange(30) + 0.5) / 30 if shape == (30,) else draw(*shape, **options)

    monkeypatch.setattr(torch, "rand", all_in_turn)
    for reduction in ("mean", "sum"):
        settings = {"loss_reduction": reduction, **STILL}
        every, sample = exact_model(**settings), exact_model(n_feature_items=30, **settings)
        batch = training_batch(every, toy_view())
        (_, grads), (_, of_sample) = gradients(every, batch), gradients(sample, batch)
        for term, value in every.loss(batch).items():
            torch.testing.assert_close(sample.loss(batch)[term], value)
        for name, grad in grads.items():
            torch.testing.assert_close(of_sample[name], grad)


# -- what is trained -----------------------------------------------------------------------------------------------


def test_frozen_networks_stay_and_trained_ones_move() -> None:
    for is_trained in (True, False):
        model = toy_model("maml", toy_catalog(), train_nets=is_trained, **STILL)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for step in range(3):
            optimizer.zero_grad()
            sum(model.loss(training_batch(model, toy_view(), seed=step)).values()).backward()
            optimizer.step()
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        nets = {name for name in before if name.startswith(("feature_net", "attention"))}
        assert nets
        assert moved == {"user_emb.weight", "item_emb.weight"} | (nets if is_trained else set())


def test_frozen_networks_have_the_scores_and_losses_of_trained_ones() -> None:
    both = [toy_model("maml", toy_catalog(), seed=2, train_nets=kind, **STILL) for kind in (True, False)]
    batch = training_batch(both[0], toy_view())
    torch.testing.assert_close(all_scores(both[0], 20), all_scores(both[1], 20))
    for term, value in both[0].train().loss(batch).items():
        torch.testing.assert_close(both[1].train().loss(batch)[term], value)
    grads = [gradients(model, batch)[1] for model in both]
    assert set(grads[1]) == {"user_emb.weight", "item_emb.weight"}
    for name, grad in grads[1].items():
        torch.testing.assert_close(grads[0][name], grad)


CONFIG = TrainConfig(
    max_len=MAX_LEN, batch_size=32, max_epochs=3, patience=50, lr=0.1, precision="float64", adam_eps=1e-4
)


def trainer_of(folder: Path, *, seed: int, **settings: Any) -> Trainer:
    folder.mkdir(parents=True)
    model = toy_model(
        "maml", toy_catalog(), seed=seed, hidden_dim=6, inner_dim=8, **STILL, **settings
    ).double()
    return Trainer(model, toy_view(), lambda _: 0.0, CONFIG, seed=seed, folder=folder)


def test_points_stay_in_the_unit_ball(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path / "run", seed=1)
    trainer.fit()
    norms = torch.cat([trainer.model.user_emb.weight, trainer.model.item_emb.weight[1:]]).norm(dim=1)
    assert (norms <= 1 + 1e-6).all()
    assert (norms > 1 - 1e-6).sum() > 3  # the ball holds them back
    torch.testing.assert_close(trainer.model.item_emb.weight[0], torch.zeros(6, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("train_nets", [True, False])
def test_stacked_seeds_end_where_single_ones_do(train_nets: bool, tmp_path: Path) -> None:
    groups = {
        kind: [
            trainer_of(tmp_path / kind / str(seed), seed=seed, train_nets=train_nets) for seed in (1, 2, 3)
        ]
        for kind in ("alone", "stack")
    }
    for trainer in groups["alone"]:
        trainer.fit()
    assert dict(fit_together(groups["stack"], size=3)) == dict.fromkeys(range(3))
    assert not any(trainer.progress.notes for trainer in groups["stack"])
    for group, other in zip(groups["alone"], groups["stack"], strict=True):
        for name, value in state_of(group.model).items():
            torch.testing.assert_close(state_of(other.model)[name], value, rtol=1e-6, atol=1e-8)


# -- where dropout acts --------------------------------------------------------------------------------------------


class Spy(torch.nn.Module):
    """Stands for a dropout: doubles what it is given, and remembers its widths."""

    def __init__(self) -> None:
        super().__init__()
        self.widths: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.widths.append(x.shape[-1])
        return 2 * x


def test_where_dropout_acts() -> None:
    """Behind each hidden layer of the feature network, before the norm; behind the attention's tanh."""
    model = exact_model(**STILL)
    sides = model.attention.user_side(model.user_emb.weight[:, None]), model.items_side()
    weights = model.attention.weights(*sides)
    feature_spy, attention_spy = Spy(), Spy()
    model.feature_net.drop, model.attention.drop = feature_spy, attention_spy
    batch = training_batch(model, toy_view())
    model.loss(batch)
    assert feature_spy.widths == [6, 3, 3]
    assert attention_spy.widths == [20]
    torch.testing.assert_close(model.attention.weights(*sides), weights)  # the norm takes it out
    x = model.feat[1:]
    first, second, third, last = model.feature_net.layers
    hidden = third(
        torch.nn.functional.normalize(
            second(torch.nn.functional.normalize(first(x).relu(), dim=1)).relu(), dim=1
        )
    ).relu()
    expected = last(2 * hidden)  # the norms take the first two out
    torch.testing.assert_close(
        model.feature_net(x), expected / expected.norm(dim=1, keepdim=True).clamp(min=1)
    )


def test_dropout_acts_in_training_only_at_its_rates() -> None:
    model = toy_model("maml", toy_catalog())
    assert (model.feature_net.drop.p, model.attention.drop.p) == (0.2, 0.05)
    batch = training_batch(model, toy_view())
    for kind, equal in (("train", False), ("eval", True)):
        getattr(model, kind)()
        torch.manual_seed(0)
        first = model.loss(batch)["rank"]
        torch.manual_seed(1)
        assert (model.loss(batch)["rank"] == first) == equal


def test_frozen_networks_drop_nothing_whatever_the_rates() -> None:
    model = toy_model("maml", toy_catalog(), train_nets=False, dropout=0.5, attn_dropout=0.5)
    batch = training_batch(model, toy_view())
    still = model.eval().loss(batch)
    for term, value in model.train().loss(batch).items():
        assert torch.equal(value, still[term]), term


# -- planted answer, settings --------------------------------------------------------------------------------------


def test_finds_style_in_pictures_and_brand_in_texts() -> None:
    """Measured with three seeds: style .72 to .85, brand .81 to .86; texts alone .51 and .89 to .96."""
    shop, how = planted_shop(), {"hidden_dim": 16, "inner_dim": 64, "lr": 0.01, "n_steps": 100}
    both = trained("maml", shop, **how)
    assert finds_taste(both, shop, "style") > 0.65
    assert finds_taste(both, shop, "brand") > 0.7
    texts = trained("maml:text", shop, **how)
    assert finds_taste(texts, shop, "brand") > 0.8
    assert finds_taste(texts, shop, "style") < 0.6
    mixed_up = planted_shop(shuffled=True)
    assert finds_taste(trained("maml", mixed_up, **how), mixed_up, "brand") < 0.62


def test_settings_and_data_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="inner_dim 1 cannot be halved"):
        toy_model("maml", toy_catalog(), inner_dim=1)
    with pytest.raises(UsageError, match="must name text, image, or both"):
        toy_model("maml", toy_catalog(), modalities=[])
    with pytest.raises(ValueError, match="reads text and image features, and the data set has none"):
        toy_model("maml", toy_catalog(features=False))
    assert toy_model("maml", replace(toy_catalog(), image_feat=None)).feat.shape[1] == 12


def test_the_recipe_names_what_is_released() -> None:
    settings = find("maml:as-released").recipe.variants["as-released"].settings
    assert settings.items() >= {**AS_THE_CODE, "train_nets": False}.items()
