"""gSASRec: two tables, the authors' numbers, gBCE in both forms, positions from either end."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.gsasrec_released import transformed
from mmbench.data.batch import TrainBatch
from mmbench.models.base import Recommender
from mmbench.models.needs import Negatives, nothing
from mmbench.models.registry import find
from mmbench.nn.losses import bce
from mmbench.nn.sampled import gbce_weight
from tests.models.planted_answers import teach
from tests.models.toy import (
    catalog_of,
    history_batch,
    in_float64,
    set_weights,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)

SMALL = {"hidden_dim": 12, "inner_dim": 16, "n_heads": 2, "dropout": 0.0}
OFFICIAL = {"hidden_dim": 4, "inner_dim": 4, "n_heads": 2, "n_layers": 1, "dropout": 0.0, "n_negatives": 3}
INPUTS, EVENTS = [[2, 5, 2], [1, 2, 3, 4]], [[2, 5, 2, 1], [1, 2, 3, 4, 5]]


def official_weight(number: int, *shape: int, is_norm: bool = False) -> Tensor:
    entry = torch.arange(math.prod(shape), dtype=torch.float64)
    values = 0.4 * torch.sin(1.3 * number + 0.7 * entry)
    return (values + is_norm).view(shape)


def official_model(name: str = "gsasrec:official", **settings: Any) -> Recommender[Any]:
    """The model of the authors' numbers: 5 items, 4 places, weights that are sines."""
    catalog = catalog_of(view_of(EVENTS), n_items=5, max_len=4, features=False)
    with in_float64():
        model = toy_model(name, catalog, **(OFFICIAL | settings)).double()
    block = "encoder.blocks.0."
    weights = {
        "item_emb.weight": official_weight(1, 7, 4)[:6],  # the last row is the authors' padding
        "position_emb.weight": official_weight(2, 4, 4),
        "encoder.norm.weight": official_weight(17, 4, is_norm=True),
        "encoder.norm.bias": official_weight(18, 4),
        "output_emb.weight": official_weight(19, 7, 4)[1:6],
    }
    for number, norm in ((3, "norm1"), (5, "norm2")):
        weights[f"{block}{norm}.weight"] = official_weight(number, 4, is_norm=True)
        weights[f"{block}{norm}.bias"] = official_weight(number + 1, 4)
    for number, layer in zip(range(7, 17, 2), ("query", "key", "value", "up", "down"), strict=True):
        weights[f"{block}{layer}.weight"] = official_weight(number, 4, 4)
        weights[f"{block}{layer}.bias"] = official_weight(number + 1, 4)
    set_weights(model, weights)
    return model


def official_batch(model: Recommender[Any]) -> TrainBatch:
    """Negative j of row r at the left-padded place p: 1 + (3 r + 2 p + j) mod 5."""
    batch = training_batch(model, view_of(EVENTS), samples="last-window")
    position = batch.at_slots(batch.position[..., None])[:, 0]
    place = 4 - torch.tensor([3, 4])[batch.user] + position
    number = (3 * batch.user + 2 * place)[:, None] + torch.arange(3)
    return batch.with_drawn(negatives=1 + number % 5)


SCORES = [
    [-0.7286891371, 0.8599987685, -0.8919309682, 0.8207958006, -0.6548133127],
    [-0.8557934278, 1.0056213402, -1.0392443581, 0.9527771631, -0.7562114993],
]
LOSSES = [(0.0, 0.8115986247), (0.75, 0.7630845041), (1.0, 0.7469131306)]


def test_scores_of_the_authors_code() -> None:
    model = official_model().eval()
    with torch.no_grad():
        scores = model.score(history_batch(model, INPUTS))
    np.testing.assert_allclose(scores.numpy(), SCORES, rtol=0, atol=6e-11)


@pytest.mark.parametrize(("t", "expected"), LOSSES)
def test_losses_of_the_authors_code(t: float, expected: float) -> None:
    """Theirs is divided by K + 1, and so is as-released."""
    ours = official_model(gbce_t=t)
    assert ours.loss(official_batch(ours))["gbce"].item() / 4 == pytest.approx(expected, abs=6e-11)
    theirs = official_model("gsasrec:as-released", gbce_t=t)
    assert theirs.loss(official_batch(theirs))["gbce"].item() == pytest.approx(expected, abs=6e-11)


# -- gBCE --------------------------------------------------------------------------------------------------------


