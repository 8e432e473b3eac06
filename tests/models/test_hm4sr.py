"""HM4SR against its specification: time encodings, experts, the three auxiliary losses, variants, as-released.

Causality, padding, gradients and prefix equality are checked for every model in test_contract.py.
"""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.data.samples import plan_rows
from mmbench.models import hm4sr
from mmbench.models.hm4sr import HM4SR, Angle, choose_share
from mmbench.models.hm4sr_released import Float32Angle
from mmbench.nn.calendar import day_of_year
from tests.models.toy import (
    MAX_LEN,
    START,
    history_batch,
    n_parameters,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
)

DAY = 86_400


def make(name: str = "hm4sr", **changed: Any) -> HM4SR:
    small = {"hidden_dim": 12, "inner_dim": 16, "n_heads": 2}
    model = toy_model(name, toy_catalog(), **(small | changed))
    assert isinstance(model, HM4SR)
    return model


@pytest.mark.parametrize("variant", ["-imoe", "-tmoe", "-cp", "-pcl", "-text", "-image"])
def test_taking_something_out_takes_parameters_away(variant: str) -> None:
    assert n_parameters(make(f"hm4sr:{variant}")) < n_parameters(make())


def test_variants_leave_out_exactly_their_terms() -> None:
    view = toy_view()
    terms = {v: set(make(f"hm4sr:{v}").loss(training_batch(make(f"hm4sr:{v}"), view)))
             for v in ("-tmoe", "-cp", "-idcl", "-pcl", "-imoe")}  # fmt: skip
    assert terms["-imoe"] == {"ce", "cp", "idcl", "pcl"}
    assert terms["-tmoe"] == {"ce", "cp", "idcl"}  # PCL goes with the Temporal MoE
    assert terms["-cp"] == {"ce", "idcl", "pcl"}
    assert terms["-idcl"] == {"ce", "cp", "pcl"}
    assert terms["-pcl"] == {"ce", "cp", "idcl"}


def test_one_expert_and_alpha_zero_make_the_interactive_moe_the_identity() -> None:
    model = make(n_interactive_experts=1, alpha_text=0.0, alpha_image=0.0)
    e = torch.randn(2, 5, 3, 12)
    assert torch.equal(model.interactive(e), e)


def test_alphas_start_at_the_settings_of_their_modalities() -> None:
    alphas = {"alpha_id": 0.5, "alpha_text": 0.25, "alpha_image": 2.0}
    assert make(**alphas).interactive.alpha.tolist() == [0.5, 0.25, 2.0]
    assert make("hm4sr:-text", **alphas).interactive.alpha.tolist() == [0.5, 2.0]


def test_interactive_moe_is_equation_8_written_out() -> None:
    model = make(n_interactive_experts=3, alpha_id=0.7)
    moe, e = model.interactive, torch.randn(3, 12)
    expected = []
    for m in range(3):
        gate = (moe.gates.weight[m] @ e[m] + moe.gates.bias.view(3, 3)[m]).softmax(0)
        out = torch.zeros(12)
        for i in range(3):
            rows = slice((i * 3 + m) * 12, (i * 3 + m + 1) * 12)
            out = out + gate[i] * (moe.experts.weight[rows] @ e.flatten() + moe.experts.bias[rows])
        expected.append(e[m] + moe.alpha[m] * out)
    torch.testing.assert_close(moe(e[None, None])[0, 0], torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_temporal_moe_is_equation_16_without_residual() -> None:
    model = make()
    e, time = torch.randn(1, 4, 3, 12), torch.randn(1, 4, 24)
    gate = model.temporal.gate(time).softmax(-1)
    expected = sum(gate[..., i : i + 1] * (model.temporal.experts[i] * e.flatten(-2)) for i in range(4))
    torch.testing.assert_close(model.temporal(e, time).flatten(-2), expected)


def test_equal_times_have_interval_row_zero_and_long_gaps_the_last() -> None:
    model = make()
    rows = model.time.interval_row(torch.tensor([0, 1, 3, DAY]))
    assert rows.tolist() == [0, 100, 200, math.floor(100 * math.log2(DAY + 1))]
    batch = history_batch(model, [[1, 2, 3]], times=[[START, START, START + 50 * 365 * DAY]])
    assert torch.isfinite(model.time(batch)).all()  # longer than any training interval: no index error
    assert batch.interval[batch.mask].tolist() == [0, 0, 50 * 365 * DAY]


def test_the_interval_table_is_counted_over_training_events_of_one_user() -> None:
    catalog = toy_catalog()
    users, times = catalog.histories.users.numpy(), catalog.train_times.numpy()
    longest = max((np.diff(times[users == u]).max(initial=0) for u in np.unique(users)), default=0)
    assert catalog.histories.longest_gap.item() == longest
    for log, function in (("log2", math.log2), ("ln", math.log)):
        table = make(interval_log=log).time.interval_emb
        assert table.num_embeddings == math.floor(100 * function(longest + 1)) + 1


@given(st.integers(-200_000, 200_000))
@settings(max_examples=300, deadline=None)
def test_day_of_year_is_the_calendars(day: int) -> None:
    date = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)
    assert day_of_year(torch.tensor([day])).item() == date.timetuple().tm_yday - 1


