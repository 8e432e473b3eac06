"""S3-Rec: what pre-training hides, its two stages, planted answers; numbers and loops are in test_s3rec.py."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmbench.settings.config import TrainConfig
from mmbench.training.trainer import Trainer
from tests.models.make_s3rec import (
    MASK,
    SMALL,
    attributes_by_hand,
    make,
    module,
    of_each_history,
    prefixes,
    pretraining,
    shaken,
    unweighted,
)
from tests.models.toy import (
    MAX_LEN,
    N_ITEMS,
    catalog_of,
    gradients,
    history_batch,
    overfit,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)
from tests.training.test_graphs import refused

# -- what is hidden --------------------------------------------------------------------------------------------------


def drawn_clozes(n: int, ratio: float = 0.2) -> list[tuple[list[int], dict[str, list[int]]]]:
    """Histories, and what was drawn for each."""
    view, pairs = toy_view(), []
    batch, events = prefixes(view), torch.from_numpy(view.items)
    torch.manual_seed(0)
    for _ in range(n):
        cloze = module().draw_cloze(batch, events, N_ITEMS, ratio)
        grids = {name: of_each_history(batch, getattr(cloze, name)) for name in cloze._fields}
        for k, history in enumerate(of_each_history(batch, batch.item_seq)):
            pairs.append((history, {name: lists[k] for name, lists in grids.items()}))
    return pairs


def test_masks_hide_the_last_item_and_a_fifth_of_the_others() -> None:
    n_others = n_hidden = 0
    for history, hidden in drawn_clozes(30):
        masked = hidden["is_masked"]
        assert masked[-1]
        assert hidden["items"] == [MASK if m else i for m, i in zip(masked, history, strict=True)]
        n_others += len(history) - 1
        n_hidden += sum(masked[:-1])
    assert n_hidden / n_others == pytest.approx(0.2, abs=5 * (0.16 / n_others) ** 0.5)


def test_negatives_are_uniform_over_the_items_that_a_history_does_not_have() -> None:
    counts: Counter[int] = Counter()
    wanted = [7, 8, 8, 3]
    batch = prefixes(view_of([wanted]))
    torch.manual_seed(0)
    for _ in range(4000):
        drawn = of_each_history(batch, module().items_elsewhere(batch, 12))
        for history, items in zip(of_each_history(batch, batch.item_seq), drawn, strict=True):
            assert not set(items) & set(history)
            if len(history) == 4:
                counts.update(items)
    others = [1, 2, 4, 5, 6, 9, 10, 11, 12]
    assert sorted(counts) == others
    for item in others:
        assert counts[item] / 16_000 == pytest.approx(1 / 9, abs=5 * (8 / 81 / 16_000) ** 0.5)


def test_segments_stand_where_the_context_lacks_them() -> None:
    sizes: Counter[tuple[int, int, int]] = Counter()
    flat = toy_view().items.tolist()
    for history, hidden in drawn_clozes(60):
        n = len(history)
        if n == 1:
            assert hidden["context"] == hidden["positive"] == hidden["negative"] == history
            continue
        gap = [t for t in range(n) if hidden["context"][t] == MASK]
        assert gap == list(range(gap[0], gap[0] + len(gap)))
        assert 1 <= len(gap) <= n // 2
        sizes[n, len(gap), gap[0]] += 1
        segment = [hidden["negative"][t] for t in gap]
        assert any(flat[k : k + len(gap)] == segment for k in range(len(flat)))
        for t in range(n):
            assert hidden["context"][t] == (MASK if t in gap else history[t])
            assert hidden["positive"][t] == (history[t] if t in gap else MASK)
            assert (hidden["negative"][t] == MASK) == (t not in gap)
    # Length 8: sizes 1 to 4 alike, and each place where such a segment fits.
    of_8 = {key[1:]: count for key, count in sizes.items() if key[0] == 8}
    assert set(of_8) == {(size, begin) for size in range(1, 5) for begin in range(8 - size + 1)}
    total = sum(of_8.values())
    for size in range(1, 5):
        share = sum(count for (s, _), count in of_8.items() if s == size) / total
        assert share == pytest.approx(0.25, abs=5 * (0.1875 / total) ** 0.5)


def test_negative_segments_come_from_everywhere_in_the_training_events() -> None:
    view, begins = toy_view(), set()
    batch = prefixes(view_of([[1, 2]]))
    torch.manual_seed(0)
    for _ in range(2000):
        cloze = module().draw_cloze(batch, torch.arange(1, 31), N_ITEMS, 0.2)
        begins |= {
            item for item in cloze.negative[batch.position.gt(0) | batch.mask].tolist() if item <= N_ITEMS
        }
    assert begins == set(range(1, N_ITEMS + 1))
    assert len(view.items) > N_ITEMS


# -- the two stages --------------------------------------------------------------------------------------------------


def test_pairs_tell_nothing_at_first_and_stay_within_their_bounds() -> None:
    model = pretraining(make(dropout=0.5))
    batch = prefixes(toy_view())
    n_histories = len(of_each_history(batch, batch.item_seq))
    terms = unweighted(model.loss(batch))
    assert terms["sp"] / n_histories == pytest.approx(math.log(2), abs=0.01)
    far = torch.tensor([[50.0, -50.0], [-50.0, 50.0]], dtype=torch.float64)
    bounds = module().pair_loss(far[0], far[1], "double")
    assert bounds.tolist() == pytest.approx([0.31326169, 1.31326169])


def test_pre_training_looks_at_both_sides_and_fine_tuning_does_not() -> None:
    model = shaken(make())
    before, after = (training_batch(model, view_of([items])) for items in ([1, 2, 3, 4, 5], [1, 2, 9, 4, 5]))
    for causal in (True, False):
        states = [model.encode(batch.item_seq, batch, causal=causal)[0, :2] for batch in (before, after)]
        assert torch.allclose(*states) == causal


def test_stages_are_trained_on_prefixes_and_then_on_the_newest_window() -> None:
    first, second = make(pretrain_epochs=7, pretrain_batch_size=33).stages
    assert (first.name, first.epochs, first.samples) == ("pretrain", 7, "sequence-prefix")
    assert first.settings == {"batch_size": 33, "batch_unit": "rows"}
    assert (second.epochs, second.samples) == (None, None)
    assert make().needs.samples[0] == "last-window"
    bare = make(pretrain_epochs=0)
    assert len(bare.stages) == 1
    assert not [name for name, _ in bare.named_parameters() if "pretraining" in name]


def trained(tmp_path: Path, **settings: Any) -> Any:
    model = toy_model("s3rec", toy_catalog(), **(SMALL | {"attribute_min_count": 1} | settings))
    config = TrainConfig(max_len=MAX_LEN, max_epochs=1, batch_size=8, batch_unit="rows")
    tmp_path.mkdir()
    Trainer(model, toy_view(), lambda _: 0.0, config, seed=1, folder=tmp_path).fit()
    return model


def test_fine_tuning_begins_with_what_pre_training_has_learned(tmp_path: Path) -> None:
    with_it, without = trained(tmp_path / "a", pretrain_epochs=2), trained(tmp_path / "b", pretrain_epochs=0)
    start = toy_model("s3rec", toy_catalog(), **(SMALL | {"attribute_min_count": 1}))
    moved = [(model.item_emb.weight - start.item_emb.weight).abs().mean() for model in (with_it, without)]
    assert moved[0] > 0
    assert not torch.allclose(with_it.item_emb.weight, without.item_emb.weight)
    assert not with_it.is_pretraining
    aap = [model.pretraining.aap.weight for model in (with_it, start)]
    assert not torch.equal(*aap), "pre-training was not run"


def test_only_training_events_are_read() -> None:
    """A catalogue has no others: what a run would hide from training is in none of the model's tensors."""
    model = pretraining(make())
    assert model.pretraining.events.tolist() == toy_catalog().train_items.tolist()
    assert not [name for name in model.state_dict() if "events" in name or "labels" in name]


