"""What a model computes once for a ranking is computed anew whenever something that it rests on has changed."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mmbench.nn.memo import Memo


class Doubling(nn.Module):
    """Counts how often twice its weight plus a buffer is computed."""

    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("offset", torch.zeros(3))
        self.memo: Memo[Tensor] = Memo()
        self.count = 0

    def work(self) -> Tensor:
        self.count += 1
        return 2 * self.weight + self.offset

    def train(self, mode: bool = True) -> "Doubling":
        self.memo.forget()
        return super().train(mode)

    def forward(self) -> Tensor:
        return self.memo(self, self.work)


def step(model: Doubling) -> None:
    with torch.enable_grad():
        model.weight.sum().backward()
    torch.optim.Adam(model.parameters(), lr=0.5).step()


def fused_step(model: Doubling) -> None:
    with torch.enable_grad():
        model.weight.sum().backward()
    torch.optim.Adam(model.parameters(), lr=0.5, fused=True).step()
    model.eval()


def load(model: Doubling) -> None:
    model.load_state_dict({"weight": torch.full((3,), 7.0), "offset": torch.zeros(3)})


def write_buffer(model: Doubling) -> None:
    model.offset.add_(1)


def widen(model: Doubling) -> None:
    model.double()


@torch.no_grad()
def test_one_computation_serves_all_chunks() -> None:
    model = Doubling()
    assert torch.equal(model(), model())
    assert model.count == 1


@pytest.mark.parametrize("change", [step, fused_step, load, write_buffer, widen])
@torch.no_grad()
def test_a_change_is_seen(change: Callable[[Doubling], None]) -> None:
    model = Doubling()
    model()
    change(model)
    assert torch.equal(model(), 2 * model.weight + model.offset)
    assert model.count == 2


@torch.no_grad()
def test_a_copy_has_results_of_its_own() -> None:
    model = Doubling()
    model()
    other = copy.deepcopy(model)
    other.weight.fill_(5.0)
    assert torch.equal(other(), torch.full((3,), 10.0))
    assert torch.equal(model(), torch.full((3,), 2.0))


def test_nothing_is_kept_while_gradients_are_recorded() -> None:
    model = Doubling()
    for _ in range(2):
        model().sum().backward()
    assert torch.equal(model.weight.grad, torch.full((3,), 4.0))
    assert model.count == 2
    with torch.no_grad():
        model()
        model.memo.forget()
        model()
    assert model.count == 4