def test_exact_phase_tells_neighbouring_seconds_apart_where_float32_cannot() -> None:
    """Regression: float32 unix seconds have a step of 128."""
    actual = {}
    for kind in (Angle, Float32Angle):
        angle = kind(4, frequency=1.0, inside=True)
        with torch.no_grad():
            angle.weight.fill_(0.5)
            angle.bias.zero_()
            actual[kind] = angle(torch.tensor([1_400_000_000, 1_400_000_001]))
    assert not torch.allclose(actual[Angle][0], actual[Angle][1])
    assert torch.equal(actual[Float32Angle][0], actual[Float32Angle][1])
    expected = math.cos(math.fmod(0.5 * 1_400_000_001, 2 * math.pi))
    assert actual[Angle][1, 0].item() == pytest.approx(expected, abs=1e-5)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.sampled_from([0.1, 0.3, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_pcl_replaces_exactly_the_floor_of_the_share_and_no_padding(lengths: list[int], share: float) -> None:
    segment = torch.zeros(1, 64, dtype=torch.int64)
    start = 0
    for number, length in enumerate(lengths, start=1):
        segment[0, start : start + length] = number
        start += length
    chosen = choose_share(segment, share)
    assert not chosen[segment == 0].any()
    for number, length in enumerate(lengths, start=1):
        assert int(chosen[segment == number].sum()) == math.floor(length * share + 1e-9)


def test_exact_pcl_encodes_each_prefix_on_its_own() -> None:
    """With nothing replaced the prefixes' states are the positions' states."""
    model = make(placeholder_share=0.0).eval()
    view = toy_view()
    batch = training_batch(model, view)
    x, _ = model.fuse(model.tables(batch.item_seq), batch)
    again = batch.prefixes
    own = model.encode(x, batch.attention_mask(causal=True), batch.slot)
    prefixes = model.encode(again.gather(x), again.attention_mask(), again.slot)
    torch.testing.assert_close(own, prefixes, rtol=1e-5, atol=1e-5)
    time = model.time(batch)
    states, content = model.encode_for_loss(x, time, batch.attention_mask(causal=True), batch)
    torch.testing.assert_close(states, own, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(content, own[1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["exact", "shared"])
def test_pcl_is_the_released_procedure_one_history_after_another(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Literal histories: the placeholders of the chosen places, one modality at a time, without any packing."""
    model = make(pcl_mask=kind, n_layers=1).double().eval()
    batch = training_batch(model, toy_view())
    monkeypatch.setattr(hm4sr, "choose_share", lambda segment, share: segment % 2 == 1)
    x, time = model.fuse(model.tables(batch.item_seq), batch)
    assert time is not None
    _, actual = model.encode_for_loss(x, time, batch.attention_mask(causal=True), batch)
    segment = (batch if batch.prefix_rows is None else batch.prefix_rows).segment.flatten()
    slots = batch.slot if batch.prefix_rows is None else batch.prefix_rows.slot
    flat_x, flat_time, last = x.flatten(0, 1), time.flatten(0, 1), batch.position.flatten()[batch.slot]
    for t, (slot, end) in enumerate(zip(batch.slot.tolist(), last.tolist(), strict=True)):
        place = slice(slot - end, slot + 1)
        own = flat_x[place]
        if segment[slots[t]] % 2:
            said = model.placeholders(flat_time[place]).unflatten(-1, (2, 12))
            own = torch.cat([own[:, :1], said], 1)
        alone = model.encode(own[None], torch.ones(1, end + 1, end + 1).tril().bool(), torch.tensor([end]))
        torch.testing.assert_close(actual[:, t], alone[1:, 0])


def test_frozen_experts_are_saved_but_never_trained() -> None:
    frozen, trained = make("hm4sr:as-released"), make()
    assert "temporal.experts" in frozen.state_dict()
    assert "temporal.experts" not in dict(frozen.named_parameters())
    assert "temporal.experts" in dict(trained.named_parameters())


def category_term(model: HM4SR, batch: Any) -> torch.Tensor:
    tables = model.tables()
    return model.category_term(tables, tables[batch.item_seq], batch.attention_mask(causal=True), batch)


def naive_category_loss(model: HM4SR, batch: Any, *, kind: str) -> torch.Tensor:
    """Over literal prefixes, one after another."""
    tables = model.tables()
    items, last = batch.item_seq.view(-1), batch.position.view(-1)
    each = []
    for slot in batch.slot.tolist():
        prefix = items[slot - last[slot] : slot + 1]
        logits = model.category_head(tables[prefix].flatten(1))
        each.append(F.binary_cross_entropy_with_logits(logits, model.categories[prefix], reduction="none"))
    if kind == "sum":
        return torch.stack([part.sum() for part in each]).mean()
    return torch.cat(each).mean()


@pytest.mark.parametrize("kind", ["mean", "sum"])
@pytest.mark.parametrize("samples", ["all", "prefix"])
def test_category_loss_counts_an_item_once_per_prefix(kind: str, samples: str) -> None:
    model = make(category_loss=kind)
    batch = training_batch(model, toy_view(), samples=samples)
    expected = naive_category_loss(model, batch, kind=kind)
    torch.testing.assert_close(category_term(model, batch), expected)


def test_the_released_category_slip_is_reproduced() -> None:
    """Against the released indexing itself: 2-D positions of real items read from the flattened [B*L, C] scores."""
    model = make("hm4sr:as-released")
    view = toy_view()
    batch = training_batch(model, view, rows=plan_rows(view.offsets, "prefix", MAX_LEN)[:40])
    n_samples, n_classes = len(batch.slot), 5
    padded = torch.zeros(n_samples, MAX_LEN, dtype=torch.int64)
    for b, slot in enumerate(batch.slot.tolist()):
        length = int(batch.position.view(-1)[slot]) + 1
        padded[b, :length] = batch.item_seq.view(-1)[slot - length + 1 : slot + 1]
    scores = model.category_head(model.tables()[padded].flatten(2)).view(n_samples * MAX_LEN, n_classes)
    labels = model.categories[padded].view(n_samples * MAX_LEN, n_classes)
    where = (padded != 0).nonzero()
    where = where[where[:, 1] < n_classes]  # the release would stop with an index error on so few classes
    read = F.binary_cross_entropy_with_logits(
        scores[where[:, 0], where[:, 1]], labels[where[:, 0], where[:, 1]]
    )
    torch.testing.assert_close(category_term(model, batch), read)


def test_same_target_pairs_leave_the_denominator_or_stay_as_one() -> None:
    anchor, positive = torch.randn(4, 6), torch.randn(4, 6)
    target = torch.tensor([1, 2, 1, 3])
    same = target[:, None] == target[None]
    logits = F.normalize(anchor, dim=1) @ F.normalize(positive, dim=1).T / 0.2
    for rule, filler in (("removed", 0.0), ("zero-logit", 1.0)):
        model = make("hm4sr:as-released", same_target=rule)
        terms = []
        for i in range(4):
            rivals = [filler if same[i, j] and i != j else logits[i, j].exp().item() for j in range(4)]
            terms.append(-logits[i, i].item() + math.log(sum(rivals)))
        actual = model.contrast(anchor, positive, same, 0.2)
        assert actual.item() == pytest.approx(sum(terms) / 4, rel=1e-5)
        if rule == "removed":
            assert torch.equal(make().contrast(anchor, positive, same, 0.2), actual)


def test_targets_of_one_user_are_negatives_unless_removed() -> None:
    """Two users with two targets each: "removed" leaves each target the two of the other user."""
    actual = {}
    for rule in ("negatives", "removed"):
        model = make(same_user=rule, use_pcl=False, use_category=False, dropout=0.0, attn_dropout=0.0)
        batch = training_batch(model, toy_view())
        actual[rule] = model.loss(batch)["idcl"].item()
        tables = model.tables()
        x, _ = model.fuse(tables[batch.item_seq], batch)
        state = F.normalize(model.encode(x, batch.attention_mask(causal=True), batch.slot)[0], dim=1)
        logits = state @ F.normalize(tables[:, 0][batch.target], dim=1).T / model.config.temperature
        out = batch.target[:, None] == batch.target[None]
        if rule == "removed":
            out |= batch.user[:, None] == batch.user[None]
        out.fill_diagonal_(False)
        expected = F.cross_entropy(logits.masked_fill(out, -math.inf), torch.arange(len(logits)))
        assert actual[rule] == pytest.approx(expected.item(), rel=1e-5)
    assert actual["removed"] < actual["negatives"]


def test_score_is_the_sum_of_three_dot_products() -> None:
    model = make().eval()
    batch = history_batch(model, [[1, 2, 3], [4, 5]])
    x, _ = model.fuse(model.tables(batch.item_seq), batch)
    states, tables = model.encode(x, batch.attention_mask(causal=True), batch.slot), model.tables()
    expected = sum(state @ tables[1:, m].T for m, state in enumerate(states))
    torch.testing.assert_close(model.score(batch), expected)


def test_a_catalogue_without_pictures_or_categories_still_trains_and_says_so() -> None:
    catalog = replace(toy_catalog(), image_feat=None, has_image=None, category_ids=None, n_categories=0)
    model = toy_model("hm4sr", catalog, hidden_dim=12, inner_dim=16)
    assert set(model.loss(training_batch(model, toy_view()))) == {"ce", "idcl", "pcl"}
    assert model.extra_state() == {"modalities": ["id", "text"], "category_prediction": False, "pcl": True}


@pytest.mark.parametrize("kind", ["interval", "absolute", "day", "day-of-year", "cos", "both"])
def test_every_time_encoding_sees_time_and_only_time(kind: str) -> None:
    model = make(time_encoding=kind).eval()
    base = [[START, START + DAY, START + 5 * DAY]]
    moved = [[START, START + DAY, START + 40 * DAY]]
    encoded = [model.time(history_batch(model, [[1, 2, 3]], times=t)) for t in (base, moved)]
    assert not torch.allclose(encoded[0], encoded[1])
    other_items = model.time(history_batch(model, [[7, 8, 9]], times=base))
    assert torch.equal(encoded[0], other_items)


def test_initialisation_follows_the_released_order() -> None:
    """Scaled N(0, .02) before the init call, PyTorch's own after it."""
    model = make(hidden_dim=60, n_heads=2)
    assert model.encoders[0].transformer.blocks[0].up.weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert model.temporal.experts.std().item() == pytest.approx(0.1, rel=0.15)
    bound = 1 / math.sqrt(180)  # nn.Linear's uniform bound for 3 x 60 inputs
    assert model.interactive.experts.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
