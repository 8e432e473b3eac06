"""Parts of TedRec: the transforms and the fusion in the frequency domain, and the experts that read features."""

import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from mmbench.models import registry
from tests.fixed import signed
from tests.models.test_tedrec import lively
from tests.models.toy import toy_catalog, toy_model, toy_view, training_batch


def module() -> Any:
    return sys.modules[registry.find("tedrec").load().__module__]


# -- frequencies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_places", [1, 2, 7, 8, 50])
def test_matrices_are_the_fourier_transforms(n_places: int) -> None:
    x = signed("x", (3, n_places, 4))
    there, back = module().fourier(x)
    spectrum = torch.fft.rfft(x, dim=1, norm="ortho")
    torch.testing.assert_close(there @ x, torch.cat([spectrum.real, spectrum.imag], 1), rtol=0, atol=1e-13)
    torch.testing.assert_close(back @ (there @ x), x, rtol=0, atol=1e-13)
    # irfft ignores what no real signal has.
    odd = torch.randn(3, len(there), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.fft.irfft(torch.complex(*odd.chunk(2, 1)), n=n_places, dim=1, norm="ortho")
    torch.testing.assert_close(back @ odd, expected, rtol=0, atol=1e-13)


def fusion_of(n_places: int, *, dim: int = 4) -> Any:
    torch.manual_seed(0)
    fusion = module().FrequencyFusion(n_places, dim, 1).double()
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter)
    return fusion


def convolutions(fusion: Any, ids: Tensor, content: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return c_1, c_2 and X."""
    seen: list[Tensor] = []
    hooks = [gate.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for gate in fusion.gates]
    with torch.no_grad():
        fused = fusion(ids, [content])
    for hook in hooks:
        hook.remove()
    return seen[0], seen[1], fused


@pytest.mark.parametrize("n_places", [5, 8])
def test_a_flat_filter_leaves_ids_as_they_are_and_texts_are_a_circular_convolution(n_places: int) -> None:
    fusion, ids, content = (
        fusion_of(n_places),
        signed("ids", (2, n_places, 4)),
        signed("text", (2, n_places, 4)),
    )
    with torch.no_grad():
        fusion.filter.zero_()
        fusion.filter[: n_places // 2 + 1] = 1.0
    by_filter, by_text, fused = convolutions(fusion, ids, content)
    torch.testing.assert_close(by_filter, ids, rtol=0, atol=1e-13)
    expected = torch.zeros_like(ids)
    for t in range(n_places):
        for s in range(n_places):
            expected[:, t] += content[:, s] * ids[:, (t - s) % n_places] / math.sqrt(n_places)
    torch.testing.assert_close(by_text, expected, rtol=0, atol=1e-13)
    gates = [gate(c).sigmoid() for gate, c in zip(fusion.gates, (by_filter, by_text), strict=True)]
    torch.testing.assert_close(fused, 2 * (gates[0] * by_filter + gates[1] * by_text), rtol=0, atol=1e-13)


def test_a_shift_of_the_ids_shifts_both_convolutions() -> None:
    fusion, ids, content = fusion_of(7), signed("ids", (2, 7, 4)), signed("text", (2, 7, 4))
    for before, after in zip(
        convolutions(fusion, ids, content), convolutions(fusion, ids.roll(3, 1), content), strict=True
    ):
        torch.testing.assert_close(before.roll(3, 1), after, rtol=0, atol=1e-13)


def test_biases_of_gates_start_on_both_sides_of_zero() -> None:
    torch.manual_seed(0)
    fusion = module().FrequencyFusion(4, 64, 99)
    fusion.reset()
    biases = torch.stack([gate.bias for gate in fusion.gates])
    assert -1 / 8 <= biases.min() < -0.11
    assert 0.11 < biases.max() <= 1 / 8


# -- experts -----------------------------------------------------------------------------------------------------


def test_experts_start_alike_and_places_differ_by_offsets_only() -> None:
    model = toy_model("tedrec", toy_catalog(), hidden_dim=8).double().eval()
    adaptor = model.adaptors["text"]
    items, places = torch.tensor([[5, 5, 9]]), torch.tensor([[0, 3, 3]])
    with torch.no_grad():
        mean = adaptor.experts.weight.view(8, 8, 12).mean(0)
        expected = adaptor.feat[items] @ mean.T
        torch.testing.assert_close(adaptor(items, places), expected, rtol=0, atol=1e-12)
        adaptor.offsets.copy_(signed("offsets", adaptor.offsets.shape))
        moved = adaptor(items, places) - expected
    assert (moved[0, 0] - moved[0, 1]).abs().max() > 1e-3
    torch.testing.assert_close(moved[0, 1], moved[0, 2], rtol=0, atol=1e-12)


def test_noise_is_drawn_in_training_only() -> None:
    model = lively()
    batch = training_batch(model, toy_view())
    with torch.no_grad():
        assert torch.equal(model.query(batch), model.query(batch))
        model.train()
        assert not torch.equal(model.query(batch), model.query(batch))


def test_each_expert_drops_features_by_itself_and_gate_and_noise_see_them_all() -> None:
    torch.manual_seed(0)
    model = toy_model("tedrec", toy_catalog(), hidden_dim=12, n_experts=3, adaptor_dropout=0.25)
    adaptor, gate_inputs = model.adaptors["text"].double().train(), []
    for linear in (adaptor.gate, adaptor.noise):
        linear.register_forward_pre_hook(lambda _, args: gate_inputs.append(args[0]))
    with torch.no_grad():
        adaptor.experts.weight.copy_(torch.eye(12, dtype=torch.float64).repeat(3, 1))
        x = torch.ones(40, 60, 12, dtype=torch.float64)
        dropped = adaptor.mapped(x)
        items = torch.arange(1, 31)[None]
        adaptor(items, torch.zeros_like(items))
    assert dropped.shape == (40, 60, 3, 12)
    kept = dropped != 0
    assert (~kept).double().mean().item() == pytest.approx(0.25, abs=0.01)
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 4 / 3))
    both = (~kept[:, :, 0] & ~kept[:, :, 1]).double().mean().item()
    assert both == pytest.approx(0.25**2, abs=0.01)
    assert len(gate_inputs) == 2
    for seen in gate_inputs:
        torch.testing.assert_close(seen, adaptor.feat[items])


# -- settings ----------------------------------------------------------------------------------------------------


def test_the_encoder_has_the_rates_of_the_settings() -> None:
    model = toy_model("tedrec", toy_catalog(), hidden_dim=8, dropout=0.4, attn_dropout=0.1)
    for block in model.encoder.blocks:
        assert (block.drop.p, block.attention.attn_dropout) == (0.4, 0.1)


@pytest.mark.parametrize("modalities", [(), ("text",), ("image",), ("text", "image")])
def test_a_run_needs_the_modalities_of_its_settings_only(modalities: tuple[str, ...]) -> None:
    entry = registry.find("tedrec")
    config = entry.config(modalities=modalities)
    assert [name for name in ("text", "image") if entry.load().reads(config, name)] == list(modalities)
