"""TiCoSeRec: section "How to check it" of its specification; its operations are in test_ticoserec_views."""

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmbench.models.registry import find
from mmbench.nn import augmentation
from tests.models.toy import (
    DAY,
    START,
    catalog_of,
    history_batch,
    loss_by_hand,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)

TICO = sys.modules[find("ticoserec").load().__module__]
RELEASED = sys.modules[find("ticoserec:as-released").load().__module__]
QUIET = {"dropout": 0.0, "attn_dropout": 0.0}


def test_histories_end_before_the_last_target() -> None:
    view = view_of([[1, 2, 3, 4], [5, 6]], [[0, 1, 5, 9], [100, 250]])
    model = toy_model("ticoserec", catalog_of(view, n_items=6, features=False))
    items, gaps, length = model.history(torch.tensor([1, 0]))
    assert items.tolist() == [[5, 0, 0], [1, 2, 3]]
    assert gaps.tolist() == [[150, 0, 0], [1, 4, 4]]
    assert length.tolist() == [1, 3]


def test_histories_are_whole_beyond_max_len() -> None:
    """The crop's window lies before the newest max_len events: only whole histories can show it."""
    times = [[START + DAY * k for k in range(10)] + [START + DAY * (10 + k * k * 9) for k in range(1, 9)]]
    view = view_of([list(range(1, 19))], times)
    catalog = catalog_of(view, n_items=19, features=False)  # max_len 8
    model = toy_model("ticoserec", catalog, crop_rate=0.5, short_length=0, uniform_share=0.0)
    batch = training_batch(model, view)
    crops, _ = augmentation.crop(*model.history(torch.tensor([0])), 0.5)
    window = [item for item in crops[0].tolist() if item]
    assert window == list(range(window[0], window[0] + 8))
    assert window[0] < 9  # the batch's own row begins with item 10
    torch.manual_seed(0)
    assert window in [view for _ in range(20) for view in model.views(batch).tolist()]


def test_users_with_the_most_even_gaps() -> None:
    histories = [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2], [3], [1, 2, 3, 4, 5]]
    times = [[0, 5, 10, 16], [0, 0, 7, 14], [0, 3], [9], [0, 1, 9, 10, 10]]
    catalog = catalog_of(view_of(histories, times), n_items=5, features=False)
    actual = {
        share: TICO.most_uniform(catalog.histories, share).nonzero()[:, 0].tolist()
        for share in (0.2, 0.5, 0.75, 1)
    }
    # Variances: 2/9, 0 (equal times merged), 0, no target, 98/9.
    assert actual == {0.2: [], 0.5: [1, 2], 0.75: [0, 1, 2], 1: [0, 1, 2, 4]}


def test_similarity_by_hand() -> None:
    """Inputs: user 0 has 1 2 3, user 1 has 1 2, user 2 has 3 4 3; the last event of each is not an input."""
    view = view_of([[1, 2, 3, 5], [1, 2, 4], [3, 4, 3, 6], [6]])
    catalog = catalog_of(view, n_items=6, features=False)
    rows = TICO.common_users(catalog)(0, 7)
    expected = torch.full((7, 7), float("-inf"), dtype=torch.float64)
    for i, j, value in [
        (1, 2, (1 / math.log(4) + 1 / math.log(3)) / 2),
        (1, 3, 1 / math.log(4) / 2),
        (2, 3, 1 / math.log(4) / 2),
        (3, 4, 1 / math.log(3) / math.sqrt(2)),
    ]:
        expected[i, j] = expected[j, i] = value
    off = ~torch.eye(7, dtype=torch.bool)
    torch.testing.assert_close(rows[off], expected[off])
    similar = TICO.SimilarItems(catalog)
    assert similar.offline.tolist() == [0, 2, 1, 4, 3, 0, 0]
    drawn = similar(torch.tensor([5] * 600))
    assert torch.bincount(drawn, minlength=7)[1:].tolist() == pytest.approx([100] * 6, abs=40)
    assert similar(torch.tensor([1, 4])).tolist() == [2, 3]


def test_blocks_of_similarities_are_one_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch.randn(31, 4)
    whole = TICO.most_similar(lambda start, stop: table[start:stop] @ table.T, 30)
    monkeypatch.setattr(TICO, "BLOCK", 7)
    parts = TICO.most_similar(lambda start, stop: table[start:stop] @ table.T, 30)
    assert torch.equal(whole[0], parts[0])
    matrix = (table @ table.T)[1:, 1:]
    matrix.fill_diagonal_(float("-inf"))
    assert torch.equal(whole[0][1:], matrix.argmax(1) + 1)
    assert whole[2].item() == pytest.approx(matrix[matrix > float("-inf")].min().item())


