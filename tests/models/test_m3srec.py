"""M3SRec: section "How to check it" of its specification; scores, losses and gradients against plain loops."""

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.models import registry
from mmbench.models.base import Catalog, Recommender
from tests.fixed import fill
from tests.models.reference_math import (
    affine,
    below,
    dot,
    gelu,
    mean,
    minus_log_share,
    normalise,
    softmax,
)
from tests.models.test_dropout import assert_dropped, bare
from tests.models.toy import (
    catalog_of,
    gradients,
    history_batch,
    loss_by_hand,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
    with_targets,
)

HISTORIES, TARGETS = [[1, 2, 3, 4], [5, 2], [4], [3, 1]], [5, 1, 3, 1]
NO_DROPOUT = {"dropout": 0.0, "attn_dropout": 0.0}
SMALL = {"hidden_dim": 4, "inner_dim": 6, "n_heads": 2, "n_experts": 2}
EXPERTS = pytest.mark.parametrize("n_experts", [1, 3])


def module() -> Any:
    return sys.modules[registry.find("m3srec").load().__module__]


def make(name: str = "m3srec", catalog: Catalog | None = None, **settings: Any) -> Recommender[Any]:
    """Return a small model in float64 without dropout, whose weights let every term show."""
    model = toy_model(name, catalog or toy_catalog(), **(SMALL | NO_DROPOUT | settings)).double()
    fill(model)
    return model.eval()


def states_of(model: Recommender[Any], batch: Batch) -> Tensor:
    """Return u_m at the slots, [M, T, D]."""
    with torch.no_grad():
        states: Tensor = model.states(model.tables(batch.item_seq), batch)
    return states


# -- numbers -----------------------------------------------------------------------------------------------------


def numbers_catalog() -> Catalog:
    """Return 5 items with features of width 3: text cos(i + 2j), image cos(3i + j), item 3 without a picture."""
    i, j = torch.arange(6, dtype=torch.float64)[:, None], torch.arange(3, dtype=torch.float64)
    text, image = (i + 2 * j).cos(), (3 * i + j).cos()
    text[0], image[[0, 3]] = 0.0, 0.0
    present = torch.ones(6, dtype=torch.bool)
    return replace(
        catalog_of(view_of(HISTORIES), n_items=5, max_len=4, features=False),
        text_feat=text, image_feat=image, has_text=present, has_image=present,
    )  # fmt: skip


def numbered(n: int, *shape: int) -> Tensor:
    """Return the specification's parameter number n, 0.3 sin(1 + n + f (f + 3) / 7) at the flat index f."""
    f = torch.arange(math.prod(shape), dtype=torch.float64)
    return 0.3 * (1 + n + f * (f + 3) / 7).sin().view(shape)


class Numbers:
    """Hands out the specification's parameters in its order, for these modalities of the three."""

    def __init__(self, modalities: Sequence[int]) -> None:
        self.n, self.modalities, self.values = 0, list(modalities), dict[str, Tensor]()

    def take(self, *shape: int) -> Tensor:
        self.n += 1
        return numbered(self.n - 1, *shape)

    def norm(self, name: str) -> None:
        self.values |= {f"{name}.weight": 1 + self.take(4), f"{name}.bias": self.take(4)}

    def linear(self, name: str, d_out: int, d_in: int) -> None:
        self.values |= {f"{name}.weight": self.take(d_out, d_in), f"{name}.bias": self.take(d_out)}

    def experts(self, layer: str, groups: Sequence[int]) -> None:
        """Take the experts and second norms of all three groups (or of the one), and keep those of `groups`."""
        sets = []
        for _ in range(3 if len(groups) > 1 else 1):
            router, router_bias = self.take(2, 4), self.take(2)
            up, up_bias, down, down_bias = (
                self.take(2, 6, 4),
                self.take(2, 6),
                self.take(2, 4, 6),
                self.take(2, 4),
            )
            sets.append(
                {
                    "experts.router.weight": router, "experts.router.bias": router_bias,
                    "experts.up.weight": up.flatten(0, 1), "experts.up.bias": up_bias.flatten(),
                    "experts.down.weight": down.transpose(0, 1).flatten(1), "experts.down_bias": down_bias.flatten(),
                    "norm2.weight": 1 + self.take(4), "norm2.bias": self.take(4),
                }
            )  # fmt: skip
        for name in sets[0]:
            kept = torch.stack([sets[m][name] for m in groups])
            self.values[f"{layer}.{name}"] = kept if kept.dim() > 2 else kept.flatten()

    def all(self, *, is_fused: bool) -> dict[str, Tensor]:
        content = [name for m, name in enumerate(("id", "text", "image")) if m in self.modalities][1:]
        table = self.take(6, 4)
        table[0] = 0.0
        self.values |= {"item_emb.weight": table, "position_emb.weight": self.take(4, 4)}
        self.values["modality_emb.weight"] = self.take(3, 4)[self.modalities]
        for name in ("text", "image"):
            self.linear(f"projections.{name}", 4, 3)
        self.norm("norm")
        for number, groups in enumerate([self.modalities, [0]]):
            self.linear(f"layers.{number}.attention.qkv", 12, 4)
            self.linear(f"layers.{number}.attention.out", 4, 4)
            self.norm(f"layers.{number}.norm1")
            self.experts(f"layers.{number}", groups)
        assert self.n == 53
        for side in ("user", "item") if is_fused else ():
            self.linear(f"{side}_fusion.map", 4, 4)
            self.values[f"{side}_fusion.weight.weight"] = self.take(1, 4)
        return {k: v for k, v in self.values.items() if "projections" not in k or k.split(".")[1] in content}