def test_fine_tuning_leaves_what_only_pre_training_needs_without_a_gradient() -> None:
    model = make()
    _, grads = gradients(model, training_batch(model, toy_view()))
    assert not [name for name in grads if name.startswith("pretraining")]
    assert not grads["item_emb.weight"][[0, -1]].any()


def test_attributes_are_categories_and_brands_that_enough_items_share() -> None:
    owned = attributes_by_hand()
    counts = Counter(name for labels in owned.values() for name in labels)
    for least in (1, 6, 8):
        for kind in ("category+brand", "category"):
            shared = {name for name, count in counts.items() if count >= least}
            names = {name for name in shared if kind == "category+brand" or name[0] == "category"}
            model = make(attribute_min_count=least, attributes=kind)
            assert model.extra_state()["n_attributes"] == len(names)
            labelled = sum(bool(labels & names) for labels in owned.values())
            assert model.extra_state()["n_items_with_attributes"] == labelled
    assert min(counts.values()) < 8 < max(counts.values())
    with pytest.raises(
        ValueError, match=r"shared by 99 items; lower attribute_min_count, or set pretrain_epochs = 0"
    ):
        make(attribute_min_count=99)
    make(attribute_min_count=99, pretrain_epochs=0)


def test_dropout_acts_on_the_input_of_the_encoder_in_both_stages() -> None:
    for stage, batch in (("pretrain", prefixes(toy_view())), ("finetune", None)):
        model = make(dropout=0.5)
        model.start_stage(stage)
        step = training_batch(model, toy_view()) if batch is None else batch
        inputs: list[Tensor] = []
        model.encoder.register_forward_pre_hook(lambda _, args, seen=inputs: seen.append(args[0].detach()))
        for mode in (True, False):
            torch.manual_seed(0)
            model.train(mode).loss(step)
        ratio = (inputs[0] / inputs[1])[inputs[1] != 0]
        kept = ratio[ratio != 0]
        torch.testing.assert_close(kept, torch.full_like(kept, 2.0))
        assert kept.numel() / ratio.numel() == pytest.approx(0.5, abs=0.06)


