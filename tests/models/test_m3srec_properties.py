"""M3SRec: properties of its experts, tokens, scores and training; numbers and loops are in test_m3srec.py."""

import math
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.models import registry
from tests.fixed import fill
from tests.models.make_m3srec import HISTORIES, NO_DROPOUT, SMALL, make, states_of
from tests.models.reference_math import (
    dot,
    softmax,
)
from tests.models.test_dropout import assert_dropped, bare
from tests.models.toy import (
    history_batch,
    loss_by_hand,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)


def module() -> Any:
    return sys.modules[registry.find("m3srec").load().__module__]


# -- experts -----------------------------------------------------------------------------------------------------


def mixture(n_groups: int, n_experts: int, **settings: Any) -> Any:
    config = registry.find("m3srec").config(**(SMALL | NO_DROPOUT | {"n_experts": n_experts} | settings))
    experts = module().MixtureOfExperts(config, n_groups).double()
    fill(experts)
    return experts


def test_one_expert_is_a_feed_forward_layer() -> None:
    experts, y = mixture(1, 1), torch.randn(1, 9, 4, dtype=torch.float64)
    inner = F.gelu(F.linear(y[0], experts.up.weight[0], experts.up.bias))
    expected = F.linear(inner, experts.down.weight[0], experts.down_bias)
    torch.testing.assert_close(experts(y)[0], expected)
    assert experts.router is None


def test_equal_experts_answer_like_a_single_expert_whatever_the_router_says() -> None:
    """Shares sum to 1: what they multiply and what they add."""
    experts, y = mixture(2, 3), torch.randn(2, 9, 4, dtype=torch.float64)
    single = mixture(2, 1)
    with torch.no_grad():
        experts.up.weight.copy_(single.up.weight.repeat(1, 3, 1))
        experts.up.bias.copy_(single.up.bias.view(2, 6).repeat(1, 3).flatten())
        experts.down.weight.copy_(single.down.weight.repeat(1, 1, 3))
        experts.down_bias.copy_(single.down_bias.view(2, 4).repeat(1, 3).flatten())
    torch.testing.assert_close(experts(y), single(y))


def test_the_router_reads_what_is_not_dropped() -> None:
    experts, y = mixture(1, 3, dropout=0.5).train(), torch.randn(1, 9, 4, dtype=torch.float64)
    seen: list[Tensor] = []
    experts.router.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    experts.up.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    experts(y)
    assert len(seen) == 2
    assert all(torch.equal(x, y) for x in seen)


def test_streams_that_are_equal_stay_equal() -> None:
    """z = 0, equal item vectors and shared experts give three equal user vectors; other types do not."""
    model = make(n_specific_layers=0, n_cross_layers=2)
    batch = history_batch(model, HISTORIES)
    items = model.tables(batch.item_seq)[..., :1, :].expand(-1, -1, 3, -1)
    with torch.no_grad():
        assert not torch.allclose(*model.states(items, batch)[:2])
        model.modality_emb.weight.zero_()
        states = model.states(items, batch)
    torch.testing.assert_close(states[1:], states[:1].expand(2, -1, -1))


# -- tokens ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["item_emb.weight", "text_feat", "image_feat"])
def test_an_event_moves_no_earlier_state_in_any_modality(source: str) -> None:
    """Item 9 stands at place 2 of 4 only; its vector of one modality becomes another one."""
    model, view = make(), view_of([[1, 2, 9, 4, 5]])
    batch = training_batch(model, view)
    before = states_of(model, batch)
    with torch.no_grad():
        (model.get_parameter(source) if "emb" in source else model.get_buffer(source))[9] *= -1.0
    moved = (states_of(model, batch) - before).abs().amax(-1) > 1e-9  # [M, T]
    assert moved.tolist() == [[False, False, True, True]] * 3


def test_a_prefix_has_the_states_that_it_has_inside_its_history() -> None:
    model = make()
    whole = training_batch(model, view_of([[1, 2, 3, 4, 5]]))
    states = states_of(model, whole)
    for length in range(1, 5):
        alone = states_of(model, history_batch(model, [[1, 2, 3, 4][:length]]))
        torch.testing.assert_close(alone[:, 0], states[:, length - 1], rtol=0, atol=1e-13)


def test_a_modality_without_a_say_can_be_left_out() -> None:
    """Pictures as keys that nobody sees, and without their part of the score, are not pictures."""
    model, without = make(), make(use_image=False)
    names = without.state_dict().keys()  # modalities come first in every parameter that has them
    without.load_state_dict(
        {name: model.state_dict()[name][: len(without.state_dict()[name])] for name in names}
    )
    batch = history_batch(model, HISTORIES)
    mask = batch.attention_mask(causal=True).repeat(1, 3, 3)
    mask[..., 2 * batch.item_seq.shape[1] :] = False
    x = model.tokens(model.tables(batch.item_seq), batch)
    for layer in model.layers:
        x = layer(x, mask)
    torch.testing.assert_close(batch.at_slots(x[:2].movedim(0, 2)).movedim(1, 0), states_of(without, batch))


