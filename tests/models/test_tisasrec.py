"""TiSASRec: section "How to check" of its specification; the attention and the authors' network against the literal
formula, which has one interval vector per pair."""

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.errors import UsageError
from mmbench.models import registry
from mmbench.models.base import Recommender
from tests.models.toy import (
    DAY,
    START,
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

NETWORKS = pytest.mark.parametrize("network", ["bert-style", "official", "paper"])
HISTORIES = [[4, 9, 2, 7], [1], [3, 3, 8, 20, 30, 7, 7, 2], [11, 12]]
TIMES = [
    [START, START + 2 * DAY, START + 2 * DAY, START + 9 * DAY],
    [START + DAY],
    [START + 40 * k * k for k in range(8)],
    [START + 5 * DAY, START + 6 * DAY],
]
ITEMS = [4, 9, 2, 7, 5]
DAYS = [START + DAY * k for k in (0, 1, 3, 10, 30)]
NO_DROPOUT = {"dropout": 0.0, "attn_dropout": 0.0}


def module() -> Any:
    return sys.modules[registry.find("tisasrec").load().__module__]


def lively(network: str = "bert-style", catalog: Any = None, **settings: Any) -> Recommender[Any]:
    """Weights large enough that every term shows."""
    given = {"network": network, "hidden_dim": 8, "inner_dim": 6, "time_span": 12} | NO_DROPOUT | settings
    model = toy_model("tisasrec", toy_catalog() if catalog is None else catalog, **given)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("item_emb.weight"):
                parameter.copy_(torch.randn_like(parameter) * 0.5)
    return model.double().eval()


def naive(
    query: Tensor, key: Tensor, value: Tensor, relations: Any, *, n_heads: int, drop: nn.Module
) -> Tensor:
    """The printed formula with interval vectors of all pairs [R, W, W, D]."""
    width = query.shape[-1] // n_heads
    time_key, time_value = (
        table.expand(len(query), -1, -1)[torch.arange(len(query))[:, None, None], relations.codes]
        for table in (relations.time_key, relations.time_value)
    )
    parts = []
    for h in range(n_heads):
        own = slice(h * width, (h + 1) * width)
        keys = (key + relations.position_key)[:, None, :, own] + time_key[..., own]
        values = (value + relations.position_value)[:, None, :, own] + time_value[..., own]
        logits = torch.einsum("rid,rijd->rij", query[..., own], keys) / width**0.5
        weights = logits.masked_fill(~relations.mask, float("-inf")).softmax(-1)
        parts.append(torch.einsum("rij,rijd->rid", weights, values))
    return torch.cat(parts, -1)


@pytest.mark.parametrize("n_heads", [1, 2, 4])
@pytest.mark.parametrize("n_copies", [1, 3])
def test_attention_is_the_formula_in_value_and_gradient(n_heads: int, n_copies: int) -> None:
    torch.manual_seed(0)
    n_rows, width, dim, n_codes = 3, 7, 8, 5
    q, k, v, pk, pv = (
        torch.randn(n_rows, width, dim, dtype=torch.float64, requires_grad=True) for _ in range(5)
    )
    tk, tv = (torch.randn(n_copies, n_codes, dim, dtype=torch.float64, requires_grad=True) for _ in range(2))
    codes = torch.randint(0, n_codes, (n_rows, width, width))
    segment = torch.tensor([[1, 1, 1, 2, 2, 3, 0], [1] * 7, [1, 2, 2, 2, 2, 0, 0]])
    mask = (segment[:, :, None] == segment[:, None]) & torch.ones(width, width, dtype=torch.bool).tril()
    relations = module().Relations(mask, codes, pk, pv, tk, tv)
    weight = torch.randn(n_rows, width, dim, dtype=torch.float64)
    actual = []
    for function in (module().attend, naive):
        out = function(q, k, v, relations, n_heads=n_heads, drop=nn.Identity())
        actual.append((out, *torch.autograd.grad((out * weight).sum(), [q, k, v, pk, pv, tk, tv])))
    for ours, literal in zip(*actual, strict=True):
        torch.testing.assert_close(ours, literal, rtol=0, atol=1e-13)


def test_no_tensor_has_a_vector_for_every_pair() -> None:
    """With as many codes as in use, the largest tensor kept for the gradient is the products with the table."""
    view = view_of([[k % 30 + 1 for k in range(60)]] * 4)
    catalog = replace(catalog_of(view, n_items=30), max_len=50)
    model = toy_model("tisasrec", catalog).train()
    batch = training_batch(model, view, samples="last-window")
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda index: sizes.append(index.numel()) or index, lambda index: index
    ):
        model.loss(batch)
    n_rows, width = batch.item_seq.shape
    assert max(sizes) <= n_rows * model.config.n_heads * width * 257 < n_rows * width * width * 64 // 2


