"""The last block finishes only the places that predict: equal to finishing all of them, in value and gradient."""

import pytest
import torch
from torch import Tensor, nn

from mmbench.nn.layers import PostNormEncoder, PreQueryEncoder, rows_at, take_rows

ROWS, WIDTH, DIM = 3, 7, 8
# A place twice, a row without any but one; no more places than rows, where the last block asks for single rows.
SLOTS = [[0, 6, 6, 9, 20], [3, 12, 16], [9, 8], [20, 0, 4]]
MASK = torch.ones(ROWS, WIDTH, WIDTH, dtype=torch.bool).tril()


class Official(nn.Module):
    """PreQueryEncoder with every place real, called like the other encoder."""

    def __init__(self, n_layers: int) -> None:
        super().__init__()
        self.inside = PreQueryEncoder(
            dim=DIM, inner_dim=16, n_layers=n_layers, n_heads=2, dropout=0.0, project_out=True
        )

    def forward(self, x: Tensor, mask: Tensor, slot: Tensor | None = None) -> Tensor:
        real = torch.ones(ROWS, WIDTH, dtype=torch.bool)
        real[1, 5:] = False
        return self.inside(x, mask, real, slot)


def post_norm(n_layers: int) -> nn.Module:
    return PostNormEncoder(dim=DIM, inner_dim=16, n_layers=n_layers, n_heads=2, dropout=0.0, attn_dropout=0.0)


@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("make", [post_norm, Official])
def test_slots_equal_all_places(make: type[nn.Module], n_layers: int, slots: list[int]) -> None:
    torch.manual_seed(0)
    slot = torch.tensor(slots)
    encoder = make(n_layers).double()
    x = torch.randn(ROWS, WIDTH, DIM, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(len(slot), DIM, dtype=torch.float64)
    inputs = [x, *encoder.parameters()]
    whole = encoder(x, MASK).flatten(0, 1)[slot]
    short = encoder(x, MASK, slot)
    torch.testing.assert_close(short, whole, rtol=0, atol=1e-12)
    wanted = torch.autograd.grad((whole * weight).sum(), inputs)
    given = torch.autograd.grad((short * weight).sum(), inputs)
    for value, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 3)])
@pytest.mark.parametrize("index", [[4, 0, 4], [[1, 1], [0, 3]], []])
def test_rows_and_their_gradients_are_those_of_indexing(shape: tuple[int, ...], index: list[object]) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    taken, expected = take_rows(table, torch.tensor(index).long()), table[torch.tensor(index).long()]
    assert torch.equal(taken, expected)
    weight = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad((rows * weight).sum(), table)[0] for rows in (taken, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dim", [0, -2])
def test_all_rows_in_order_are_not_copied(dim: int) -> None:
    x = torch.randn(3, 3, 4)
    for rows, is_itself in (([0, 1, 2], True), ([1, 0, 2], False), ([0, 1], False), ([0, 1, 1], False)):
        row = torch.tensor(rows)
        actual = rows_at(x, row, dim)
        assert torch.equal(actual, x.index_select(dim, row))
        assert (actual is x) == is_itself
    stacked = torch.vmap(lambda x, row: rows_at(x, row, dim))
    rows = torch.tensor([[0, 1, 2], [2, 1, 1]])
    expected = [x.index_select(dim, row) for row in rows]
    assert torch.equal(stacked(torch.stack([x, x]), rows), torch.stack(expected))
