"""MMMLP: section "How to check it" of its specification, and the streams against a literal loop over rows."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.models.base import Catalog, Recommender
from tests.models.make_mmmlp import HISTORIES, NAMES, make, stream_by_hand
from tests.models.toy import (
    catalog_of,
    gradients,
    history_batch,
    last_state,
    training_batch,
    view_of,
    with_targets,
)

# -- numbers -----------------------------------------------------------------------------------------------------


ROWS, TARGETS = [[1, 2, 3], [4], [5, 6, 1, 2]], [4, 5, 3]


def matrix(p: int, d_out: int, d_in: int) -> Tensor:
    """Return the specification's tensor number p, 0.3 sin(p + i j + i / 2 + j)."""
    i, j = torch.arange(d_out, dtype=torch.float64)[:, None], torch.arange(d_in, dtype=torch.float64)
    return 0.3 * (p + i * j + i / 2 + j).sin()


def vector(p: int, size: int, *, is_scale: bool = False) -> Tensor:
    return 0.3 * (p + torch.arange(size, dtype=torch.float64) / 2).sin() + float(is_scale)


def numbers_catalog() -> Catalog:
    """Return 6 items with contents as wide as the model, row 0 zero."""
    i, j = torch.arange(7, dtype=torch.float64)[:, None], torch.arange(6, dtype=torch.float64)
    text, image = (1 + i * j + i + j / 2).sin(), (2 + i * j + i / 2 + j).cos()
    text[0] = image[0] = 0.0
    present = torch.arange(7) > 0
    view = view_of([[*row, target] for row, target in zip(ROWS, TARGETS, strict=True)])
    return replace(
        catalog_of(view, n_items=6, max_len=4, features=False),
        text_feat=text, image_feat=image, has_text=present, has_image=present,
    )  # fmt: skip


def stream_numbers(first: int) -> dict[str, Tensor]:
    """Return the 14 tensors of a stream from number `first` on, under the names of a mixer with one stream."""
    values = {"norm.weight": vector(first, 6, is_scale=True), "norm.bias": vector(first + 1, 6)}
    for kind, p, size in (("time", first + 2, 4), ("channel", first + 8, 6)):
        values |= {
            f"{kind}_norm.weight": vector(p, 6, is_scale=True), f"{kind}_norm.bias": vector(p + 1, 6),
            f"{kind}.up.weight": matrix(p + 2, 4 * size, size), f"{kind}.up.bias": vector(p + 3, 4 * size),
            f"{kind}.down.weight": matrix(p + 4, size, 4 * size), f"{kind}.down.bias": vector(p + 5, size),
        }  # fmt: skip
    return values


def numbers_model(name: str, streams: tuple[int, ...] = (1, 15, 29), **settings: Any) -> Recommender[Any]:
    """Return a model with the specification's tensors; `streams` are the numbers at which each stream's begin."""
    model = make(name, numbers_catalog(), dropout=0.0, **settings)
    table = matrix(0, 7, 6)
    if model.config.padding_id == "zero":
        table[0] = 0.0
    weights = {
        "item_emb.weight": table, "fusion_norm.weight": vector(43, 18, is_scale=True),
        "fusion_norm.bias": vector(44, 18), "fusion.weight": matrix(45, 6, 18), "fusion.bias": vector(46, 6),
    }  # fmt: skip
    values = [stream_numbers(first) for first in streams]
    for part in ("weight", "bias"):
        weights[f"norm.{part}"] = values[0][f"norm.{part}"]
        weights[f"content_norm.{part}"] = torch.cat([stream[f"norm.{part}"] for stream in values[1:]])
    low = 0
    for number, size in enumerate(model.sizes):
        for key in (key for key in values[0] if not key.startswith("norm")):
            stacked = torch.stack([stream[key] for stream in values[low : low + size]])
            weights[f"mixers.{number}.{key}"] = stacked if stacked.dim() > 2 else stacked.flatten()
        low += size
    model.load_state_dict(weights, strict=True)
    return model


def numbers_loss(model: Recommender[Any]) -> float:
    batch = with_targets(history_batch(model, ROWS), TARGETS)
    return model.loss(batch)["ce"].item()


