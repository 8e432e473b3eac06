"""TMMSRec: encoders against torch's own, fusion, loss, every variant's parts (time: test_tmmsrec_time.py).

Run: python -m pytest tests/models/test_tmmsrec.py
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.models.base import Catalog
from mmbench.models.tmmsrec import TimeIntervalEncoder, TMMSRec, make_encoder
from tests.models.make_tmmsrec import HISTORIES, INTENDED, VARIANTS, batch_of, make, shaken
from tests.models.toy import (
    DAY,
    START,
    history_batch,
    loss_by_hand,
    take_group,
    toy_catalog,
    toy_view,
    training_batch,
)

NAMES = ["tmmsrec", *(f"tmmsrec:{variant}" for variant in VARIANTS)]


# Encoders


def encoder_of(model: TMMSRec, modality: str) -> nn.Module:
    """The modality's own encoder, by itself."""
    alone = make_encoder(model.config, model.max_len).double().eval()
    take_group(alone, model.encoders["all"], list(model.modalities).index(modality))
    return alone


def reference(model: TMMSRec, modality: str, x: Tensor, n_padding: int) -> Tensor:
    """The released encoder with torch's own attention and convolutions: x [T, D] after `n_padding` empty
    places on the left, without a key mask; the state of the last place, [D]."""
    encoder: Any = encoder_of(model, modality)
    dim, keep = x.shape[1], torch.cat([torch.zeros(n_padding), torch.ones(len(x))])[:, None].double()
    x = torch.cat([torch.zeros(n_padding, dim).double(), x])
    hidden = ~torch.ones(len(x), len(x), dtype=torch.bool).tril()
    for block in encoder.blocks:
        attention = nn.MultiheadAttention(dim, model.config.n_heads).double()
        attention.in_proj_weight.data = torch.cat([block.query.weight, block.key.weight, block.value.weight])
        attention.in_proj_bias.data = torch.cat([block.query.bias, block.key.bias, block.value.bias])
        attention.out_proj.load_state_dict(block.out.state_dict())
        query = F.layer_norm(x, (dim,), block.norm1.weight, block.norm1.bias, eps=1e-8)
        x = query + attention(query, x, x, attn_mask=hidden)[0]
        x = F.layer_norm(x, (dim,), block.norm2.weight, block.norm2.bias, eps=1e-8)
        inner = F.conv1d(x.T[None], block.up.weight[..., None], block.up.bias).relu()
        x = (x + F.conv1d(inner, block.down.weight[..., None], block.down.bias)[0].T) * keep
    return F.layer_norm(x, (dim,), encoder.norm.weight, encoder.norm.bias, eps=1e-8)[-1]


@pytest.mark.parametrize("padding_keys", [False, True])
def test_states_equal_the_released_encoder(padding_keys: bool) -> None:
    model = shaken(make("tmmsrec:as-released", **INTENDED | {"padding_keys": padding_keys, "n_heads": 2}))
    batch = history_batch(model, HISTORIES)
    states = model.query(batch).split(24, dim=-1)
    for row, history in enumerate(HISTORIES):
        alone = history_batch(model, [history])
        assert model.time is not None
        prepared = model.time.prepare(alone)
        for modality, state, x in zip(model.modalities, states, model.vectors(alone.item_seq), strict=True):
            x = (x + model.time(x, prepared))[0, : len(history)]
            expected = reference(model, modality, x, 8 - len(history) if padding_keys else 0)
            torch.testing.assert_close(state[row], expected)


def test_padding_keys_change_short_histories_only() -> None:
    model, released = shaken(make()), shaken(make("tmmsrec:as-released", **INTENDED | {"padding_keys": True}))
    released.load_state_dict(model.state_dict())
    histories = [[1, 2, 3], list(range(1, 9))]
    a, b = (network.query(history_batch(network, histories)) for network in (model, released))
    assert not torch.allclose(a[0], b[0])
    torch.testing.assert_close(a[1], b[1])


@pytest.mark.parametrize("name", ["tmmsrec", "tmmsrec:rp", "tmmsrec:mlp", "tmmsrec:nextitnet"])
def test_layouts_and_neighbours_do_not_change_a_state(name: str) -> None:
    model = shaken(make(name))
    alone = torch.cat([model.query(batch_of("padded", [history])) for history in HISTORIES])
    for layout in ("packed", "padded", "fixed"):
        torch.testing.assert_close(model.query(batch_of(layout, HISTORIES)), alone)


def test_gru_backbone_ignores_padding() -> None:
    model = shaken(make("tmmsrec:gru4rec"))
    assert model.needs.layout == "padded"
    alone = torch.cat([model.query(batch_of("padded", [history])) for history in HISTORIES])
    for layout in ("padded", "fixed"):
        torch.testing.assert_close(model.query(batch_of(layout, HISTORIES)), alone)