def test_both_forms_of_gbce_are_equal_between_the_clamps() -> None:
    score = torch.linspace(-20, 20, 81, dtype=torch.float64)
    for beta in (0.05, 0.266, 1.0):
        plain = beta * F.softplus(-score)
        torch.testing.assert_close(F.softplus(-transformed(score, beta)), plain, rtol=1e-6, atol=1e-9)
        inner = score.abs() < 10
        torch.testing.assert_close(
            F.softplus(-transformed(score, beta))[inner], plain[inner], rtol=1e-11, atol=1e-12
        )


def gradient(form: str, score: float, beta: float) -> float:
    own = torch.tensor([score], dtype=torch.float64, requires_grad=True)
    none = torch.zeros(1, 0, dtype=torch.float64)
    loss = bce(own, none, weight=beta) if form == "softplus" else bce(transformed(own, beta), none)
    loss.backward()
    assert own.grad is not None
    return own.grad.item()


def test_only_the_clamps_lose_the_gradient_of_a_badly_wrong_positive() -> None:
    beta = gbce_weight(256, 12_101, 0.75)
    assert gradient("softplus", -30.0, beta) == pytest.approx(-beta, abs=1e-9)
    assert gradient("released", -30.0, beta) == 0
    assert gradient("released", -23.1, beta) == 0
    assert gradient("released", -22.9, beta) == pytest.approx(-beta, rel=1e-3)
    edge = 23.03 + math.log(beta)
    assert gradient("released", edge + 0.1, beta) == 0
    assert gradient("released", edge - 0.3, beta) != 0
    for score in (-3.0, 0.4, 5.0):
        step = (
            beta * math.log1p(math.exp(-score - 1e-6)) - beta * math.log1p(math.exp(-score + 1e-6))
        ) / 2e-6
        assert gradient("softplus", score, beta) == pytest.approx(step, abs=1e-8)


@pytest.mark.parametrize("t", [0.0, 0.5, 1.0])
def test_free_scores_learn_the_logit_and_a_shift(t: float) -> None:
    """logit(p) + log(beta / alpha), negatives of the other items in expectation: t moves no order."""
    p = torch.tensor([0.4, 0.25, 0.2, 0.1, 0.05], dtype=torch.float64)
    k, n = 2, 5
    beta, alpha = gbce_weight(k, n, t), k / (n - 1)
    scores = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def step() -> Tensor:
        optimizer.zero_grad()
        total = scores.new_zeros(())
        for target in range(n):
            others = [i for i in range(n) if i != target]
            each = [bce(scores[[target]], scores[[i, j]][None], weight=beta) for i in others for j in others]
            total = total + p[target] * torch.stack(each).mean()
        total.backward()
        return total

    optimizer.step(step)
    expected = torch.logit(p) + math.log(beta / alpha)
    torch.testing.assert_close(scores.detach(), expected, rtol=0, atol=1e-5)


def test_the_variants_losses_are_what_they_say() -> None:
    model = toy_model("gsasrec", toy_catalog(), **SMALL)
    batch = training_batch(model, toy_view())
    assert batch.negatives.shape[1] == 256
    assert model.needs.get(Negatives) == Negatives(k=256, exclude=nothing)
    plain = toy_model("gsasrec:bce", toy_catalog(), **SMALL)
    with torch.no_grad():
        query, table = plain.query(batch), plain.item_table()
        own = (query * table[batch.target - 1]).sum(1)
        other = (query[:, None] * table[batch.negatives - 1]).sum(2)
        torch.testing.assert_close(plain.loss(batch)["gbce"], bce(own, other))


# -- network -----------------------------------------------------------------------------------------------------


def test_the_table_that_is_read_gets_no_gradient_from_the_scores() -> None:
    model = toy_model("gsasrec", toy_catalog(), **SMALL)
    batch = training_batch(model, toy_view())
    model.next_item(model.query(batch).detach(), model.item_table(), batch).backward()
    assert model.item_emb.weight.grad is None
    assert model.output_emb.weight.grad.abs().sum() > 0
    untied, tied = (
        sum(
            p.numel()
            for name, p in toy_model(which, toy_catalog(), **SMALL).named_parameters()
            if "_emb" in name
        )
        - 8 * 12
        for which in ("gsasrec", "gsasrec:tied")
    )
    assert (untied, tied) == (61 * 12, 31 * 12)


def test_positions_from_the_newest_item() -> None:
    """Dropping the oldest item leaves the positions of the rest where the row is padded on the left, and only there."""
    for name, stays in (("gsasrec:official", True), ("gsasrec", False)):
        model = toy_model(name, toy_catalog(), **SMALL).eval()
        seen: list[Tensor] = []
        model.position_emb.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(inputs[0]))
        with torch.no_grad():
            for history in ([3, 5, 7, 9], [5, 7, 9]):
                model.query(history_batch(model, [history]))
        assert torch.equal(seen[0][0, 1:4], seen[1][0, :3]) == stays
        assert (seen[0][0, 3] == 7) == stays