def by_hand(model: Recommender[Any], history: list[int], codes: Tensor) -> Tensor:
    """States [L, D] of one history in the authors' network, pair by pair, for one head."""
    dim, is_paper = model.config.hidden_dim, model.config.network == "paper"
    x = model.item_emb.weight[history] * dim**0.5
    for block in model.blocks:
        normed = block.norm1(x)
        read, base = (normed, x) if is_paper else (x, normed)
        query, key, value = block.query(normed), block.key(read), block.value(read)
        rows = []
        for i in range(len(history)):
            keys = [
                key[j] + model.position_key.weight[j] + model.time_key.weight[codes[i, j]]
                for j in range(i + 1)
            ]
            logits = torch.stack([key @ query[i] for key in keys]) / dim**0.5
            values = [
                value[j] + model.position_value.weight[j] + model.time_value.weight[codes[i, j]]
                for j in range(i + 1)
            ]
            rows.append(logits.softmax(0) @ torch.stack(values))
        y = base + torch.stack(rows)
        z = block.norm2(y)
        x = (y if is_paper else z) + block.down(block.up(z).relu())
    return model.norm(x)


@pytest.mark.parametrize("network", ["official", "paper"])
def test_the_authors_network_by_hand(network: str) -> None:
    model = lively(network, n_heads=1)
    batch = history_batch(model, [ITEMS], times=[DAYS])
    with torch.no_grad():
        expected = by_hand(model, ITEMS, model.codes(batch)[0, :5, :5])
        actual = model.encode(batch)[0, :5]
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(model.query(batch)[0], expected[-1], rtol=0, atol=1e-12)


def test_without_relations_it_is_sasrec() -> None:
    model, other = lively(), toy_model("sasrec", toy_catalog(), hidden_dim=8, inner_dim=6).double().eval()
    with torch.no_grad():
        for table in (model.position_key, model.position_value, model.time_key, model.time_value):
            table.weight.zero_()
        state = {key.removeprefix("encoder."): key for key in other.state_dict()}
        other.load_state_dict(
            {
                whole: model.state_dict()[part]
                for part, whole in state.items()
                if part != "position_emb.weight"
            }
            | {"position_emb.weight": torch.zeros_like(other.position_emb.weight)}
        )
        batch = history_batch(model, HISTORIES, times=TIMES)
        torch.testing.assert_close(model.score(batch), other.score(batch), rtol=0, atol=1e-12)


@NETWORKS
def test_a_single_code_is_a_constant(network: str) -> None:
    model = lively(network, time_span=0)
    batch = history_batch(model, HISTORIES, times=TIMES)
    assert not model.codes(batch).any()
    with torch.no_grad():
        before = model.score(batch)
        model.position_key.weight += model.time_key.weight
        model.position_value.weight += model.time_value.weight
        assert (model.score(batch) - before).abs().max() > 1e-4
        model.time_key.weight.zero_()
        model.time_value.weight.zero_()
        torch.testing.assert_close(model.score(batch), before, rtol=0, atol=1e-12)


def catalog_with(*times: list[int]) -> Any:
    """Users 0, 1, .. with training events at these times."""
    return catalog_of(view_of([[1 + k % 9 for k in range(len(time))] for time in times], times), n_items=30)


@pytest.mark.parametrize("rounding", ["floor", "points"])
def test_shift_and_scale_of_time_change_nothing(rounding: str) -> None:
    scores = []
    for shift, scale in ((0, 1), (123_456_789, 1), (0, 7), (99, 86_400)):
        own = [START + shift + scale * second for second in (0, 3, 3, 10, 31)]
        model = lively(catalog=catalog_with(own), interval_rounding=rounding)
        with torch.no_grad():
            scores.append(model.score(history_batch(model, [ITEMS], times=[own])))
    for other in scores[1:]:
        assert torch.equal(scores[0], other)


@NETWORKS
def test_causal_in_items_and_times(network: str) -> None:
    model = lively(network, catalog=catalog_with(DAYS))

    def states(items: list[int], times: list[int]) -> Tensor:
        with torch.no_grad():
            encoded: Tensor = model.encode(history_batch(model, [items], times=[times]))[0, :5]
        return encoded

    base = states(ITEMS, DAYS)
    for changed in (states([4, 9, 2, 8, 5], DAYS), states(ITEMS, [*DAYS[:3], DAYS[2] + 2 * DAY, DAYS[4]])):
        assert torch.equal(base[:3], changed[:3])
        assert (base[3:] - changed[3:]).abs().amax(1).min() > 1e-6


