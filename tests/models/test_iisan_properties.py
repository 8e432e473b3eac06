"""IISAN: properties of its parts, data that it refuses, planted answers; numbers and loops are in test_iisan.py."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmbench.data.samples import plan_rows
from mmbench.models.base import Catalog, Recommender
from mmbench.models.registry import find
from tests.models.make_iisan import GROUP, OFFICIAL, SMALL, make, shaken, with_states
from tests.models.toy import (
    MAX_LEN,
    N_ITEMS,
    catalog_of,
    history_batch,
    overfit,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)

# -- what the parts do ----------------------------------------------------------------------------------------------


def tower_states(model: Any, text: Tensor, image: Tensor) -> Tensor:
    """States of the towers before their heads, [3, n, F]."""
    heads: list[Tensor] = []
    hook = model.side.head.register_forward_pre_hook(lambda _, args: heads.append(args[0].detach()))
    model.side(text, image)
    hook.remove()
    return heads[0]


def test_adapters_that_add_nothing_leave_sums_of_states() -> None:
    """Text: weights 2^-(7-k); the tower between both: half of all states of both."""
    model = make(toy_catalog())
    text, image = torch.randn(2, 4, 7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for adapter in model.side.adapters:
            adapter.up.weight.zero_()
    states = tower_states(model, text, image)
    weights = torch.tensor([0.5 ** (7 - k) for k in range(7)], dtype=torch.float64)[:, None]
    assert weights.sum().item() == pytest.approx(127 / 128)
    torch.testing.assert_close(states[GROUP["text"]], (weights * text).sum(1))
    torch.testing.assert_close(states[GROUP["image"]], (weights * image).sum(1))
    torch.testing.assert_close(states[GROUP["inter"]], (text + image).sum(1) / 2)


def test_each_modality_reaches_its_own_tower_and_the_one_between_both() -> None:
    model = shaken(make(toy_catalog()))
    text, image = torch.randn(2, 4, 7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    both = tower_states(model, text, image)
    for name, states in (
        ("image", tower_states(model, text, torch.zeros_like(image))),
        ("text", tower_states(model, torch.zeros_like(text), image)),
    ):
        moved = (states - both).abs().flatten(1).max(1).values
        assert {tower: moved[g].item() > 1e-6 for tower, g in GROUP.items()} == {
            "image": name == "image", "text": name == "text", "inter": True,
        }  # fmt: skip


def test_every_second_layer_counts_from_the_embeddings_to_the_last() -> None:
    catalog = toy_catalog()
    reads = [make(catalog), make(catalog, layer_step=1)]
    for model, layers in zip(reads, (range(0, 13, 2), range(13)), strict=True):
        table = model.item_table()
        for layer in range(13):
            states = catalog.layer_feat["text"].clone()
            states[1, layer] += 1
            other = make(
                with_states(catalog, states, catalog.layer_feat["image"]), layer_step=model.config.layer_step
            )
            assert torch.equal(other.item_table()[0], table[0]) == (layer not in layers)


def test_a_ranking_encodes_the_items_once_and_anew_after_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(toy_catalog()).eval()
    counts: list[int] = []
    encode = model.encode_items
    monkeypatch.setattr(model, "encode_items", lambda ids: counts.append(len(ids)) or encode(ids))
    with torch.no_grad():
        before = model.item_table()
        for history in ([4, 5], [7]):
            model.query(history_batch(model, [history]))
        assert counts == [N_ITEMS]
        model.side.join.bias += 1
        model.train().eval()
        torch.testing.assert_close(model.item_table(), before + 1)


def test_sizes_are_those_of_the_paper() -> None:
    """4,113,877 trained numbers with ten positions, and states that are stored are none of them."""
    states = torch.zeros(3, 13, 768, dtype=torch.float16)
    catalog = with_states(catalog_of(view_of([[1, 2]]), n_items=2, max_len=10), states, states)
    model = toy_model("iisan", catalog)
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_113_877
    assert sum(parameter.numel() for parameter in model.side.adapters.parameters()) == 2_081_856
    assert sum(parameter.numel() for parameter in model.encoder.parameters()) + 10 * 64 + 2 * 64 == 100_224
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not [name for name in model.state_dict() if name.startswith(("text", "image", "log_pop"))]


def test_initial_weights_are_the_official_codes() -> None:
    states = torch.zeros(3, 13, 768, dtype=torch.float16)
    catalog = with_states(catalog_of(view_of([[1, 2]]), n_items=2, max_len=200), states, states)
    model: Any = toy_model("iisan", catalog)
    adapter, side = model.side.adapters[3], model.side
    for part in (adapter.down, adapter.up):
        assert part.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert not part.bias.any()
    assert not side.gate.any()
    image, text, inter = (side.narrow.weight[GROUP[name]] for name in ("image", "text", "inter"))
    assert image.std().item() == pytest.approx((2 / (768 + 64)) ** 0.5, rel=0.02)
    for part in (text, inter, *side.head.weight):
        assert part.abs().max().item() <= 768**-0.5
        assert part.std().item() == pytest.approx(768**-0.5 / 3**0.5, rel=0.02)
    biases = side.narrow.bias.view(3, -1).abs().max(1).values.gt(0)
    assert biases.tolist() == [name != "image" for name in ("image", "text", "inter")]
    block = model.encoder.blocks[0]
    for part in (*block.attention.qkv.weight.split(64), block.attention.out.weight):
        assert part.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    assert block.up.weight.std().item() == pytest.approx((2 / 320) ** 0.5, rel=0.05)
    assert model.position_emb.weight.std().item() == pytest.approx((2 / 264) ** 0.5, rel=0.05)
    assert block.attention.qkv.bias is None
    assert block.attention.out.bias is None
    assert not block.up.bias.any()


def test_the_newest_item_has_the_last_position_where_histories_are_padded_on_the_left() -> None:
    catalog = toy_catalog()
    for settings, first in (({"positions": "left-padded"}, MAX_LEN - 3), ({}, 0)):
        model = shaken(make(catalog, **settings))
        batch = history_batch(model, [[4, 5, 6], [1, 2, 3, 4, 5, 6, 7, 8]])
        before = model.query(batch)[0]
        for place in range(MAX_LEN):
            changed = shaken(make(catalog, **settings))
            with torch.no_grad():
                changed.position_emb.weight[place] += 1
                changed.position_emb.weight[place, 0] += 1  # a norm takes out what all coordinates share
            same = torch.allclose(changed.query(batch)[0], before)
            assert same == (place not in range(first, first + 3))


def test_ids_are_nothing_but_names() -> None:
    """Items renamed together with their states: every score moves with its item."""
    catalog, n = toy_catalog(), N_ITEMS
    order = torch.cat(
        [torch.zeros(1, dtype=torch.int64), torch.randperm(n, generator=torch.Generator().manual_seed(1)) + 1]
    )
    renamed = replace(catalog, layer_feat={m: x[order] for m, x in catalog.layer_feat.items()})
    new_name = order.argsort()
    model, other = shaken(make(catalog)), shaken(make(renamed))
    histories = [[4, 9, 2], [1, 1, 30]]
    scores = model.score(history_batch(model, histories))
    moved = other.score(history_batch(other, [new_name[history].tolist() for history in histories]))
    torch.testing.assert_close(moved[:, new_name[1:] - 1], scores)


def test_dropout_acts_on_the_input_and_in_the_blocks_and_not_on_items() -> None:
    model = make(toy_catalog(), dropout=0.5, attn_dropout=0.25).train()
    for block in model.encoder.blocks:
        assert (block.drop.p, block.attention.attn_dropout) == (0.5, 0.25)
    assert torch.equal(model.item_table(), model.item_table())
    batch = training_batch(model, toy_view())
    inputs: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    for mode in (True, False):
        torch.manual_seed(0)
        model.train(mode).loss(batch)
    ratio = (inputs[0] / inputs[1])[inputs[1] != 0]
    kept = ratio[ratio != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 2.0))
    assert kept.numel() / ratio.numel() == pytest.approx(0.5, abs=0.06)


# -- data that cannot be read ---------------------------------------------------------------------------------------


def test_features_that_are_missing_or_do_not_fit_are_refused() -> None:
    catalog = toy_catalog()
    text, image = catalog.layer_feat["text"], catalog.layer_feat["image"]
    with pytest.raises(ValueError, match=r"no image features per layer; make them with `mmbench extract"):
        make(replace(catalog, layer_feat={"text": text}))
    with pytest.raises(ValueError, match="7 layers 12 wide and 6 layers 12 wide"):
        make(with_states(catalog, text, image[:, :12]))
    with pytest.raises(ValueError, match="7 layers 12 wide and 7 layers 11 wide"):
        make(with_states(catalog, text, image[..., :11]))


def test_the_official_rows_are_the_newest_of_each_user() -> None:
    model = make(toy_catalog(), **OFFICIAL)
    assert model.needs.samples == ("last-window",)
    assert make(toy_catalog(), positions="left-padded").needs.samples[0] == "prefix"
    view = toy_view()
    assert len(plan_rows(view.offsets, "last-window", MAX_LEN)) == np.sum(np.diff(view.offsets) > 1)


# -- planted answers ------------------------------------------------------------------------------------------------


def planted_catalog(*, of_text: bool, of_image: bool) -> tuple[Catalog, list[list[int]]]:
    """60 items with a brand and a style of six; a customer stays with one pair, read from texts and pictures.

    The last item of each history was never seen in training, so only its content tells it.
    """
    rng = np.random.default_rng(0)
    brand, style = np.divmod(np.arange(72) % 36, 6)  # two items of each pair
    histories = []
    for _ in range(240):
        b, s = rng.integers(6, size=2)
        steps = [rng.choice(np.flatnonzero(brand == b)), rng.choice(np.flatnonzero(style == s))]
        both = np.flatnonzero((brand == b) & (style == s))
        histories.append([int(i) + 1 for i in [*steps, *rng.permutation(both)]])
    codes = rng.normal(size=(2, 6, 12))

    def states(value: np.ndarray, code: np.ndarray, is_told: bool) -> Tensor:
        layers = rng.normal(scale=0.1, size=(73, 13, 12))
        if is_told:
            layers[1:, 2:] += code[value][:, None]
        layers[0] = 0
        return torch.from_numpy(layers).half()

    catalog = catalog_of(view_of(histories), n_items=72)
    text, image = states(brand, codes[0], of_text), states(style, codes[1], of_image)
    return with_states(catalog, text, image), histories


def planted_rates(*, of_text: bool, of_image: bool) -> tuple[float, float]:
    """Return how often the best item has the right brand, and the right style."""
    catalog, histories = planted_catalog(of_text=of_text, of_image=of_image)
    model = toy_model("iisan", catalog, **(SMALL | {"hidden_dim": 24}))
    train = training_batch(model, view_of([history[:3] for history in histories[:200]]))
    overfit(model, lambda: model.loss(train)["ce"], lambda: False, lr=0.003, n_steps=60)
    held = histories[200:]
    with torch.no_grad():
        scores = model.eval().score(history_batch(model, [history[:2] for history in held]))
    best = (scores.argmax(1).numpy()) % 36
    wanted = np.array([history[3] - 1 for history in held]) % 36
    return float(np.mean(best // 6 == wanted // 6)), float(np.mean(best % 6 == wanted % 6))


def test_brands_are_found_in_texts_and_styles_in_pictures() -> None:
    """Items of a catalogue without ids: what is not in the states is not found (chance: 1 in 6)."""
    brand, style = planted_rates(of_text=True, of_image=True)
    assert min(brand, style) > 0.7
    brand, style = planted_rates(of_text=True, of_image=False)
    assert brand > 0.7
    assert style < 0.45
    brand, style = planted_rates(of_text=False, of_image=True)
    assert style > 0.7
    assert brand < 0.45


def test_the_model_is_a_recommender_that_reads_layers() -> None:
    assert issubclass(find("iisan").load(), Recommender)
    assert find("iisan").load().reads_layers
