"""DIF-SR: section "How to check it" of its specification, and the network against plain loops."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.errors import UsageError
from mmbench.models.base import Recommender
from tests.models import reference_dif_sr, waves
from tests.models.reference_dif_sr import World
from tests.models.test_reference import RANKED, assert_terms_and_gradients, catalog, leaves, make, step_of
from tests.models.toy import (
    N_CATEGORIES,
    history_batch,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
    view_of,
)
from tests.models.waves import TOY_HISTORIES, bias_wave, name_of, put, put_map, put_norm, queries, wave

NO_DROPOUT = {"dropout": 0.0, "attn_dropout": 0.0}
FUSIONS: list[dict[str, Any]] = [
    {"fusion": "sum"},
    {"fusion": "concat"},
    {"fusion": "gate"},
    {"fusion": "concat", "fusion_input": "masked"},
    {"fusion": "gate", "fusion_input": "masked"},
]


EACH_FUSION = pytest.mark.parametrize("settings", FUSIONS, ids=name_of)


def lively(**settings: Any) -> Recommender[Any]:
    """Return a model in evaluation mode with weights so large that every part shows."""
    sizes = {"hidden_dim": 8, "attribute_dim": 6, "inner_dim": 6}
    model = toy_model("dif-sr", toy_catalog(), **sizes | NO_DROPOUT | settings)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


# -- numbers of the released code --------------------------------------------------------------------------------


def wave_model(**settings: Any) -> Recommender[Any]:
    sizes = {"hidden_dim": 4, "attribute_dim": 6, "inner_dim": 8, "n_heads": 2, "n_layers": 1}
    model = toy_model("dif-sr", waves.catalog_with(waves.CATEGORIES), **sizes, **NO_DROPOUT, **settings)
    model.double()
    put(model, "item_emb.weight", wave(0, 7, 4))
    put(model, "position_emb.weight", wave(1, 4, 4))
    # Row 0 of the five is padding's.
    put(model, "attribute_table.emb.weight", wave(2, 5, 6)[1:])
    put(model, "attribute_head.weight", wave(4, 5, 4)[1:])
    put(model, "attribute_head.bias", bias_wave(4, 5)[1:])
    put_norm(model, "norm", 3, 4)
    block = model.blocks[0]
    for stream, width, k in ((1, 4, 5), (2, 4, 8), (0, 6, 10)):  # ids, positions, attributes
        put_map(block, f"attention.query.{stream}", (width, width), k)
        put_map(block, f"attention.key.{stream}", (width, width), k + 1)
    put_map(block, "attention.value", (4, 4), 7)
    if model.config.fusion == "gate":
        put_map(block, "attention.fusion.inner", (4, 4), 12)
        put_map(block, "attention.fusion.energy", (1, 4), 13)
    if model.config.fusion == "concat":
        put_map(block, "attention.fusion.concat", (4, 12), 14)
    put_map(block, "attention.out", (4, 4), 15)
    put_norm(block, "norm1", 16, 4)
    put_map(block, "up", (8, 4), 17)
    put_map(block, "down", (4, 8), 18)
    put_norm(block, "norm2", 19, 4)
    return model


@pytest.mark.parametrize(
    ("settings", "cross_entropy", "attribute"),
    [
        (FUSIONS[0], 2.9696114402, 0.8354817633),
        (FUSIONS[1], 2.9684485585, 0.8355556448),
        (FUSIONS[2], 2.9688172033, 0.8355523977),
        (FUSIONS[3], 2.9683882175, 0.8356049576),
        (FUSIONS[4], 2.9688209499, 0.8355558189),
    ],
    ids=[name_of(settings) for settings in FUSIONS],
)
def test_losses_of_the_released_code(
    settings: dict[str, Any], cross_entropy: float, attribute: float
) -> None:
    """The released code counts padding as a class of the softmax."""
    model, target = wave_model(**settings), torch.tensor(waves.TARGETS)
    batch = waves.with_targets(history_batch(model, waves.HISTORIES), target)
    logits = model.query(batch) @ model.item_emb.weight.T
    assert F.cross_entropy(logits, target).item() == pytest.approx(cross_entropy, abs=6e-11)
    terms = model.loss(batch)
    assert terms["attribute"].item() / 5 == pytest.approx(attribute, abs=6e-11)
    without_padding = F.cross_entropy(logits[:, 1:], target - 1)
    assert terms["ce"].item() == pytest.approx(without_padding.item(), abs=1e-12)


def test_scores_of_the_released_code() -> None:
    model = wave_model(fusion="gate")
    expected = [0.7860230709, -0.9192795374, 0.9463083641, -0.8639862261, 0.6818258845, -0.4208769356]
    batch = history_batch(model, waves.HISTORIES)
    scores, padding = model.score(batch)[0], model.query(batch)[0] @ model.item_emb.weight[0]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=6e-11)
    assert padding.item() == pytest.approx(-0.5619374579, abs=6e-11)


# -- the network against plain loops -----------------------------------------------------------------------------


def built(**settings: Any) -> tuple[Recommender[Any], World]:
    model, known = make("dif-sr", attribute_dim=6, **settings), catalog()
    assert known.category_ids is not None
    assert known.category_offsets is not None
    ids, ends = known.category_ids.tolist(), known.category_offsets.tolist()
    return model, World(
        categories=[ids[ends[i] : ends[i + 1]] for i in range(known.n_items + 1)],
        n_categories=known.n_categories, max_len=known.max_len, n_layers=2, n_heads=2, **settings,
    )  # fmt: skip


@pytest.mark.parametrize("settings", [*FUSIONS, {"pooling": "mean", "attribute_weight": 2.0}], ids=name_of)
def test_scores_losses_and_gradients(settings: dict[str, Any]) -> None:
    model, world = built(**settings)
    batch, samples = step_of(model, model.needs.samples[0])
    weights = leaves(model)
    expected = reference_dif_sr.losses(weights, world, samples)
    assert_terms_and_gradients(model.train().loss(batch), expected, model, weights)
    scores = model.eval().score(history_batch(model, RANKED))
    for row, items in enumerate(RANKED):
        state = reference_dif_sr.state(weights, world, items)
        torch.testing.assert_close(
            scores[row], torch.stack(reference_dif_sr.scores(weights, state)), rtol=1e-10, atol=1e-12
        )


# -- properties --------------------------------------------------------------------------------------------------


def test_the_sum_without_side_scores_is_sasrec_without_positions() -> None:
    model = lively(fusion="sum")
    other = toy_model("sasrec", toy_catalog(), hidden_dim=8, inner_dim=6).double().eval()
    weights = {name: value for name, value in model.state_dict().items() if ".attention." not in name}
    state = {name.replace("blocks.", "encoder.blocks."): value for name, value in weights.items()}
    for layer, block in enumerate(model.blocks):
        attention, prefix = block.attention, f"encoder.blocks.{layer}.attention"
        for kind in ("weight", "bias"):
            parts = [getattr(part, kind) for part in (attention.query[1], attention.key[1], attention.value)]
            state |= {
                f"{prefix}.qkv.{kind}": torch.cat(parts),
                f"{prefix}.out.{kind}": getattr(attention.out, kind),
            }
    own = {name: value for name, value in state.items() if name in other.state_dict()}
    other.load_state_dict({**own, "position_emb.weight": torch.zeros_like(other.position_emb.weight)})
    assert (queries(model) - queries(other)).abs().max() > 1e-3
    with torch.no_grad():
        for block in model.blocks:
            for stream in (0, 2):
                for parameter in block.attention.query[stream].parameters():
                    parameter.zero_()
    torch.testing.assert_close(queries(model), queries(other), rtol=0, atol=1e-12)


def random_scores() -> tuple[list[Tensor], list[Tensor]]:
    """Return queries and keys [2, 2, 8, c] of three streams, the last the same for both rows."""
    torch.manual_seed(0)
    sizes = [(2, 2, 8, 3), (2, 2, 8, 4), (1, 2, 8, 4)]
    return [torch.randn(size, dtype=torch.float64) for size in sizes], [
        torch.randn(size, dtype=torch.float64) for size in sizes
    ]


def test_the_sum_as_one_product_is_the_sum_of_three() -> None:
    fusion = lively(fusion="sum").blocks[0].attention.fusion
    queries, keys = random_scores()
    expected = sum(q @ k.mT for q, k in zip(queries, keys, strict=True))
    torch.testing.assert_close(fusion(queries, keys, None), expected, rtol=0, atol=1e-13)


def test_a_gate_without_opinion_is_the_mean() -> None:
    fusion = lively(fusion="gate").blocks[0].attention.fusion
    queries, keys = random_scores()
    mean = sum(q @ k.mT for q, k in zip(queries, keys, strict=True)) / 3
    with torch.no_grad():
        assert (fusion(queries, keys, None) - mean).abs().max() > 1e-3
        # Weights of a mean sum to 1: equal scores stay what they are, whatever the gate thinks.
        same = fusion([queries[1]] * 3, [keys[1]] * 3, None)
        torch.testing.assert_close(same, queries[1] @ keys[1].mT, rtol=0, atol=1e-13)
        for parameter in fusion.parameters():
            parameter.zero_()
        torch.testing.assert_close(fusion(queries, keys, None), mean, rtol=0, atol=1e-13)


@EACH_FUSION
def test_side_information_moves_nothing_but_attention(settings: dict[str, Any]) -> None:
    """A history of one event has nothing to choose from: its state rests on its id alone."""
    model = lively(**settings)
    with torch.no_grad():
        before = queries(model)
        model.attribute_table.emb.weight.mul_(-3.0)
        model.position_emb.weight.add_(torch.randn_like(model.position_emb.weight))
        moved = (queries(model) - before).abs().amax(1)
    alone = TOY_HISTORIES.index([1])
    assert moved[alone] == 0
    assert (moved[torch.arange(4) != alone] > 1e-4).all()


@EACH_FUSION
def test_only_raw_scores_let_padding_take_part(settings: dict[str, Any]) -> None:
    model = lively(**settings)
    before = queries(model)
    with torch.no_grad():
        model.item_emb.weight[0] += torch.randn(8, dtype=torch.float64)
    moved = (queries(model) - before).abs().amax(1)
    full = [len(history) == 8 for history in TOY_HISTORIES]
    assert moved[full].max() == 0
    if settings["fusion"] == "sum" or settings.get("fusion_input") == "masked":
        assert moved.max() == 0
    else:
        assert moved[[0, 3]].min() > 1e-6  # a history of one event cannot show it


@EACH_FUSION
def test_needs_follow_from_what_the_fusion_sees(settings: dict[str, Any]) -> None:
    needs = lively(**settings).needs
    is_raw = settings["fusion"] != "sum" and settings.get("fusion_input", "raw") == "raw"
    assert needs.causal is not is_raw
    assert needs.samples == (("prefix",) if is_raw else ("all", "prefix", "last-window"))
    assert needs.layout == ("packed" if settings["fusion"] == "sum" else "fixed" if is_raw else "padded")


@pytest.mark.parametrize("fusion", ["concat", "gate"])
def test_raw_scores_would_show_later_items(fusion: str) -> None:
    """Why raw fusions are trained on prefixes: the state at an event moves with the event after it."""
    model = lively(fusion=fusion)

    def second_state(history: list[int]) -> Tensor:
        with torch.no_grad():
            states: Tensor = model.encode(history_batch(model, [history]))[0, 1]
        return states

    assert (second_state([4, 9, 2]) - second_state([4, 9, 7])).abs().max() > 1e-6


def test_padding_starts_with_a_vector_like_any_other() -> None:
    """Raw fusions read it, and nothing trains it."""
    table = toy_model("dif-sr", toy_catalog()).item_emb.weight
    assert table[0].std().item() == pytest.approx(0.02, rel=0.3)


def test_an_untrained_predictor_of_categories_tosses_coins() -> None:
    model = toy_model("dif-sr", toy_catalog())
    loss = model.loss(training_batch(model, toy_view()))["attribute"].item() / 5
    assert loss == pytest.approx(math.log(2), abs=0.03)


def test_labels_are_the_target_s_categories() -> None:
    """A predictor that is sure of one category everywhere pays by how many targets lack it."""
    model, view = lively(), view_of([[9, 4], [9, 5], [9, 3], [9, 6], [9, 7]])
    batch = training_batch(model, view)
    with torch.no_grad():
        model.attribute_head.weight.zero_()
        model.attribute_head.bias.copy_(torch.tensor([30.0, 0, 0, 0, 0]))
        loss = model.loss(batch)["attribute"].item() / 5
    # Item 5 is in category 0, and so on; of targets 4, 5, 3, 6, 7 only that one.
    expected = (4 * 30 + 4 * 5 * math.log(2)) / (5 * N_CATEGORIES)
    assert loss == pytest.approx(expected, rel=1e-9)


def count(name: str, catalog: Any, **settings: Any) -> int:
    return sum(p.numel() for p in toy_model(name, catalog, **settings).parameters())


def test_parameters_are_those_of_the_formula() -> None:
    """The specification's count has a row and an output for padding; here the C categories have none."""
    n_items, c = 30, N_CATEGORIES
    per_layer = 5 * 4160 + 2 * 4160 + 2601 + 4160 + 33_088 + 256
    expected = 2 * per_layer + 3200 + 128 + 65 * c + (n_items + 1) * 64 + c * 64
    assert count("dif-sr", toy_catalog(max_len=50)) == expected


