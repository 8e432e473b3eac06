"""mmbench.models.next_item: every loss of the setting `loss`, its negatives and its corrections."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.data.batch import TrainBatch
from mmbench.models.needs import SHARED, Negatives, StepDrawer
from mmbench.models.next_item import Loss, NextItem, Sampling
from mmbench.nn import sampled
from mmbench.nn.losses import cross_entropy
from tests.models.toy import catalog_of, in_float64, view_of

# Item counts 8, 5, 4, 2, 1, 0.
HISTORIES = [[1, 1, 1, 1, 2, 2], [1, 1, 3, 3, 2, 4], [1, 2, 3, 4, 5], [1, 3, 2]]
SCORES = [2 * math.sin(i) for i in range(1, 7)]
FAMILY = ("bce", "gbce", "bpr", "ss")


def next_item(
    loss: Any, histories: Sequence[Sequence[int]] = HISTORIES, n_items: int = 6, **settings: Any
) -> NextItem:
    with in_float64():
        return NextItem(
            loss, Sampling(**settings), catalog_of(view_of(histories), n_items=n_items, features=False)
        )


def batch_of(target: list[int], *, user: list[int] | None = None, **drawn: list[Any]) -> TrainBatch:
    none = torch.zeros(0, 0, dtype=torch.int64)
    return TrainBatch(
        item_seq=none, time_seq=none, position=none, segment=none, slot=torch.arange(len(target)),
        user=torch.tensor(user or [0] * len(target)), target=torch.tensor(target),
        drawn={name: torch.tensor(items) for name, items in drawn.items()},
    )  # fmt: skip


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def value(loss: NextItem, batch: TrainBatch, scores: list[float] = SCORES) -> float:
    """The loss where item i has the score scores[i - 1] for every target."""
    query = torch.ones(len(batch.target), 1, dtype=torch.float64)
    return loss(query, torch.tensor(scores, dtype=torch.float64)[:, None], batch).item()


NUMBERS = [
    ("ce", {}, 0.8067668758), ("bce", {}, 2.2779077301), ("gbce", {"gbce_t": 0.75}, 2.2327994714),
    ("bpr", {}, 0.2249124175), ("ss", {"logq": "none"}, 0.6527538115), ("ss", {}, 0.9300773498),
    ("ss", {"negatives": "popularity"}, 0.5909480405),
    ("ss", {"negatives": "mixed", "mix": 0.5}, 0.7001638051),
    ("ss", {"negatives": "popularity", "logq": "all"}, 0.5453021389),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "settings", "expected"), NUMBERS)
def test_numbers_to_ten_digits(kind: Loss, settings: dict[str, Any], expected: float) -> None:
    """bce, gbce and uncorrected ss of RecTools' own functions; the rest by the formulas."""
    loss = next_item(kind, n_negatives=3, exclude="target", **settings)
    assert value(loss, batch_of([2], negatives=[[5, 1, 5]])) == pytest.approx(expected, abs=6e-11)


def test_one_negative_makes_the_sampled_softmax_bpr() -> None:
    batch = batch_of([2, 3], negatives=[[5], [1]])
    assert value(next_item("ss", logq="none"), batch) == pytest.approx(
        value(next_item("bpr"), batch), abs=1e-14
    )


def test_all_other_items_make_the_sampled_softmax_the_cross_entropy() -> None:
    query, table, bias = random(2, 3), random(6, 3, seed=1), random(6, seed=2)
    batch = batch_of([2, 6], negatives=[[1, 3, 4, 5, 6], [5, 4, 3, 2, 1]])
    ours = next_item("ss", n_negatives=5, logq="none")(query, table, batch, bias)
    torch.testing.assert_close(ours, cross_entropy(query, table, batch.target, bias), rtol=1e-12, atol=0)


