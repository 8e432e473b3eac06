"""Vectors of length one are torch's, in value and gradient."""

import pytest
import torch
import torch.nn.functional as F

from mmbench.nn import unit as module
from mmbench.nn.unit import unit


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU has torch's own."""
    monkeypatch.setattr(module, "on_gpu", lambda _: True)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 4, 5)])
def test_units_and_gradients_are_torchs(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, *shape, dtype=torch.float64)
    x.requires_grad_()
    expected = F.normalize(x, dim=-1)
    torch.testing.assert_close(unit(x), expected, rtol=1e-14, atol=0)
    of_ours, of_theirs = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (unit(x), expected))
    torch.testing.assert_close(of_ours, of_theirs, rtol=0, atol=1e-14)


def test_gradients_are_exact() -> None:
    assert torch.autograd.gradcheck(unit, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))


def test_zeros_stay_zeros_with_a_finite_gradient() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    assert torch.equal(unit(x), torch.zeros(2, 3))
    (of_ours,) = torch.autograd.grad(unit(x).sum(), x)
    (of_theirs,) = torch.autograd.grad(F.normalize(x, dim=-1).sum(), x)
    torch.testing.assert_close(of_ours, of_theirs)


def test_models_of_a_stack_are_each_by_itself() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    stacked = torch.vmap(torch.func.grad(lambda part, by: (unit(part) * by).sum()))(x, weight)
    for own, part, by in zip(stacked, x, weight, strict=True):
        part = part.requires_grad_()
        (expected,) = torch.autograd.grad((F.normalize(part, dim=-1) * by).sum(), part)
        torch.testing.assert_close(own, expected)


def test_half_precision_gets_gradients_of_its_own_kind() -> None:
    x = torch.randn(4, 8, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = unit(x).float().square().sum()
    (grad,) = torch.autograd.grad(loss, x)
    assert grad.dtype == torch.bfloat16