@pytest.mark.parametrize(
    "name", ["tmmsrec", "tmmsrec:add", "tmmsrec:vp", "tmmsrec:gru4rec", "tmmsrec:nextitnet"]
)
def test_later_items_and_times_do_not_change_earlier_states(name: str) -> None:
    model = shaken(make(name))
    times = [START + 40 * DAY * k for k in range(6)]
    changed = [*times[:4], times[4] + 200 * DAY, times[5] + 900 * DAY]
    batches = (([1, 2, 3, 4, 5, 6], times), ([1, 2, 3, 4, 9, 8], changed))
    a, b = (model.encode(batch_of("padded", [items], [at]))[0] for items, at in batches)
    torch.testing.assert_close(a[:4], b[:4])
    assert (a[4:] - b[4:]).abs().amax(-1).min() > 1e-3


# Fusion and score


def test_score_is_the_sum_of_the_modalities_scores() -> None:
    model = make()
    batch = history_batch(model, HISTORIES)
    states = model.query(batch).split(24, dim=-1)
    tables = model.vectors(torch.arange(1, 31))
    total = sum(state @ table.T for state, table in zip(states, tables, strict=True))
    torch.testing.assert_close(model.score(batch), total)


def test_modalities_stand_in_one_order_whatever_the_setting_says() -> None:
    assert make(modalities=["image", "id", "text"]).modalities == ["id", "text", "image"]


def test_add_fuses_by_sum_and_meets_the_sum() -> None:
    """TIE is linear: the sum of the fused inputs is what two-stage fusion feeds, summed over modalities."""
    model, two_stage = make("tmmsrec:add"), make()
    batch = history_batch(model, HISTORIES)
    vectors = model.vectors(batch.item_seq)
    assert two_stage.time is not None
    prepared = two_stage.time.prepare(batch)
    summed = sum(vector + two_stage.time(vector, prepared) for vector in vectors)
    state = model.encoders["all"](summed, batch.attention_mask(causal=True), batch.mask)
    torch.testing.assert_close(model.encode(batch), state)
    torch.testing.assert_close(model.item_table(), sum(model.vectors(torch.arange(1, 31))))


def test_linear_fusion_with_stacked_identities_is_add() -> None:
    add, linear = make("tmmsrec:add"), make("tmmsrec:linear")
    linear.load_state_dict(add.state_dict(), strict=False)
    assert isinstance(linear.fuse, nn.Linear)
    with torch.no_grad():
        linear.fuse.weight.copy_(torch.eye(24, dtype=torch.float64).repeat(1, 4))
        linear.fuse.bias.zero_()
    batch = history_batch(add, HISTORIES)
    torch.testing.assert_close(linear.score(batch), add.score(batch))


def test_mlp_fusion_has_a_hidden_layer_of_relus() -> None:
    """Of ids, texts, pictures and TIE of their sum, in this order."""
    model = shaken(make("tmmsrec:mlp"))
    batch = history_batch(model, HISTORIES)
    vectors, (up, _, down) = model.vectors(batch.item_seq), model.fuse
    assert model.time is not None
    time = model.time(sum(vectors), model.time.prepare(batch))
    hidden = (torch.cat([*vectors, time], -1) @ up.weight.T + up.bias).clamp(min=0)
    fused = hidden @ down.weight.T + down.bias
    torch.testing.assert_close(model.fuse_early(torch.stack(vectors), batch), fused)


def test_items_without_a_modality_score_nothing_in_it() -> None:
    """Toy items 3, 7 have no text, 3, 11, 12 no image; the maps' biases must not stand in for them."""
    model = shaken(make())
    _, text, image = model.item_table().split(24, dim=-1)
    assert (text.abs().sum(1) == 0).nonzero().flatten().tolist() == [2, 6]
    assert (image.abs().sum(1) == 0).nonzero().flatten().tolist() == [2, 10, 11]
    padding = model.vectors(torch.zeros(1, dtype=torch.int64))
    assert all((vectors == 0).all() for vectors in padding)


def test_presence_is_read_from_the_features_when_the_catalogue_has_no_flags() -> None:
    catalog = toy_catalog()
    flagless = Catalog(**{**vars(catalog), "has_text": None, "has_image": None})
    assert torch.equal(make(catalog=flagless).item_table(), make(catalog=catalog).item_table())


def test_features_of_the_models_width_are_used_as_they_are() -> None:
    catalog = toy_catalog()  # text has 12 dims, image 8
    model = make(catalog=catalog, hidden_dim=12)
    assert [name for name, feature in model.features.items() if feature.map is not None] == ["image"]
    assert catalog.text_feat is not None
    assert torch.equal(model.item_table()[:, 12:24], catalog.text_feat[1:].double())


def test_mapping_the_catalogue_equals_mapping_the_look_ups() -> None:
    model = shaken(make())
    few = torch.tensor([3, 0, 7, 29])
    many = few.repeat(20)  # more look-ups than items
    for a, b in zip(model.vectors(few), model.vectors(many), strict=True):
        torch.testing.assert_close(a.repeat(20, 1), b)


