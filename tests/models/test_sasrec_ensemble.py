"""SASRec ensemble: section "How to check it" of its specification, and its members as stages of a run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmbench.errors import UsageError
from mmbench.evaluation.ranking import rank
from mmbench.models.base import Catalog, Recommender
from mmbench.models.ensemble import combine_scores, member_names
from mmbench.settings.config import TrainConfig
from mmbench.training.trainer import Trainer
from tests.models.toy import (
    gradients,
    history_batch,
    loss_by_hand,
    toy_catalog,
    toy_model,
    toy_view,
    training_batch,
)
from tests.scorers import random_view
from tests.toy_training import KillAt, KilledError

HISTORIES = [[4, 9, 2], [1], [3, 3, 8, 20, 30, 7, 7, 2], [11, 12]]
LIKE_SASREC = {"hidden_dim": 24, "init": "xavier-uniform"}
VALID = random_view()
BOTH = pytest.mark.parametrize("name", ["sasrec-ensemble", "trimlp-ensemble"])


def make(name: str = "sasrec-ensemble", catalog: Catalog | None = None, **settings: Any) -> Recommender[Any]:
    """float64 in evaluation mode."""
    model = toy_model(name, catalog or toy_catalog(), **{"hidden_dim": 24, **settings})
    return model.double().eval()


def sasrec(**settings: Any) -> Recommender[Any]:
    return toy_model("sasrec:official", toy_catalog(), **{"hidden_dim": 24, "inner_dim": 24, **settings})


@BOTH
def test_the_score_is_the_sum_of_the_members(name: str) -> None:
    model = make(name)
    batch = history_batch(model, HISTORIES)
    members = model.member_scores(batch)
    assert list(members) == ["id", "text", "image"]
    total = members["id"] + members["text"] + members["image"]
    torch.testing.assert_close(model.score(batch), total)
    assert model.is_dot_product
    torch.testing.assert_close(model.query(batch) @ model.item_table().T, total)


def test_one_id_member_is_sasrec_to_the_last_bit() -> None:
    ensemble = toy_model("sasrec-ensemble", toy_catalog(), **LIKE_SASREC, modalities=["id"])
    single = sasrec()
    batch = training_batch(single, toy_view())
    losses = []
    for model in (ensemble, single):
        torch.manual_seed(5)  # dropout is on
        losses.append(model.loss(batch)["bce"])
    assert torch.equal(*losses)
    ensemble.eval()
    single.eval()
    histories = history_batch(single, HISTORIES)
    assert torch.equal(ensemble.query(histories), single.query(histories))
    assert torch.equal(ensemble.item_table(), single.item_table())


def test_silent_text_and_image_members_leave_sasrec() -> None:
    catalog = toy_catalog()
    assert catalog.text_feat is not None
    assert catalog.image_feat is not None
    silent = replace(
        catalog,
        text_feat=torch.zeros_like(catalog.text_feat),
        image_feat=torch.zeros_like(catalog.image_feat),
        has_text=None,
        has_image=None,
    )
    ensemble = toy_model("sasrec-ensemble", silent, **LIKE_SASREC, dropout=0.0)
    single = sasrec(dropout=0.0)
    state = single.state_dict()
    for ours, theirs in (("items", "item_emb"), ("encoder", "official_encoder")):
        state = {key.replace(f"{theirs}.", f"{ours}."): tensor for key, tensor in state.items()}
    ensemble.members["id"].load_state_dict(state)
    batch = training_batch(single, toy_view())
    loss, actual = gradients(ensemble, batch)
    expected, own = gradients(single, batch)
    assert loss == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(actual["members.id.items.weight"], own["item_emb.weight"])
    assert len(own) == sum(key.startswith("members.id.") for key in actual)
    histories = history_batch(single, HISTORIES)
    torch.testing.assert_close(ensemble.score(histories), single.score(histories))


@BOTH
def test_order_of_modalities_changes_nothing(name: str) -> None:
    first, second = make(name), make(name, modalities=["image", "id", "text"])
    batch = history_batch(first, HISTORIES)
    assert torch.equal(first.score(batch), second.score(batch))


@BOTH
def test_each_member_is_causal_and_blind_to_padding(name: str) -> None:
    model = make(name)
    for member in ("id", "text", "image"):
        model.members.alone = member
        together = model.query(history_batch(model, HISTORIES))
        alone = torch.cat([model.query(history_batch(model, [history])) for history in HISTORIES])
        torch.testing.assert_close(together, alone)
        view = toy_view()
        a = model.query(training_batch(model, view, samples="all"))
        b = model.query(training_batch(model, view, samples="prefix"))
        torch.testing.assert_close(a.sum(0), b.sum(0))


@BOTH
def test_equal_members_rank_as_one(name: str) -> None:
    model, single = make(f"{name}:three-ids"), make(name, modalities=["id"])
    assert list(model.members) == ["id", "id_2", "id_3"]
    for member in model.members.values():
        member.load_state_dict(single.members["id"].state_dict())
    batch = history_batch(model, HISTORIES)
    torch.testing.assert_close(model.score(batch), 3 * single.score(batch))


def test_repeated_members_have_names_of_their_own_and_other_weights() -> None:
    assert member_names(["id", "text", "id", "id"]) == ["id", "text", "id_2", "id_3"]
    scores = list(make("sasrec-ensemble:three-ids").member_scores(history_batch(make(), HISTORIES)).values())
    assert not torch.allclose(scores[0], scores[1])


def test_joint_loss_is_of_the_sum_and_separate_losses_are_of_each() -> None:
    model = make()
    batch = training_batch(model, toy_view())
    members = model.member_scores(batch)
    torch.testing.assert_close(model.loss(batch)["bce"], loss_by_hand("bce", sum(members.values()), batch))
    apart = make("sasrec-ensemble:separate")
    assert torch.equal(apart.score(batch), model.score(batch))
    terms = apart.loss(batch)
    assert list(terms) == ["bce_id", "bce_text", "bce_image"]
    for name, scores in members.items():
        torch.testing.assert_close(terms[f"bce_{name}"], loss_by_hand("bce", scores, batch))


def test_ways_to_combine() -> None:
    scores = [torch.randn(3, 40, dtype=torch.float64) * 10, torch.randn(3, 40, dtype=torch.float64)]
    constant = torch.full((3, 40), 2.5, dtype=torch.float64)
    standard = [
        (score - score.mean(1, keepdim=True)) / score.std(1, keepdim=True, correction=0) for score in scores
    ]
    torch.testing.assert_close(combine_scores([*scores, constant], "zscore"), sum(standard))
    torch.testing.assert_close(combine_scores(scores, "prob").sum(1), torch.full((3,), 2.0).double())
    moved = [scores[0] + torch.randn(3, 1, dtype=torch.float64), scores[1]]
    for how in ("zscore", "prob"):
        torch.testing.assert_close(combine_scores(moved, how), combine_scores(scores, how))
    logs = [
        score.log_softmax(1) for score in scores
    ]  # ranks as the raw sum does: shifted by one number per target
    raw = combine_scores(scores, "sum")
    assert torch.equal(combine_scores(logs, "sum").argsort(1), raw.argsort(1))
    assert torch.equal(combine_scores(moved, "sum").argsort(1), raw.argsort(1))


@pytest.mark.parametrize("name", ["sasrec-ensemble:separate-zscore", "trimlp-ensemble:separate-prob"])
def test_a_score_that_is_no_product_is_ranked_by_itself(name: str) -> None:
    model = make(name)
    assert not model.is_dot_product
    actual = rank(model, VALID).greater
    plain = make(name, combine="sum")
    assert plain.is_dot_product
    assert (actual != rank(plain, VALID).greater).any()


# Members one after another


def trainer(model: Recommender[Any], folder: Path, **settings: Any) -> Trainer:
    config = TrainConfig(max_epochs=4, patience=2, batch_size=64, max_len=8, lr=0.01, **settings)
    folder.mkdir(parents=True, exist_ok=True)

    def validate(current: Recommender[Any]) -> float:
        return -float(rank(current, VALID).greater.mean())

    return Trainer(model, toy_view(), validate, config, seed=3, folder=folder)


def weights_of(model: Recommender[Any], member: str) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in model.members[member].state_dict().items()}


def fitted(name: str, folder: Path, catalog: Catalog | None = None, **settings: Any) -> Recommender[Any]:
    model = toy_model(name, catalog or toy_catalog(), **{"hidden_dim": 12, **settings})
    trainer(model, folder).fit()
    return model


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@BOTH
def test_separate_members_do_not_depend_on_each_other(name: str, tmp_path: Path) -> None:
    full = fitted(f"{name}:separate", tmp_path / "full")
    catalog = toy_catalog()
    assert catalog.text_feat is not None
    wider = replace(catalog, text_feat=torch.cat([catalog.text_feat, -catalog.text_feat], 1))
    other = fitted(f"{name}:separate", tmp_path / "other", wider)  # other sizes, so other draws at the start
    without = fitted(f"{name}:separate", tmp_path / "without", modalities=["id", "text"])
    for member in ("id", "image"):
        assert equal(weights_of(full, member), weights_of(other, member)), member
    for member in ("id", "text"):
        assert equal(weights_of(full, member), weights_of(without, member)), member


@BOTH
def test_a_stage_trains_and_ranks_its_member_alone(name: str, tmp_path: Path) -> None:
    model = toy_model(f"{name}:separate", toy_catalog(), hidden_dim=12)
    run = trainer(model, tmp_path)
    seen: list[tuple[list[str], list[str]]] = []
    inner: Callable[[Recommender[Any]], float] = run.validate

    def validate(current: Recommender[Any]) -> float:
        asked = [member for member, _ in current.members.active()]
        trained = {
            key.split(".")[1] for key, parameter in current.named_parameters() if parameter.requires_grad
        }
        seen.append((asked, sorted(trained)))
        return inner(current)

    run.validate = validate
    progress = run.fit()
    order = [asked[0] for asked, _ in seen]
    assert list(dict.fromkeys(order)) == ["id", "text", "image"]
    assert order == sorted(order, key=["id", "text", "image"].index)
    assert all(asked == trained for asked, trained in seen)
    assert progress.stage == 3
    assert [name for name, _ in model.members.active()] == ["id", "text", "image"]  # and together in the end


@BOTH
def test_each_member_ends_with_its_own_best_epoch(name: str, tmp_path: Path) -> None:
    """Scripted validation: member 1 is best after its first epoch, member 2 after its second, member 3 at its end."""
    model = toy_model(f"{name}:separate", toy_catalog(), hidden_dim=12)
    run = trainer(model, tmp_path)
    values = iter([3.0, 2.0, 1.0, 1.0, 2.0, 1.5, 1.0, 1.0, 2.0, 3.0, 4.0])
    kept: list[dict[str, Tensor]] = []

    def validate(current: Recommender[Any]) -> float:
        kept.append({key: tensor.clone() for key, tensor in current.state_dict().items()})
        return next(values)

    run.validate = validate
    run.fit()
    assert len(kept) == 11
    for member, epoch in (("id", 0), ("text", 4), ("image", 10)):
        expected = {k: v for k, v in kept[epoch].items() if k.startswith(f"members.{member}.")}
        assert equal({f"members.{member}.{k}": v for k, v in weights_of(model, member).items()}, expected), (
            member
        )


@BOTH
@pytest.mark.parametrize("call", [2, 6])
def test_a_killed_run_goes_on_with_its_member(name: str, call: int, tmp_path: Path) -> None:
    whole = fitted(f"{name}:separate", tmp_path / "whole")
    run = trainer(toy_model(f"{name}:separate", toy_catalog(), hidden_dim=12), tmp_path / "killed")
    KillAt(run, "plan_epoch", call)
    with pytest.raises(KilledError):
        run.fit()
    again = toy_model(f"{name}:separate", toy_catalog(), hidden_dim=12, seed=9)
    trainer(again, tmp_path / "killed").fit()
    assert equal(whole.state_dict(), again.state_dict())
    assert again.members.alone is None


def test_joint_training_is_one_stage() -> None:
    assert [stage.name for stage in make().stages] == ["train"]
    model = make()
    model.start_stage("train")
    model.start_epoch(1)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert len(list(model.members.active())) == 3


# Features


def test_features_have_mean_norm_one_and_absent_items_score_nothing() -> None:
    """Toy items 3 and 7 have no text; text is 12 wide, so at 12 it is used as it is."""
    model = make(hidden_dim=12)
    table = model.members["text"].items
    assert table.map is None
    assert table.feat[table.present].norm(dim=1).mean().item() == pytest.approx(1.0)
    torch.nn.init.ones_(model.members["image"].items.map.bias)
    scores = model.member_scores(history_batch(model, HISTORIES))
    assert (scores["text"] == 0).all(0).nonzero().flatten().tolist() == [2, 6]
    assert (scores["image"] == 0).all(0).nonzero().flatten().tolist() == [2, 10, 11]
    absent = model.extra_state()["share_without"]
    assert absent == {"text": pytest.approx(2 / 30), "image": pytest.approx(3 / 30)}
    assert not [key for key in model.state_dict() if "feat" in key or "present" in key]


@BOTH
def test_a_part_alone_has_the_scores_of_its_member(name: str) -> None:
    for combine in ("sum", "zscore"):
        model = make(name, combine=combine)
        assert model.parts == ("id", "text", "image")
        batch = history_batch(model, HISTORIES)
        together, scores = model.score(batch), model.member_scores(batch)
        for part, expected in scores.items():
            with model.alone(part):
                torch.testing.assert_close(model.score(batch), expected)
        torch.testing.assert_close(model.score(batch), together)
    assert make(name, modalities=["id"]).parts == ()


def test_ids_are_scaled_and_features_are_not() -> None:
    given: list[Tensor] = []
    model = make(feature_scale=3.0)
    for member in model.members.values():
        member.encoder.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    batch = history_batch(model, [[4, 9]])
    model.query(batch)
    for member, x, scale in zip(model.members.values(), given, (24**0.5, 3.0, 3.0), strict=True):
        expected = member.items(batch.item_seq) * scale + member.position_emb(batch.position)
        torch.testing.assert_close(x, expected)


@BOTH
def test_missing_features(name: str) -> None:
    without = replace(toy_catalog(), image_feat=None, has_image=None)
    assert list(make(name, without).members) == ["id", "text"]
    assert list(make(f"{name}:three-ids", toy_catalog(features=False)).members) == ["id", "id_2", "id_3"]
    with pytest.raises(
        ValueError, match=r"reads text and image features, and the data set has none.*mmbench extract"
    ):
        make(name, toy_catalog(features=False))
    cls, config = type(make(name)), make(f"{name}:three-ids").config
    assert not cls.reads(config, "text")


@BOTH
def test_no_member_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="modalities must name at least one"):
        make(name, modalities=[])


@pytest.mark.parametrize(("init", "is_beyond"), [("xavier-normal", True), ("xavier-uniform", False)])
def test_matrices_start_by_xaviers_rule(init: str, is_beyond: bool) -> None:
    """Both have its deviation; only normal draws lie beyond the bound of uniform ones."""
    model = toy_model("sasrec-ensemble", toy_catalog(), hidden_dim=96, init=init)
    for member in model.members.values():
        for matrix in (member.encoder.blocks[0].query.weight, member.encoder.blocks[1].up.weight):
            assert matrix.std().item() == pytest.approx(96**-0.5, rel=0.05)
            assert (matrix.abs().max().item() > (6 / 192) ** 0.5) is is_beyond


def test_controls_have_their_sizes() -> None:
    def count(name: str, **settings: Any) -> int:
        model = toy_model(name, toy_catalog(), **settings)
        return sum(parameter.numel() for parameter in model.parameters())

    assert count("sasrec-ensemble:three-ids") == 3 * count("sasrec-ensemble", modalities=["id"])
    assert make("sasrec-ensemble:single-3d", hidden_dim=384).item_table().shape == (30, 384)