def test_hybrid_takes_the_higher_score() -> None:
    view = view_of([[1, 2, 9], [1, 2, 9], [3, 4, 9], [3, 5, 9], [3, 9]])
    catalog = catalog_of(view, n_items=9, features=False)
    table = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    offline = TICO.common_users(catalog)(1, 10)[:, 1:]
    offline.fill_diagonal_(float("-inf"))
    online = (table @ table.T)[1:, 1:].double()
    online.fill_diagonal_(float("-inf"))
    for kind in (TICO.SimilarItems, RELEASED.ReleasedSimilarItems):
        similar = kind(catalog)
        similar.update(table)
        for item in range(1, 10):
            offline_score, two = offline[item - 1].max().item(), online[item - 1].max().item()
            if kind is TICO.SimilarItems:
                low, high = (float(m[m > float("-inf")].min()) for m in (offline, online))
                first = (offline_score - low) / (float(offline.max()) - low)
                second = (two - high) / (float(online.max()) - high)
            else:
                low = float(offline[offline > float("-inf")].min())
                first, second = (
                    (float(offline.max()) - offline_score) / (float(offline.max()) - low),
                    (two + 1) / 101,
                )
            source = offline if offline_score > float("-inf") and first >= second else online
            assert similar.current[item].item() == source[item - 1].argmax().item() + 1, (kind, item)


def test_online_similarity_waits_for_its_warm_up() -> None:
    model = toy_model("ticoserec", toy_catalog())
    before = model.similar.current.clone()
    model.start_epoch(80)
    assert torch.equal(model.similar.current, before)
    model.start_epoch(81)
    assert not torch.equal(model.similar.current, before)
    assert model.similar.current[1:].min() >= 1
    still = toy_model("ticoserec:offline", toy_catalog())
    still.start_epoch(200)
    assert torch.equal(still.similar.current, before)


