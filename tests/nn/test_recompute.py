"""mmbench.nn.recompute: states and gradients of one pass, from chunks that are computed twice."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from mmbench.models.hm4sr import HM4SR, HM4SRConfig, ModalityEncoder
from mmbench.nn import recompute
from mmbench.nn.recompute import chunked_states
from tests.models.toy import toy_catalog, toy_model, toy_view, training_batch

R, W, M, D = 7, 6, 2, 8


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every batch of a test is large, and has several chunks, the last one shorter."""
    monkeypatch.setattr(recompute, "MANY_PLACES", 1)
    monkeypatch.setattr(recompute, "CHUNK_PLACES", 3 * W)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def make_encoder(dropout: float) -> ModalityEncoder:
    config = toy_model(
        "hm4sr", toy_catalog(), hidden_dim=D, inner_dim=12, n_heads=2, dropout=dropout, attn_dropout=dropout
    ).config
    assert isinstance(config, HM4SRConfig)
    return ModalityEncoder(config, M)


def rows() -> tuple[Tensor, Tensor]:
    mask = torch.ones(R, W, W, dtype=torch.bool).tril()
    return torch.randn(R, W, M, D, requires_grad=True), mask


def literal(encoder: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    """The same chunks, kept."""
    return torch.cat(
        [encoder(part, masks, None) for part, masks in zip(x.split(3), mask.split(3), strict=True)], 1
    )


def outcome(states: Tensor, encoder: nn.Module, x: Tensor) -> list[Tensor]:
    """States, a draw after them, and all gradients of a function of them."""
    after = torch.rand(3)
    return [states, after, *torch.autograd.grad((states.sin() * states).sum(), [x, *encoder.parameters()])]


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_states_and_gradients_are_those_of_a_single_pass(dropout: float) -> None:
    encoder, (x, mask) = make_encoder(dropout).train(), rows()
    results = []
    for states in (chunked_states, literal):
        torch.manual_seed(3)
        results.append(outcome(states(encoder, x, mask), encoder, x))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def some_slots() -> Tensor:
    """Slots in no order, two of one row, none of the second chunk."""
    return torch.tensor([5, 6 * W + 1, 2 * W + 3, 6 * W + 5, 0])


@pytest.mark.parametrize("n_slots", [5, 60])
def test_slots_are_those_of_a_single_pass(n_slots: int) -> None:
    encoder, (x, mask) = make_encoder(0.0).train(), rows()
    torch.manual_seed(4)
    slot = some_slots() if n_slots == 5 else torch.randint(R * W, (n_slots,))
    results = [outcome(chunked_states(encoder, x, mask, slot), encoder, x)[::2]]
    results.append(outcome(encoder(x, mask, slot), encoder, x)[::2])
    assert results[0][0].shape == (M, n_slots, D)
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


def kept_with_slots(encoder: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    """The states of `some_slots` from the two chunks that hold them, kept; then in the order of the slots."""
    first, last = torch.tensor([5, 0, 2 * W + 3]), torch.tensor([1, 5])
    chunks = [encoder(x[:3], mask[:3], first), encoder(x[6:], mask[6:], last)]
    return torch.cat(chunks, 1)[:, [0, 3, 2, 4, 1]]


@pytest.mark.parametrize("is_cast", [False, True])
def test_the_noise_of_slots_is_the_same_in_both_passes(is_cast: bool) -> None:
    encoder, (x, mask) = make_encoder(0.4).train(), rows()
    if is_cast:
        encoder, x = encoder.float(), x.detach().float().requires_grad_()
    results = []
    for is_chunked in (True, False):
        torch.manual_seed(3)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_cast):
            states = (
                chunked_states(encoder, x, mask, some_slots())
                if is_chunked
                else kept_with_slots(encoder, x, mask)
            )
        results.append(outcome(states, encoder, x))
    tolerance = 0.05 if is_cast else 1e-12  # bfloat16 has 8 digits of two, and chunks add in another order
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_slots_of_a_stack_are_those_of_each_model_alone() -> None:
    encoders, (x, mask) = [make_encoder(0.0), make_encoder(0.0)], rows()
    alone = [encoder(x, mask, some_slots()) for encoder in encoders]
    parameters, _ = stack_module_state(encoders)  # type: ignore[arg-type]

    class Chunked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoders[0]

        def forward(self, x: Tensor, slot: Tensor) -> Tensor:
            return recompute.states_at(self.encoder, x, mask, slot)

    def run(parameters: dict[str, Tensor], slot: Tensor) -> Any:
        return functional_call(Chunked(), {f"encoder.{k}": v for k, v in parameters.items()}, (x, slot))

    for slot, dim in ((some_slots(), None), (some_slots().expand(2, -1), 0)):
        stacked = torch.vmap(run, (0, dim), randomness="different")(parameters, slot)
        torch.testing.assert_close(stacked, torch.stack(alone), rtol=1e-12, atol=1e-12)


def test_the_last_block_maps_the_slots_only() -> None:
    """Nothing reads the states of other places."""
    encoder, (x, mask) = make_encoder(0.0), rows()
    mapped: list[int] = []
    encoder.transformer.blocks[-1].up.register_forward_pre_hook(
        lambda _, arguments: mapped.append(arguments[0].shape[-2])
    )
    chunked_states(encoder, x, mask, some_slots())
    assert mapped == [3, 2]


def test_the_noise_of_the_second_pass_leaves_no_trace() -> None:
    """The generator continues after the backward pass as if that had drawn nothing."""
    encoder, (x, mask) = make_encoder(0.4).train(), rows()
    torch.manual_seed(3)
    states = chunked_states(encoder, x, mask)
    before = torch.get_rng_state()
    states.sum().backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_models_of_a_stack_are_each_alone() -> None:
    encoders, (x, mask) = [make_encoder(0.0), make_encoder(0.0)], rows()
    alone = [chunked_states(encoder, x, mask) for encoder in encoders]
    parameters, buffers = stack_module_state(encoders)  # type: ignore[arg-type]

    class Chunked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoders[0]

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return chunked_states(self.encoder, x, mask)

    def run(parameters: dict[str, Tensor]) -> Any:
        return functional_call(Chunked(), {f"encoder.{k}": v for k, v in parameters.items()}, (x, mask))

    assert not buffers
    stacked = torch.vmap(run, randomness="different")(parameters)
    torch.testing.assert_close(stacked, torch.stack(alone), rtol=1e-12, atol=1e-12)
    (stacked.sin() * torch.tensor([1.0, 2.0])[:, None, None, None, None]).sum().backward()
    for scale, encoder, states in zip((1.0, 2.0), encoders, alone, strict=True):
        (states.sin() * scale).sum().backward()
        number = encoders.index(encoder)
        for name, parameter in encoder.named_parameters():
            grad = parameters[name].grad
            assert grad is not None
            torch.testing.assert_close(grad[number], parameter.grad, rtol=1e-11, atol=1e-12)


def test_the_loss_of_hm4sr_is_the_same_in_one_pass_and_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for many in (1, 10**9):
        monkeypatch.setattr(recompute, "MANY_PLACES", many)
        torch.manual_seed(0)
        model = toy_model("hm4sr", toy_catalog(), dropout=0.0, attn_dropout=0.0).double()
        assert isinstance(model, HM4SR)
        batch = training_batch(model, toy_view())
        torch.manual_seed(1)
        terms = model.loss(batch)
        torch.stack(list(terms.values())).sum().backward()
        results.append([*terms.values(), *(parameter.grad for parameter in model.parameters())])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_only_long_rows_on_a_cpu_are_made_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "MANY_PLACES", R * W)
    assert recompute.wants_chunks(torch.empty(R, W, M, D))
    assert not recompute.wants_chunks(torch.empty(R - 1, W, M, D))
    assert not recompute.wants_chunks(torch.empty(R, W, M, D, device="meta"))