def test_gbce_is_bce_at_t_0_and_with_all_other_items() -> None:
    few, every = batch_of([2], negatives=[[5, 1, 5]]), batch_of([2], negatives=[[1, 3, 4, 5, 6]])
    assert value(next_item("gbce", gbce_t=0.0), few) == value(next_item("bce"), few)
    for t in (0.3, 1.0):
        assert value(next_item("gbce", gbce_t=t), every) == value(next_item("bce"), every)
        assert value(next_item("gbce", gbce_t=t), few) < value(next_item("bce"), few)


def test_uniform_negatives_need_no_correction_of_all_scores() -> None:
    batch = batch_of([2, 4], negatives=[[5, 1, 5], [1, 2, 3]])
    plain = value(next_item("ss", logq="none"), batch)
    assert value(next_item("ss", logq="all"), batch) == pytest.approx(plain, abs=1e-12)


DRAWN = [
    {"negatives": negatives, "share": share, "exclude": exclude}
    for negatives in ("uniform", "popularity", "mixed")
    for share, exclude in (
        ("target", "target"),
        ("step", "target"),
        ("target", "history"),
        ("step", "history"),
    )
]


@pytest.mark.parametrize("settings", DRAWN, ids=lambda drawn: "-".join(drawn.values()))
def test_the_corrected_sum_is_that_over_the_items_that_are_not_excluded(settings: dict[str, Any]) -> None:
    """E[sum_j e^(s_j - c_j)] over the engine's own draws, within four standard errors."""
    loss = next_item("ss", n_negatives=40, mix=0.7, **settings)
    n, scores = 4_000, torch.tensor(SCORES, dtype=torch.float64)
    extra, generator = loss.extras[0], torch.Generator().manual_seed(0)
    drawer = extra.drawer(view_of(HISTORIES), 6, "cpu")
    batch = batch_of([2] * n, user=[1] * n)
    sums = []
    if isinstance(drawer, StepDrawer):
        drawn = batch_of([2], user=[1])
        for items in drawer.draw_steps(n, generator):
            step = drawn.with_drawn(**{SHARED: items})
            shown = loss._is_negative(step, items[None])
            assert shown is not None
            sums.append(((scores[items - 1] - loss._correction(step, items[None])).exp() * shown).sum())
    else:
        assert drawer is not None
        items = drawer.draw(batch.user, batch.target, generator)
        sums = list((scores[items - 1] - loss._correction(batch, items)).exp().sum(1))
    actual = torch.stack(sums)
    excluded = {2} if settings["exclude"] == "target" else set(HISTORIES[1])
    expected = sum(math.exp(SCORES[i - 1]) for i in range(1, 7) if i not in excluded)
    assert abs(actual.mean() - expected) < 4 * actual.std() / n**0.5 + 1e-12


def test_the_sampled_softmax_tends_to_the_cross_entropy_from_below() -> None:
    ce = value(next_item("ce"), batch_of([2]))
    means = []
    for k in (2, 20, 2_000):
        loss = next_item("ss", n_negatives=k, exclude="target")
        drawer = loss.extras[0].drawer(view_of(HISTORIES), 6, "cpu")
        assert drawer is not None
        assert not isinstance(drawer, StepDrawer)
        batch = batch_of([2] * 400)
        items = drawer.draw(batch.user, batch.target, torch.Generator().manual_seed(0))
        means.append(value(loss, batch.with_drawn(negatives=items)))
    assert means[0] < means[1] - 0.01 < means[2] - 0.02
    assert means[2] == pytest.approx(ce, abs=3e-3)


