"""MISSRec: properties of its network, its initial weights, its settings; numbers and loops are in test_missrec.py."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmbench.errors import UsageError
from tests.models.make_missrec import MISSREC, PLAIN, QUIET, make, states
from tests.models.planted_answers import teach
from tests.models.toy import (
    history_batch,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)

# -- properties --------------------------------------------------------------------------------------------------------


def test_repeated_items_change_the_decoder_only() -> None:
    model = make().eval()
    batches = [history_batch(model, [history]) for history in ([4, 9, 2], [4, 9, 9, 4, 2])]
    actual = []
    for batch in batches:
        memory, looks = model.memory(MISSREC.whole(batch))
        ids = model.lookup[batch.item_seq[0]].T.flatten()
        seen = looks[0, 0]
        actual.append(memory[0][seen][ids[seen].argsort()])
    torch.testing.assert_close(actual[0], actual[1])
    assert not torch.allclose(model.query(batches[0]), model.query(batches[1]))


def test_the_decoder_looks_both_ways_and_the_slot_is_the_last_place() -> None:
    model = make().eval()
    batch = history_batch(model, [[1, 2, 3, 4]])
    tables = model.adapted()
    first = replace(MISSREC.whole(batch), slot=torch.tensor([0]))
    before = model.states(first, tables)[0]
    other = replace(first, item_seq=torch.tensor([[1, 2, 3, 9] + [0] * (batch.item_seq.shape[1] - 4)]))
    assert not torch.allclose(model.states(other, tables)[0], before)


@pytest.mark.parametrize("name", ["missrec", "missrec:contextual"])
def test_packed_histories_do_not_see_each_other(name: str) -> None:
    model = make(name).eval()
    packed = training_batch(model, toy_view())
    assert (packed.segment.max(1).values > 1).any()
    with torch.no_grad():
        together = model.query(packed)
        for k, slot in enumerate(packed.slot.tolist()):
            first = slot - int(packed.position.flatten()[slot])
            history = packed.item_seq.flatten()[first : slot + 1].tolist()
            torch.testing.assert_close(model.query(history_batch(model, [history]))[0], together[k])


def test_a_history_without_any_modality_is_finite_and_alone() -> None:
    """Item 3 has neither text nor picture; in the contextual mode it has no key but itself."""
    model = make("missrec:contextual").eval()
    alone = states(model, [[3]])
    assert torch.isfinite(alone).all()
    torch.testing.assert_close(states(model, [[3], [1, 2], [4, 5, 6]])[0], alone[0])


def test_missing_modalities_are_keys_of_none_in_contextual_mode_only() -> None:
    """Item 11 has no picture: its (biased) picture token is hidden, its own features do not matter there."""
    for name, changes in (("missrec", True), ("missrec:contextual", False)):
        model = make(name).eval()
        before = states(model, [[11, 2]])
        model.image_feat = model.image_feat.clone()
        model.image_feat[11] = 1.0  # only the mask says that it is missing
        assert torch.allclose(states(model, [[11, 2]]), before) is not changes


def test_slope_of_both_ends() -> None:
    model = make(use_ids=False).eval()
    batch = history_batch(model, PLAIN)
    with torch.no_grad():
        u, content = model.query(batch), model.catalogue(model.adapted())[0]
        text, image = (u @ table.T for table in content)
        nn.init.zeros_(model.slope)
        torch.testing.assert_close(model.score(batch), (text + image) / 2)
        nn.init.constant_(model.slope, 1e5)
        torch.testing.assert_close(model.score(batch), torch.maximum(text, image), atol=1e-4, rtol=0)


def test_equal_modalities_are_one_cosine() -> None:
    catalog = toy_catalog()
    same = replace(catalog, image_feat=catalog.text_feat, has_image=catalog.has_text)
    model = make(catalog=same, use_ids=False).eval()
    model.adaptors.image.load_state_dict(model.adaptors.text.state_dict())
    nn.init.constant_(model.slope, 3.7)
    batch = history_batch(model, PLAIN)
    table = F.normalize(model.adapted()[0][1:], dim=1)
    torch.testing.assert_close(model.score(batch), model.query(batch) @ table.T)


def test_gradients_reach_adaptors_from_both_sides_and_no_centroid() -> None:
    model = make(use_ids=False, **QUIET)
    batch = training_batch(model, toy_view())
    assert not model.centroids.requires_grad
    tables = model.adapted()
    still = [table.detach() for table in tables]
    sides = {"decoder": (tables, still), "score": (still, tables)}
    for read, scored in sides.values():
        model.zero_grad()
        model.next_item_loss(model.states(MISSREC.whole(batch), read)[0], scored, batch.target).backward(
            retain_graph=True
        )
        assert all(adaptor.weight.grad.abs().max() > 0 for adaptor in model.adaptors.values())


def test_initial_weights() -> None:
    model: Any = toy_model("missrec", toy_catalog(n_items=400, n_users=60), hidden_dim=64, inner_dim=64)
    decoder = model.decoder[0]
    for attention in (model.encoder[0].attention, decoder.attention, decoder.memory_attention):
        bound = (6 / (64 + 3 * 64)) ** 0.5
        assert attention.qkv.weight.abs().max().item() == pytest.approx(bound, rel=0.02)
        assert not attention.qkv.bias.any()
        assert attention.out.weight.std().item() == pytest.approx(0.02, rel=0.1)
    for weight in (model.item_emb.weight[1:], model.position_emb.weight, decoder.feed_forward.up.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not model.item_emb.weight[0].any()
    bound = 12**-0.5
    assert model.adaptors.text.weight.abs().max().item() == pytest.approx(bound, rel=0.02)
    assert model.adaptors.text.bias.any()
    assert model.slope.tolist() == [0.0]


def test_dropout_acts_at_all_places() -> None:
    """One after the other is the only one: the input, the weights of attention, inside and behind the maps."""
    model = make(dropout=0.5).train()
    seen: dict[str, int] = {}
    batch = training_batch(model, view_of([[1, 2, 3, 4, 5, 6]]))
    drops = {name: module for name, module in model.named_modules() if type(module).__name__ == "Dropout"}
    for name, module in drops.items():
        assert module.p == 0.5
        module.register_forward_hook(lambda *_, name=name: seen.update({name: seen.get(name, 0) + 1}))
    attentions = [m for m in model.modules() if hasattr(m, "attn_dropout")]
    assert [attention.attn_dropout for attention in attentions] == [0.5] * 3
    model.loss(batch)
    assert seen == {
        "drop": 1, "encoder.0.drop": 2, "encoder.0.feed_forward.drop": 1, "decoder.0.drop": 3,
        "decoder.0.feed_forward.drop": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "modality", "knows"),
    [
        ("missrec", "text", True),
        ("missrec", "image", True),
        ("missrec:-image", "image", False),
        ("missrec:-text", "image", True),
    ],
)
def test_what_it_reads_tells_what_an_item_is(name: str, modality: str, knows: bool) -> None:
    shown, hidden = teach(
        name, modality, n_steps=80, hidden_dim=32, inner_dim=32, cluster_ratio=0.05, **QUIET
    )
    assert shown > 0.95
    assert (hidden > 0.7) is knows
    assert knows or hidden < 0.5  # 0.25 by chance


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_layers": 3}, "n_layers 3 must be even"),
        ({"modalities": []}, "modalities must name"),
        (
            {"fusion": "per-item", "pretrain_on": ["target"]},
            'fusion = "per-item" ties a slope to each item of a data set',
        ),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(**settings)


def test_a_missing_modality_leaves_early_fusion() -> None:
    model = make(catalog=replace(toy_catalog(), image_feat=None))
    assert model.modalities == ["text"]
    assert model.is_dot_product
    with pytest.raises(ValueError, match="reads text and image features, and the data set has none"):
        make(catalog=toy_catalog(features=False))
