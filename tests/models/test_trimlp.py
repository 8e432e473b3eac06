"""TriMLP: section "How to check it" of its specification, and the mixer against the released form written out."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.models.base import Recommender
from mmbench.nn.mlp import TriangularKernel, TriangularMixer
from tests.models.toy import history_batch, toy_catalog, toy_model, toy_view, training_batch

HISTORIES = [[4, 9, 2], [1], [3, 3, 8, 20, 30, 7, 7, 2], [11, 12]]
BOTH = pytest.mark.parametrize("name", ["trimlp", "trimlp:left-pad"])


def make(name: str = "trimlp", **settings: Any) -> Recommender[Any]:
    """float64, evaluation mode, kernels moved off their even start."""
    model = toy_model(name, toy_catalog(), hidden_dim=6, **settings).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for kernel in (model.mixer.whole, model.mixer.local):
            kernel.entries.add_(torch.randn(kernel.entries.shape, generator=generator, dtype=torch.float64))
    return model


def released_weights(kernel: TriangularKernel) -> Tensor:
    """The kernel as the released code keeps it: -1e9 where nothing may act, then a softmax over each row."""
    full = torch.full(kernel.index.shape, -1e9, dtype=torch.float64)
    full[kernel.index < len(kernel.entries)] = kernel.entries.detach().double()
    return full.softmax(-1)


def by_hand(model: Recommender[Any], history: list[int]) -> Tensor:
    """The state after the last event, place by place with sums; sigmoid twice."""
    whole, local = (released_weights(mixer) for mixer in (model.mixer.whole, model.mixer.local))
    session = len(whole) // model.config.n_sessions
    first = len(whole) - len(history) if model.config.align == "left-pad" else 0
    x = dict(enumerate(model.item_emb.weight[history].detach(), start=first))
    y = {t: sum(whole[j, t] * x[j] for j in x if j <= t).sigmoid() for t in x}
    last = max(x)
    return sum(local[j, last] * y[j] for j in y if j // session == last // session).sigmoid()


@BOTH
@pytest.mark.parametrize("n_sessions", [1, 2, 4])
def test_equals_the_sums_by_hand(name: str, n_sessions: int) -> None:
    model = make(name, n_sessions=n_sessions)
    with torch.no_grad():
        state = model.query(history_batch(model, HISTORIES))[:, :-1]
        for k, history in enumerate(HISTORIES):
            torch.testing.assert_close(state[k], by_hand(model, history), rtol=0, atol=1e-12)
        torch.testing.assert_close(
            model.score(history_batch(model, HISTORIES)), state @ model.out.weight.T + model.out.bias
        )


def test_causal_by_construction() -> None:
    model = make()
    assert model.needs.causal
    a, b = (
        model.encode(history_batch(model, [history]))[0] for history in ([4, 9, 2, 7, 5], [4, 9, 2, 8, 5])
    )
    assert torch.equal(a[:3], b[:3])
    assert (a[3:] - b[3:]).abs().amax(-1).min() > 1e-6


def test_kernels_start_even_and_rows_sum_to_one() -> None:
    length, session = 12, 4
    mixer = TriangularMixer(max_len=length, n_sessions=3, activation="sigmoid", align="right")
    whole, local = mixer.whole.weights(), mixer.local.weights()
    for j in range(length):
        for t in range(length):
            expected = 1 / (length - j) if t >= j else 0.0
            assert whole[j, t].item() == pytest.approx(expected)
            is_near = t >= j and t // session == j // session
            assert local[j, t].item() == pytest.approx(1 / (session - j % session) if is_near else 0.0)
    torch.nn.init.normal_(mixer.local.entries)
    torch.nn.init.normal_(mixer.whole.entries)
    for kernel in (mixer.whole, mixer.local):
        torch.testing.assert_close(kernel.weights().sum(1), torch.ones(length))
        assert not kernel.weights()[kernel.index == len(kernel.entries)].any()
        torch.testing.assert_close(kernel.weights(), released_weights(kernel).float())


def test_first_places_of_a_long_kernel_get_little_weight() -> None:
    """The reason for `left-pad`: five events of fifty share 0.1 at the fifth place, 4.5 at the last."""
    columns = TriangularKernel(max_len=50, n_sessions=1).weights().sum(0)
    assert columns[4].item() == pytest.approx(0.104, abs=1e-3)
    assert columns[49].item() == pytest.approx(4.5, abs=0.01)


def test_the_local_kernel_stays_in_its_session() -> None:
    kernel = TriangularKernel(max_len=8, n_sessions=2).double()
    torch.nn.init.normal_(kernel.entries)
    x = torch.randn(1, 8, 3, dtype=torch.float64)
    moved = x.clone()
    moved[0, 1] += 1
    change = (kernel(moved) - kernel(x)).abs().amax(-1)[0]
    assert (change > 1e-9).tolist() == [False, True, True, True, False, False, False, False]
    gradient = torch.autograd.grad(kernel(x).sum(), kernel.entries)[0]
    assert gradient.isfinite().all()


@pytest.mark.parametrize("activation", ["sigmoid", "gelu", "relu", "identity"])
def test_more_padding_never_changes_a_state(activation: str) -> None:
    model = make(activation=activation)
    alone = torch.cat([model.query(history_batch(model, [history])) for history in HISTORIES])
    torch.testing.assert_close(model.query(history_batch(model, HISTORIES)), alone, rtol=0, atol=1e-12)
    if activation == "identity":
        kernel = model.mixer
        x = model.item_emb(torch.tensor([[4, 9, 2]]))
        torch.testing.assert_close(
            model.encode(history_batch(model, [[4, 9, 2]])), kernel.local(kernel.whole(x))
        )


def test_left_padding_needs_the_second_zeroing() -> None:
    """act(0) = 1/2 at padding would reach real places through the local kernel."""
    model = make("trimlp:left-pad", n_sessions=1)
    assert (model.needs.causal, model.needs.samples[0], model.needs.layout) == (False, "prefix", "fixed")
    whole, local = model.mixer.whole.weights(), model.mixer.local.weights()
    x = torch.zeros(8, 6, dtype=torch.float64)
    x[5:] = model.item_emb.weight[[4, 9, 2]]
    leaky = (local.T @ (whole.T @ x).sigmoid()).sigmoid()[-1]
    state = model.query(history_batch(model, [[4, 9, 2]]))[0, :-1]
    assert (leaky - state).abs().max() > 1e-3
    torch.testing.assert_close(state, by_hand(model, [4, 9, 2]))


def test_full_histories_do_not_care_for_the_side() -> None:
    right, left = make(), make("trimlp:left-pad")
    full = [[3, 1, 8, 20, 30, 7, 9, 2]]
    torch.testing.assert_close(right.score(history_batch(right, full)), left.score(history_batch(left, full)))


def test_sessions_must_divide_the_length() -> None:
    with pytest.raises(ValueError, match="max_len 8 is not divisible by n_sessions 3"):
        make(n_sessions=3)


def test_parameter_count() -> None:
    """Both tables, the bias, and the triangles: L (L + 1) / 2 and S s (s + 1) / 2 entries that act."""
    model = toy_model("trimlp", toy_catalog(), hidden_dim=6)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == 31 * 6 + 30 * 6 + 30 + 8 * 9 // 2 + 2 * (4 * 5 // 2)


def test_loss_is_the_dense_cross_entropy_with_padding_ignored() -> None:
    model = make()
    batch = training_batch(model, toy_view(), samples="last-window")
    logits = model.encode(batch).flatten(0, 1) @ model.out.weight.T + model.out.bias
    target = torch.full((len(logits),), -100)
    target[batch.slot] = batch.target - 1
    assert (target < 0).any()
    expected = F.cross_entropy(logits, target, ignore_index=-100)
    torch.testing.assert_close(model.loss(batch)["ce"], expected, rtol=0, atol=1e-12)


@BOTH
def test_padding_row_stays_zero(name: str) -> None:
    model = make(name, dropout=0.0)
    model.loss(training_batch(model, toy_view()))["ce"].backward()
    assert not model.item_emb.weight[0].any()
    assert not model.item_emb.weight.grad[0].any()
    assert model.item_emb.weight[1:].std().item() == pytest.approx(1.0, rel=0.2)
