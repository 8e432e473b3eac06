"""The GRU of mmbench.nn.recurrent against torch's, which is the formula."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from mmbench.nn.recurrent import gru_states

LENGTHS = {
    "mixed": [3, 9, 1, 4, 4, 2, 7],
    "equal": [4, 4, 4],
    "single": [5],
    "first steps only": [1, 1, 1],
}


def packed_of(lengths: list[int], width: int, data: Tensor | None = None) -> PackedSequence:
    noise = torch.Generator().manual_seed(1)
    x = torch.randn(len(lengths), max(lengths), width, generator=noise, dtype=torch.float64)
    packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    return packed._replace(data=packed.data.clone().requires_grad_() if data is None else data)


def make_gru(width: int, hidden: int, *, bias: bool) -> nn.GRU:
    torch.manual_seed(2)
    return nn.GRU(width, hidden, bias=bias, batch_first=True).double()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_states_and_gradients_are_torchs(lengths: list[int], bias: bool) -> None:
    layer = make_gru(5, 6, bias=bias)
    weight = torch.randn(sum(lengths), 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    results = []
    for states_of in (lambda packed: layer(packed)[0], lambda packed: gru_states(layer, packed)):
        packed = packed_of(lengths, 5)
        states = states_of(packed)
        inputs = [packed.data, *layer.parameters()]
        results.append([states.data, *torch.autograd.grad((weight * states.data).sum(), inputs)])
        for field in ("batch_sizes", "sorted_indices", "unsorted_indices"):
            assert torch.equal(getattr(states, field), getattr(packed, field))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-13)


def test_a_gradient_is_not_changed_in_place() -> None:
    layer, packed = make_gru(3, 4, bias=False), packed_of(LENGTHS["mixed"], 3)
    states = gru_states(layer, packed).data
    weight = torch.ones_like(states)
    torch.autograd.grad(states, packed.data, weight)
    assert torch.equal(weight, torch.ones_like(states))


def test_layers_on_top_of_each_other() -> None:
    first, second = make_gru(3, 4, bias=True), make_gru(4, 2, bias=False)

    def states(data: Tensor) -> Tensor:
        return gru_states(second, gru_states(first, packed_of([3, 1, 2], 3, data))).data

    data = packed_of([3, 1, 2], 3).data
    assert torch.autograd.gradcheck(states, (data,), atol=1e-7)


def test_autocast_uses_torchs() -> None:
    layer, packed = make_gru(3, 4, bias=False).float(), packed_of([3, 1], 3)
    packed = packed._replace(data=packed.data.detach().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gru_states(layer, packed).data, layer(packed)[0].data)
