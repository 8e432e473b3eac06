"""IISAN: numbers of the official code, a reference in plain loops, and what each part must and must not do."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmbench.data.samples import plan_rows
from mmbench.models.base import Catalog, Recommender
from mmbench.models.registry import find
from mmbench.nn.losses import rows_at_once
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

SMALL = {"hidden_dim": 12, "inner_dim": 16, "bottleneck_dim": 6, "dropout": 0.0, "attn_dropout": 0.0}
OFFICIAL = {"loss": "inbatch", "positions": "left-padded"}
ORDER = ("text", "image", "inter")  # of the official tensors
GROUP = {"image": 0, "text": 1, "inter": 2}


def make(catalog: Catalog, **settings: Any) -> Any:
    return toy_model("iisan", catalog, **(SMALL | settings)).double()


def with_states(catalog: Catalog, text: Tensor, image: Tensor) -> Catalog:
    return replace(catalog, layer_feat={"text": text, "image": image})


# -- the official code's numbers (float64, dropout off; states of 768 dims, 13 layers) ------------------------------

N_OFFICIAL, WIDTH = 7, 768
ROWS = [[1, 2, 3], [4, 2, 5, 1, 6], [3, 7, 5, 2]]


def wave(p: int, shape: Sequence[int], scale: float, *, one: bool = False) -> Tensor:
    """c sin(p + i j + i/2 + j) of a matrix, c sin(p + i/2) of a vector; 1 more for the scales of norms."""
    i = torch.arange(shape[0], dtype=torch.float64)
    if len(shape) == 1:
        return scale * (p + i / 2).sin() + one
    j = torch.arange(shape[1], dtype=torch.float64)
    return scale * (p + i[:, None] * j + i[:, None] / 2 + j).sin()


def official_states() -> tuple[Tensor, Tensor]:
    n, layer, j = torch.meshgrid(
        *(torch.arange(size, dtype=torch.float64) for size in (N_OFFICIAL + 1, 13, WIDTH)), indexing="ij"
    )
    text, image = (n * j + layer + j / 2).sin(), (n * j + 3 * layer + j).cos()
    return text * (n > 0), image * (n > 0)


def place_official_weights(model: Any) -> None:
    """Number the tensors 0..145 in the official order."""
    p = -1

    def put(parameter: Tensor, scale: float, *, one: bool = False, lead: int | None = None) -> None:
        nonlocal p
        p += 1
        rows = (
            parameter
            if lead is None
            else parameter.view(3, -1)[lead]
            if parameter.dim() == 1
            else parameter[lead]
        )
        rows.copy_(wave(p, rows.shape, scale, one=one))

    with torch.no_grad():
        side = model.side
        for tower in ORDER:
            g = GROUP[tower]
            for k, adapter in enumerate(side.adapters):
                put(adapter.down.weight, 0.05, lead=g)
                put(adapter.down.bias, 0.3, lead=g)
                put(adapter.up.weight, 0.3, lead=g)
                put(adapter.up.bias, 0.3, lead=g)
                p += 1
                side.gate[k, g] = 0.1 * math.sin(p)
            put(side.head.weight, 0.02, lead=g)
            put(side.head.bias, 0.3, lead=g)
            put(side.narrow.weight, 0.05, lead=g)
            put(side.narrow.bias, 0.3, lead=g)
        put(side.join.weight, 0.1)
        put(side.join.bias, 0.3)
        put(model.position_emb.weight, 0.3)
        put(model.norm.weight, 0.3, one=True)
        put(model.norm.bias, 0.3)
        for block in model.encoder.blocks:
            for part in block.attention.qkv.weight.split(8):
                put(part, 0.3)
            put(block.attention.out.weight, 0.3)
            put(block.norm1.weight, 0.3, one=True)
            put(block.norm1.bias, 0.3)
            for parameter in (block.up.weight, block.up.bias, block.down.weight, block.down.bias):
                put(parameter, 0.3)
            put(block.norm2.weight, 0.3, one=True)
            put(block.norm2.bias, 0.3)
    assert p == 145


class States(nn.Module):
    """Takes the place of stored states, which have fewer digits."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, ids: Tensor) -> Tensor:
        return self.values[ids]


