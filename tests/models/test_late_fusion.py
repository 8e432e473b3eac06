"""Late fusion: each member is the backbone over one modality, and the sum is that of its formula."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmbench.models.base import Catalog
from mmbench.models.ensemble import combine_scores
from mmbench.nn.score_scales import FusionWeights, rescale, weighted_sum
from mmbench.runs.execute import run_cell
from mmbench.runs.plan import make_cell
from mmbench.runs.rerank import rank_again, reopen
from mmbench.settings.config import Layer, Origin
from tests.models.toy import history_batch, toy_catalog, toy_model, toy_view, training_batch
from tests.prepared import write_toy

SMALL: dict[str, Any] = {"hidden_dim": 12, "inner_dim": 16, "n_layers": 1}
HISTORIES = [[4], [1, 2, 5], [9, 8, 7, 6, 5, 4, 1], [3], [3, 3]]  # item 3 has neither text nor picture


def fusion(name: str = "late-fusion", **settings: Any) -> Any:
    return toy_model(name, toy_catalog(), **{**SMALL, "dropout": 0.0, "attn_dropout": 0.0, **settings}).eval()


def test_the_id_member_is_sasrec_in_scores_and_loss() -> None:
    """Also with dropout, which draws for the same places in the same order."""
    model = fusion("late-fusion:id", dropout=0.5, attn_dropout=0.25)
    sasrec = toy_model("sasrec", toy_catalog(), **SMALL, dropout=0.5, attn_dropout=0.25).eval()
    member = model.members["id"]
    renamed = {key.replace("items.", "item_emb."): value for key, value in member.state_dict().items()}
    sasrec.load_state_dict(renamed, strict=True)
    batch = history_batch(model, HISTORIES)
    torch.testing.assert_close(model.score(batch), sasrec.score(batch))
    step, losses = training_batch(model, toy_view()), []
    for network in (model, sasrec):
        torch.manual_seed(0)
        losses.append(next(iter(network.train().loss(step).values())))
    assert losses[0] != model.eval().loss(step)["ce_id"]
    torch.testing.assert_close(*losses)


def test_members_start_small_and_map_features_of_mean_norm_one_whatever_their_width() -> None:
    model = fusion(hidden_dim=12)  # texts are as wide
    for name in ("text", "image"):
        items = model.members[name].items
        assert items.feat[items.present].norm(dim=1).mean().item() == pytest.approx(1.0)
        assert items.map.weight.std().item() == pytest.approx(0.02, rel=0.3)
        assert not items.map.bias.any()
    assert model.members["id"].items.weight.std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_member_over_features_has_no_parameter_per_item(modality: str) -> None:
    """Neither inputs nor outputs: items of equal features have equal scores, whatever was learned."""
    model = fusion(f"late-fusion:{modality}")
    assert all(31 not in parameter.shape and 30 not in parameter.shape for parameter in model.parameters())
    scores = model.score(history_batch(model, HISTORIES))
    lacking = [item - 1 for item in ((3, 7) if modality == "text" else (3, 11, 12))]
    assert (scores[:, lacking] == scores[:, lacking[:1]]).all()


def test_the_score_is_the_weighted_sum_of_standardised_scores_by_hand() -> None:
    model = fusion()
    model.set_weights(FusionWeights((5, 3, 2), "test"))
    batch = history_batch(model, HISTORIES)
    expected = np.zeros((len(HISTORIES), 30))
    catalog = toy_catalog()
    for row, history in enumerate(HISTORIES):
        total = 0.0
        for name, weight in (("id", 0.5), ("text", 0.3), ("image", 0.2)):
            has = np.ones(31, bool) if name == "id" else getattr(catalog, f"has_{name}").numpy()
            if not has[history].any():
                continue
            total += weight
            with model.alone(name):
                r = model.score(batch)[row].detach().double().numpy()
            known = r[has[1:]]
            z = np.where(has[1:], (r - known.mean()) / known.std(), 0.0)
            expected[row] += weight * z
        expected[row] /= total
    np.testing.assert_allclose(model.score(batch).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_equal_weights_rank_as_the_ensemble_that_adds_standardised_scores() -> None:
    scores = [torch.randn(9, 40, generator=torch.Generator().manual_seed(k)).double() for k in range(3)]
    scaled = torch.stack([rescale(member, "zscore") for member in scores])
    expected = combine_scores(list(scores), "zscore").argsort(1)
    assert torch.equal(weighted_sum(scaled, torch.ones(3, dtype=torch.int64)).argsort(1), expected)


def test_each_member_is_trained_on_its_own() -> None:
    model = fusion()
    step = training_batch(model, toy_view())
    assert [stage.name for stage in model.stages] == ["id", "text", "image"]
    for stage in model.stages:
        model.start_stage(stage.name)
        terms = model.loss(step)
        assert list(terms) == [f"ce_{stage.name}"]
        terms[f"ce_{stage.name}"].backward()
        assert model.is_dot_product, "validation of a stage ranks by its member"
        batch = history_batch(model, HISTORIES)
        torch.testing.assert_close(model.score(batch), model.query(batch) @ model.item_table().T)
    alone = {name: {p.requires_grad for p in member.parameters()} for name, member in model.members.items()}
    assert alone == {"id": {False}, "text": {False}, "image": {True}}


@pytest.mark.parametrize("model", ["late-fusion", "ease-text"])
def test_weights_from_validation_are_stored_and_used_again(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmbench.evaluation.fusion.FEWEST_USERS", 100)
    prepared = write_toy(tmp_path / "data")
    settings = {"max_epochs": 2, "batch_size": 64, **SMALL} if model == "late-fusion" else {}
    layers = [Layer(Origin.user, settings)]
    cell = make_cell(
        results_dir=tmp_path / "results", prepared=prepared, model=model, seed=1, overrides=layers
    )
    record = run_cell(cell, device="cpu", debug=True)
    assert record.extra["weights_from"] == "validation NDCG@10"
    assert sum(record.extra["shares"]) == 10
    shares = record.extra["shares"]
    monkeypatch.setattr("mmbench.evaluation.fusion.FEWEST_USERS", 10_000)  # nothing is chosen again
    assert reopen(record, data_dir=tmp_path / "data", device="cpu").model.shares.tolist() == shares
    assert rank_again(record, data_dir=tmp_path / "data", device="cpu").n_changed == 0
    names = {ranking.name for ranking in (record.ranking("test~part=id"), record.ranking("test~part=text"))}
    assert names == {"test~part=id", "test~part=text"}


# -- ease-text --------------------------------------------------------------------------------------------


def cosines(catalog: Catalog) -> Tensor:
    assert catalog.text_feat is not None
    unit = torch.nn.functional.normalize(catalog.text_feat.double(), dim=1)
    return unit @ unit.T


def test_the_content_member_sums_cosines_and_leaves_the_item_itself_out() -> None:
    catalog = toy_catalog()
    model: Any = toy_model("ease-text", catalog, decay=0.5)
    similar = cosines(catalog).numpy()
    with model.alone("text"):
        scores = model.score(history_batch(model, HISTORIES)).numpy()
    for row, history in enumerate(HISTORIES):
        for item in range(1, 31):
            terms = [
                0.5 ** (len(history) - 1 - k) * similar[h, item] for k, h in enumerate(history) if h != item
            ]
            assert scores[row, item - 1] == pytest.approx(sum(terms), abs=1e-6)


def test_its_id_member_is_ease_and_without_content_it_is_ease_alone() -> None:
    catalog = toy_catalog()
    ease: Any = toy_model("ease", catalog)
    batch = history_batch(ease, HISTORIES)
    both: Any = toy_model("ease-text", catalog)
    with both.alone("id"):
        torch.testing.assert_close(both.score(batch), ease.score(batch).double())
    only: Any = toy_model("ease-text", catalog, modalities=["id"])
    torch.testing.assert_close(only.score(batch), ease.score(batch).double())
    assert only.parts == ()


def test_its_items_without_text_have_the_mean_of_the_text_member() -> None:
    """Toy items 3 and 7; a history of item 3 alone is scored by EASE, at whatever weight."""
    model: Any = toy_model("ease-text", toy_catalog())
    batch = history_batch(model, HISTORIES)
    scaled = {}
    for name in ("id", "text"):
        with model.alone(name):
            scores = model.score(batch).double()
        known = [item for item in range(30) if name == "id" or item not in (2, 6)]
        scaled[name] = torch.zeros_like(scores)
        deviation = scores[:, known].std(1, keepdim=True, correction=0).clamp(min=1e-9)
        scaled[name][:, known] = (scores[:, known] - scores[:, known].mean(1, keepdim=True)) / deviation
    expected = (scaled["id"] + scaled["text"]) / 2
    expected[3:] = scaled["id"][3:]  # histories of item 3
    torch.testing.assert_close(model.score(batch), expected, rtol=1e-5, atol=1e-6)


def test_too_large_a_catalogue_is_refused_with_settings_of_this_model() -> None:
    with pytest.raises(
        ValueError,
        match=r"--set ease-text\.max_items=18\b.*ease-text\.solver=sparse .* or ease-text\.solver=top",
    ):
        toy_model("ease-text", toy_catalog(), max_items=5)
