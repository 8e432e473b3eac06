"""mmbench.nn.whitening: the mixture of whitening experts against plain loops, its draws, its initial weights."""

import math
from unittest import mock

import pytest
import torch
from torch import Tensor

from mmbench.nn import whitening
from mmbench.nn.whitening import WhiteningExperts
from tests.fixed import fill
from tests.models.make_unisrec import cosine_wave

# -- the adaptor ------------------------------------------------------------------------------------------------------


def adaptor_by_hand(
    adaptor: WhiteningExperts, x: Tensor, kept: Tensor | None, noise: Tensor | None
) -> list[list[float]]:
    """Return v of rows x [n, F] in plain loops; kept [G, n, F] has 0 or the scale of what is kept, noise is [n, G]."""
    weight, gate, spread = (p.tolist() for p in (adaptor.weight, adaptor.gate.weight, adaptor.noise.weight))
    n_experts, dim, width = len(weight), len(weight[0]), x.shape[1]
    offset, rows = adaptor.offset.tolist(), []
    for i, row in enumerate(x.tolist()):
        logits = []
        for g in range(n_experts):
            logit = sum(row[f] * gate[g][f] for f in range(width))
            if noise is not None:
                raw = sum(row[f] * spread[g][f] for f in range(width))
                logit += noise[i, g].item() * (math.log(1 + math.exp(raw)) + 0.01)
            logits.append(math.exp(logit))
        v = [0.0] * dim
        for g in range(n_experts):
            for d in range(dim):
                for f in range(width):
                    seen = row[f] * (1.0 if kept is None else kept[g, i, f].item())
                    v[d] += logits[g] / sum(logits) * weight[g][d][f] * (seen - offset[g * width + f])
        rows.append(v)
    return rows


def adaptor_of(rate: float = 0.0, *, own: bool = True, noisy: bool = True) -> WhiteningExperts:
    adaptor = WhiteningExperts(5, 3, 4, rate, mask_per_expert=own, is_noisy=noisy).double()
    fill(adaptor)
    with torch.no_grad():
        adaptor.offset.add_(0.3)
    return adaptor


X = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("block", [96, 2048])
def test_adaptor_is_what_its_formula_says(own: bool, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whitening, "BLOCK", block)
    adaptor = adaptor_of(0.25, own=own)
    torch.testing.assert_close(adaptor.eval()(X).tolist(), adaptor_by_hand(adaptor, X, None, None))
    torch.manual_seed(5)
    drawn: list[Tensor] = []
    original = whitening.keep_bytes
    monkeypatch.setattr(whitening, "keep_bytes", lambda *args: drawn.append(original(*args)) or drawn[-1])
    monkeypatch.setattr(
        whitening,
        "dropout",
        lambda x, p, training: x * (drawn.append(original(x, 64)) or drawn[-1]) * (256 / 192),
    )
    with mock.patch.object(torch, "randn", cosine_wave):
        v = adaptor.train()(X)
    (kept,) = drawn
    kept = (kept if own else kept.expand(4, -1, -1)) * (256 / 192)
    assert 0 < kept.eq(0).double().mean() < 0.5
    torch.testing.assert_close(v.tolist(), adaptor_by_hand(adaptor, X, kept, cosine_wave(7, 4)))


@pytest.mark.parametrize("block", [96, 2048])
def test_gradient_of_dropped_products(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whitening, "BLOCK", block)
    keep = torch.randint(0, 2, (4, 7, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: whitening._DroppedProducts.apply(X, keep, w), (weight,))


def test_each_entry_and_expert_has_draws_of_its_own() -> None:
    adaptor, same = adaptor_of(0.5, noisy=False).train(), X[:1].expand(400, -1)
    torch.manual_seed(0)
    experts = adaptor.experts(same)
    assert len(experts[0].unique(dim=0)) > 20  # 32 masks of five features
    agree = [(experts[0] - experts[0][0]).norm(dim=1) < 1e-9, (experts[1] - experts[1][0]).norm(dim=1) < 1e-9]
    assert not torch.equal(*agree)  # the second expert drops other features than the first
    torch.testing.assert_close(experts.mean(1), adaptor.eval().experts(X[:1])[:, 0], rtol=0, atol=0.15)
    shared = adaptor_of(0.5, own=False, noisy=False).train().experts(same)
    agree = [(values - values[0]).norm(dim=1) < 1e-9 for values in shared[:2]]
    assert torch.equal(*agree)


def test_the_gate_sees_no_dropout() -> None:
    adaptor = adaptor_of(0.5, noisy=False)
    assert torch.equal(adaptor.train().gates(X), adaptor.eval().gates(X))
    assert torch.equal(adaptor_of().eval().gates(X), adaptor.gates(X))
    torch.manual_seed(0)
    gates = adaptor_of().train().gates(X[:1].expand(300, -1))
    assert gates.std(0).min() > 0.01
    torch.testing.assert_close(gates.sum(1), torch.ones(300).double())


def test_experts_start_alike() -> None:
    adaptor = WhiteningExperts(40, 30, 4, 0.2, mask_per_expert=True, is_noisy=True).eval()
    x = torch.randn(9, 40)
    assert torch.equal(adaptor.gates(x), torch.full((9, 4), 0.25))
    torch.testing.assert_close(adaptor(x), x @ adaptor.weight.mean(0).T)
    assert adaptor.weight.std().item() == pytest.approx(0.02, rel=0.05)
    torch.manual_seed(0)
    logits = adaptor.train().gates(x[:1].expand(4000, -1)).log()
    spread = (logits - logits.mean(1, keepdim=True)).std(0)  # softplus(0) + 0.01, less the mean of four
    torch.testing.assert_close(spread, torch.full((4,), (math.log(2) + 0.01) * 0.75**0.5), rtol=0.05, atol=0)
