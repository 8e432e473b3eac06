"""Caser: section "How to check" of its specification."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from mmbench.data.batch import TrainBatch
from mmbench.data.batcher import Batcher
from mmbench.data.samples import last_rows
from mmbench.errors import UsageError
from mmbench.models.base import Recommender
from mmbench.models.registry import find
from mmbench.settings.config import TrainConfig
from mmbench.training.batches import batches_of_epoch
from mmbench.training.trainer import Trainer
from tests.models.toy import (
    MAX_LEN,
    catalog_of,
    history_batch,
    learns_by_heart,
    random_fives,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)

EACH = pytest.mark.parametrize("name", ["caser", "caser:recbole", "caser:official"])
HISTORIES = [[4, 9, 2], [1], [3, 3, 8, 20, 30, 7, 7, 2], [11, 12]]


def make(name: str = "caser", **settings: Any) -> Recommender[Any]:
    return toy_model(name, toy_catalog(), **{"hidden_dim": 8, **settings}).double().eval()


def part(name: str, **settings: Any) -> nn.Module:
    """A layer of the model file, in float64."""
    entry = find("caser")
    torch.manual_seed(0)
    return getattr(sys.modules[entry.load().__module__], name)(**settings).double()


def horizontal(*, window: int, dim: int = 6, n_filters: int = 3, activation: str = "relu") -> nn.Module:
    return part("HorizontalFilters", window=window, dim=dim, n_filters=n_filters, activation=activation)


@pytest.fixture
def x() -> Tensor:
    """Windows [7, 5, 6]; the first two have empty rows on the left."""
    x = torch.randn(7, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[0, :4], x[1, :2] = 0.0, 0.0
    return x.requires_grad_()


# Filters


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "identity"])
def test_horizontal_filters_equal_a_loop_of_convolutions(x: Tensor, activation: str) -> None:
    layer = horizontal(window=5, activation=activation)
    act = {"relu": F.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "identity": lambda z: z}[activation]
    expected = []
    for height, (weight, bias) in enumerate(zip(layer.weight, layer.bias, strict=True), start=1):
        responses = F.conv2d(x[:, None], weight.view(3, 1, height, 6), bias)  # [T, H, L-k+1, 1]
        expected.append(F.max_pool1d(act(responses[..., 0]), 6 - height)[..., 0])
    actual, slow = layer(x), torch.cat(expected, 1)
    torch.testing.assert_close(actual, slow)
    coefficient = torch.randn(actual.shape, dtype=torch.float64)
    inputs = [x, *layer.parameters()]
    fast_grads = torch.autograd.grad((actual * coefficient).sum(), inputs)
    slow_grads = torch.autograd.grad((slow * coefficient).sum(), inputs)
    for grad, other in zip(fast_grads[1:], slow_grads[1:], strict=True):
        torch.testing.assert_close(grad, other)
    # Starts in empty rows tie; whichever of them is the maximum, real items get the same.
    torch.testing.assert_close(fast_grads[0][2:], slow_grads[0][2:])
    torch.testing.assert_close(fast_grads[0][1, 2:], slow_grads[0][1, 2:])


def test_a_filter_as_high_as_the_window_has_one_place(x: Tensor) -> None:
    layer = horizontal(window=5)
    products = torch.einsum("tld,nld->tn", x, layer.weight[4].view(3, 5, 6)) + layer.bias[4]
    torch.testing.assert_close(layer(x)[:, 12:], products.relu())


def test_only_height_one_ignores_the_order(x: Tensor) -> None:
    layer = horizontal(window=5, activation="identity")
    actual, permuted = layer(x[2:]), layer(x[2:, [3, 0, 4, 1, 2]])
    torch.testing.assert_close(actual[:, :3], permuted[:, :3])
    for height in range(2, 6):
        own = slice(3 * height - 3, 3 * height)
        assert (actual[:, own] - permuted[:, own]).abs().max() > 1e-3, height


def test_vertical_filters_weigh_rows(x: Tensor) -> None:
    layer = part("VerticalFilters", window=5, n_filters=2)
    torch.testing.assert_close(
        layer(x), F.conv2d(x[:, None], layer.weight.view(2, 1, 5, 1), layer.bias).flatten(1)
    )
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0, 0, 0, 0, 1], [1, 1, 1, 1, 1]]))
        layer.bias.zero_()
    last, total = layer(x).split(6, 1)
    torch.testing.assert_close(last, x[:, -1])
    torch.testing.assert_close(total, x.sum(1))


def test_layers_start_as_torchs_convolutions() -> None:
    layer, vertical = (
        horizontal(window=4, dim=32, n_filters=40),
        part("VerticalFilters", window=4, n_filters=300),
    )
    for height, (weight, bias) in enumerate(zip(layer.weight, layer.bias, strict=True), start=1):
        own = nn.Conv2d(1, 40, (height, 32))
        for ours, theirs in ((weight, own.weight), (bias, own.bias)):
            assert theirs is not None
            assert ours.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.1)
    assert 0.45 < vertical.weight.abs().max().item() <= 0.5


# Windows and states


def test_windows_by_hand() -> None:
    """Packed: 1 place of padding, histories side by side, each slot with its own newest items."""
    model = make(window=3)
    view = view_of([[1, 2, 3, 4, 5], [6, 7]])
    batch = training_batch(model, view, samples="all")
    windows = {tuple(window) for window in model.windows(batch).tolist()}
    assert windows == {(0, 0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 4), (0, 0, 6)}


@EACH
def test_neither_layout_nor_neighbours_move_a_state(name: str) -> None:
    view, model = view_of(HISTORIES), make(name)
    rows = last_rows(view.offsets, torch.arange(4).numpy(), 8)
    alone = [model.query(history_batch(model, [history], users=[k])) for k, history in enumerate(HISTORIES)]
    for layout in ("packed", "padded", "fixed"):
        batch = Batcher(view.items, view.times, layout=layout, max_len=12).evaluation(rows)
        torch.testing.assert_close(model.query(batch), torch.cat(alone), rtol=0, atol=1e-12)


@EACH
def test_the_newest_items_and_the_user_count_and_nothing_else(name: str) -> None:
    model = make(name, window=4)
    states = model.query(
        history_batch(
            model, [[9, 8, 1, 2, 3, 4], [1, 2, 3, 4], [7, 2, 3, 4], [1, 2, 3, 4]], users=[5, 5, 5, 6]
        )
    )
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=1e-14)
    assert (states[1] - states[2]).abs().max() > 1e-6
    assert (states[1] - states[3]).abs().max() > 1e-6
    moved = torch.autograd.grad(states[3].square().sum(), model.user_emb.weight)[0].abs().sum(1)
    assert moved.nonzero().flatten().tolist() == [6]


def test_state_by_hand() -> None:
    """Vertical part first; [z ; p] of the official network is compared with a table of twice the width."""
    model, official = make(), make("caser:official")
    with torch.no_grad():
        official.item_bias.normal_()
    for network in (model, official):
        batch = history_batch(network, [[4, 9, 2]], users=[3])
        x = network.item_emb(torch.tensor([[0, 0, 4, 9, 2]]))
        both = torch.cat([network.vertical(x), network.horizontal(x)], 1)
        z = (both @ network.fc.weight.T + network.fc.bias).relu()
        z = torch.cat([z, network.user_emb.weight[3:4]], 1)
        if network is model:
            expected = (z @ network.out.weight.T + network.out.bias) @ network.item_emb.weight[1:].T
        else:
            expected = z @ network.out_table.T + network.item_bias
        torch.testing.assert_close(network.score(batch), expected)


def test_filters_and_the_map_after_them_have_activations_of_their_own() -> None:
    model = make(conv_activation="identity", fc_activation="tanh")
    x = model.item_emb(torch.tensor([[0, 0, 4, 9, 2]]))
    both = torch.cat([model.vertical(x), model.horizontal(x)], 1)
    assert (model.horizontal(x) < 0).any()
    z = (both @ model.fc.weight.T + model.fc.bias).tanh()
    expected = torch.cat([z, model.user_emb.weight[3:4]], 1) @ model.out.weight.T + model.out.bias
    torch.testing.assert_close(model.query(history_batch(model, [[4, 9, 2]], users=[3])), expected)


def test_recboles_relu_keeps_states_positive() -> None:
    with_relu, without = make("caser:recbole"), make()
    without.load_state_dict(with_relu.state_dict())
    batch = history_batch(without, HISTORIES)
    assert (without.query(batch) < 0).any()
    assert torch.equal(with_relu.query(batch), without.query(batch).relu())


@pytest.mark.parametrize("off", ["n_vertical", "n_horizontal"])
def test_either_kind_of_filter_can_be_left_out(off: str) -> None:
    model = make(**{off: 0})
    model.loss(training_batch(model, toy_view()))["ce"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# Training


def windows_of(history: list[int], window: int, n_targets: int) -> list[tuple[list[int], list[int]]]:
    """Literally: every run of window + n_targets items; else one window with the last items as targets."""
    runs = [
        (history[k : k + window], history[k + window : k + window + n_targets])
        for k in range(len(history) - window - n_targets + 1)
    ]
    if runs:
        return runs
    cut = max(len(history) - n_targets, 1)
    inputs = history[:cut][-window:]
    return [([0] * (window - len(inputs)) + inputs, history[cut:])]


def found_windows(model: Any, batch: Any) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """User, inputs and targets of each window that the model trains on."""
    number, targets, is_target = model.targets(batch)
    columns = batch.user[number].tolist(), model.windows(batch)[number].tolist(), targets, is_target
    return [
        (user, tuple(before), tuple(after[valid].tolist()))
        for user, before, after, valid in zip(*columns, strict=True)
    ]


def test_windows_are_not_cut_where_a_step_is_full(tmp_path: Path) -> None:
    for settings in ({}, {"train_windows": "every"}):
        model = make("caser:official", **settings)
        with pytest.raises(UsageError, match=r"needs whole histories in a step; set batch_unit = rows"):
            Trainer(model, toy_view(), lambda model: 0.0, TrainConfig(), seed=1, folder=tmp_path)
    one_target = make("caser:official", train_windows="every", n_targets=1)
    Trainer(one_target, toy_view(), lambda model: 0.0, TrainConfig(), seed=1, folder=tmp_path)


@pytest.mark.parametrize(("window", "n_targets"), [(5, 3), (3, 1), (2, 4), (6, 3)])
def test_official_windows_are_all_runs(window: int, n_targets: int, tmp_path: Path) -> None:
    """Lengths 2 to 9, which max_len 8 just holds as inputs; neighbours in packed rows must not mix."""
    rng = torch.Generator().manual_seed(0)
    histories = [torch.randint(1, 31, (c,), generator=rng).tolist() for c in range(2, 10) for _ in range(3)]
    view = view_of(histories)
    model = toy_model(
        "caser:official", catalog_of(view, n_items=30), hidden_dim=4, window=window, n_targets=n_targets
    )
    actual = found_windows(model, training_batch(model, view))
    config = TrainConfig(batch_unit="rows", batch_size=5, max_len=8)
    trainer = Trainer(model, view, lambda model: 0.0, config, seed=1, folder=tmp_path)
    trainer.begin()
    plan = trainer.plan_epoch()
    assert len(plan.steps) == 5
    batches = list(batches_of_epoch([trainer], [plan]))
    assert sorted(window for batch in batches for window in found_windows(model, batch)) == sorted(actual)
    expected = [
        (user, tuple(before), tuple(after))
        for user, history in enumerate(histories)
        for before, after in windows_of(history, window, n_targets)
    ]
    assert sorted(actual) == sorted(expected)
    for user, history in enumerate(histories):
        assert sum(window[0] == user for window in actual) == max(1, len(history) - window - n_targets + 1)


def test_every_window_has_up_to_n_targets() -> None:
    model = make("caser:official", train_windows="every", n_targets=2, window=3)
    batch = training_batch(model, view_of([[1, 2, 3, 4], [5, 6]]))
    number, targets, is_target = model.targets(batch)
    actual = zip(model.windows(batch)[number].tolist(), targets, is_target, strict=True)
    assert sorted((a, b[c].tolist()) for a, b, c in actual) == [
        ([0, 0, 1], [2, 3]), ([0, 0, 5], [6]), ([0, 1, 2], [3, 4]), ([1, 2, 3], [4]),
    ]  # fmt: skip


def test_official_loss_by_hand() -> None:
    model, view = make("caser:official"), toy_view()
    assert model.needs.samples == ("last-window",)
    batch = training_batch(model, view)
    assert batch.negatives.shape[1] == 3
    owned = [set(view.items[a:b].tolist()) for a, b in zip(view.offsets, view.offsets[1:], strict=False)]
    scores = model.score(batch)
    number, targets, is_target = model.targets(batch)
    positive, negative = [], []
    for k, wanted, valid in zip(number.tolist(), targets, is_target, strict=True):
        positive += [scores[k, item - 1].sigmoid().log() for item in wanted[valid].tolist()]
        negative += [(1 - scores[k, item - 1].sigmoid()).log() for item in batch.negatives[k].tolist()]
        assert not owned[int(batch.user[k])] & set(batch.negatives[k].tolist())
    expected = -torch.stack(positive).mean() - torch.stack(negative).mean()
    torch.testing.assert_close(model.loss(batch)["bce"], expected)


def test_sampled_losses_of_two_models_at_once() -> None:
    """`stackable` with one target a window: neither batch decides a shape."""
    models = [make(loss="bce", reg_weight=0.0, seed=seed) for seed in (1, 2)]
    assert models[0].needs.stackable
    assert not make("caser:official").needs.stackable
    batches = [training_batch(models[0], toy_view(), seed=seed) for seed in (1, 2)]
    keys = batches[0].tensors().keys()
    stacked = {key: torch.stack([batch.tensors()[key] for batch in batches]) for key in keys}
    tables = torch.stack([model.item_table() for model in models])

    def loss(tensors: dict[str, Tensor], table: Tensor) -> Tensor:
        return models[0]._bce(TrainBatch.of(tensors), table)

    singles = [loss({key: run[k] for key, run in stacked.items()}, tables[k]) for k in (0, 1)]
    torch.testing.assert_close(vmap(loss)(stacked, tables), torch.stack(singles))


@pytest.mark.parametrize("name", ["caser", "caser:official"])
def test_regulariser_is_the_sum_of_plain_norms(name: str) -> None:
    model = make(name, reg_weight=0.5)
    weights = [model.item_emb.weight, model.user_emb.weight, model.vertical.weight, model.fc.weight]
    weights += [model.out.weight if name == "caser" else model.out_table, *model.horizontal.weight]
    expected = 0.5 * sum(weight.square().sum().sqrt() for weight in weights)
    torch.testing.assert_close(model.loss(training_batch(model, toy_view()))["reg"], expected)


def test_all_slots_see_the_windows_of_all_prefixes() -> None:
    model, view = make(window=5), toy_view()
    actual = []
    for samples in ("all", "prefix"):
        batch = training_batch(model, view, samples=samples)
        rows = torch.cat([batch.user[:, None], model.windows(batch), batch.target[:, None]], 1)  # type: ignore[index]
        actual.append(sorted(rows.tolist()))
    assert actual[0] == actual[1]
    assert max(len(view.items[a:b]) for a, b in zip(view.offsets, view.offsets[1:], strict=False)) > MAX_LEN


def test_initialisation() -> None:
    catalog = toy_catalog(n_items=2000, n_users=300)
    for name, dim in (("caser", 64), ("caser:official", 50)):
        model = toy_model(name, catalog)
        assert not model.item_emb.weight[0].any()
        for table in (model.item_emb.weight[1:], model.user_emb.weight[150:]):
            assert table.std().item() == pytest.approx(1 / dim, rel=0.05)
    assert model.out_table.std().item() == pytest.approx(0.5 / 50, rel=0.02)
    assert not model.item_bias.any()


def test_users_without_a_target_have_no_random_vector() -> None:
    view = view_of([[1], [2, 3], []])
    model = toy_model("caser", catalog_of(view, n_items=5, features=False))
    assert model.user_emb.weight.any(1).tolist() == [False, True, False]


@EACH
def test_overfits_64_sequences(name: str) -> None:
    """Every user has the same vector, so that the window must tell them apart."""
    histories = random_fives()
    settings = {"loss": "ce", "n_targets": 1, "train_windows": "every"} if name == "caser:official" else {}
    catalog = catalog_of(view_of(histories), n_items=64, features=False)
    model = toy_model(name, catalog, hidden_dim=48, dropout=0.0, reg_weight=0.0, **settings)
    with torch.no_grad():
        model.user_emb.weight.zero_()
    model.user_emb.weight.requires_grad_(False)
    assert learns_by_heart(model, histories, lr=1e-2, n_steps=400)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_vertical": 0, "n_horizontal": 0}, "no filter is left"),
        ({"n_targets": 3}, "belong to loss = 'bce'"),
        ({"train_windows": "full"}, "belong to loss = 'bce'"),
        ({"network": "official", "final_relu": True}, "last map of network = 'toolbox'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        toy_model("caser", toy_catalog(), **settings)