# Training


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_every_parameter_and_every_encoder(name: str) -> None:
    model = make(name)
    (term,) = model.loss(training_batch(model, toy_view())).values()  # eq. 14, or that of the variant ce
    term.backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters()
    )
    for part in model.features.values():
        assert (
            max(
                float(parameter.grad.abs().max())
                for parameter in part.parameters()
                if parameter.grad is not None
            )
            > 1e-6
        )
    n_groups = len(model.modalities) if model.is_grouped else 1
    for part in model.encoders.values():
        largest = [
            parameter.grad.view(n_groups, -1).abs().amax(1)
            for parameter in part.parameters()
            if parameter.grad is not None
        ]
        assert torch.stack(largest).amax(0).min() > 1e-6


@pytest.mark.parametrize("n_negatives", [1, 3])
@pytest.mark.parametrize("n_items", [30, 1000])
def test_loss_is_eq_14_averaged_over_targets(
    n_items: int, n_negatives: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With three negatives the states meet more than 30 items and fewer than 1,000; then no table is made."""
    model = make(catalog=toy_catalog(n_items=n_items), n_negatives=n_negatives)
    batch = training_batch(model, toy_view(n_items=n_items))
    assert batch.negatives.shape[1] == n_negatives
    made: list[int] = []
    table = model.item_table()
    monkeypatch.setattr(model, "item_table", lambda: made.append(1) or table)
    loss = model.loss(batch)["bce"]
    assert bool(made) == (n_items == 30 and n_negatives == 3)
    scores = model.query(batch) @ model.item_table().T
    torch.testing.assert_close(loss, loss_by_hand("bce", scores, batch))


@pytest.mark.parametrize(
    "name", ["tmmsrec", "tmmsrec:rp", "tmmsrec:linear", "tmmsrec:gru4rec", "tmmsrec:nextitnet"]
)
def test_all_positions_equal_prefixes_in_loss_and_gradient(name: str) -> None:
    results = []
    for samples in ("all", "prefix"):
        model = make(name)
        batch = training_batch(model, toy_view(), samples=samples)
        # The same negative for the same target, whatever the order of the rows.
        batch = batch.with_drawn(negatives=(batch.user * 7 + batch.target * 3)[:, None] % 30 + 1)
        loss = model.loss(batch)["bce"]
        loss.backward()
        results.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    assert (
        len(training_batch(model, toy_view(), samples="all").slot) == len(toy_view().items) - 20
    )  # all but each user's first
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_dropout_is_on_in_training_only() -> None:
    model = make("tmmsrec:as-released")
    batch = training_batch(model, toy_view())
    assert torch.equal(model.loss(batch)["bce"], model.loss(batch)["bce"])
    model.train()
    assert not torch.equal(model.loss(batch)["bce"], model.loss(batch)["bce"])
    assert isinstance(model.time, TimeIntervalEncoder)
    assert model.time.drop.p == 0.2


def test_the_time_encoder_turns_what_dropout_has_left() -> None:
    """What it adds has a rate of its own, `tie_dropout`."""
    model = make(dropout=0.5, tie_dropout=0.25).train()
    batch, inputs, turned = training_batch(model, toy_view()), list[Tensor](), list[Tensor]()
    model.encoders["all"].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    assert model.time is not None
    model.time.register_forward_pre_hook(lambda _, args: turned.append(args[0]))
    model.loss(batch)
    ids = turned[0][0][batch.mask]
    assert ids.eq(0).double().mean().item() == pytest.approx(0.5, abs=0.05)
    whole = model.eval().time(turned[0], model.time.prepare(batch))
    left = ((inputs[0] - turned[0]) / whole)[whole.abs() > 1e-3]
    assert left.abs().lt(1e-2).double().mean().item() == pytest.approx(0.25, abs=0.05)
    torch.testing.assert_close(left, left.round(decimals=0) / 0.75, rtol=0, atol=1e-2)


def test_initial_weights_are_xavier_normal() -> None:
    """The standard deviations that torch's stacked attention and xavier_normal_ give, within 5%."""
    model = make(hidden_dim=192)
    block = encoder_of(model, "text").blocks[0]
    for weight, std in ((block.query.weight, 192**-0.5 / 2**0.5), (block.up.weight, 192**-0.5)):
        assert float(weight.detach().std()) == pytest.approx(std, rel=0.05)
    assert all((layer.bias == 0).all() for layer in (block.query, block.key, block.value, block.out))
    assert all((feature.map.bias == 0).all() for feature in model.features.values())
    assert (model.item_emb.weight[0] == 0).all()
    assert float(model.item_emb.weight[1:].detach().std()) == pytest.approx((2 / (31 + 192)) ** 0.5, rel=0.05)