@NETWORKS
def test_padding_its_times_and_neighbours_do_not_matter(network: str) -> None:
    model = lively(network)
    batch = history_batch(model, HISTORIES, times=TIMES)
    with torch.no_grad():
        together = model.query(batch)
        noise = torch.randint(-(2**40), 2**40, batch.time_seq.shape)
        noisy = replace(batch, time_seq=torch.where(batch.mask, batch.time_seq, noise))
        assert not batch.mask.all()
        assert torch.equal(model.query(noisy), together)
        for k, (items, times) in enumerate(zip(HISTORIES, TIMES, strict=True)):
            alone = model.query(history_batch(model, [items], times=[times], users=[k]))
            torch.testing.assert_close(alone[0], together[k], rtol=0, atol=1e-12)


def test_units_are_the_shortest_training_gaps_above_zero() -> None:
    catalog = catalog_with(
        [START, START, START + 50, START + 57], [START], [START + 9] * 3, [START, START + DAY]
    )
    assert module().personal_unit(catalog).tolist() == [7, 1, 1, DAY]
    model = toy_model("tisasrec", catalog)
    # A shorter gap in the history that is ranked, the validation event, changes no unit.
    batch = history_batch(model, [[1, 2, 3]], times=[[START, START + DAY, START + DAY + 5]], users=[3])
    assert model.codes(batch)[0, :3, :3].tolist() == [[0, 1, 1], [1, 0, 0], [1, 0, 0]]


def test_codes_by_hand() -> None:
    times = [START, START + 10, START + 24, START + 24, START + 10_000]
    catalog = catalog_with([START, START + 10, START + 24])
    floor = toy_model("tisasrec", catalog, time_span=20)
    batch = history_batch(floor, [[1, 2, 3, 4, 5]], times=[times])
    expected = [[0, 1, 2, 2, 20], [1, 0, 1, 1, 20], [2, 1, 0, 0, 20], [2, 1, 0, 0, 20], [20] * 4 + [0]]
    assert floor.codes(batch)[0, :5, :5].tolist() == expected
    catalog = catalog_with([START, START + 10, START + 26])  # points 0, 1, 3 (of 2.6): distance 16 is 1, or 2
    times = [START, START + 10, START + 26]
    actual = {}
    for rounding in ("floor", "points"):
        model = toy_model("tisasrec", catalog, interval_rounding=rounding)
        actual[rounding] = model.codes(history_batch(model, [[1, 2, 3]], times=[times]))[0, :3, :3].tolist()
    assert actual == {
        "floor": [[0, 1, 2], [1, 0, 1], [2, 1, 0]],
        "points": [[0, 1, 3], [1, 0, 2], [3, 2, 0]],
    }


def test_codes_tell_seconds_apart_and_stay_in_range() -> None:
    times = [START + second for second in (0, 1, 3, 3, 100_000)]  # float32 keeps 128 seconds at this size
    model = toy_model("tisasrec", catalog_with(times), time_span=256)
    codes = model.codes(history_batch(model, [[1, 2, 3, 4, 5]], times=[times]))[0, :5, :5]
    assert codes[0].tolist() == [0, 1, 3, 3, 256]
    model = toy_model("tisasrec", toy_catalog())
    batch = training_batch(model, toy_view())
    codes, same = model.codes(batch), batch.attention_mask(causal=False)
    assert torch.equal(codes[same], codes.transpose(1, 2)[same])
    assert not codes.diagonal(dim1=1, dim2=2).any()
    assert codes.min() >= 0
    assert codes.max() <= 256
    tied = [START] * 4
    model = toy_model("tisasrec", catalog_with(tied))
    assert not model.codes(history_batch(model, [[1, 2, 3, 4]], times=[tied]))[0, :4, :4].any()


def test_seconds_leave_one_bit_of_daily_times() -> None:
    times = [START + DAY * day for day in (0, 0, 1, 5, 5)]
    codes = {}
    for unit in ("personal", "second"):
        model = toy_model("tisasrec", catalog_with(times), interval_unit=unit)
        codes[unit] = model.codes(history_batch(model, [[1, 2, 3, 4, 5]], times=[times]))[0, 4, :5].tolist()
    assert codes == {"personal": [5, 5, 4, 0, 0], "second": [256, 256, 256, 0, 0]}


def test_every_place_knows_its_user() -> None:
    view = toy_view()  # several histories a row, some in two windows
    model = toy_model("tisasrec", catalog_of(view, n_items=30))
    batch = training_batch(model, view)
    user = module().users_of_events(batch)
    assert (batch.segment.amax(1) > 1).any()
    start = torch.from_numpy(view.offsets[:-1])
    rows, columns = batch.mask.nonzero(as_tuple=True)
    # Read back from the items: a place's history is a window of its user's events.
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        index = int(user[row, column])
        events = view.items[start[index] : view.offsets[index + 1]].tolist()
        first = column - int(batch.position[row, column])
        window = batch.item_seq[row, first : column + 1].tolist()
        assert any(events[k : k + len(window)] == window for k in range(len(events)))
    assert torch.equal(user.flatten()[batch.slot], batch.user)


