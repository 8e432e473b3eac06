"""HM4SR and SASRec against references in plain loops: scores, every loss term, every gradient (float64, no dropout).

The references (reference_*.py) read weights by name and use nothing of mmbench.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmbench.data.batch import TrainBatch
from mmbench.data.samples import plan_rows
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Prefixes
from tests.fixed import draws_replaced, fill, uniform
from tests.models import reference_hm4sr, reference_sasrec
from tests.models.reference_hm4sr import World
from tests.models.reference_math import Sample
from tests.models.toy import DAY, START, catalog_of, history_batch, toy_batcher, toy_model, view_of

N_ITEMS, MAX_LEN = 9, 4
HISTORIES = [[3, 1, 4], [2, 7, 5, 8, 1, 6], [9, 9, 2], [4]]  # longer than max_len, a target twice, no target
GAPS = [0, 7_201, 40 * DAY, 0, 11 * DAY + 5, 3]
TIMES = [
    [START + 90 * DAY * user + sum(GAPS[: k + 1]) for k in range(len(h))] for user, h in enumerate(HISTORIES)
]
RANKED, RANKED_USERS = [[3, 1, 4], [5], [9, 6, 9]], [0, 1, 2]
RANKED_TIMES = [
    [START, START + 60, START + 4 * DAY],
    [START + 9 * DAY],
    [START, START + 2, START + 700 * DAY],
]
VIEW = view_of(HISTORIES, TIMES)


@cache
def catalog() -> Catalog:
    return catalog_of(VIEW, n_items=N_ITEMS, max_len=MAX_LEN)


def make(name: str, **settings: Any) -> Recommender[Any]:
    """Return a small model with fixed weights; phases are small, so that float64 holds their cosines to 1e-12."""
    small = {
        "hidden_dim": 4,
        "inner_dim": 6,
        "n_heads": 2,
        "n_layers": 2,
        "dropout": 0.0,
        "attn_dropout": 0.0,
    }
    model = toy_model(name, catalog(), **(small | settings)).double()
    fill(model)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key in ("time.absolute.weight", "time.cosine.weight"):
                parameter.mul_(1e-6)
    return model


def leaves(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the weights, in which a reference collects gradients."""
    return {
        name: value.clone().requires_grad_(value.is_floating_point())
        for name, value in model.state_dict().items()
    }


def step_of(model: Recommender[Any], kind: str) -> tuple[TrainBatch, list[Sample]]:
    """Return all training rows as one step, and its samples in the order of the targets."""
    rows, samples = plan_rows(VIEW.offsets, kind, MAX_LEN), []
    for user, start, length, first in zip(rows.user, rows.start, rows.length, rows.loss_from, strict=True):
        for end in range(start + first + 1, start + length + 1):
            items, times = VIEW.items[start:end].tolist(), VIEW.times[start:end].tolist()
            samples.append(Sample(int(user), items, times, int(VIEW.items[end])))
    return toy_batcher(model, VIEW).training(rows, prefixes=model.needs.has(Prefixes)), samples


def assert_terms_and_gradients(
    terms: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    model: nn.Module,
    weights: Mapping[str, Tensor],
) -> None:
    assert terms.keys() == expected.keys()
    for term, value in expected.items():
        torch.testing.assert_close(
            terms[term], value, rtol=1e-10, atol=1e-12, msg=lambda text, t=term: f"{t}: {text}"
        )
        parameters = dict(model.named_parameters())
        computed = gradients(terms[term], parameters)
        wanted = gradients(value, {name: weights[name] for name in parameters})
        for name, gradient in wanted.items():
            largest = float(gradient.abs().max())
            torch.testing.assert_close(
                computed[name], gradient, rtol=1e-8, atol=1e-10 * (largest + 1e-3),
                msg=lambda text, t=term, n=name: f"gradient of {t} by {n}: {text}",
            )  # fmt: skip