@pytest.fixture(scope="module")
def official() -> Any:
    text, image = official_states()
    catalog = with_states(
        catalog_of(view_of(ROWS), n_items=N_OFFICIAL, max_len=4), text.float(), image.float()
    )
    sizes = {"hidden_dim": 8, "inner_dim": 32, "bottleneck_dim": 6}
    model = make(catalog, **sizes, **OFFICIAL)
    model.text, model.image = States(text[:, ::2]), States(image[:, ::2])
    model.log_pop = torch.tensor([1.0, *(i / 28 for i in range(1, 8))], dtype=torch.float64).log()
    place_official_weights(model)
    return model


def official_batch(model: Any) -> Any:
    return training_batch(model, view_of(ROWS), samples="last-window")


def test_the_in_batch_loss_is_the_official_codes(official: Any) -> None:
    assert official.loss(official_batch(official))["inbatch"].item() == pytest.approx(3.8106606902, abs=2e-9)


def test_item_vectors_are_the_official_codes(official: Any) -> None:
    expected = [
        0.0483626931, 1.3727706629, 0.0333651945, 1.4973907738,
        2.5117230589, 0.3315020058, 2.0252472427, 1.1010457159,
    ]  # fmt: skip
    assert official.item_table()[0].tolist() == pytest.approx(expected, abs=2e-10)


def test_user_vectors_and_scores_are_the_official_codes(official: Any) -> None:
    batch = history_batch(official, [[1, 2, 3], [2, 5, 1, 6], [3, 7, 5, 2]])
    user = [
        -0.7094058570, 1.7740568052, 0.8972770712, 1.7622516386,
        0.1502769144, -1.6406523186, 0.1228949121, -1.3639609692,
    ]  # fmt: skip
    row_1 = [
        4.8649017588, -0.2951549297, 0.5838386162, -3.2645836116, -0.0011544029, 1.5424002532, 0.2399202098,
    ]  # fmt: skip
    assert official.query(batch)[0].tolist() == pytest.approx(user, abs=5e-10)
    scores = official.score(batch)
    assert scores[1].tolist() == pytest.approx(row_1, abs=5e-10)
    loss = nn.functional.cross_entropy(scores, torch.tensor([6, 2, 1]) - 1)
    assert loss.item() == pytest.approx(4.2388289036, abs=5e-10)


def test_wrong_readings_have_the_numbers_that_they_have_in_the_official_code(official: Any) -> None:
    def loss() -> float:
        value: float = official.loss(official_batch(official))["inbatch"].item()
        return value

    log_pop, gates = official.log_pop, official.side.gate.detach().clone()
    official.log_pop = torch.zeros_like(log_pop)
    assert loss() == pytest.approx(3.6573351392, abs=2e-9)  # without popularity
    official.log_pop = log_pop
    with torch.no_grad():
        official.side.gate[:, GROUP["inter"]].neg_()
    assert loss() == pytest.approx(3.6835458832, abs=2e-9)  # the third gate weights the text
    with torch.no_grad():
        official.side.gate.zero_()
    assert loss() == pytest.approx(3.7063369724, abs=2e-9)  # no gates
    with torch.no_grad():
        official.side.gate.copy_(gates)


