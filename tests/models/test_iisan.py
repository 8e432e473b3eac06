"""IISAN: numbers of the official code, a reference in plain loops, and what each part must and must not do."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmbench.models.registry import find
from mmbench.nn.losses import rows_at_once
from tests.models.make_iisan import GROUP, OFFICIAL, make, shaken, with_states
from tests.models.toy import (
    N_ITEMS,
    catalog_of,
    gradients,
    history_batch,
    loss_by_hand,
    toy_catalog,
    toy_view,
    training_batch,
    view_of,
)

ORDER = ("text", "image", "inter")  # of the official tensors


# -- the official code's numbers (float64, dropout off; states of 768 dims, 13 layers) ------------------------------


N_OFFICIAL, WIDTH = 7, 768


ROWS = [[1, 2, 3], [4, 2, 5, 1, 6], [3, 7, 5, 2]]


def wave(p: int, shape: Sequence[int], scale: float, *, offset: bool = False) -> Tensor:
    """c sin(p + i j + i/2 + j) of a matrix, c sin(p + i/2) of a vector; 1 more for the scales of norms."""
    i = torch.arange(shape[0], dtype=torch.float64)
    if len(shape) == 1:
        return scale * (p + i / 2).sin() + offset
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

    def put(parameter: Tensor, scale: float, *, offset: bool = False, lead: int | None = None) -> None:
        nonlocal p
        p += 1
        rows = (
            parameter
            if lead is None
            else parameter.view(3, -1)[lead]
            if parameter.dim() == 1
            else parameter[lead]
        )
        rows.copy_(wave(p, rows.shape, scale, offset=offset))

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
        put(model.norm.weight, 0.3, offset=True)
        put(model.norm.bias, 0.3)
        for block in model.encoder.blocks:
            for part in block.attention.qkv.weight.split(8):
                put(part, 0.3)
            put(block.attention.out.weight, 0.3)
            put(block.norm1.weight, 0.3, offset=True)
            put(block.norm1.bias, 0.3)
            for parameter in (block.up.weight, block.up.bias, block.down.weight, block.down.bias):
                put(parameter, 0.3)
            put(block.norm2.weight, 0.3, offset=True)
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
    assert official.loss(official_batch(official))["inbatch"].item() == pytest.approx(3.8106606902, abs=6e-11)


def test_item_vectors_are_the_official_codes(official: Any) -> None:
    expected = [
        0.0483626931, 1.3727706629, 0.0333651945, 1.4973907738,
        2.5117230589, 0.3315020058, 2.0252472427, 1.1010457159,
    ]  # fmt: skip
    assert official.item_table()[0].tolist() == pytest.approx(expected, abs=6e-11)


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
    assert scores[1].tolist() == pytest.approx(row_1, abs=6e-11)
    loss = nn.functional.cross_entropy(scores, torch.tensor([6, 2, 1]) - 1)
    assert loss.item() == pytest.approx(4.2388289036, abs=6e-11)


def test_wrong_readings_have_the_numbers_that_they_have_in_the_official_code(official: Any) -> None:
    def loss() -> float:
        value: float = official.loss(official_batch(official))["inbatch"].item()
        return value

    log_pop, gates = official.log_pop, official.side.gate.detach().clone()
    official.log_pop = torch.zeros_like(log_pop)
    assert loss() == pytest.approx(3.6573351392, abs=6e-11)  # without popularity
    official.log_pop = log_pop
    with torch.no_grad():
        official.side.gate[:, GROUP["inter"]].neg_()
    assert loss() == pytest.approx(3.6835458832, abs=6e-11)  # the third gate weights the text
    with torch.no_grad():
        official.side.gate.zero_()
    assert loss() == pytest.approx(3.7063369724, abs=6e-11)  # no gates
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
            patch.setattr(module, "ITEM_BLOCK", 7)
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
        monkeypatch.setattr(module, "ITEM_BLOCK", size)
        held.clear()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            model.item_table()
        assert sum(held) < bound, "adapters' states are kept until the gradients are formed"


def test_the_catalogue_loss_is_the_cross_entropy_of_the_scores() -> None:
    model, view = shaken(make(toy_catalog())), toy_view()
    batch = training_batch(model, view)
    expected = loss_by_hand("ce", model.query(batch) @ model.item_table().T, batch)
    assert model.loss(batch)["ce"].item() == pytest.approx(expected.item(), rel=1e-9)
