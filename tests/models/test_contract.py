"""What every registered model, with every variant, must keep. Registering a model is testing it.

Run: pytest tests/models/test_contract.py -k hm4sr
"""

from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmbench.contract.report import CHECKS, check_model
from mmbench.contract.subject import of_toy
from mmbench.contract.toy import MAX_LEN, toy_view
from mmbench.contract.training import learn_by_heart
from mmbench.models import registry
from mmbench.models.base import Recommender
from mmbench.models.needs import Needs, WholeRows
from mmbench.settings.config import TrainConfig
from mmbench.training.batches import batches_of_epoch
from mmbench.training.stack import Stack, padding_kept_out, why_not
from mmbench.training.trainer import Trainer

NAMES = registry.all_names()
TRAINED = [name for name in NAMES if registry.find(name).load().trainable]
BASES = [name for name in TRAINED if ":" not in name]


def make(name: str, *, seed: int = 0, **settings: Any) -> Recommender[Any]:
    return of_toy(name).make(seed=seed, **settings)


def small(name: str, *, dropout: bool = True) -> dict[str, Any]:
    """Settings that make a model tiny, and deterministic in training when `dropout` is False."""
    return of_toy(name).small(dropout=dropout)


@cache
def _needs(name: str) -> Needs:
    return make(name).needs


def _is_causal(name: str) -> bool:
    return _needs(name).causal and _needs(name).samples != ("pairs",)


# The newest item has the last position, or the rows of a batch are compared: one pass over all positions is then
# another loss than one per prefix.
LENGTHS_COUNT = [
    "iisan:official",
    "iisan:left-padded",
    *(name for name in TRAINED if name.startswith("s3rec")),
]
LENGTHS_COUNT += ["gsasrec:official", "gsasrec:as-released", "esasrec:official", "esasrec:newest-first"]


def test_only_these_models_are_not_causal() -> None:
    """A model that stops being causal must be added here on purpose; everything else is checked below."""
    known = {
        "bert4rec",
        "bpr-mf",
        "fearec",
        "missrec",
        "mlp4rec",
        "trimlp:left-pad",
        "trimlp-ensemble:left-pad",
    }
    known |= {"vbpr", "vbpr-itv", "maml", "mgat", "freedom"}  # a user is an id
    known |= {"mmmlp", "tmmsrec:mlp4rec", "tmmsrec:as-released", "tmmsrec:leaky"}  # states see padding
    known |= {"dif-sr", "tedrec"}  # states see padding and later events
    known.add("mmsr")  # a graph is of the whole history
    not_causal = {name for name in TRAINED if not _is_causal(name)}
    assert {name for name in not_causal if name.partition(":")[0] not in known} <= known


EVERYWHERE = tuple(
    check.name for check in CHECKS if check.name not in ("prefixes", "memorise", "resume", "speed")
)


@pytest.mark.parametrize("name", NAMES)
def test_every_check_of_the_contract_holds(name: str) -> None:
    """The checks are those of `mmbench check`; tests/contract plants what each of them must find."""
    findings = list(check_model(of_toy(name), names=EVERYWHERE))
    assert not [finding for finding in findings if finding.is_fault]
    asked = {finding.check for finding in findings if finding.status == "holds"}
    assert asked >= {"recipe", "files", "scores", "rows", "seeds", "state", "times", "features"}
    assert ({"target", "loss", "gradients"} <= asked) == (name in TRAINED)
    assert ("causal" in asked) == (name in TRAINED and _is_causal(name))


@pytest.mark.parametrize("name", BASES)
def test_a_training_that_is_broken_off_ends_with_the_same_weights(name: str) -> None:
    (finding,) = check_model(of_toy(name), names=("resume",))
    assert finding.status == "holds", finding


@pytest.mark.parametrize("name", BASES)
def test_thirty_two_users_can_be_learned_by_heart(name: str) -> None:
    learned = learn_by_heart(of_toy(name))
    assert learned.share >= 0.9, learned
    assert learned.last_loss < learned.first_loss


def test_models_whose_positions_depend_on_the_length_of_a_history_do_not_offer_both_kinds_of_samples() -> (
    None
):
    for name in LENGTHS_COUNT:
        assert not {"all", "prefix"} <= set(_needs(name).samples)


