"""S3-Rec: numbers of the released code, a reference in plain loops, what is hidden of histories, and both stages."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmbench.data.batch import TrainBatch
from mmbench.data.batcher import Batcher
from mmbench.data.samples import plan_rows
from mmbench.models.registry import find
from mmbench.settings.config import TrainConfig
from mmbench.training.trainer import Trainer
from tests.models.toy import (
    MAX_LEN,
    N_ITEMS,
    catalog_of,
    gradients,
    history_batch,
    loss_by_hand,
    overfit,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)
from tests.training.test_graphs import refused

SMALL = {"hidden_dim": 12, "inner_dim": 16, "dropout": 0.0, "attn_dropout": 0.0}
MASK = N_ITEMS + 1


def module() -> Any:
    return __import__("sys").modules[find("s3rec").load().__module__]


def make(**settings: Any) -> Any:
    return toy_model("s3rec", toy_catalog(), **(SMALL | {"attribute_min_count": 1} | settings)).double()


def pretraining(model: Any) -> Any:
    model.start_stage("pretrain")
    return model


def prefixes(view: Any, layout: Any = "packed") -> TrainBatch:
    rows = plan_rows(view.offsets, "sequence-prefix", MAX_LEN)
    return Batcher(view.items, view.times, layout=layout, max_len=MAX_LEN).training(rows)


# -- the released code's numbers (float64, dropout off) --------------------------------------------------------------


def wave(k: int, shape: Sequence[int], kind: str) -> Tensor:
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    values = 0.1 * (i + k).cos() if kind == "bias" else 0.3 * (0.7 * i + k).sin() + (kind == "scale")
    return values.view(*shape)


def put(parameter: Tensor, k: int, kind: str = "weight") -> None:
    with torch.no_grad():
        parameter.copy_(wave(k, parameter.shape, kind))


def put_layer(layer: nn.Module, k: int) -> None:
    put(layer.weight, k, "scale" if isinstance(layer, nn.LayerNorm) else "weight")
    put(layer.bias, k, "bias")


def place_released_weights(model: Any) -> None:
    parts, block = model.pretraining, model.encoder.blocks[0]
    # The released table has a class 0, which no item has.
    parts.attribute_emb = nn.Embedding(5, 4).double()
    parts.labels.ids += 1
    for k, table in enumerate((model.item_emb, parts.attribute_emb, model.position_emb)):
        put(table.weight, k)
    layers = (model.norm, parts.aap, parts.mip, parts.map, parts.sp)
    for k, layer in enumerate(layers, start=3):
        put_layer(layer, k)
    for k, rows in enumerate((slice(0, 4), slice(4, 8), slice(8, 12)), start=8):
        put(block.attention.qkv.weight[rows], k)
        put(block.attention.qkv.bias[rows], k, "bias")
    for k, layer in enumerate(
        (block.attention.out, block.norm1, block.up, block.down, block.norm2), start=11
    ):
        put_layer(layer, k)


def released_catalog() -> Any:
    """Six items, of which i has the attributes i mod 4 and i^2 mod 4, five places."""
    owned = [[]] + [sorted({i % 4, i * i % 4}) for i in range(1, 7)]
    counts = torch.tensor([len(labels) for labels in owned])
    return replace(
        catalog_of(view_of([[1, 2, 3, 4], [5], [6]]), n_items=6, max_len=5),
        category_ids=torch.tensor([label for labels in owned for label in labels]),
        category_offsets=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
        n_categories=4,
    )


def released_model(name: str = "s3rec", **settings: Any) -> Any:
    sizes = {
        "hidden_dim": 4,
        "inner_dim": 16,
        "n_layers": 1,
        "attribute_min_count": 1,
        "attributes": "category",
    }
    model: Any = toy_model(name, released_catalog(), **(SMALL | sizes | settings)).double()
    place_released_weights(model)
    return model


def released_step(histories: list[list[int]], **hidden: list[list[int]]) -> tuple[TrainBatch, Any]:
    """A batch of the histories, one a row, and what is hidden of them; lists without padding."""
    view = view_of(histories)
    rows = plan_rows(view.offsets, "sequence", 5)
    batch = Batcher(view.items, view.times, layout="padded", max_len=5).training(rows)
    grids = {name: torch.zeros_like(batch.item_seq) for name in hidden}
    for name, lists in hidden.items():
        for row, items in enumerate(lists):
            grids[name][row, : len(items)] = torch.tensor(items)
    return batch, module().Cloze(is_masked=grids["items"] == 7, **grids)


def two_samples() -> tuple[TrainBatch, Any]:
    return released_step(
        [[1, 2, 3, 4], [5]],
        items=[[1, 7, 3, 7], [7]], negatives=[[1, 6, 3, 5], [2]], context=[[1, 7, 7, 4], [5]],
        positive=[[7, 2, 3, 7], [5]], negative=[[7, 6, 1, 7], [5]],
    )  # fmt: skip


WEIGHTS = {"aap": 0.2, "mip": 1.0, "map": 1.0, "sp": 0.5}


def unweighted(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: terms[name].item() / weight for name, weight in WEIGHTS.items()}


def test_pre_training_terms_are_the_released_codes() -> None:
    terms = released_model().pretraining_loss(*two_samples())
    expected = {"aap": 6.8829643112, "mip": 2.0725998333, "map": 10.5136957189, "sp": 1.3859152263}
    assert unweighted(terms) == pytest.approx(expected, abs=1e-9)
    assert sum(terms.values()).item() == pytest.approx(14.6558460276, abs=1e-9)


def test_pairs_without_the_inner_sigmoids_have_the_references_numbers() -> None:
    terms = unweighted(released_model(pair_form="logit").pretraining_loss(*two_samples()))
    assert terms["mip"] == pytest.approx(2.0536790724, abs=1e-9)
    assert terms["sp"] == pytest.approx(1.3845613463, abs=1e-9)


def test_fine_tuning_loss_and_scores_are_the_released_codes() -> None:
    model = released_model()
    batch = training_batch(model, view_of([[1, 2, 3, 4], [4, 5, 6, 1, 2]]), samples="last-window")
    of = {(0, 2): 5, (0, 3): 6, (0, 4): 6, (1, 5): 2, (1, 6): 3, (1, 1): 3, (1, 2): 4}
    pairs = zip(batch.user.tolist(), batch.target.tolist(), strict=True)
    batch = batch.with_drawn(negatives=torch.tensor([[of[pair]] for pair in pairs]))
    assert model.loss(batch)["bce"].item() == pytest.approx(1.7997259739, abs=1e-9)
    expected = [0.2962174012, -0.4443785685, 0.5411894288, -0.5754629722, 0.5432387084, -0.4482403226]
    assert model.score(history_batch(model, [[1, 2, 3]]))[0].tolist() == pytest.approx(expected, abs=1e-9)


# -- a reference in plain loops: one history at a time, without padding ----------------------------------------------


def layer(x: np.ndarray, part: Any) -> np.ndarray:
    return x @ part.weight.detach().numpy().T + part.bias.detach().numpy()


def norm(x: np.ndarray, part: Any) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scale, shift = part.weight.detach().numpy(), part.bias.detach().numpy()
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * scale + shift


def states_by_hand(model: Any, items: Sequence[int], *, causal: bool) -> np.ndarray:
    """States of one history [n, D], attention weight by attention weight."""
    n, dim = len(items), model.config.hidden_dim
    positions = model.position_emb.weight.detach().numpy()[model.max_len - n :]
    x = norm(model.item_emb.weight.detach().numpy()[list(items)] + positions, model.norm)
    for block in model.encoder.blocks:
        q, k, v = np.split(layer(x, block.attention.qkv), 3, axis=1)
        mixed, width = np.zeros((n, dim)), dim // model.config.n_heads
        for head in range(model.config.n_heads):
            part = slice(head * width, (head + 1) * width)
            for i in range(n):
                seen = range(i + 1) if causal else range(n)
                weights = np.array([math.exp(q[i, part] @ k[j, part] / math.sqrt(width)) for j in seen])
                for j, weight in zip(seen, weights / weights.sum(), strict=True):
                    mixed[i, part] += weight * v[j, part]
        y = norm(x + layer(mixed, block.attention.out), block.norm1)
        inner = layer(y, block.up)
        gelu = np.array([[u * (1 + math.erf(u / math.sqrt(2))) / 2 for u in row] for row in inner])
        x = norm(y + layer(gelu, block.down), block.norm2)
    return x


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def attributes_by_hand() -> dict[int, set[Any]]:
    """What the toy catalogue says of its items."""
    catalog = toy_catalog()
    assert catalog.category_ids is not None
    assert catalog.category_offsets is not None
    assert catalog.brand_ids is not None
    owned: dict[int, set[Any]] = {}
    for item in range(1, N_ITEMS + 1):
        low, high = catalog.category_offsets[item : item + 2].tolist()
        owned[item] = {("category", c) for c in catalog.category_ids[low:high].tolist()}
        if brand := int(catalog.brand_ids[item]):
            owned[item].add(("brand", brand))
    return owned


def terms_by_hand(
    model: Any, histories: list[list[int]], hidden: list[dict[str, list[int]]]
) -> dict[str, float]:
    parts, owned = model.pretraining, attributes_by_hand()
    names = sorted(
        {name for labels in owned.values() for name in labels}, key=lambda n: (n[0] == "brand", n[1])
    )
    emb, items = parts.attribute_emb.weight.detach().numpy(), model.item_emb.weight.detach().numpy()
    assert len(emb) == len(names)
    total = dict.fromkeys(WEIGHTS, 0.0)
    for history, hide in zip(histories, hidden, strict=True):
        states = states_by_hand(model, hide["items"], causal=False)
        for t, (item, seen) in enumerate(zip(history, hide["items"], strict=True)):
            is_masked = seen == MASK
            query = layer(states[t], parts.map if is_masked else parts.aap)
            for name, vector in zip(names, emb, strict=True):
                p = sigmoid(float(vector @ query))
                loss = -math.log(p if name in owned[item] else 1 - p)
                total["map" if is_masked else "aap"] += loss
            if is_masked:
                query = layer(states[t], parts.mip)
                pair = [sigmoid(float(query @ items[i])) for i in (item, hide["negatives"][t])]
                total["mip"] -= math.log(sigmoid(pair[0] - pair[1]))
        context, positive, negative = (
            states_by_hand(model, hide[name], causal=False)[-1]
            for name in ("context", "positive", "negative")
        )
        query = layer(context, parts.sp)
        total["sp"] -= math.log(sigmoid(sigmoid(float(query @ positive)) - sigmoid(float(query @ negative))))
    return total


def shaken(model: Any) -> Any:
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def of_each_history(batch: TrainBatch, grid: Tensor) -> list[list[int]]:
    """The values of a grid [R, W] in the places of each history, row after row."""
    lists = []
    for values, segments in zip(grid.tolist(), batch.segment.tolist(), strict=True):
        for number in range(1, max(segments) + 1):
            lists.append(
                [value for value, segment in zip(values, segments, strict=True) if segment == number]
            )
    return lists


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_pre_training_terms_are_those_of_plain_loops(layout: str) -> None:
    model = shaken(pretraining(make()))
    batch = prefixes(view_of([[4, 9, 9, 2, 30, 7], [5], [1, 2], [3, 8, 1]]), layout)
    torch.manual_seed(3)
    cloze = module().draw_cloze(batch, model.pretraining.events, N_ITEMS, 0.2)
    torch.manual_seed(3)
    terms = unweighted(model.loss(batch))
    histories = of_each_history(batch, batch.item_seq)
    assert len(histories) == 12
    grids = {
        name: of_each_history(batch, getattr(cloze, name)) for name in cloze._fields if name != "is_masked"
    }
    hidden = [{name: lists[k] for name, lists in grids.items()} for k in range(12)]
    assert terms == pytest.approx(terms_by_hand(model, histories, hidden), rel=1e-9)


def test_fine_tuning_states_are_those_of_plain_loops() -> None:
    model = shaken(make())
    histories = [[4, 9, 9, 2, 30, 7], [5], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]
    found = model.query(history_batch(model, histories))
    for state, history in zip(found, histories, strict=True):
        expected = states_by_hand(model, history[-MAX_LEN:], causal=True)[-1]
        assert state.tolist() == pytest.approx(expected.tolist(), rel=1e-9)


@pytest.mark.parametrize("kind", ["bce", "bpr", "ce"])
def test_fine_tuning_losses_are_of_scores_of_all_items(kind: str) -> None:
    model = shaken(make(loss=kind))
    batch = training_batch(model, toy_view())
    scores = model.query(batch) @ model.item_emb.weight[1:-1].T
    assert model.loss(batch)[kind].item() == pytest.approx(loss_by_hand(kind, scores, batch).item(), rel=1e-9)


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
    assert [name for name, value in terms.items() if value] == ["mip", "map"]


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