def test_modalities_are_told_apart_by_their_vectors_not_by_their_order() -> None:
    """Text and image change places in the features, and in all weights of modalities: the scores stay."""
    catalog = toy_catalog()
    swapped = replace(
        catalog, text_feat=catalog.image_feat, image_feat=catalog.text_feat,
        has_text=catalog.has_image, has_image=catalog.has_text,
    )  # fmt: skip
    first, second = make(catalog=catalog), make(catalog=swapped)
    weights = first.state_dict()
    order = torch.tensor([0, 2, 1])
    for name in (
        "modality_emb.weight",
        *(n for n in weights if n.startswith("layers.0.") and ".attention" not in n),
    ):
        if ".norm1" not in name:
            weights[name] = weights[name].unflatten(0, (3, -1))[order].flatten(0, 1)
    for part in ("weight", "bias"):
        text, image = (f"projections.{name}.{part}" for name in ("text", "image"))
        weights[text], weights[image] = weights[image], weights[text]
    second.load_state_dict(weights)
    batch = history_batch(first, HISTORIES)
    torch.testing.assert_close(first.score(batch), second.score(batch))


def test_an_item_without_a_picture_has_the_bias_of_the_projection() -> None:
    model = make()
    vectors = model.tables(torch.tensor([3, 11, 5]))  # toy items 3 and 11 have no picture, 3 no text
    bias = {name: model.projections[name].bias for name in ("text", "image")}
    assert torch.equal(vectors[0, 1], bias["text"])
    assert torch.equal(vectors[:2, 2], bias["image"].expand(2, -1))
    assert not torch.allclose(vectors[2, 2], bias["image"])
    torch.testing.assert_close(model.tables()[[3, 11, 5]], vectors)


# -- scores ------------------------------------------------------------------------------------------------------


def test_the_score_is_the_sum_of_its_parts() -> None:
    model = make()
    batch = history_batch(model, HISTORIES)
    assert model.parts == ("id", "text", "image")
    whole, alone = model.score(batch), []
    for part in model.parts:
        with model.alone(part):
            alone.append(model.score(batch))
    torch.testing.assert_close(sum(alone), whole)
    tables, states = model.tables()[1:], states_of(model, batch)
    for m, scores in enumerate(alone):
        torch.testing.assert_close(scores, states[m] @ tables[:, m].T)
    assert torch.equal(model.score(batch), whole)


def test_a_fused_score_has_no_parts() -> None:
    model = make("m3srec:attn")
    assert model.parts == ()
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    fusion, fused = model.user_fusion, []
    for vectors in x:
        logits = [dot(fusion.weight.weight[0], torch.tanh(affine_of(fusion.map, v))) for v in vectors]
        fused.append(sum(share * v for share, v in zip(softmax(logits), vectors, strict=True)))
    torch.testing.assert_close(fusion(x), torch.stack(fused))


@pytest.mark.parametrize("name", ["m3srec", "m3srec:attn"])
def test_the_loss_is_the_cross_entropy_of_the_scores(name: str) -> None:
    model = make(name)
    batch = training_batch(model, toy_view())
    torch.testing.assert_close(model.loss(batch)["ce"], loss_by_hand("ce", model.score(batch), batch))


def affine_of(layer: torch.nn.Linear, x: Tensor) -> Tensor:
    return layer.weight @ x + layer.bias


# -- training ----------------------------------------------------------------------------------------------------


def test_contrasts_of_identical_vectors_are_log_of_the_rows() -> None:
    """Their cosines tell nothing: each of the four contrasts of 7 distinct targets is ln 7."""
    model = make()
    states = torch.ones(3, 7, 4, dtype=torch.float64)
    tables = torch.ones(31, 3, 4, dtype=torch.float64)
    terms = model.contrasts(states, tables, torch.arange(1, 8))
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(
        {"same": 2 * math.log(7), "cross": 2 * math.log(7)}
    )


def test_pre_training_is_the_contrasts_and_fine_tuning_the_cross_entropy() -> None:
    joint, staged = make(), make("m3srec:two-stage")
    batch = training_batch(joint, toy_view())
    terms = joint.loss(batch)
    assert [(stage.name, stage.epochs) for stage in staged.stages] == [("pretrain", 30), ("train", None)]
    staged.start_stage("pretrain")
    pretraining = staged.loss(batch)
    assert pretraining.keys() == {"same", "cross"}
    for name, value in pretraining.items():
        torch.testing.assert_close(0.1 * value, terms[name])
    staged.start_stage("train")
    assert staged.loss(batch).keys() == {"ce"}
    assert torch.equal(staged.loss(batch)["ce"], terms["ce"])
    assert make("m3srec:-contrast").loss(batch).keys() == {"ce"}