@pytest.mark.parametrize("name", TRAINED)
def test_all_positions_and_prefixes_have_the_same_loss(name: str) -> None:
    """Compare them for causal models, in float64 without dropout; PCL's own randomness replaces no place.

    A model that is not causal must not be asked.
    """
    settings: dict[str, Any] = {}
    if "placeholder_share" in {parameter.name for parameter in fields(registry.find(name).config_class())}:
        # The released category loss depends on the order of the samples, float32 phases on the last bit.
        settings |= {"placeholder_share": 0.0}
        if name == "hm4sr:as-released":
            settings |= {"category_entries": "intended", "absolute_time": "float64"}
    (finding,) = check_model(of_toy(name, **settings), names=("prefixes",))
    assert not finding.is_fault, finding
    if not _is_causal(name):
        assert finding.status == "not asked"
        return
    needs = _needs(name)
    draws = any(extra.name for extra in needs.extras) or name.partition(":")[0] in ("tmmsrec", "unisrec")
    draws = draws or name in ("gru4rec:official", "gru4rec:official-bpr-max", "nextitnet:official")
    assert finding.status == "holds" or draws or not {"all", "prefix"} <= set(needs.samples), finding


@pytest.mark.parametrize("name", [name for name in NAMES if ":" not in name])
def test_the_recipe_is_documented(name: str) -> None:
    entry = registry.find(name)
    assert entry.recipe.paper is not None or "floor" in entry.recipe.tags
    assert entry.load().__doc__ or __import__("sys").modules[entry.load().__module__].__doc__
    if entry.load().trainable:
        assert entry.recipe.deviations, "list what differs from the paper, the code, or both"


def _first_step(trainers: list[Trainer]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Loss terms [S] and gradients [S, ..] of a stack's first step."""
    stack = Stack(trainers)
    with padding_kept_out(trainers[0].model):
        plans = [trainer.plan_epoch() for trainer in trainers]
        names, values = stack.step(next(batches_of_epoch(trainers, plans)))
    grads = {
        name: parameter.grad for name, parameter in stack.parameters.items() if parameter.grad is not None
    }
    return dict(zip(names, values, strict=True)), grads


def _fixed(*shape: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> torch.Tensor:
    """Numbers in [0, 1) that rest on the shape only, in place of random ones."""
    sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    number = torch.arange(int(np.prod(sizes)), dtype=torch.float64)
    return (number * 0.6180339887).remainder(1).view(*sizes).to(dtype or torch.get_default_dtype())


@pytest.mark.filterwarnings("ignore:There is a performance drop.*embedding_bag")  # of MLP4Rec, once a step
@pytest.mark.filterwarnings("error:There is a performance drop")  # computed seed by seed
@pytest.mark.parametrize("name", TRAINED)
def test_seeds_in_a_stack_have_the_losses_and_gradients_that_they_have_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "rand", _fixed)
    monkeypatch.setattr(torch, "randn", _fixed)
    monkeypatch.setattr(torch, "randperm", lambda n, **kwargs: torch.arange(n).flip(0))
    view, trainers = toy_view(), []
    for seed in (1, 2, 3):
        model = make(name, seed=seed, **small(name, dropout=False)).double()
        unit = "rows" if model.needs.has(WholeRows) else "targets"
        config = TrainConfig(max_len=MAX_LEN, batch_unit=unit, batch_size=12, precision="float64")
        trainers.append(Trainer(model, view, lambda _: 0.0, config, seed=seed, folder=tmp_path))
        trainers[-1].begin()
    if why_not(trainers[0]):
        if not name.startswith("ticoserec"):  # its contrast comes later
            with pytest.raises(RuntimeError):  # else it need not be told apart
                _first_step(trainers)
        return
    terms, grads = _first_step(trainers)
    for k, trainer in enumerate(trainers):
        alone = trainer.model.loss(next(batches_of_epoch([trainer], [trainer.plan_epoch()])))
        assert set(alone) == set(terms)
        for term, value in alone.items():
            torch.testing.assert_close(terms[term][k], value.detach(), rtol=1e-9, atol=1e-12)
        trainer.model.zero_grad()
        torch.stack(list(alone.values())).sum().backward()
        own = {
            key: parameter.grad
            for key, parameter in trainer.model.named_parameters()
            if parameter.grad is not None
        }
        assert set(own) == set(grads)
        for key, grad in own.items():
            torch.testing.assert_close(
                grads[key][k], grad, rtol=1e-7, atol=1e-9 * float(grad.abs().max() + 1)
            )