def test_contrastive_term_waits_for_its_warm_up() -> None:
    model, view = toy_model("ticoserec", toy_catalog(), **QUIET), toy_view()
    plain = toy_model("ticoserec:-contrast", toy_catalog(), **QUIET)
    batch = training_batch(model, view)
    expected = plain.loss(batch)
    model.start_epoch(40)
    plain.start_epoch(41)
    for network in (model, plain):
        actual = network.loss(batch)
        assert actual.keys() == {"bce"}
        assert torch.equal(actual["bce"], expected["bce"])
    model.start_epoch(41)
    actual = model.loss(batch)
    assert actual.keys() == {"bce", "nce"}
    torch.testing.assert_close(actual["bce"], expected["bce"])
    sum(actual.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    assert not model.item_emb.weight.grad[0].any()


def test_contrastive_term_is_nce_of_flattened_views() -> None:
    model = toy_model("ticoserec", toy_catalog(), **QUIET, contrast_weight=0.3).double()
    batch = training_batch(model, toy_view())
    model.start_epoch(41)
    torch.manual_seed(3)
    actual = model.loss(batch)["nce"]
    torch.manual_seed(3)
    a, b = model.encode(model.views(batch)).flatten(1).chunk(2)
    assert a.shape == (len(batch.item_seq), 8 * 64)
    torch.testing.assert_close(actual, 0.3 * TICO.nce(a, b, 1.0))
    torch.testing.assert_close(TICO.nce(b, a, 1.0), TICO.nce(a, b, 1.0))


def test_both_views_learn_at_the_temperature_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_model("ticoserec", toy_catalog(), **QUIET, temperature=0.25)
    model.start_epoch(41)
    seen: list[tuple[Tensor, Tensor, float]] = []

    def watch(a: Tensor, b: Tensor, temperature: float) -> Tensor:
        seen.append((a, b, temperature))
        return a.sum() + b.sum()

    monkeypatch.setattr(TICO, "nce", watch)
    model.loss(training_batch(model, toy_view()))
    ((a, b, temperature),) = seen
    assert temperature == 0.25
    assert a.requires_grad
    assert b.requires_grad


def test_the_views_of_a_user_are_drawn_independently() -> None:
    model = toy_model("ticoserec", toy_catalog(), uniform_share=0.0)
    batch = training_batch(model, toy_view())
    torch.manual_seed(0)
    a, b = model.views(batch).chunk(2)
    longer = model.history(batch.user.unique())[2] > 2
    assert (a != b).any(1)[longer].double().mean() > 0.5


def test_each_operation_has_its_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """As released, substitute, insert and mask also choose items by another rule."""
    rates = {"crop": 0.7, "reorder": 0.2, "mask": 0.6, "substitute": 0.3, "insert": 0.4}
    settings = {f"{name}_rate": rate for name, rate in rates.items()}
    model = toy_model("ticoserec:as-released", toy_catalog(), mask_mode="minimum", **settings)
    seen: dict[str, tuple[Any, ...]] = {}

    def watched(name: str) -> Callable[..., Any]:
        operation = getattr(TICO, name)

        def watch(items: Tensor, gaps: Tensor, length: Tensor, rate: float, *rest: Any) -> Any:
            seen[name] = (rate, *[value for value in rest if not isinstance(value, Tensor)])
            return operation(items, gaps, length, rate, *rest)

        return watch

    for name in rates:
        monkeypatch.setattr(TICO, name, watched(name))
    model.views(training_batch(model, toy_view()))
    choose = RELEASED.released_positions
    assert seen == {
        "crop": (0.7,), "reorder": (0.2,), "mask": (0.6, "minimum", choose), "substitute": (0.3, choose),
        "insert": (0.4, choose),
    }  # fmt: skip


def test_nce_of_zeros() -> None:
    assert TICO.nce(torch.zeros(6, 4), torch.zeros(6, 4), 1.0).item() == pytest.approx(math.log(11))


def test_views_hold_inputs_and_known_items_only() -> None:
    view = toy_view()
    model = toy_model("ticoserec:offline", toy_catalog(), uniform_share=0.3)
    batch = training_batch(model, view)
    users = batch.user[torch.cat([torch.tensor([True]), batch.user.diff() != 0])]
    torch.manual_seed(0)
    for _ in range(20):
        a, b = model.views(batch).chunk(2)
        for row, user in enumerate(users.tolist()):
            inputs = view.items[view.offsets[user] : view.offsets[user + 1] - 1].tolist()
            near = {int(model.similar.current[item]) for item in inputs}
            for offline_score in (a[row].tolist(), b[row].tolist()):
                assert len(offline_score) == 8
                assert 0 in near or set(offline_score) <= {0, *inputs, *near}
            if model.is_uniform[user]:
                assert a[row].tolist() == b[row].tolist() == [0] * (8 - len(inputs)) + inputs[-8:]
    assert model.is_uniform[users].any()


def test_history_that_fills_its_row_is_sasrec() -> None:
    model = toy_model("ticoserec", toy_catalog()).double().eval()
    other = toy_model("sasrec", toy_catalog(), seed=1).double().eval()
    other.load_state_dict(model.state_dict(), strict=True)
    histories = [list(range(1, 9)), [5, 5, 5, 1, 30, 2, 9, 4, 6, 7]]
    with torch.no_grad():
        actual, expected = (network.score(history_batch(network, histories)) for network in (model, other))
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
        short = [history_batch(network, [[1, 2, 3]]) for network in (model, other)]
        assert (model.score(short[0]) - other.score(short[1])).abs().max() > 1e-6
        other.position_emb.weight.copy_(model.position_emb.weight.roll(3, 0))  # place 0 here is place 5 there
        torch.testing.assert_close(model.score(short[0]), other.score(short[1]), rtol=0, atol=1e-12)


def test_bce_by_hand() -> None:
    model, view = toy_model("ticoserec", toy_catalog(), **QUIET).double(), toy_view()
    batch = training_batch(model, view)
    torch.testing.assert_close(model.loss(batch)["bce"], loss_by_hand("bce", model.score(batch), batch))


def test_padding_sees_everything_as_with_a_finite_mask() -> None:
    """The official mask adds -10000: where it is added to all scores of a row, the softmax does not see it."""
    model = toy_model("ticoserec", toy_catalog(), n_layers=1).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    items = torch.tensor([[0, 0, 4, 0, 9, 2, 0, 7], [0] * 8])
    block, x = model.encoder.blocks[0], model.norm(model.item_emb(items) + model.position_emb.weight)
    given: list[Tensor] = []
    block.attention.register_forward_hook(lambda _, args, out: given.append(out))
    model.encode(items)
    q, k, v = (part.view(2, 8, 2, 32).transpose(1, 2) for part in block.attention.qkv(x).chunk(3, -1))
    hidden = ~((items > 0)[:, None, None, :] & torch.ones(8, 8, dtype=torch.bool).tril())
    weight = (q @ k.transpose(2, 3) / 32**0.5 - 10_000.0 * hidden).softmax(-1)
    expected = block.attention.out((weight @ v).transpose(1, 2).reshape(2, 8, 64))
    torch.testing.assert_close(given[0], expected, rtol=0, atol=1e-9)