def gradients(value: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    by_weight = torch.autograd.grad(value, list(weights.values()), retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(weight) if gradient is None else gradient
        for (name, weight), gradient in zip(weights.items(), by_weight, strict=True)
    }


# -- HM4SR -------------------------------------------------------------------------------------------------------

EXPERTS = {"n_interactive_experts": 3, "n_temporal_experts": 2}
TERMS = {"category_weight": 0.7, "idcl_weight": 0.6, "pcl_weight": 0.9}
# The slips of the released code, taken back.
RELEASED = {
    "temporal_experts": "trained", "same_target": "removed", "absolute_time": "float64", "category_entries": "intended",
}  # fmt: skip
WORLD_SETTINGS = ("time_encoding", "interval_log", "phase", "category_loss", "same_target", "same_user")


def make_hm4sr(**settings: Any) -> tuple[Recommender[Any], World]:
    name = "hm4sr:as-released" if RELEASED.keys() & settings.keys() else "hm4sr"
    released = RELEASED if name == "hm4sr:as-released" else {}
    model = make(name, **{**EXPERTS, **TERMS, "placeholder_share": 0.5, **released, **settings})
    known = catalog()
    assert known.category_ids is not None
    assert known.category_offsets is not None
    assert known.text_feat is not None
    assert known.image_feat is not None
    ids, offsets = known.category_ids.tolist(), known.category_offsets.tolist()
    return model, World(
        text=known.text_feat.double(),
        image=known.image_feat.double(),
        categories=[ids[offsets[i] : offsets[i + 1]] for i in range(N_ITEMS + 1)],
        n_categories=known.n_categories,
        first_day=min(map(min, TIMES)) // DAY,
        n_layers=settings.get("n_layers", 2),
        n_heads=2,
        weights_of_terms=tuple(TERMS.values()),
        **EXPERTS,
        **{key: value for key, value in settings.items() if key in WORLD_SETTINGS},
    )


def chosen_positions(batch: TrainBatch, samples: list[Sample], *, share: str) -> list[list[bool]]:
    """Return which positions of each sample's history PCL replaces, from the numbers that stand for torch.rand.

    A draw is for each prefix, or for each row of the batch if it has no prefixes: the floor of the share of the
    places with the smallest numbers.
    """
    segment, slot = (
        (batch.segment, batch.slot)
        if batch.prefix_rows is None
        else (batch.prefix_rows.segment, batch.prefix_rows.slot)
    )
    draw = uniform(f"rand {tuple(segment.shape)} 1", segment.shape).float().flatten().tolist()
    flat, width, chosen = segment.flatten().tolist(), segment.shape[1], []
    for sample, last in zip(samples, slot.tolist(), strict=True):
        row = range(last // width * width, (last // width + 1) * width)
        history = [k for k in row if flat[k] == flat[last]]
        n_replaced = math.floor(Fraction(share) * len(history))
        replaced = sorted(history, key=lambda k: draw[k])[:n_replaced]
        chosen.append([last - len(sample.items) + 1 + i in replaced for i in range(len(sample.items))])
    return chosen


@pytest.mark.parametrize("time_encoding", ["both", "interval", "absolute", "day", "day-of-year", "cos"])
def test_hm4sr_scores(time_encoding: str) -> None:
    model, world = make_hm4sr(time_encoding=time_encoding)
    weights = dict(model.state_dict())
    batch = history_batch(model, RANKED, times=RANKED_TIMES, users=RANKED_USERS)
    scores = model.eval().score(batch)
    for row, history in enumerate(zip(RANKED_USERS, RANKED, RANKED_TIMES, strict=True)):
        states = reference_hm4sr.states_of(weights, world, Sample(*history, target=0))
        expected = torch.stack(reference_hm4sr.scores(weights, world, states))
        torch.testing.assert_close(scores[row], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pcl_mask", ["exact", "shared"])
@pytest.mark.parametrize("samples", ["all", "prefix"])
def test_hm4sr_losses_and_gradients(samples: str, pcl_mask: str) -> None:
    check_hm4sr(samples, pcl_mask=pcl_mask)


@pytest.mark.parametrize(
    "settings",
    [
        {"interval_log": "ln", "phase": "outside"},
        {"category_loss": "sum"},
        {"same_target": "zero-logit"},
        {"same_user": "removed"},
        {"temporal_experts": "frozen"},
    ],
    ids=lambda settings: "-".join(settings.values()),
)
def test_hm4sr_switches(settings: dict[str, Any]) -> None:
    check_hm4sr("all", n_layers=1, **settings)


def check_hm4sr(kind: str, **settings: Any) -> None:
    model, world = make_hm4sr(**settings)
    batch, samples = step_of(model, kind)
    chosen = chosen_positions(batch, samples, share="0.5")
    assert any(map(any, chosen))
    with draws_replaced():
        terms = model.train().loss(batch)
    weights = leaves(model)
    expected = reference_hm4sr.losses(weights, world, samples, chosen)
    assert_terms_and_gradients(terms, expected, model, weights)


# -- SASRec ------------------------------------------------------------------------------------------------------

NETWORKS = [("sasrec", "bert-style"), ("sasrec:official", "official")]


@pytest.mark.parametrize(("name", "network"), NETWORKS)
def test_sasrec_scores(name: str, network: str) -> None:
    model = make(name)
    weights = dict(model.state_dict())
    scores = model.eval().score(history_batch(model, RANKED))
    for row, items in enumerate(RANKED):
        query = reference_sasrec.state(weights, items, network=network, n_layers=2, n_heads=2)
        expected = torch.stack(reference_sasrec.scores(weights, query))
        torch.testing.assert_close(scores[row], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("loss", ["ce", "bce", "bpr"])
@pytest.mark.parametrize(("name", "network"), NETWORKS)
def test_sasrec_losses_and_gradients(name: str, network: str, loss: str) -> None:
    model = make(name, loss=loss)
    batch, samples = step_of(model, "all")
    negatives = [(3 * t + 1) % N_ITEMS + 1 for t in range(len(samples))]
    terms = model.train().loss(batch.with_drawn(negatives=torch.tensor(negatives)[:, None]))
    weights = leaves(model)
    expected = reference_sasrec.loss(
        weights, samples, negatives, kind=loss, network=network, n_layers=2, n_heads=2
    )
    assert_terms_and_gradients(terms, {loss: expected}, model, weights)