# -- a reference in plain loops -------------------------------------------------------------------------------------


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def affine(weight: np.ndarray, bias: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.array(
        [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
    )


def item_by_hand(side: Any, text: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The vector of one item from its states [K, F], one tower after the other."""
    parts = []
    for tower in ("image", "text", "inter"):
        g, state = GROUP[tower], np.zeros(text.shape[1])
        for k, adapter in enumerate(side.adapters):
            gate = sigmoid(side.gate[k, g].item() / 0.1)
            if tower == "inter":
                x = state + gate * image[k] + (1 - gate) * text[k]
            else:
                x = gate * (image if tower == "image" else text)[k] + (1 - gate) * state
            down, up = group(adapter.down, g), group(adapter.up, g)
            state = x + affine(*up, np.maximum(affine(*down, x), 0))
        parts.append(affine(*group(side.narrow, g), affine(*group(side.head, g), state)))
    weight, bias = side.join.weight.detach().numpy(), side.join.bias.detach().numpy()
    return affine(weight, bias, np.concatenate(parts))


def group(linear: Any, g: int) -> tuple[np.ndarray, np.ndarray]:
    return linear.weight[g].detach().numpy(), linear.bias.view(3, -1)[g].detach().numpy()


def shaken(model: Any) -> Any:
    """Give every parameter noise, so that none is 0 or 1 by its initialisation."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("step", [1, 2, 3])
def test_an_items_vector_is_that_of_plain_loops(step: int) -> None:
    catalog = toy_catalog()
    model = shaken(make(catalog, layer_step=step))
    table = model.item_table()
    for item in (1, 3, 7, 11, N_ITEMS):  # 3 has neither text nor picture, 7 no text, 11 no picture
        text, image = (catalog.layer_feat[m][item, ::step].double().numpy() for m in ("text", "image"))
        assert table[item - 1].tolist() == pytest.approx(
            item_by_hand(model.side, text, image).tolist(), rel=1e-9
        )


def in_batch_by_hand(model: Any, rows: list[list[int]], share: dict[int, float]) -> float:
    """One column for each place of the step, and for each target the columns that it may see."""
    table = model.item_table().detach().numpy()
    columns = [(row, slot, item) for row, items in enumerate(rows) for slot, item in enumerate(items)]
    total, n = 0.0, 0
    for row, items in enumerate(rows):
        for slot in range(1, len(items)):
            query = model.query(history_batch(model, [items[:slot]])).detach().numpy()[0]
            logits, own = [], None
            for other, place, item in columns:
                logit = float(query @ table[item - 1]) - math.log(share[item])
                if (other, place) == (row, slot):
                    own = logit
                elif item not in items:
                    logits.append(logit)
            assert own is not None
            total, n = total + math.log(sum(math.exp(x - own) for x in [own, *logits])), n + 1
    return total / n


def test_the_in_batch_loss_is_that_of_one_column_for_each_place() -> None:
    """Oldest-first positions, with which the state of a prefix does not depend on what follows."""
    histories = [[1, 2, 3], [4, 2, 5, 1, 6, 2], [3, 7, 7, 5, 2], [8], [9, 4]]
    catalog = catalog_of(view_of(histories), n_items=12, max_len=4)
    model = shaken(make(catalog, loss="inbatch"))
    kept = [history[-5:] for history in histories]  # max_len inputs and a target
    events = [item for history in kept for item in history]
    share = {item: events.count(item) / len(events) for item in events}
    batch = training_batch(model, view_of(histories), samples="last-window")
    rows = [row for row in kept if len(row) > 1]
    expected = in_batch_by_hand(model, rows, share)
    assert model.loss(batch)["inbatch"].item() == pytest.approx(
        expected, rel=1e-6
    )  # shares are stored as float32


def test_chunks_of_targets_and_of_items_change_neither_loss_nor_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = __import__("sys").modules[find("iisan").load().__module__]
    for settings in ({"loss": "ce"}, {"loss": "inbatch"}):
        model, view = shaken(make(toy_catalog(), **settings)), toy_view()
        batch = training_batch(model, view)
        whole, whole_grads = gradients(model, batch)
        sizes: list[int] = []
        log_sum = module._log_sum

        def measured(rows: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
            sizes.append(len(rows))  # noqa: B023
            return log_sum(rows, *more)  # noqa: B023

        with monkeypatch.context() as patch, rows_at_once(11):
            patch.setattr(module, "ITEMS_AT_ONCE", 7)
            patch.setattr(module, "_log_sum", measured)
            parts, grads = gradients(model, batch)
        assert max(sizes, default=11) == 11, "a run that is short of memory holds fewer rows"
        assert parts == pytest.approx(whole, rel=1e-12)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, whole_grads[name], rtol=1e-9, atol=1e-12)


def test_activations_of_one_part_of_the_items_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    module = __import__("sys").modules[find("iisan").load().__module__]
    held: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        held.append(tensor.numel())
        return tensor

    model = make(toy_catalog())
    states = N_ITEMS * 3 * 12
    for size, bound in ((N_ITEMS, states), (5, states)):
        monkeypatch.setattr(module, "ITEMS_AT_ONCE", size)
        held.clear()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            model.item_table()
        assert sum(held) < bound, "adapters' states are kept until the gradients are formed"


def test_the_catalogue_loss_is_the_cross_entropy_of_the_scores() -> None:
    model, view = shaken(make(toy_catalog())), toy_view()
    batch = training_batch(model, view)
    expected = loss_by_hand("ce", model.query(batch) @ model.item_table().T, batch)
    assert model.loss(batch)["ce"].item() == pytest.approx(expected.item(), rel=1e-9)


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


def test_layers_are_every_second_one_from_the_embeddings_to_the_last() -> None:
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
    model = make(toy_catalog(), dropout=0.5).train()
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
    with pytest.raises(ValueError, match="read are 7 of 12 and 6 of 12"):
        make(with_states(catalog, text, image[:, :12]))
    with pytest.raises(ValueError, match="read are 7 of 12 and 7 of 11"):
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
