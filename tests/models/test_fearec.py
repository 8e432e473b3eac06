"""FEARec: section "How to check it" of its specification; spectra against sums written out."""

import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmbench.data.samples import plan_rows
from mmbench.errors import UsageError
from mmbench.models.registry import find
from tests.models.toy import (
    START,
    catalog_of,
    history_batch,
    random_fives,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)

find("fearec").load()
FEAREC = sys.modules[find("fearec").load().__module__]
QUIET = {"dropout": 0.0, "attn_dropout": 0.0}


def core(width: int = 8, bins: tuple[int, int] | None = None, **settings: Any) -> Any:
    """One attention core in float64, with large weights so that nothing is nearly zero."""
    torch.manual_seed(0)
    config = find("fearec").config(**({"hidden_dim": 6, "n_heads": 2} | QUIET | settings))
    layer = FEAREC.HybridAttention(config, width=width, bins=bins or (0, width // 2 + 1)).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer.eval()


def everything(x: Tensor) -> Tensor:
    """A mask of histories that fill their rows: causal, no padding."""
    return torch.ones(len(x), x.shape[1], x.shape[1], dtype=torch.bool).tril()


def spectra(layer: Any, x: Tensor) -> Tensor:
    """Of queries, keys and values, the other bands cut off."""
    return torch.fft.rfft(layer.qkv(x), dim=1) * layer.band[:, None]


def correlation_of(layer: Any, x: Tensor) -> Tensor:
    return layer.correlation(*layer.qkv(x).chunk(3, -1)[:2]) @ layer.projection()


@pytest.mark.parametrize(
    ("n_layers", "ratio", "expected"),
    [
        (2, 0.6, [(10, 26), (0, 16)]),
        (2, 0.8, [(5, 26), (0, 21)]),
        (2, 1.0, [(0, 26), (0, 26)]),
        (2, 0.5, [(13, 26), (0, 13)]),
        (2, 0.1, [(13, 26), (0, 13)]),
        (3, 0.6, [(10, 26), (5, 21), (0, 16)]),
        (1, 0.6, [(0, 26)]),
        (1, 1.0, [(0, 26)]),
    ],
)
def test_ramp(n_layers: int, ratio: float, expected: list[tuple[int, int]]) -> None:
    assert FEAREC.ramp(n_layers, 26, ratio) == expected


@pytest.mark.parametrize("n_layers", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.35, 0.6, 0.9, 1.0])
def test_ramp_goes_down_without_holes(n_layers: int, ratio: float) -> None:
    """Its floored step leaves out fewer than n_layers - 1 of the lowest bins, so none with two layers."""
    bands = FEAREC.ramp(n_layers, 26, ratio)
    seen = {k for left, right in bands for k in range(left, right)}
    lowest = min(seen)
    assert seen == set(range(lowest, 26))
    assert lowest <= max(n_layers - 2, 0)
    assert bands == sorted(bands, reverse=True)


@pytest.mark.parametrize(("factor", "n_lags"), [(1, 3), (3, 11), (5, 19)])
def test_number_of_lags(factor: int, n_lags: int) -> None:
    assert core(50, topk_factor=factor).n_lags == n_lags


@pytest.mark.parametrize("width", [8, 7])
def test_correlation_is_the_circular_sum(width: int) -> None:
    layer, x = core(width), torch.randn(3, width, 6, dtype=torch.float64)
    q, k, _ = layer.qkv(x).chunk(3, -1)
    expected = torch.zeros(3, width, dtype=torch.float64)
    for tau in range(width):
        for t in range(width):
            expected[:, tau] += (q[:, (t + tau) % width] * k[:, t]).mean(-1)
    torch.testing.assert_close(correlation_of(layer, x), expected, rtol=0, atol=1e-12)


def test_sums_over_lags_and_circulants_are_each_other_s_derivative() -> None:
    index = (core(7).lag, core(7).ahead)
    values, matrices = (torch.randn(2, *[7] * n, dtype=torch.float64, requires_grad=True) for n in (1, 2))
    calls = (FEAREC._Circulant.apply, values), (FEAREC._LagSums.apply, matrices)
    circulant, sums = (call(x, *index) for call, x in calls)
    assert torch.equal(circulant, torch.stack([values.roll(t, 1) for t in range(7)], 1))
    diagonals = [matrices.roll(-tau, 2).diagonal(dim1=1, dim2=2) for tau in range(7)]
    torch.testing.assert_close(sums, torch.stack(diagonals, 1).sum(2))
    assert all(torch.autograd.gradcheck(call, (x, *index)) for call, x in calls)


@pytest.mark.parametrize("bins", [(2, 5), (0, 3), (1, 2)])
def test_band_is_a_projection_of_queries_and_keys(bins: tuple[int, int]) -> None:
    """Cosines and sines of the band's frequencies, fitted by least squares, instead of a transform."""
    layer, x = core(8, bins), torch.randn(2, 8, 6, dtype=torch.float64)
    angle = 2 * math.pi * torch.arange(8, dtype=torch.float64)[:, None] * torch.arange(*bins) / 8
    waves = torch.cat([angle.cos(), angle.sin()], 1)
    waves = waves[:, waves.abs().sum(0) > 1e-9]  # the sine of the lowest and of the highest frequency is zero
    project = waves @ torch.linalg.pinv(waves)
    q, k, v = (project @ part for part in layer.qkv(x).chunk(3, -1))
    torch.testing.assert_close(
        layer.projection() @ layer.qkv(x), torch.cat([q, k, v], -1), rtol=0, atol=1e-12
    )
    products = q @ k.transpose(1, 2) / 6  # [R, t + tau, t]
    expected = torch.stack([products.roll(-tau, 1).diagonal(dim1=1, dim2=2).sum(1) for tau in range(8)], 1)
    torch.testing.assert_close(correlation_of(layer, x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("width", "bins"), [(50, (10, 26)), (50, (0, 16)), (9, (1, 5))])
def test_real_matrices_are_the_transforms(width: int, bins: tuple[int, int]) -> None:
    layer, x = core(width, bins), torch.randn(3, width, 6, dtype=torch.float64)
    band = spectra(layer, x)
    filtered = torch.fft.irfft(band, n=width, dim=1)
    torch.testing.assert_close(layer.projection() @ layer.qkv(x), filtered, rtol=0, atol=1e-12)
    query, key, _ = band.chunk(3, -1)
    expected = torch.fft.irfft((query * key.conj()).mean(-1), n=width, dim=1)
    torch.testing.assert_close(correlation_of(layer, x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_values_move_left_by_the_best_lags(training: bool) -> None:
    layer = core(8, topk_factor=2).train(training)  # 4 lags
    r, value = torch.randn(5, 8, dtype=torch.float64), torch.randn(5, 8, 6, dtype=torch.float64)
    actual = layer.by_lag(r, value)
    for row in range(5):
        ranked = r.mean(0) if training else r[row]
        lags = sorted(range(8), key=lambda tau: -ranked[tau])[:4]
        weight = torch.stack([r[row, tau] for tau in lags]).softmax(0)
        expected = sum(
            w * torch.cat([value[row, tau:], value[row, :tau]]) for w, tau in zip(weight, lags, strict=True)
        )
        torch.testing.assert_close(actual[row], expected, rtol=0, atol=1e-13)


def test_equal_queries_and_keys_fit_best_without_lag() -> None:
    layer, x = core(), torch.randn(4, 8, 6, dtype=torch.float64)
    with torch.no_grad():
        layer.qkv.weight[6:12] = layer.qkv.weight[:6]
        layer.qkv.bias[6:12] = layer.qkv.bias[:6]
    assert (correlation_of(layer, x).argmax(1) == 0).all()


def test_constant_values_come_out_as_they_are() -> None:
    value = torch.randn(3, 1, 6, dtype=torch.float64).expand(-1, 8, -1)
    torch.testing.assert_close(core().by_lag(torch.randn(3, 8).double(), value), value)


def test_frequency_branch_turns_with_its_input() -> None:
    layer, x = core(bins=(1, 4), dual_domain=False), torch.randn(2, 8, 6, dtype=torch.float64)
    mask = everything(x)
    torch.testing.assert_close(layer(x.roll(3, 1), mask), layer(x, mask).roll(3, 1), rtol=0, atol=1e-12)


def test_branches_are_mixed_by_the_spatial_ratio() -> None:
    x = torch.randn(2, 8, 6, dtype=torch.float64)
    mask = everything(x)
    both = core(bins=(1, 4), spatial_ratio=0.3)
    time, lags = core(bins=(1, 4), spatial_ratio=1.0), core(bins=(1, 4), dual_domain=False)
    torch.testing.assert_close(both(x, mask), 0.3 * time(x, mask) + 0.7 * lags(x, mask))
    unfiltered = core(bins=(1, 4), spatial_ratio=1.0, filter_time=False)
    plain = unfiltered.out(unfiltered.mix(unfiltered.qkv(x), mask))
    torch.testing.assert_close(unfiltered(x, mask), plain)
    assert (time(x, mask) - plain).abs().max() > 1e-3


@pytest.mark.parametrize(
    "settings", [{}, {"filter_time": False}, {"dual_domain": False}, {"zero_padding": True}]
)
@pytest.mark.parametrize("training", [True, False])
def test_few_places_are_those_of_all(settings: dict[str, Any], training: bool) -> None:
    """One place a row takes a shorter way; as many places as that, but several in a row, must not be taken for it."""
    layer, x = core(bins=(1, 4), spatial_ratio=0.3, **settings).train(training), torch.randn(3, 8, 6).double()
    mask = everything(x) & (torch.arange(8) < torch.tensor([8, 5, 2])[:, None])[:, None]
    for slot in ([7, 12, 17], [4, 12, 8], [17, 7, 12], [17], [0, 1, 7, 9, 16]):
        places = torch.tensor(slot)
        torch.testing.assert_close(
            layer(x, mask, places), layer(x, mask).flatten(0, 1)[places], rtol=0, atol=1e-12
        )


def test_time_branch_alone_is_sasrec() -> None:
    histories = [[4, 9, 2], [1], [3, 3, 8, 20, 30, 7, 7, 2, 5], [11, 12]]
    model = (
        toy_model("fearec", toy_catalog(), spatial_ratio=1.0, global_ratio=1.0, contrast="none")
        .double()
        .eval()
    )
    other = toy_model("sasrec", toy_catalog(), seed=1).double().eval()
    other.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        actual, expected = (network.score(history_batch(network, histories)) for network in (model, other))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_a_later_item_reaches_earlier_places() -> None:
    """Why only the last place of a prefix may be trained on."""
    model = toy_model("fearec", toy_catalog()).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    items = torch.tensor([[4, 9, 2, 7, 5, 0, 0, 0]])
    changed = items.clone()
    changed[0, 4] = 8
    assert (model.encode(items) - model.encode(changed))[0, :4].abs().amax(1).min() > 1e-6
    assert model.needs.samples == ("prefix",)
    assert not model.needs.causal


def test_zero_padding_hides_the_padding_row() -> None:
    for name, is_hidden in (("fearec", False), ("fearec:zero-padding", True)):
        model = toy_model(name, toy_catalog(), hidden_dim=12).double().eval()
        nn.init.normal_(model.item_emb.weight)
        batch = history_batch(model, [[4, 9, 2], [1]])
        before = model.query(batch)
        with torch.no_grad():
            model.item_emb.weight[0] += torch.randn(12).double()
        assert torch.equal(before, model.query(batch)) == is_hidden


def test_spectral_gap() -> None:
    a, b = torch.randn(2, 3, 6, dtype=torch.float64)
    assert FEAREC.spectral_gap(a, a).item() == 0.0
    total = 0.0
    for row in range(3):
        for k in range(4):
            parts = [(a - b)[row, n].item() * np.exp(-2j * math.pi * k * n / 6) for n in range(6)]
            total += abs(sum(parts)) / math.sqrt(6) / 12
    assert FEAREC.spectral_gap(a, b).item() == pytest.approx(total)


@pytest.mark.parametrize(
    ("contrast", "terms"),
    [("none", {}), ("un", {"un"}), ("su", {"su"}), ("us", {"un", "su"}), ("us_x", {"us_x"})],
)
def test_terms_of_each_mode(contrast: str, terms: set[str]) -> None:
    """With dropout off and nobody sharing a target all states are h, so each term is NCE(h, h)."""
    view = view_of([[1, 2, 3], [4, 5, 6, 7], [8, 9]])
    catalog = catalog_of(view, n_items=30, features=False)
    model = toy_model("fearec", catalog, **QUIET, contrast=contrast, un_weight=0.3, su_weight=0.7).double()
    batch = training_batch(model, view)
    actual = model.loss(batch)
    assert actual.keys() == {"ce", *terms}
    h = model.query(batch)
    logits = h @ model.item_emb.weight[1:].T
    torch.testing.assert_close(actual["ce"], nn.functional.cross_entropy(logits, batch.target - 1))
    for term in terms:
        weight = 0.3 if term == "un" else 0.7
        torch.testing.assert_close(actual[term], weight * FEAREC.nce(h, h, temperature=1.0))


def test_second_pass_differs_by_dropout_only() -> None:
    model = toy_model("fearec", toy_catalog(), contrast="un")
    batch = training_batch(model, toy_view())
    torch.manual_seed(0)
    loud = model.loss(batch)["un"]
    h = [model.query(batch), model.query(batch)]
    assert not torch.equal(*h)
    torch.manual_seed(0)
    torch.testing.assert_close(
        loud, 0.1 * FEAREC.nce(model.query(batch), model.query(batch), temperature=1.0)
    )


def test_us_x_compares_the_second_pass_with_the_same_target() -> None:
    model, view = toy_model("fearec", toy_catalog(n_items=12)), toy_view(n_items=12)
    batch = training_batch(model, view)
    torch.manual_seed(0)
    actual = model.loss(batch)["us_x"]
    torch.manual_seed(0)
    model.query(batch)
    second = model.query(batch)
    items, last = model.same_target.draw(batch)
    third = model.encode(items, torch.arange(len(items)) * 8 + last)
    torch.testing.assert_close(actual, 0.1 * FEAREC.nce(second, third, temperature=1.0))


def test_regulariser() -> None:
    view = view_of([[1, 2, 3], [4, 5, 3]])
    catalog = catalog_of(view, n_items=30, features=False)
    model = toy_model("fearec:regularised", catalog, **QUIET).double()
    batch = training_batch(model, view, rows=None)
    h = model.query(batch)  # rows: [1], [1, 2], [4], [4, 5]; the second and the fourth share their target
    expected = 0.1 * FEAREC.spectral_gap(h, h[[0, 3, 2, 1]])
    torch.testing.assert_close(model.loss(batch)["freq"], expected)
    assert expected > 0
    same = toy_model("fearec:regularised", catalog, **QUIET, freq_pairs="un").double()
    assert same.loss(batch)["freq"].item() == 0.0
    both = toy_model("fearec:regularised", catalog, **QUIET, freq_pairs="us").double()
    torch.testing.assert_close(both.loss(batch)["freq"], expected)


def prefixes(view: Any, width: int) -> dict[int, list[tuple[int, tuple[int, ...]]]]:
    """target -> (user, newest `width` items before it) of every training prefix, with loops."""
    actual: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
    for user, (start, stop) in enumerate(zip(view.offsets[:-1], view.offsets[1:], strict=True)):
        history = view.items[start:stop].tolist()
        for t in range(1, len(history)):
            actual.setdefault(history[t], []).append((user, tuple(history[max(t - width, 0) : t])))
    return actual


def test_same_target_prefixes() -> None:
    view = toy_view(n_items=12)  # few items: most targets are shared, some by one user alone
    model = toy_model("fearec", toy_catalog(n_items=12))
    batch, known = training_batch(model, view), prefixes(view, 8)
    seen: list[set[tuple[int, ...]]] = [set() for _ in batch.target]
    torch.manual_seed(0)
    for _ in range(200):
        items, last = model.same_target.draw(batch)
        assert torch.equal((items > 0).sum(1) - 1, last)
        for t, row in enumerate(items):
            seen[t].add(tuple(row[: last[t] + 1].tolist()))
            assert not row[last[t] + 1 :].any()
    for t, target in enumerate(batch.target.tolist()):
        own = (int(batch.user[t]), tuple(i for i in batch.item_seq[t].tolist() if i))
        others = list(known[target])
        others.remove(own)
        assert seen[t] == {items for _, items in others or [own]}


def test_same_target_is_uniform_over_the_others() -> None:
    view = view_of([[1, 9], [2, 9], [3, 9], [4, 9], [9, 9, 9]])  # 9 is drawn from 6 prefixes
    catalog = replace(catalog_of(view, n_items=9, features=False), max_len=8)
    model = toy_model("fearec", catalog)
    batch = training_batch(model, view)
    torch.manual_seed(0)
    drawn = torch.stack([model.same_target.draw(batch)[0] for _ in range(3000)])
    assert (drawn[:, 0, 0] != 1).all()
    first_of_one = torch.bincount(drawn[:, 0, 0], minlength=10)
    assert first_of_one[[2, 3, 4]].tolist() == pytest.approx([600] * 3, abs=90)
    assert first_of_one[9].item() == pytest.approx(1200, abs=130)  # two prefixes: [9] and [9, 9]


def test_a_user_with_equal_windows_at_other_times_has_two_prefixes() -> None:
    """[1] -> 2 twice by one user at max_len 1: the second is not a repetition of the first."""
    view = view_of([[1, 2, 1, 2]], [[START, START + 1, START + 2, START + 3]])
    catalog = replace(catalog_of(view, n_items=3, features=False), max_len=1)
    model = toy_model("fearec", catalog)
    batch = training_batch(model, view)
    pool, drawn = model.same_target, []
    original = pool.window

    def record(event: Tensor, width: int) -> Any:
        drawn.append(event)
        return original(event, width)

    pool.window = record
    for _ in range(20):
        pool.draw(batch)
    assert {tuple(draw.tolist()) for draw in drawn[1::2]} == {(3, drawn[1][1].item(), 1)}


def test_overfits_64_prefixes() -> None:
    histories = random_fives()
    view = view_of(histories)
    catalog = catalog_of(view, n_items=64, features=False)
    model = toy_model("fearec", catalog, **QUIET, hidden_dim=32, inner_dim=64)
    rows = plan_rows(view.offsets, "prefix", 8)[np.arange(3, 256, 4)]  # the longest prefix of each user
    batch = training_batch(model, view, rows=rows)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        terms = model.loss(batch)
        sum(terms.values()).backward()  # type: ignore[union-attr]
        optimizer.step()
        if terms["ce"] < 0.05:
            break
    assert terms["ce"] < 0.05
    model.eval()
    with torch.no_grad():
        hit = model.score(history_batch(model, [history[:4] for history in histories])).argmax(1) + 1
    assert (hit == batch.target).double().mean() > 0.95  # each history now chooses its own lags


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="not divisible"):
        toy_model("fearec", toy_catalog(), hidden_dim=50, n_heads=4)
    with pytest.raises(UsageError, match="freq_weight belongs to contrast"):
        toy_model("fearec", toy_catalog(), contrast="un", freq_weight=0.1)