@NETWORKS
def test_a_changed_gap_changes_the_score(network: str) -> None:
    model = lively(network, catalog=catalog_with(DAYS))
    with torch.no_grad():
        before = model.score(history_batch(model, [ITEMS], times=[DAYS]))
        moved = [*DAYS[:2], DAYS[2] + DAY, *DAYS[3:]]
        assert (model.score(history_batch(model, [ITEMS], times=[moved])) - before).abs().max() > 1e-6
        moved = [*DAYS[:2], DAYS[2] + 1, *DAYS[3:]]  # lost in rounding down, but for pairs of later events
        codes = [
            model.codes(history_batch(model, [ITEMS], times=[times]))[0, 2, :3] for times in (DAYS, moved)
        ]
        assert torch.equal(*codes)


@NETWORKS
def test_codes_and_positions_that_occur_get_a_gradient(network: str) -> None:
    view = toy_view()
    model = lively(network, time_span=40).train()
    batch = training_batch(model, view, samples="last-window")
    _, actual = gradients(model, batch)
    seen = torch.zeros(41, dtype=torch.bool)
    seen[model.codes(batch)[batch.attention_mask(causal=True) & batch.mask[:, :, None]]] = True
    assert 3 < seen.sum() < 41
    assert seen[0]
    for name in ("time_key.weight", "time_value.weight"):
        assert torch.equal(actual[name].abs().amax(1) > 1e-12, seen), name
    for name in ("position_key.weight", "position_value.weight"):
        assert actual[name].abs().amax(1).gt(1e-12).all(), name
    assert not actual["item_emb.weight"][0].any(), "the padding row must get no gradient"


def test_rows_of_a_batch_drop_different_entries() -> None:
    model = toy_model("tisasrec", toy_catalog(), dropout=0.5).train()
    batch = training_batch(model, toy_view(), samples="last-window")
    table = model.relations(batch).time_key
    assert table.shape == (len(batch.item_seq), 257, 64)
    assert (table == 0).double().mean().item() == pytest.approx(0.5, abs=0.02)
    assert not torch.equal(table[0] == 0, table[1] == 0)
    assert model.eval().relations(batch).time_key.shape == (1, 257, 64)


@pytest.mark.parametrize(("variant", "power"), [("official", 2), ("official-torch", 1)])
def test_official_loss(variant: str, power: int) -> None:
    model = toy_model(f"tisasrec:{variant}", toy_catalog(), **NO_DROPOUT).double()
    batch = training_batch(model, toy_view(), samples="last-window")
    terms = model.loss(batch)
    torch.testing.assert_close(terms["bce"], loss_by_hand("bce", model.score(batch), batch))
    tables = [module.weight for name, module in model.named_children() if isinstance(module, nn.Embedding)]
    assert len(tables) == 5
    expected = 5e-5 * sum(torch.linalg.vector_norm(table) ** power for table in tables)
    torch.testing.assert_close(terms["l2"], expected)


@pytest.mark.parametrize("network", ["bert-style", "official"])
def test_overfits_64_sequences(network: str) -> None:
    generator = torch.Generator().manual_seed(0)
    view = view_of([torch.randint(1, 65, (5,), generator=generator).tolist() for _ in range(64)])
    sizes = {"hidden_dim": 32, "inner_dim": 64, "time_span": 8}
    catalog = catalog_of(view, n_items=64, features=False)
    model = toy_model("tisasrec", catalog, network=network, **sizes, **NO_DROPOUT)
    histories = view.items.reshape(64, 5)
    last, target = history_batch(model, histories[:, :4].tolist()), torch.from_numpy(histories[:, 4])

    def step() -> Tensor:
        return F.cross_entropy(model.score(last), target - 1)

    overfit(model, step, lambda: step().item() < 0.05, lr=3e-3, n_steps=600)
    assert step().item() < 0.05
    assert torch.equal(model.score(last).argmax(1) + 1, target)


def test_initialisation() -> None:
    model = toy_model("tisasrec", toy_catalog(n_items=400))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert parameter.eq(1.0 if name.endswith("weight") else 0.0).all(), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
    assert not model.item_emb.weight[0].any()
    assert model.position_key.weight[0].any(), "position 0 is an ordinary position"
    assert model.time_key.weight[0].any(), "code 0 is an ordinary code"
    glorot = toy_model("tisasrec:official", toy_catalog()).time_key.weight
    assert glorot.abs().max().item() == pytest.approx((6 / (257 + 50)) ** 0.5, rel=0.02)


def test_width_must_fit_the_heads() -> None:
    with pytest.raises(UsageError, match="hidden_dim 50 is not divisible by n_heads 4"):
        toy_model("tisasrec", toy_catalog(), hidden_dim=50, n_heads=4)
