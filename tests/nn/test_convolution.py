"""Causal convolutions and NextItNet's blocks: against torch's own convolution, and who can see whom in packed rows."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.nn.convolution import Bottleneck, CausalConv, CausalConvEncoder, TwoConvolutions


def places(*lengths: int) -> Tensor:
    """Positions of a row in which histories of these lengths stand side by side, [1, sum of lengths]."""
    return torch.cat([torch.arange(length) for length in lengths])[None]


def torch_conv(conv: CausalConv, x: Tensor, dilation: int) -> Tensor:
    """The same with torch's convolution on one history, x [T, D] after zeros on the left."""
    dim = x.shape[1]
    weight = conv.map.weight.view(-1, len(conv.steps), dim).transpose(1, 2)  # [D', D, K]
    padded = F.pad(x.T, ((len(conv.steps) - 1) * dilation, 0))
    return F.conv1d(padded[None], weight, conv.map.bias, dilation=dilation)[0].T


def normed(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.relu(F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, eps=1e-8))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(14, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("kernel_size", "dilation"), [(1, 1), (2, 3), (3, 1), (3, 4), (3, 20)])
def test_convolution_of_packed_histories_is_torchs_of_each(
    x: Tensor, kernel_size: int, dilation: int
) -> None:
    torch.manual_seed(0)
    conv = CausalConv(6, 5, kernel_size=kernel_size, dilation=dilation).double()
    actual = conv(x[None], places(9, 1, 4))[0]
    expected = [torch_conv(conv, part, dilation) for part in x.split([9, 1, 4])]
    torch.testing.assert_close(actual, torch.cat(expected))


def test_taps_stand_where_the_formula_says(x: Tensor) -> None:
    conv = CausalConv(6, 6, kernel_size=3, dilation=2).double()
    identity = torch.eye(6, dtype=torch.float64)
    none = torch.zeros_like(identity)
    with torch.no_grad():
        conv.map.bias.zero_()
        conv.map.weight.copy_(torch.cat([none, none, identity], 1))  # W_2 = I
        assert torch.equal(conv(x[None], places(14))[0], x)
        conv.map.weight.copy_(torch.cat([identity, none, none], 1))  # W_0 = I: a shift by 4
        assert torch.equal(conv(x[None], places(14))[0], F.pad(x, (0, 0, 4, 0))[:14])


def test_initial_weights_are_those_of_torchs_convolution() -> None:
    conv, own = CausalConv(64, 64, kernel_size=3, dilation=1), nn.Conv1d(64, 64, 3)
    bound = (3 * 64) ** -0.5
    for weight in (conv.map.weight, own.weight, conv.map.bias, own.bias):
        assert weight is not None
        assert 0.95 * bound < weight.abs().max().item() <= bound


def shaken(block: nn.Module) -> nn.Module:
    """Norms and biases that are not 1 and 0, so that a forgotten one shows."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return block.double()


def test_second_convolution_of_a_block_has_twice_the_dilation(x: Tensor) -> None:
    block = shaken(TwoConvolutions(6, kernel_size=3, dilation=2))
    hidden = normed(block.norm1, torch_conv(block.conv1, x, 2))
    expected = x + normed(block.norm2, torch_conv(block.conv2, hidden, 4))
    torch.testing.assert_close(block(x[None], places(14))[0], expected)


def test_bottleneck_block(x: Tensor) -> None:
    block = shaken(Bottleneck(6, kernel_size=3, dilation=2))
    hidden = F.linear(normed(block.norm1, x), block.down.weight, block.down.bias)
    assert hidden.shape == (14, 3)
    hidden = normed(block.norm3, torch_conv(block.conv, normed(block.norm2, hidden), 2))
    expected = x + F.linear(hidden, block.up.weight, block.up.bias)
    torch.testing.assert_close(block(x[None], places(14))[0], expected)


@pytest.mark.parametrize(
    ("dilations", "n_blocks", "kind", "reach"),
    [((1, 4), 5, "two-convolutions", 151), ((1, 2), 4, "two-convolutions", 73), ((1, 4), 5, "bottleneck", 51)],
)  # fmt: skip
def test_reach(dilations: tuple[int, ...], n_blocks: int, kind: str, reach: int) -> None:
    """Which inputs of 200 move the last state: the newest `reach` and no others; later ones move nothing."""
    torch.manual_seed(0)
    encoder = CausalConvEncoder(dim=8, n_blocks=n_blocks, dilations=dilations, kind=kind).double()  # type: ignore[arg-type]
    x = torch.randn(1, 200, 8, dtype=torch.float64, requires_grad=True)
    assert encoder.reach == reach
    out = encoder(x, places(200))[0]
    last = torch.autograd.grad(out[199].sum(), x, retain_graph=True)[0][0].abs().sum(1)
    assert not last[: 200 - reach].any()
    assert last[200 - reach :].all()
    middle = torch.autograd.grad(out[120].sum(), x)[0][0].abs().sum(1)
    assert not middle[121:].any()
    assert middle[max(121 - reach, 0) : 121].all()


@pytest.mark.parametrize("kind", ["two-convolutions", "bottleneck"])
def test_no_gradient_crosses_from_one_history_to_its_neighbour(kind: str) -> None:
    torch.manual_seed(0)
    encoder = CausalConvEncoder(dim=8, n_blocks=2, kind=kind).double()  # type: ignore[arg-type]
    x = torch.randn(2, 30, 8, dtype=torch.float64, requires_grad=True)
    position = torch.cat([places(12, 18), places(30)])
    out = encoder(x, position)
    seen = torch.autograd.grad(out[0, 12:].sum(), x)[0].abs().sum(2)
    assert seen[0, 12:].all()
    assert not seen[0, :12].any()
    assert not seen[1].any()


def test_the_whole_list_of_dilations_is_repeated(x: Tensor) -> None:
    """1, 4, 1, 4 and not 1, 1, 4, 4; blocks of their own stand for the encoder's."""
    torch.manual_seed(0)
    encoder = CausalConvEncoder(dim=6, n_blocks=2, dilations=(1, 4)).double()
    expected = x[None]
    for block, dilation in zip(encoder.blocks, (1, 4, 1, 4), strict=True):
        own = TwoConvolutions(6, kernel_size=3, dilation=dilation).double()
        own.load_state_dict(block.state_dict())
        expected = own(expected, places(14))
    torch.testing.assert_close(encoder(x[None], places(14)), expected)