def test_parameters_of_the_published_log() -> None:
    """11,924 items and 729 categories; 257 numbers of the log's 4,868,565 predict the category of padding."""
    categories = [[]] + [[i % 729] for i in range(11_924)]
    catalog = waves.catalog_with(categories, max_len=50)
    assert count("dif-sr:official", catalog) == 4_868_565 - 257


def test_frozen_attributes_are_stored_and_not_trained() -> None:
    sizes = {"attribute_dim": 512}
    model = toy_model("dif-sr:frozen-attributes", toy_catalog(), **sizes)
    assert "attribute_table.emb.weight" not in dict(model.named_parameters())
    vectors = model.state_dict()["attribute_table.emb.weight"]
    assert vectors.std().item() == pytest.approx(1, abs=0.08)
    trained = toy_model("dif-sr", toy_catalog(), **sizes).attribute_table.emb.weight
    assert trained.requires_grad
    assert trained.std().item() == pytest.approx(0.02, abs=0.002)


# -- precision and bad input -------------------------------------------------------------------------------------


def test_unscaled_scores_stay_in_single_precision_under_autocast() -> None:
    model = lively(fusion="gate").float()
    kinds: list[torch.dtype] = []
    attention = model.blocks[0].attention
    attention.fusion.register_forward_hook(lambda _, args, out: kinds.extend([args[0][0].dtype, out.dtype]))
    batch = training_batch(model, toy_view())
    plain = model.loss(batch)["ce"].item()
    kinds.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.loss(batch)["ce"].item() == pytest.approx(plain, rel=0.02)
    assert kinds == [torch.float32] * 2


def test_heads_must_share_the_attributes_alike() -> None:
    with pytest.raises(UsageError, match="attribute_dim 5 is not divisible by n_heads 2"):
        toy_model("dif-sr", toy_catalog(), attribute_dim=5)


def test_a_data_set_without_categories() -> None:
    with pytest.raises(
        ValueError, match="reads categories of items and the data set has none; choose another"
    ):
        toy_model("dif-sr", toy_catalog(features=False))
