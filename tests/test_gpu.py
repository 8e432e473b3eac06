"""What only a GPU can show: its numbers are the CPU's, and its memory may run out. Skipped where there is none.

Run: python -m pytest tests/test_gpu.py tests/test_gpu_training.py
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.data.batcher import Batcher
from mmbench.data.samples import plan_rows
from mmbench.evaluation.ranking import rank
from mmbench.models.base import Recommender
from mmbench.nn.losses import cross_entropy
from mmbench.runtime import prepare_process
from tests.gpu import GPU, named
from tests.models.test_contract import NAMES, TRAINED, _fixed, make, small
from tests.models.toy import MAX_LEN, N_ITEMS, toy_view, training_batch
from tests.scorers import random_view

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")


B = TypeVar("B", bound=Batch)


@pytest.fixture(autouse=True)
def _as_a_run() -> Iterator[None]:
    """Settings of a run's process, and none of another test's memory."""
    prepare_process()
    yield
    torch.cuda.empty_cache()


def to_gpu(batch: B) -> B:
    return type(batch).of({name: tensor.to(GPU) for name, tensor in batch.tensors().items()})


def fixed_on_device(*shape: Any, device: Any = None, generator: Any = None, **kwargs: Any) -> Tensor:
    return _fixed(*shape, **kwargs).to(device or "cpu")


def flipped(n: int, device: Any = None, **kwargs: Any) -> Tensor:
    return torch.arange(n, device=device).flip(0)


def terms_and_gradients(model: Recommender[Any], batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model.zero_grad()
    terms = model.loss(batch)
    torch.stack(list(terms.values())).sum().backward()
    grads = {name: p.grad.cpu().clone() for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.detach().cpu() for name, value in terms.items()}, grads


@pytest.mark.parametrize("name", TRAINED)
def test_losses_and_gradients_are_the_cpus(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", fixed_on_device)
    monkeypatch.setattr(torch, "randn", fixed_on_device)
    monkeypatch.setattr(torch, "randperm", flipped)
    settings = small(name, dropout=False)
    if "absolute_time" in {field.name for field in fields(type(make(name).config))}:
        settings["absolute_time"] = "float64"  # float32 phases of seconds differ in every library
    model = make(name, **settings).double()
    batch = training_batch(model, toy_view())
    if getattr(model, "sample_prob", None) is not None:
        pytest.skip("draws its negatives by itself, from the device's generator")
    if name == "fearec:regularised":
        pytest.skip(
            "its regulariser is an absolute value at zero: a last bit decides the sign of its gradient"
        )
    terms, grads = terms_and_gradients(model, batch)
    on_gpu, gpu_grads = terms_and_gradients(model.to(GPU), to_gpu(batch))
    for term, value in terms.items():
        torch.testing.assert_close(on_gpu[term], value, rtol=1e-9, atol=1e-11, msg=named(term))
    assert gpu_grads.keys() == grads.keys()
    for key, grad in grads.items():
        torch.testing.assert_close(gpu_grads[key], grad, rtol=1e-6, atol=1e-9, msg=named(key))


@pytest.mark.parametrize("name", NAMES)
def test_ranks_are_the_cpus(name: str) -> None:
    model = make(name, **small(name)).double()
    view = random_view(n_users=20, n_items=N_ITEMS, longest=14)
    expected = rank(model, view)
    actual = rank(model.to(GPU), view, device=GPU)
    # Scores that are equal but for their last bits may be told apart by one of the two only.
    same_place = (actual.greater == expected.greater) & (actual.equal == expected.equal)
    assert same_place.mean() >= 0.9, name
    middle = [ranks.greater + ranks.equal / 2 for ranks in (actual, expected)]
    assert np.abs(middle[0] - middle[1]).max() <= 1, name


@pytest.mark.parametrize("layout", ["packed", "padded", "fixed"])
def test_batches_are_the_cpus(layout: Any) -> None:
    view = toy_view()
    rows = plan_rows(view.offsets, "all", MAX_LEN)
    here, there = (
        Batcher(view.items, view.times, layout=layout, max_len=MAX_LEN, device=device).training(
            rows, prefixes=True
        )
        for device in ("cpu", GPU)
    )
    moved, actual = to_gpu(here).tensors(), there.tensors()
    assert moved.keys() == actual.keys()
    assert all(torch.equal(moved[name], tensor) for name, tensor in actual.items())


@pytest.mark.parametrize("n_items", [1_000, 50_001])
def test_the_fused_cross_entropy_is_torchs(n_items: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(700, 16, generator=generator, dtype=torch.float64)
    table = torch.randn(n_items, 16, generator=generator, dtype=torch.float64)
    target = torch.randint(1, n_items + 1, (700,), generator=generator)
    actual = []
    for fused in (True, False):
        q, t = (tensor.to(GPU).requires_grad_() for tensor in (query, table))
        goal = target.to(GPU)
        loss = cross_entropy(q, t, goal) if fused else torch.nn.functional.cross_entropy(q @ t.T, goal - 1)
        loss.backward()
        actual.append((loss.detach(), q.grad, t.grad))
    for a, b in zip(*actual, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