def test_a_pre_training_step_asks_nothing_of_the_host() -> None:
    assert refused(pretraining(make()), prefixes(toy_view())) == []


def test_weights_that_are_zero_switch_terms_off() -> None:
    model = pretraining(make(aap_weight=0.0, sp_weight=0.0))
    terms = model.loss(prefixes(toy_view()))
    assert {name for name, value in terms.items() if value} == {"mip", "map"}


# -- planted answers -------------------------------------------------------------------------------------------------


def brand_rate(brands: np.ndarray, histories: list[list[int]], held: list[list[int]]) -> float:
    """Return how often pre-training on brands [N] tells the brand of a masked last item of held histories."""
    numbers = torch.from_numpy(brands)
    catalog = replace(
        catalog_of(view_of(histories), n_items=len(brands)),
        brand_ids=torch.cat([torch.zeros(1, dtype=torch.int64), numbers + 1]),
        category_ids=torch.zeros(0, dtype=torch.int64),
        category_offsets=torch.zeros(len(brands) + 2, dtype=torch.int64),
        n_categories=0,
    )
    model: Any = pretraining(toy_model("s3rec", catalog, **(SMALL | {"hidden_dim": 24})))
    train, test = prefixes(view_of(histories)), history_batch(model, held)

    def step() -> Tensor:
        return torch.stack(list(model.loss(train).values())).sum()

    overfit(model, step, lambda: False, lr=0.01, n_steps=90)
    last = test.item_seq.flatten()[test.slot]
    hidden = test.item_seq.flatten().index_fill(0, test.slot, len(brands) + 1).view_as(test.item_seq)
    with torch.no_grad():
        states = model.eval().pretraining.map(model.encode(hidden, test, causal=False, slot=test.slot))
        best = (states @ model.pretraining.attribute_emb.weight.T).argmax(-1)
    return float((best == numbers[last - 1]).double().mean())


def test_pre_training_finds_attributes_that_histories_follow() -> None:
    """Customers stay with one of six brands. Where brands mean nothing, held histories do not tell them."""
    rng = np.random.default_rng(0)
    brands = np.arange(60) % 6
    histories = [(rng.permutation(10)[:5] * 6 + rng.integers(6) + 1).tolist() for _ in range(140)]
    assert brand_rate(brands, histories[:100], histories[100:]) > 0.9
    assert brand_rate(rng.permutation(brands), histories[:100], histories[100:]) < 0.5