def test_numbers_of_the_official_file() -> None:
    model = numbers_model("mmmlp:as-released")
    user = [0.4600161217, 1.8995424457, -1.6366380773, 0.7904492742, 0.1968495079, -1.4745505700]
    assert last_state(model, [1, 2, 3]).tolist() == pytest.approx(user, abs=6e-11)
    scores = [1.3744826542, -0.6145562837, -0.3031503236, 0.1117614238, -0.0181800085, -0.1882118392]
    assert model.score(history_batch(model, [[1, 2, 3]]))[0].tolist() == pytest.approx(scores, abs=1e-10)
    padding = model.item_emb.weight[0] @ last_state(model, [1, 2, 3])
    assert padding.item() == pytest.approx(0.4460320215, abs=6e-11)
    assert numbers_loss(model) == pytest.approx(2.2793394244, abs=6e-11)


def test_numbers_of_the_first_release() -> None:
    """Before 5f4deaa the pictures passed through the modules of the ids."""
    assert numbers_loss(numbers_model("mmmlp:as-released", (1, 15, 1))) == pytest.approx(
        2.1718184615, abs=6e-11
    )


def test_numbers_of_the_switches() -> None:
    model = numbers_model("mmmlp:as-released")
    batch = history_batch(model, ROWS)
    without_padding = F.cross_entropy(model.score(batch), torch.tensor(TARGETS) - 1).item()
    assert without_padding == pytest.approx(2.0350208129, abs=6e-11)
    stacked = numbers_model("mmmlp:as-released", content_depth="stacked")
    assert numbers_loss(stacked) == pytest.approx(2.3159629915, abs=6e-11)
    with torch.no_grad():
        model.item_emb.weight[0] = 0.0
    assert numbers_loss(model) == pytest.approx(2.1614461678, abs=6e-11)
    assert numbers_loss(numbers_model("mmmlp")) == pytest.approx(2.0680393859, abs=6e-11)


# -- plain loops -------------------------------------------------------------------------------------------------


def by_hand(model: Recommender[Any], history: list[int]) -> Tensor:
    """Return the user vector of one history: a stream at a time, convolutions with kernel 1 as in the released code."""
    n_empty = 8 - len(history)
    is_left = model.config.pad_side == "left"
    items = [0] * n_empty + history if is_left else history + [0] * n_empty
    last = 7 if is_left else len(history) - 1
    states = [stream_by_hand(model, k, items)[last] for k in range(1 + len(model.features))]
    fusion = model.fusion_norm
    joined = F.layer_norm(torch.cat(states), fusion.normalized_shape, fusion.weight, fusion.bias, eps=1e-12)
    return F.layer_norm(
        model.fusion.weight @ joined + model.fusion.bias, (6,), model.norm.weight, model.norm.bias, eps=1e-12
    )


@NAMES
@pytest.mark.parametrize("n_layers", [1, 3])
def test_equals_a_loop_over_streams_and_rows(name: str, n_layers: int) -> None:
    model = make(name, n_layers=n_layers)
    with torch.no_grad():
        together = model.query(history_batch(model, HISTORIES))
        for k, history in enumerate(HISTORIES):
            expected = by_hand(model, history)
            torch.testing.assert_close(together[k], expected, rtol=0, atol=1e-11)
            torch.testing.assert_close(last_state(model, history), expected, rtol=0, atol=1e-11)


@NAMES
def test_gradients_are_those_of_the_loop(name: str) -> None:
    """Of all weights, through the places that the last layer leaves out."""
    model = make(name, dropout=0.0)
    view = view_of([[4, 9, 2, 5], [1, 3]])
    batch = training_batch(model, view)
    _, computed = gradients(model, batch)
    model.zero_grad()
    users = torch.stack([by_hand(model, history) for history in ([4], [4, 9], [4, 9, 2], [1])])
    table, target = model.item_emb.weight, torch.tensor([9, 2, 5, 3])
    is_class = model.config.padding_id == "class"
    F.cross_entropy(users @ (table if is_class else table[1:]).T, target - int(not is_class)).backward()
    assert batch.target.tolist() == target.tolist()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None
        wanted = parameter.grad.clone()
        if key == "item_emb.weight":  # row 0 is looked up too; it moves as a class only
            padding = (users.detach().T @ (users @ table.T).softmax(1)[:, :1].detach())[:, 0] / 4
            wanted[0] = padding if is_class else 0.0
        torch.testing.assert_close(
            computed[key], wanted, rtol=1e-8, atol=1e-10, msg=lambda text, n=key: f"{n}: {text}"
        )