def numbers_model(modalities: Sequence[int] = (0, 1, 2), score: str = "sum") -> Recommender[Any]:
    model = make(catalog=numbers_catalog(), score=score, use_image=2 in modalities)
    model.load_state_dict(Numbers(modalities).all(is_fused=score == "attn"), strict=True)
    return model


def test_numbers_of_the_sum() -> None:
    model = numbers_model()
    batch = with_targets(history_batch(model, HISTORIES), TARGETS)
    terms, scores = model.loss(batch), model.score(batch)
    expected = [-0.4923369871, 0.1909652517, 0.8178684401, 1.5132877191, 0.6760576805]
    assert scores[0].tolist() == pytest.approx(expected, abs=1e-9)
    u_img = [-0.4033947493, 0.9424463095, 0.7776535660, -1.2979438429]
    assert states_of(model, batch)[2, 1].tolist() == pytest.approx(u_img, abs=1e-9)
    values = {name: value.item() for name, value in terms.items()}
    assert values == pytest.approx(
        {"ce": 1.4261385545, "same": 0.87526895963, "cross": 0.90966153687}, abs=1e-9
    )
    assert sum(values.values()) == pytest.approx(3.2110690510, abs=1e-9)


@pytest.mark.parametrize(
    ("modalities", "score", "ce"), [((0, 1, 2), "attn", 1.6371915308), ((0, 1), "sum", 1.2920667338)]
)
def test_numbers_of_the_cross_entropy(modalities: Sequence[int], score: str, ce: float) -> None:
    model = numbers_model(modalities, score)
    batch = with_targets(history_batch(model, HISTORIES), TARGETS)
    assert model.loss(batch)["ce"].item() == pytest.approx(ce, abs=1e-9)


# -- plain loops -------------------------------------------------------------------------------------------------


def by_hand(model: Recommender[Any], weights: dict[str, Tensor], history: list[int]) -> list[list[Tensor]]:
    """Return the states of all tokens, [place][modality] -> [D], one token and one expert after another."""
    config, n_modalities = model.config, len(model.modalities)
    states = []
    for t, item in enumerate(history):
        row = []
        for m, vector in enumerate(item_by_hand(model, weights, item)):
            x = vector + weights["position_emb.weight"][t] + weights["modality_emb.weight"][m]
            row.append(normalise(x, weights["norm.weight"], weights["norm.bias"], 1e-12))
        states.append(row)
    tokens = list(product(range(len(history)), range(n_modalities)))
    for number in range(config.n_specific_layers + config.n_cross_layers):
        layer, is_specific = below(weights, f"layers.{number}"), number < config.n_specific_layers
        mixed = {key: attention_by_hand(model, layer, states, tokens, key) for key in tokens}
        for (t, m), value in mixed.items():
            y = normalise(states[t][m] + value, layer["norm1.weight"], layer["norm1.bias"], 1e-12)
            group = m if is_specific else 0
            out = y + experts_by_hand(model, below(layer, "experts"), y, group)
            scale, shift = (layer[f"norm2.{part}"].view(-1, len(y))[group] for part in ("weight", "bias"))
            states[t][m] = normalise(out, scale, shift, 1e-12)
    return states


def item_by_hand(model: Recommender[Any], weights: dict[str, Tensor], item: int) -> list[Tensor]:
    """Return q_m of an item, one after another."""
    content = [
        affine(weights, f"projections.{name}", model.get_buffer(f"{name}_feat")[item]) for name in model.modalities[1:]
    ]  # fmt: skip
    return [weights["item_emb.weight"][item], *content]


def attention_by_hand(
    model: Recommender[Any],
    layer: dict[str, Tensor],
    states: list[list[Tensor]],
    tokens: list[tuple[int, int]],
    key: tuple[int, int],
) -> Tensor:
    """Return what the token `key` = (place, modality) reads of all tokens of its own and of earlier places."""
    dim, width = model.config.hidden_dim, model.config.hidden_dim // model.config.n_heads
    seen = {(s, m): affine(layer, "attention.qkv", states[s][m]) for s, m in tokens if s <= key[0]}
    heads = []
    for start in range(0, dim, width):
        query = seen[key][start : start + width]
        logits = [dot(query, x[dim + start : dim + start + width]) / math.sqrt(width) for x in seen.values()]
        values = [x[2 * dim + start : 2 * dim + start + width] for x in seen.values()]
        heads.append(sum(share * value for share, value in zip(softmax(logits), values, strict=True)))
    return affine(layer, "attention.out", torch.cat(heads))