@pytest.mark.parametrize("kind", FAMILY)
@pytest.mark.parametrize("logq", ["none", "negatives", "all"])
def test_shared_negatives_are_those_of_each_target_if_the_ids_are_equal(kind: Loss, logq: str) -> None:
    query, table, bias = random(3, 4), random(6, 4, seed=1), random(6, seed=2)
    settings: dict[str, Any] = {"n_negatives": 4, "exclude": "none", "logq": logq, "negatives": "popularity"}
    items, target = [1, 5, 5, 4], [2, 3, 6]
    own = next_item(kind, **settings)(query, table, batch_of(target, negatives=[items] * 3), bias)
    shared = next_item(kind, share="step", **settings)
    torch.testing.assert_close(
        shared(query, table, batch_of(target, **{SHARED: items}), bias), own, rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("kind", FAMILY)
@pytest.mark.parametrize(("exclude", "hidden"), [("target", {3}), ("history", {1, 2, 3})])
def test_shared_negatives_that_a_target_excludes_are_hidden_from_it(
    kind: Loss, exclude: str, hidden: set[int]
) -> None:
    """User 3 has the items 1, 2 and 3; another user's items stay."""
    loss = next_item(kind, n_negatives=6, share="step", exclude=exclude)
    batch = batch_of([3], user=[3], **{SHARED: [1, 2, 3, 4, 5, 6]})
    table = torch.tensor(SCORES, dtype=torch.float64)[:, None].requires_grad_()
    loss(torch.ones(1, 1, dtype=torch.float64), table, batch).backward()
    assert table.grad is not None
    for item in range(1, 7):  # the target has the gradient of a positive
        assert (table.grad[item - 1, 0] > 0) == (item not in hidden), item


@pytest.mark.parametrize("exclude", ["none", "target", "history"])
def test_in_batch_negatives_are_the_other_targets_of_the_step(exclude: str) -> None:
    """A target's own item is never its negative, not even where another target is the same item."""
    batch = batch_of([2, 5, 6, 6], user=[2, 0, 3, 1])
    loss = next_item("bce", negatives="in-batch", share="step", exclude=exclude)
    shown = loss._is_negative(batch, batch.target[None])
    assert shown is not None
    owned = [set(history) if exclude == "history" else set() for history in HISTORIES]
    for t, (user, own) in enumerate(zip(batch.user.tolist(), batch.target.tolist(), strict=True)):
        expected = [item != own and item not in owned[user] for item in batch.target.tolist()]
        assert shown[t].tolist() == expected


def test_in_batch_probabilities_are_how_often_an_item_is_a_target() -> None:
    loss = next_item("ss", negatives="in-batch", share="step")
    counts = [4, 5, 4, 2, 1, 1]  # without the four first events, at least 1
    torch.testing.assert_close(loss.log_q.exp(), torch.tensor(counts).double() / 16)
    batch = batch_of([1, 2, 3, 4])
    expected = [math.log(3 * counts[item - 1] / 16) for item in (1, 2, 3, 4)]  # three others
    torch.testing.assert_close(
        loss._correction(batch, batch.target[None])[0], torch.tensor(expected).double()
    )


def test_in_batch_gbce_counts_the_other_targets_as_its_negatives() -> None:
    """Four different targets, so three negatives each: beta = 1 - t (1 - 3/5)."""
    targets, beta = [2, 4, 5, 6], 1 - 0.75 * (1 - 3 / 5)
    loss = next_item("gbce", negatives="in-batch", share="step", exclude="none", gbce_t=0.75)
    expected = 0.0
    for own in targets:
        others = [math.log1p(math.exp(SCORES[item - 1])) for item in targets if item != own]
        expected += (beta * math.log1p(math.exp(-SCORES[own - 1])) + sum(others)) / 4
    assert value(loss, batch_of(targets)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["ce", *FAMILY])
def test_what_a_constant_added_to_all_scores_changes(kind: Loss) -> None:
    batch, loss = batch_of([2], negatives=[[5, 1, 5]]), next_item(kind)
    moved = value(loss, batch, [score + 0.7 for score in SCORES])
    assert (abs(moved - value(loss, batch)) < 1e-12) == (kind in ("ce", "bpr", "ss"))


@pytest.mark.parametrize("kind", FAMILY)
@pytest.mark.parametrize("share", ["target", "step"])
def test_gradients_by_finite_differences_and_none_for_items_that_were_not_drawn(
    kind: Loss, share: str
) -> None:
    drawn: dict[str, Any] = {SHARED: [5, 1, 5]} if share == "step" else {"negatives": [[5, 1, 5], [1, 1, 5]]}
    batch = batch_of([2, 3], **drawn)
    loss = next_item(kind, n_negatives=3, share=share, exclude="target", negatives="popularity")
    query, table, bias = (x.requires_grad_() for x in (random(2, 3), random(6, 3, seed=1), random(6, seed=2)))
    assert torch.autograd.gradcheck(lambda q, t, b: loss(q, t, batch, b), (query, table, bias))
    loss(query, table, batch, bias).backward()
    assert table.grad is not None
    assert bias.grad is not None
    assert not table.grad[[3, 5]].any()
    assert not bias.grad[[3, 5]].any()
    assert table.grad[[0, 1, 2, 4]].abs().amin() > 0
    query.grad = table.grad = None
    next_item("ce")(query, table, batch).backward()
    assert table.grad.abs().amin() > 0


def test_the_weight_of_misclassification_is_in_the_corrected_gradient_already() -> None:
    """Khrylchenko et al., RecSys 2025: weight 1 - pi_+, held constant, times the loss without the positive."""
    scores = random(5, 4).requires_grad_()
    share = torch.softmax(scores.detach(), 1)[:, 0]
    weighted = ((1 - share) * (scores[:, 1:].logsumexp(1) - scores[:, 0])).mean()
    (theirs,) = torch.autograd.grad(weighted, scores)
    (ours,) = torch.autograd.grad(sampled.sampled_softmax(scores[:, 0], scores[:, 1:]), scores)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


P = torch.tensor([0.35, 0.3, 0.2, 0.1, 0.05], dtype=torch.float64)  # of the next item
POPULAR = [[1] * 2 + [2] * 39 + [3] * 2 + [4] * 1 + [5] * 1]


@pytest.mark.parametrize(
    ("kind", "settings", "wants"),
    [
        ("ss", {"negatives": "uniform", "logq": "none"}, "p"),
        ("ss", {"negatives": "popularity", "logq": "negatives"}, "p"),
        ("ss", {"negatives": "popularity", "logq": "none"}, "p/q"),
        ("bce", {"negatives": "popularity"}, "p/q"),
        ("bpr", {"negatives": "popularity"}, "p/q"),
        ("bce", {"negatives": "uniform"}, "p"),
    ],
)
def test_what_free_scores_learn(kind: Loss, settings: dict[str, Any], wants: str) -> None:
    """Targets drawn of p, negatives of q: scores order the items by p, or by p/q where q is not corrected."""
    n_negatives = 100 if settings.get("logq") == "negatives" else 8
    loss = next_item(kind, POPULAR, 5, n_negatives=n_negatives, exclude="none", **settings)
    extra = loss.extras[0]
    assert isinstance(extra, Negatives)
    drawer = extra.drawer(view_of(POPULAR), 5, "cpu")
    assert drawer is not None
    assert not isinstance(drawer, StepDrawer)
    generator = torch.Generator().manual_seed(0)
    scores = torch.zeros(5, 1, dtype=torch.float64, requires_grad=True)
    optimizer, mean = torch.optim.Adam([scores], lr=0.1), torch.zeros(5, dtype=torch.float64)
    for step in range(200):
        target = torch.multinomial(P, 400, replacement=True, generator=generator) + 1
        batch = batch_of(target.tolist())
        batch = batch.with_drawn(negatives=drawer.draw(batch.user, batch.target, generator))
        optimizer.zero_grad()
        loss(torch.ones(400, 1, dtype=torch.float64), scores, batch).backward()
        optimizer.step()
        if step >= 100:
            mean += scores.detach()[:, 0] / 100
    q = loss.log_q.exp()
    expected = (P if wants == "p" else P / q).log()
    centred = mean - mean.mean() - (expected - expected.mean())
    assert centred.abs().max() < 0.15
    assert torch.equal(mean.argsort(), expected.argsort())
    assert not torch.equal(P.log().argsort(), (P / q).log().argsort()) or wants == "p"


def test_half_precision_is_computed_in_float32() -> None:
    query, table = random(2, 3).bfloat16(), random(6, 3, seed=1).bfloat16()
    batch = batch_of([2, 6], negatives=[[1, 3], [5, 4]])
    for kind in ("ce", *FAMILY, "sce"):
        loss = next_item(kind, n_negatives=2)
        torch.manual_seed(0)
        half = loss(query, table, batch)
        torch.manual_seed(0)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, loss(query.float(), table.float(), batch), rtol=1e-6, atol=0)