def test_one_content_modality_has_no_cross_contrast_and_none_has_no_contrast() -> None:
    batch = training_batch(make(), toy_view())
    assert make("m3srec:-image").loss(batch).keys() == {"ce", "same"}
    model = make(catalog=toy_catalog(features=False))
    assert model.loss(batch).keys() == {"ce"}
    assert model.extra_state() == {"modalities": ["id"]}
    assert model.parts == ()


def test_pre_training_without_texts_and_pictures_is_refused() -> None:
    with pytest.raises(
        ValueError, match="pre-training relates texts and pictures to targets, and the model reads none"
    ):
        make("m3srec:two-stage", toy_catalog(features=False))


def test_masks_zero_one_modality_of_the_chosen_events_in_pre_training_only() -> None:
    model = make("m3srec:two-stage", masked_share=0.2)
    torch.manual_seed(0)
    items = torch.ones(200, 50, 3, 4, dtype=torch.float64)
    masked = model.without_some(items)
    is_zero = masked.eq(0).all(-1)
    assert torch.equal(is_zero, masked.eq(0).any(-1))  # whole vectors
    assert is_zero.sum(-1).max() == 1  # one modality of an event
    shares = is_zero.double().mean((0, 1))
    assert shares.tolist() == pytest.approx([0.2 / 3] * 3, abs=0.01)
    batch = training_batch(model, toy_view())
    assert torch.equal(model.loss(batch)["ce"], make("m3srec:two-stage").loss(batch)["ce"])
    model.start_stage("pretrain")
    assert not torch.equal(model.loss(batch)["same"], model.loss(batch)["same"])


def test_dropout_acts_on_tokens_weights_inner_layers_and_what_a_layer_adds() -> None:
    """Each place by itself, in a layer whose other parts are silent; nothing is dropped elsewhere."""
    config = registry.find("m3srec").config(
        hidden_dim=16, inner_dim=16, n_heads=1, n_experts=1, dropout=0.5, attn_dropout=0.25
    )
    x, mask = torch.full((2, 40, 8, 16), 5.0, dtype=torch.float64), torch.ones(40, 16, 16, dtype=torch.bool)
    torch.manual_seed(0)

    layer = bare(module().Layer(config, 2))
    torch.nn.init.ones_(layer.attention.out.bias)
    assert_dropped(layer(x, mask) - 5, 0.5, kept=2.0)  # what attention adds
    torch.nn.init.zeros_(layer.attention.out.bias)
    torch.nn.init.ones_(layer.experts.down_bias)
    assert_dropped(layer(x, mask) - 5, 0.5, kept=2.0)  # what experts add

    layer.drop = torch.nn.Identity()
    torch.nn.init.zeros_(layer.experts.down_bias)
    torch.nn.init.ones_(layer.experts.up.bias)
    with torch.no_grad():
        layer.experts.down.weight.copy_(torch.eye(16))
    assert_dropped(
        layer(x, mask) - 5, 0.5, kept=2 * F.gelu(torch.tensor(1.0)).item()
    )  # inner layers of experts
    torch.nn.init.zeros_(layer.experts.up.bias)
    with torch.no_grad():
        layer.attention.qkv.weight[32:] = torch.eye(16)
        layer.attention.out.weight.copy_(torch.eye(16))
    units = torch.eye(16, dtype=torch.float64).view(2, 8, 16)[:, None].expand(2, 40, 8, 16)
    assert_dropped(layer(units, mask) - units, 0.25, kept=1 / 16 / 0.75)  # weights, at their own rate


def test_dropout_acts_on_the_normalised_tokens() -> None:
    model = toy_model("m3srec", toy_catalog(), hidden_dim=64, dropout=0.5).train()
    batch = training_batch(model, toy_view())
    items = model.tables(batch.item_seq)
    torch.manual_seed(0)
    dropped = model.tokens(items, batch).detach()
    whole = model.eval().tokens(items, batch).detach()
    torch.testing.assert_close(whole.mean(-1), torch.zeros(whole.shape[:-1]), rtol=0, atol=1e-5)
    assert_dropped((dropped / whole)[whole != 0], 0.5, kept=2.0)


# -- sizes and starts --------------------------------------------------------------------------------------------


def test_parameter_count_is_the_specifications() -> None:
    """666,448 + 64 (N + 1) with texts and pictures of width 768."""
    catalog = toy_catalog(max_len=50)
    wide = {f"{name}_feat": torch.zeros(31, 768) for name in ("text", "image")}
    model = toy_model("m3srec", replace(catalog, **wide))
    assert sum(p.numel() for p in model.parameters()) == 666_448 + 64 * 31


def test_initialisation() -> None:
    model = toy_model("m3srec:attn", toy_catalog(n_items=400), seed=1)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert parameter.unique().tolist() == [1.0 if "norm" in name and "weight" in name else 0.0], name
        elif parameter.numel() >= 64 * 64:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name
    assert not model.item_emb.weight[0].any()


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(Exception, match="n_specific_layers and n_cross_layers are both 0"):
        make(n_specific_layers=0, n_cross_layers=0)
