"""S3-Rec_ITV: the labels that vectors give, product codes and vectors themselves."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.make_s3rec import SMALL, prefixes, pretraining
from tests.models.test_s3rec_itv import FEW, HISTORIES, ITV, make
from tests.models.toy import (
    N_ITEMS,
    toy_catalog,
    toy_model,
    view_of,
)

# -- codes -----------------------------------------------------------------------------------------------------------


def classes_of(labels: Any) -> list[set[int]]:
    return [set(ids[real].tolist()) for ids, real in zip(labels.ids, labels.is_real, strict=True)]


def pictures(n_items: int, *, shared: int = 0) -> tuple[Tensor, Tensor]:
    """Return features [N + 1, 12] and who has them; item 2 has none, the last `shared` items an equal picture."""
    feat = torch.randn(n_items + 1, 12, generator=torch.Generator().manual_seed(2))
    feat[[0, 2]] = 0
    if shared:
        feat[-shared:] = feat[-1].clone()
    return feat, feat.ne(0).any(1)


def test_items_have_a_code_in_each_block_and_codes_do_not_depend_on_the_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, (feat, present) = make(n_blocks=3, n_codes=64).config, pictures(200)
    assert ITV.codes_per_block(config, 200) == 10
    assert ITV.codes_per_block(config, 30) == 2
    assert ITV.codes_per_block(config, 9000) == 64
    classes = classes_of(ITV.code_labels(config, feat, present))
    torch.manual_seed(9)
    assert classes_of(ITV.code_labels(config, feat, present)) == classes
    for item, owned in enumerate(classes[:-1]):
        assert sorted(label // 10 for label in owned) == ([0, 1, 2] if present[item] else [])
    assert classes[-1] == set(), "[MASK] has no code"
    # The length of a vector tells nothing.
    length = 0.1 + 9 * torch.rand(len(feat), 1, generator=torch.Generator().manual_seed(3))
    assert classes_of(ITV.code_labels(config, length * feat, present)) == classes
    passes: list[int] = []
    coded = ITV.product_codes
    monkeypatch.setattr(ITV, "product_codes", lambda *args: passes.append(args[3]) or coded(*args))
    ITV.code_labels(config, feat, present)
    assert passes == [25]


def test_codes_of_most_items_are_left_out() -> None:
    """120 of 200 items share a picture: their codes are no classes, and those of the others stay."""
    feat, present = pictures(200, shared=120)
    kept = ITV.code_labels(make(max_code_share=1.0).config, feat, present)
    labels = ITV.code_labels(make().config, feat, present)
    assert labels.n_classes == kept.n_classes == 8
    common = classes_of(kept)[200]
    assert len(common) == 2
    for item, owned in enumerate(classes_of(kept)):
        assert classes_of(labels)[item] == owned - common
    # With few codes, half of the items have one of them.
    few = make(n_codes=3).config
    assert [len(owned) for owned in classes_of(ITV.code_labels(few, feat, present))[3:200]] == [2] * 197


def test_terms_divided_by_their_number_of_classes() -> None:
    batch, terms = prefixes(view_of(HISTORIES)), []
    for class_mean in (False, True):
        model = pretraining(make(class_mean=class_mean))
        torch.manual_seed(3)
        terms.append(model.loss(batch))
    n_attributes, n_codes = model.extra_state()["n_attributes"], model.extra_state()["image_codes"]
    assert n_codes == 4
    assert n_attributes != n_codes
    for name, n_classes in (("aap", n_attributes), ("map_image", n_codes), ("mip", 1)):
        assert terms[1][name].item() == pytest.approx(terms[0][name].item() / n_classes)


# -- vectors ---------------------------------------------------------------------------------------------------------


def test_items_of_equal_features_are_not_told_apart() -> None:
    catalog = toy_catalog()
    assert catalog.image_feat is not None
    same = catalog.image_feat.clone()
    same[9] = same[4]
    model: Any = toy_model(
        "s3rec-itv", replace(catalog, image_feat=same), **(SMALL | FEW | {"image": "dense"})
    )
    side, items = model.sides["image"], torch.tensor([4, 9])
    loss = side.contrasts(torch.randn(2, 12), torch.randn(2, 12), items, torch.ones(2, dtype=torch.bool))
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_a_perfect_match_among_orthogonal_vectors_has_the_smallest_loss() -> None:
    catalog = toy_catalog()
    assert catalog.has_image is not None
    feat = torch.eye(N_ITEMS + 1)[:, 1:13]
    catalog = replace(catalog, image_feat=feat, has_image=feat.ne(0).any(1))
    model: Any = toy_model("s3rec-itv", catalog, **(SMALL | FEW | {"image": "dense"})).double()
    side, items = model.sides["image"], torch.tensor([4, 9, 2, 7, 7, 1])
    with torch.no_grad():
        side.key.weight.copy_(torch.eye(12))
        side.key.bias.zero_()
    query = 3 * side.feat[items]
    is_chosen = torch.tensor([True, True, True, True, True, False])
    loss = side.contrasts(query, side.feat[items], items, is_chosen)
    assert loss.item() == pytest.approx(5 * math.log1p(3 * math.exp(-1 / 0.07)), rel=1e-9)


def test_a_full_pool_draws_from_the_steps_items_alone_and_from_all_of_them() -> None:
    """The same items in another order, with padding, give the same pool; other items another."""
    side = make(image="dense", pool=6).sides["image"]
    drawn: dict[int, int] = {}
    for step in range(300):
        items = torch.randperm(18, generator=torch.Generator().manual_seed(step))[:15] + 13
        is_chosen = torch.ones(15, dtype=torch.bool)
        others, is_real = side.draw_others(items, is_chosen)
        assert is_real.all()
        assert len(set(others.tolist())) == 6
        assert set(others.tolist()) <= set(items.tolist())
        padded = torch.cat([items.flip(0), items, torch.tensor([1, 2])])
        chosen = torch.cat([is_chosen, ~is_chosen, torch.zeros(2, dtype=torch.bool)])
        assert set(side.draw_others(padded, chosen)[0].tolist()) == set(others.tolist())
        for other in others.tolist():
            drawn[other] = drawn.get(other, 0) + 1
    assert sorted(drawn) == list(range(13, 31))
    for count in drawn.values():  # 100 on average
        assert 60 < count < 140