def encode_by_hand(model: Recommender[Any], history: list[int]) -> list[Tensor]:
    """Every state of one history in loops over heads, places and layers."""
    w = {name: p.detach() for name, p in model.named_parameters()}
    dim, heads = 12, 2
    width = dim // heads

    def norm(v: Tensor, name: str) -> Tensor:
        centred = v - v.mean()
        return centred / (centred.square().mean() + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def layer(v: Tensor, name: str) -> Tensor:
        return w[f"{name}.weight"] @ v + w[f"{name}.bias"]

    x = [w["item_emb.weight"][item] + w["position_emb.weight"][k] for k, item in enumerate(history)]
    for number in range(2):
        name = f"encoder.blocks.{number}"
        out = []
        for i in range(len(x)):
            q = norm(x[i], f"{name}.norm1")
            mixed = torch.zeros(dim, dtype=torch.float64)
            for h in range(heads):
                part = slice(h * width, (h + 1) * width)
                query = layer(q, f"{name}.query")[part]
                logits = [float(query @ layer(x[j], f"{name}.key")[part]) / width**0.5 for j in range(i + 1)]
                total = sum(map(math.exp, logits))
                for j, logit in enumerate(logits):
                    mixed[part] += math.exp(logit) / total * layer(x[j], f"{name}.value")[part]
            y = norm(q + mixed, f"{name}.norm2")
            out.append(y + layer(layer(y, f"{name}.up").clamp(min=0), f"{name}.down"))
        x = out
    return [norm(v, "encoder.norm") for v in x]


def test_states_by_hand() -> None:
    with in_float64():
        model = toy_model("gsasrec", toy_catalog(), **SMALL).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    history = [3, 9, 9, 30, 1]
    with torch.no_grad():
        ours = model.encode(history_batch(model, [history, [4]]))[0]
    torch.testing.assert_close(ours[:5], torch.stack(encode_by_hand(model, history)), rtol=1e-10, atol=1e-12)


def test_dropout_has_one_rate_at_its_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """The input, and in each layer the weights, the inner and the outer width; one rate."""
    seen: list[tuple[int, ...]] = []
    model = toy_model("gsasrec", toy_catalog(), **(SMALL | {"dropout": 0.3}))

    def watch(x: Tensor, p: float, training: bool) -> Tensor:
        assert (p, training) == (0.3, True)
        seen.append((x.dim(), x.shape[-1]))
        return x

    monkeypatch.setattr("mmbench.nn.layers.dropout", watch)
    batch = training_batch(model, toy_view())
    width = batch.item_seq.shape[1]
    model.loss(batch)
    layer = [(4, width), (3, 16), (3, 12)]
    last = [(4, width), (2, 16), (2, 12)]
    assert seen == [(3, 12), *layer, *last]


def test_thirty_two_sequences_are_learned_by_heart() -> None:
    """With 32 negatives of 160 items; the more there are, the longer it stays at popularity, as its authors warn."""
    generator = torch.Generator().manual_seed(0)
    histories = (torch.randperm(160, generator=generator) + 1).view(32, 5).tolist()
    view = view_of(histories)
    catalog = catalog_of(view, n_items=160, features=False)
    model = toy_model("gsasrec:bce", catalog, hidden_dim=32, inner_dim=32, dropout=0.0, n_negatives=32)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    last = torch.tensor([history[-1] for history in histories])
    batch = history_batch(model, [history[:-1] for history in histories])
    for step in range(500):
        optimizer.zero_grad()
        model.loss(training_batch(model, view, samples="last-window", seed=step))["gbce"].backward()
        optimizer.step()
        if step % 20 == 19:
            with torch.no_grad():
                if torch.equal(model.score(batch).argmax(1) + 1, last):
                    return
    raise AssertionError("not learned in 500 steps")


def test_the_recipe_has_the_grid_that_shows_what_t_is_worth() -> None:
    recipe = find("gsasrec").recipe
    assert 0.0 in (recipe.search["gbce_t"].values or ())
    assert recipe.variants["bce"].settings == {"gbce_t": 0.0}


def test_ids_tell_the_kind_of_an_item_that_was_shown_and_of_no_other() -> None:
    """Texts and pictures tell it, too, but are not read: a quarter of the other items is answered right by chance."""
    shown, hidden = teach("gsasrec", "text", hidden_dim=32, inner_dim=32, dropout=0.0, loss="ce")
    assert shown == 1
    assert hidden <= 0.5
