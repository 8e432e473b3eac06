"""Changes of what a model is given: on planted data, where what the model reads decides everything."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmbench.choices import RULES
from mmbench.data.batch import Batch
from mmbench.data.views import TargetView
from mmbench.errors import UsageError
from mmbench.evaluation.evidence import Ranking
from mmbench.evaluation.interventions import AS_TRAINED, Intervention, rank_under
from mmbench.evaluation.knockout_kinds import constant, history
from mmbench.evaluation.metrics import parse_metric
from mmbench.evaluation.ranking import rank_fully
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Needs
from tests.models.toy import toy_catalog
from tests.scorers import NoConfig, Written, random_view

N_ITEMS, N_USERS = 30, 20


class Similar(Recommender[NoConfig]):
    """Recommends the items whose text is most like that of the newest event; reads nothing else."""

    trainable = False

    def __init__(self, catalog: Catalog) -> None:
        super().__init__(NoConfig(), catalog)
        assert catalog.text_feat is not None
        self.text = torch.nn.functional.normalize(catalog.text_feat, dim=1)

    def score(self, batch: Batch) -> Tensor:
        newest = batch.item_seq.flatten()[batch.slot]
        return self.text[newest] @ self.text[1:].T


def nearest_targets(catalog: Catalog) -> TargetView:
    """A view whose target is, for every user, the item with the text that is nearest to the newest event's."""
    view = random_view(n_users=N_USERS, n_items=N_ITEMS)
    model = Similar(catalog)
    assert catalog.has_text is not None
    newest = np.where(catalog.has_text, np.arange(N_ITEMS + 1), 1)[view.items[view.offsets[1:] - 1]]
    items = view.items.copy()
    items[view.offsets[1:] - 1] = newest
    return replace(view, items=items, target=(model.text[newest] @ model.text[1:].T).argmax(1).numpy() + 1)


def ranked(intervention: Intervention, catalog: Catalog, view: TargetView) -> Ranking:
    changed = catalog if intervention.catalog is None else intervention.catalog(catalog)
    return rank_under(intervention, Similar(changed), view, "test")


def test_without_its_text_a_model_of_texts_knows_nothing_and_without_pictures_all() -> None:
    catalog = toy_catalog(n_items=N_ITEMS, n_users=N_USERS)
    view = nearest_targets(catalog)
    as_trained = ranked(AS_TRAINED, catalog, view)
    blind = ranked(constant("text"), catalog, view)
    assert parse_metric("HR@1").value(as_trained, "none") == 1
    assert (as_trained.name, blind.name) == ("test", "test~text=constant")
    assert (blind.ranks("none").equal == N_ITEMS - 1).all()
    assert parse_metric("HR@1").value(blind, "none") == pytest.approx(1 / N_ITEMS)
    assert ranked(constant("image"), catalog, view).n_different(as_trained) == 0


@pytest.mark.parametrize(("modality", "other"), [("text", "image"), ("image", "text")])
def test_every_item_gets_the_mean_of_those_that_have_the_modality(modality: Any, other: str) -> None:
    catalog = toy_catalog(n_items=N_ITEMS, n_users=N_USERS)
    change = constant(modality).catalog
    assert change is not None
    changed = change(catalog)
    values, present = (
        getattr(catalog, f"{modality}_feat").numpy(),
        getattr(catalog, f"has_{modality}").numpy(),
    )
    mean = values[present].astype(np.float64).mean(0)
    given = getattr(changed, f"{modality}_feat").numpy()
    np.testing.assert_allclose(given[1:], np.tile(mean, (N_ITEMS, 1)), rtol=1e-6, atol=1e-7)
    assert not given[0].any()
    assert getattr(changed, f"has_{modality}").tolist() == [False] + [True] * N_ITEMS
    assert present.sum() < N_ITEMS, "the toy lacks the modality for some items"
    for name in (f"{other}_feat", f"has_{other}", "category_ids", "train_items", "train_times"):
        assert getattr(changed, name) is getattr(catalog, name)


def test_states_per_layer_become_constant_layer_by_layer() -> None:
    catalog = toy_catalog(n_items=N_ITEMS, n_users=N_USERS)
    layers = torch.randn(N_ITEMS + 1, 3, 4, generator=torch.Generator().manual_seed(0))
    present = torch.arange(N_ITEMS + 1) % 4 > 0
    change = constant("text").catalog
    assert change is not None
    changed = change(replace(catalog, text_feat=None, layer_feat={"text": layers}, has_text=present))
    expected = layers[present].mean(0)
    assert changed.text_feat is None
    torch.testing.assert_close(changed.layer_feat["text"][1:], expected.expand(N_ITEMS, 3, 4))


@pytest.mark.parametrize("missing", [None, torch.zeros(N_ITEMS + 1, dtype=torch.bool)])
def test_a_catalogue_without_the_modality_stays_as_it_is(missing: Tensor | None) -> None:
    catalog = toy_catalog(n_items=N_ITEMS, n_users=N_USERS)
    catalog = replace(catalog, has_image=missing, image_feat=None if missing is None else catalog.image_feat)
    change = constant("image").catalog
    assert change is not None
    assert change(catalog) is catalog


@pytest.mark.parametrize("layout", ["packed", "padded", "fixed"])
@pytest.mark.parametrize("newest", [1, 3, 100])
def test_the_newest_events_are_what_the_model_reads(newest: int, layout: Any) -> None:
    view = random_view(n_users=N_USERS, n_items=N_ITEMS)
    model = Written(torch.zeros(N_USERS, N_ITEMS), max_len=8, needs=Needs(layout=layout))
    rank_under(history(newest), model, view, "test")
    read = {}
    for batch in model.seen:
        row, segment = batch.slot // batch.segment.shape[1], batch.segment.flatten()[batch.slot]
        for user, at, part in zip(batch.user.tolist(), row.tolist(), segment.tolist(), strict=True):
            read[user] = batch.item_seq[at][batch.segment[at] == part].tolist()
    for k, user in enumerate(view.user.tolist()):
        whole = view.items[view.offsets[k] : view.offsets[k + 1]].tolist()
        assert read[user] == whole[-min(newest, 8) :]


def test_the_mask_rules_stay_about_the_whole_history() -> None:
    """Else a shorter history would have more candidates, and two rankings could not be compared user by user."""
    view = random_view(n_users=N_USERS, n_items=N_ITEMS)
    table = torch.from_numpy(np.random.default_rng(0).normal(size=(N_USERS, N_ITEMS)))
    whole = rank_fully(Written(table), view, name="test")
    short = rank_under(history(1), Written(table), view, "test")
    assert short.name == "test~history=1"
    assert short.n_different(whole) == 0
    assert any((whole.ranks(rule).greater != whole.ranks("none").greater).any() for rule in RULES)


def test_a_history_of_no_event_is_refused() -> None:
    with pytest.raises(UsageError, match="history=0: the newest 1 or more events"):
        history(0)
