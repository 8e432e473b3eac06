"""A grouped encoder is G separate ones with the same weights, in value and gradient; its parameters are told apart
by their dimensions as everywhere."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from mmbench.nn import grouped
from mmbench.nn.grouped import GroupedLayerNorm, GroupedLinear, Linear, choose_n_parts
from mmbench.nn.layers import PostNormEncoder, PreQueryEncoder, init_normal
from mmbench.settings.config import TrainConfig
from mmbench.training.optim import make_optimizer
from tests.models.toy import stack_groups

GROUPS, ROWS, WIDTH, DIM = 3, 4, 10, 8
SLOT = torch.tensor([0, 9, 9, 13, 25, 39])  # a place twice
SEGMENT = torch.tensor(
    [[1] * 4 + [2] * 6, [1] * 3 + [2] * 3 + [3] * 2 + [0] * 2, [1] * 10, [1] + [2] * 8 + [0]]
)
MASK = (SEGMENT[:, :, None] == SEGMENT[:, None, :]) & torch.ones(WIDTH, WIDTH, dtype=torch.bool).tril()


class Official(nn.Module):
    """PreQueryEncoder, called like the other encoder."""

    def __init__(self, n_groups: int | None) -> None:
        super().__init__()
        self.inside = PreQueryEncoder(
            dim=DIM, inner_dim=16, n_layers=2, n_heads=2, dropout=0.0, project_out=True, n_groups=n_groups
        )

    def forward(self, x: Tensor, mask: Tensor, slot: Tensor | None = None) -> Tensor:
        return self.inside(x, mask, SEGMENT > 0, slot)


def post_norm(n_groups: int | None) -> nn.Module:
    return PostNormEncoder(
        dim=DIM, inner_dim=16, n_layers=2, n_heads=2, dropout=0.0, attn_dropout=0.0, n_groups=n_groups
    )


Make = Callable[[int | None], nn.Module]
both = pytest.mark.parametrize("make", [post_norm, Official])


def shaken(make: Make, n_groups: int | None) -> nn.Module:
    """float64, with biases and norms that are not 0 and 1, so that a wrong group shows."""
    module = make(n_groups).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


@both
@pytest.mark.parametrize("slot", [None, SLOT], ids=["all places", "slots"])
def test_a_grouped_encoder_is_as_many_separate_ones(make: Make, slot: Tensor | None) -> None:
    torch.manual_seed(0)
    members = [shaken(make, None) for _ in range(GROUPS)]
    grouped = make(GROUPS).double()
    stack_groups(grouped, members)
    x = torch.randn(GROUPS, ROWS, WIDTH, DIM, dtype=torch.float64, requires_grad=True)
    expected = torch.stack([member(x[g], MASK, slot) for g, member in enumerate(members)])
    actual = grouped(x, MASK, slot)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)

    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad(
        (expected * weight).sum(), [x, *(p for m in members for p in m.parameters())]
    )
    given = torch.autograd.grad((actual * weight).sum(), [x, *grouped.parameters()])
    torch.testing.assert_close(given[0], wanted[0], rtol=0, atol=1e-12)
    of_members = zip(*[iter(wanted[1:])] * len(list(grouped.parameters())), strict=True)
    for grad, others in zip(given[1:], zip(*of_members, strict=True), strict=True):
        torch.testing.assert_close(grad, torch.stack(others).view_as(grad), rtol=0, atol=1e-12)


@both
def test_groups_do_not_see_each_other(make: Make) -> None:
    grouped = shaken(make, GROUPS)
    x = torch.randn(GROUPS, ROWS, WIDTH, DIM, dtype=torch.float64)
    changed = x.clone()
    changed[1] += 1
    same = (grouped(x, MASK) == grouped(changed, MASK)).flatten(1).all(1)
    assert same.tolist() == [True, False, True]


@both
def test_seeds_stack_on_top_of_groups(make: Make) -> None:
    seeds = [shaken(make, GROUPS) for _ in range(2)]
    parameters, buffers = stack_module_state(seeds)
    x = torch.randn(2, GROUPS, ROWS, WIDTH, DIM, dtype=torch.float64)

    def call(weights: Any, rest: Any, single: Tensor) -> Tensor:
        return functional_call(seeds[0], (weights, rest), (single, MASK, SLOT))

    expected = torch.stack([seed(part, MASK, SLOT) for seed, part in zip(seeds, x, strict=True)])
    torch.testing.assert_close(vmap(call)(parameters, buffers, x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 4), (2, 5, 4)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_map_is_torchs(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = Linear(4, 3, bias=bias).double(), nn.Linear(4, 3, bias=bias).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, *shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, *shape[:-1], 3, dtype=torch.float64)
    results = [
        (layer(x), *torch.autograd.grad((weight * layer(x)).sum(), [x, *layer.parameters()]))
        for layer in (ours, theirs)
    ]
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-14)
    seeds = [ours, Linear(4, 3, bias=bias).double()]
    parameters, buffers = stack_module_state(seeds)
    stacked = vmap(lambda weights, part: functional_call(ours, (weights, buffers), (part,)))(parameters, x)
    for seed, part, single in zip(seeds, x, stacked, strict=True):
        torch.testing.assert_close(single, seed(part), rtol=0, atol=1e-14)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours.float()(x.float()), theirs.float()(x.float()))


@pytest.mark.parametrize("bias", [False, True])
def test_gradients_of_a_grouped_map_are_exact_and_lie_as_the_weights_do(bias: bool) -> None:
    torch.manual_seed(0)
    layer = GroupedLinear(GROUPS, 4, 3, bias=bias).double()
    x = torch.randn(GROUPS, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    parameters = dict(layer.named_parameters())

    def call(x: Tensor, *weights: Tensor) -> Tensor:
        out: Tensor = functional_call(layer, dict(zip(parameters, weights, strict=True)), (x,))
        return out

    assert torch.autograd.gradcheck(call, (x, *parameters.values()))
    (grad,) = torch.autograd.grad(layer(x).square().sum(), layer.weight)
    assert grad.stride() == layer.weight.stride()
    frozen = torch.autograd.grad(layer(x.detach()).square().sum(), layer.weight)[0]
    assert torch.equal(frozen, grad)


@pytest.mark.parametrize("bias", [False, True])
def test_a_gpu_sums_the_gradient_of_a_weight_in_parts(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = GroupedLinear(GROUPS, 4, 3, bias=bias).double()
    x = torch.randn(GROUPS, 512, 4, dtype=torch.float64, requires_grad=True)
    assert choose_n_parts(512) == 2
    weight = torch.randn(GROUPS, 512, 3, dtype=torch.float64)
    results = []
    for is_gpu in (False, True):
        monkeypatch.setattr(grouped, "on_gpu", lambda _, answer=is_gpu: answer)
        out = layer(x)
        results.append([out, *torch.autograd.grad((out * weight).sum(), [x, *layer.parameters()])])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_a_single_group_is_the_layer_itself() -> None:
    torch.manual_seed(0)
    norm, theirs = GroupedLayerNorm(1, DIM, 1e-5).double(), nn.LayerNorm(DIM, eps=1e-5).double()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_()
    theirs.load_state_dict(norm.state_dict())
    x = torch.randn(1, 5, DIM, dtype=torch.float64)
    assert torch.equal(norm(x), theirs(x))


def test_a_grouped_map_takes_part_in_autocast() -> None:
    layer = GroupedLinear(GROUPS, 4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(torch.randn(GROUPS, 5, 4))
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


@both
def test_only_biases_and_norms_have_one_dimension(make: Make) -> None:
    """Weight decay leaves them out by that rule, grouped or not."""
    counts = {}
    for n_groups in (None, GROUPS):
        groups = make_optimizer(make(n_groups), TrainConfig(weight_decay=0.1, decay_1d=False)).param_groups
        counts[n_groups] = {
            group["weight_decay"]: sum(p.numel() for p in group["params"]) for group in groups
        }
    assert counts[GROUPS] == {decay: GROUPS * count for decay, count in counts[None].items()}
    assert set(counts[GROUPS]) == {0.1, 0.0}


def test_a_grouped_layer_starts_like_separate_ones() -> None:
    torch.manual_seed(0)
    single, many = nn.Linear(100, 300), GroupedLinear(GROUPS, 100, 300)
    for ours, theirs in ((many.weight, single.weight), (many.bias, single.bias)):
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.1)
        assert 0.095 < ours.abs().max().item() <= 0.1  # nn.Linear draws from U(-1/sqrt(100), 1/sqrt(100))

    module = nn.ModuleList([many, GroupedLayerNorm(GROUPS, 100, 1e-12)])
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    init_normal(module, std=0.02)
    assert many.weight.std((1, 2)).tolist() == pytest.approx([0.02] * GROUPS, rel=0.03)
    assert not many.bias.any()
    assert module[1].weight.eq(1).all()
    assert not module[1].bias.any()


@pytest.mark.parametrize("shape", [(ROWS, DIM), (ROWS, WIDTH, DIM), (2, ROWS, WIDTH, DIM)])
def test_norms_are_those_of_each_group_on_every_device(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    norm = GroupedLayerNorm(GROUPS, DIM, 1e-5).double()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_()
    x, weight = torch.randn(2, GROUPS, *shape, dtype=torch.float64)
    x.requires_grad_()
    separate = [nn.LayerNorm(DIM, eps=1e-5).double() for _ in range(GROUPS)]
    for group, part in enumerate(separate):
        vectors = (vector.detach().view(GROUPS, DIM)[group] for vector in norm.parameters())
        part.load_state_dict(dict(zip(("weight", "bias"), vectors, strict=True)))
    expected = torch.stack([part(values) for part, values in zip(separate, x, strict=True)])
    (of_x,) = torch.autograd.grad((expected * weight).sum(), x, retain_graph=True)
    of_scale = torch.autograd.grad((expected * weight).sum(), [part.weight for part in separate])
    for is_eager in (True, False):  # False: as on a GPU
        monkeypatch.setattr(grouped, "is_eager_cpu", lambda x, answer=is_eager: answer)
        actual = norm(x)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
        by_x, by_scale = torch.autograd.grad((actual * weight).sum(), [x, norm.weight])
        torch.testing.assert_close(by_x, of_x, rtol=0, atol=1e-12)
        torch.testing.assert_close(by_scale, torch.cat(of_scale), rtol=0, atol=1e-12)