def experts_by_hand(model: Recommender[Any], weights: dict[str, Tensor], y: Tensor, group: int) -> Tensor:
    """Return sum_e p_e FFN_e(y), one expert after another."""
    n_experts, inner, dim = model.config.n_experts, model.config.inner_dim, len(y)
    up, up_bias = (
        weights["up.weight"][group],
        weights["up.bias"].view(-1, n_experts * inner)[group],
    )
    down, down_bias = weights["down.weight"][group], weights["down_bias"].view(-1, n_experts, dim)[group]
    shares = [torch.ones((), dtype=y.dtype)]
    if n_experts > 1:
        bias = weights["router.bias"].view(-1, n_experts)[group]
        shares = softmax(list(weights["router.weight"][group] @ y + bias))
    total = torch.zeros_like(y)
    for e, share in enumerate(shares):
        own = slice(e * inner, (e + 1) * inner)
        total = total + share * (down[:, own] @ gelu(up[own] @ y + up_bias[own]) + down_bias[e])
    return total


def contrast_by_hand(
    queries: list[Tensor], keys: list[Tensor], targets: list[int], temperature: float
) -> Tensor:
    """Return the mean over rows of -log softmax of cosines, other rows of the same target left out."""
    losses = []
    for i, query in enumerate(queries):
        others = [j for j in range(len(keys)) if j == i or targets[j] != targets[i]]
        cosines = [dot(query, keys[j]) / (query.norm() * keys[j].norm() * temperature) for j in others]
        losses.append(minus_log_share(cosines, others.index(i)))
    return mean(losses)


def losses_by_hand(
    model: Recommender[Any], weights: dict[str, Tensor], histories: list[list[int]], targets: list[int]
) -> dict[str, Tensor]:
    """Return cross entropy and contrasts of one history after another."""
    last = [by_hand(model, weights, history)[-1] for history in histories]
    items = [item_by_hand(model, weights, item) for item in range(1, model.n_items + 1)]
    ce = []
    for states, target in zip(last, targets, strict=True):
        scores = [sum(dot(u, q) for u, q in zip(states, item, strict=True)) for item in items]
        ce.append(minus_log_share(scores, target - 1))
    own, terms = [items[target - 1] for target in targets], {"ce": mean(ce)}
    content = range(1, len(model.modalities))
    for name, is_same in (("same", True), ("cross", False)):
        terms[name] = model.config.contrast_weight * sum(
            contrast_by_hand([u[a] for u in last], [q[b] for q in own], targets, model.config.temperature)
            for a, b in product(content, content)
            if (a == b) == is_same
        )
    return terms


@EXPERTS
@pytest.mark.parametrize("depth", [(1, 1), (0, 2), (2, 0)], ids=str)
def test_losses_and_gradients_are_those_of_plain_loops(depth: tuple[int, int], n_experts: int) -> None:
    """All positions of all histories in one pass, against each prefix by itself."""
    settings = {"n_specific_layers": depth[0], "n_cross_layers": depth[1], "n_experts": n_experts}
    view = view_of([[1, 2, 3, 4], [5, 2, 1], [3, 3, 2]])
    catalog = catalog_of(view, n_items=12, max_len=4)
    model = make(catalog=catalog, **settings)
    model.text_feat, model.image_feat = model.text_feat.double(), model.image_feat.double()
    batch = training_batch(model, view)
    prefixes = [[1], [1, 2], [1, 2, 3], [5], [5, 2], [3], [3, 3]]
    order = [prefixes.index(_history_at(batch, slot)) for slot in batch.slot.tolist()]
    weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    expected = losses_by_hand(model, weights, [prefixes[k] for k in order], batch.target.tolist())
    terms = model.loss(batch)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-10, atol=1e-12)
    torch.stack(list(expected.values())).sum().backward()
    _, computed = gradients(model, batch)
    for name, gradient in computed.items():
        wanted = weights[name].grad
        assert wanted is not None
        if name == "item_emb.weight":
            wanted[0] = 0.0
        torch.testing.assert_close(
            gradient, wanted, rtol=1e-8, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}"
        )


def _history_at(batch: Batch, slot: int) -> list[int]:
    """Return the items of the history up to a slot."""
    first = slot - int(batch.position.flatten()[slot])
    return batch.item_seq.flatten()[first : slot + 1].tolist()


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


def test_equal_experts_answer_like_one_whatever_the_router_says() -> None:
    """Shares sum to 1: what they multiply and what they add."""
    experts, y = mixture(2, 3), torch.randn(2, 9, 4, dtype=torch.float64)
    one = mixture(2, 1)
    with torch.no_grad():
        experts.up.weight.copy_(one.up.weight.repeat(1, 3, 1))
        experts.up.bias.copy_(one.up.bias.view(2, 6).repeat(1, 3).flatten())
        experts.down.weight.copy_(one.down.weight.repeat(1, 1, 3))
        experts.down_bias.copy_(one.down_bias.view(2, 4).repeat(1, 3).flatten())
    torch.testing.assert_close(experts(y), one(y))


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
    """Pictures as keys that nobody sees, and without their part of the score, are no pictures."""
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
        ValueError, match="pre-training relates texts and pictures to targets, and none are read"
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