def test_a_bias_is_an_additional_column() -> None:
    query, table, bias = random(3, 4), random(6, 4, seed=1), random(6, seed=2)
    wide = torch.cat([query, torch.ones(3, 1).double()], 1), torch.cat([table, bias[:, None]], 1)
    batch = batch_of([2, 3, 6], negatives=[[1, 4], [5, 4], [1, 2]], **{SHARED: [1, 4]})
    for kind in ("ce", *FAMILY, "sce"):
        for share in ("target", "step"):
            loss = next_item(kind, n_negatives=2, share=share)
            torch.manual_seed(0)
            separate = loss(query, table, batch, bias)
            torch.manual_seed(0)
            torch.testing.assert_close(separate, loss(*wide, batch), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("with_bias", [False, True])
def test_each_loss_is_that_of_the_whole_score_matrix(with_bias: bool) -> None:
    """With the gradients of query, table and bias, against PyTorch's own functions."""
    query, table, bias = (
        x.requires_grad_() for x in (random(6, 5), random(11, 5, seed=1), random(11, seed=2))
    )
    target = torch.tensor([1, 11, 4, 4, 7, 2])
    negatives = torch.tensor([[3, 11, 1], [2, 2, 5], [1, 4, 7], [9, 9, 9], [11, 10, 1], [6, 8, 2]])
    scores = query @ table.T + (bias if with_bias else 0)
    own, other = scores.gather(1, target[:, None] - 1), scores.gather(1, negatives - 1)
    label = torch.tensor([1.0, 0, 0, 0]).double().expand(6, 4)
    both = F.binary_cross_entropy_with_logits(torch.cat([own, other], 1), label, reduction="none")
    expected = {
        "ce": F.cross_entropy(scores, target - 1),
        "bce": both.sum(1).mean(),
        "bpr": -F.logsigmoid(own - other).mean(),
        "ss": F.cross_entropy(torch.cat([own, other - math.log(3 / 11)], 1), torch.zeros(6).long()),
    }
    batch = batch_of(target.tolist(), negatives=negatives.tolist())
    inputs = [query, table, *([bias] if with_bias else [])]
    for kind, plain in expected.items():
        loss = next_item(kind, n_items=11, n_negatives=3, exclude="none")
        ours = loss(query, table, batch, bias if with_bias else None)
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
        grads = [torch.autograd.grad(value, inputs, retain_graph=True) for value in (ours, plain)]
        torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)


def test_permuting_the_items_permutes_the_gradients() -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])  # new place of each item
    place = order.argsort()
    query, table = random(2, 3), random(6, 3, seed=1)
    batch = batch_of([2, 6], negatives=[[1, 3], [5, 4]])
    moved = replace(batch, target=order[batch.target - 1] + 1)
    moved = moved.with_drawn(negatives=order[batch.negatives - 1] + 1)
    for kind in ("ce", *FAMILY):
        loss = next_item(kind)
        grads = [
            torch.func.grad(lambda t, b=b, loss=loss: loss(query, t, b))(t)
            for b, t in ((batch, table), (moved, table[place]))
        ]
        torch.testing.assert_close(grads[0][place], grads[1], rtol=1e-12, atol=1e-14)
