"""Knock-outs change what they name and nothing else: against loops over histories and items."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mmbench.data.views import TargetView
from mmbench.errors import UsageError
from mmbench.evaluation.interventions import rank_under
from mmbench.evaluation.knockout_kinds import KNOCKOUTS, knockout, parse_knockouts
from mmbench.models import registry
from mmbench.models.base import Catalog
from mmbench.models.needs import Needs
from tests.models.toy import toy_catalog, toy_model
from tests.scorers import Written, random_view

N_ITEMS, N_USERS = 30, 20


def changed_catalog(name: str, catalog: Catalog) -> Catalog:
    change = knockout(name).catalog
    assert change is not None
    return change(catalog)


def changed_view(name: str, view: TargetView) -> TargetView:
    change = knockout(name).histories
    assert change is not None
    return change(view)


def histories(view: TargetView, values: np.ndarray) -> list[list[int]]:
    return [values[a:b].tolist() for a, b in zip(view.offsets[:-1], view.offsets[1:], strict=True)]


@pytest.fixture
def view() -> TargetView:
    """Histories whose times ascend, each at its own pace."""
    view = random_view(n_users=N_USERS, n_items=N_ITEMS)
    rng = np.random.default_rng(5)
    times = [
        int(rng.integers(10**6)) + np.cumsum(rng.integers(1, 10 ** (1 + k % 5), size=length))
        for k, length in enumerate(np.diff(view.offsets))
    ]
    return replace(view, times=np.concatenate(times))


# -- features ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["text", "image"])
def test_shuffled_features_are_the_same_vectors_of_other_items(modality: str) -> None:
    catalog = toy_catalog(n_items=N_ITEMS, n_users=N_USERS)
    before, present = getattr(catalog, f"{modality}_feat"), getattr(catalog, f"has_{modality}")
    after = getattr(changed_catalog(f"{modality}=shuffled:1", catalog), f"{modality}_feat")
    assert sorted(before[present].tolist()) == sorted(after[present].tolist())
    assert (before[present] != after[present]).any(1).float().mean() > 0.5
    assert torch.equal(before[~present], after[~present])
    again, other = (
        getattr(changed_catalog(f"{modality}=shuffled:{seed}", catalog), f"{modality}_feat")
        for seed in (1, 2)
    )
    assert torch.equal(after, again)
    assert not torch.equal(after, other)


def test_random_features_keep_the_norm_of_each_layer() -> None:
    catalog = toy_catalog(n_items=N_ITEMS, n_users=N_USERS)
    layers = torch.randn(N_ITEMS + 1, 3, 4, generator=torch.Generator().manual_seed(0)).half()
    present = torch.arange(N_ITEMS + 1) % 4 > 0
    layers[~present] = 0
    changed = changed_catalog(
        "text=random:1", replace(catalog, text_feat=None, layer_feat={"text": layers}, has_text=present)
    )
    after = changed.layer_feat["text"]
    assert after.dtype == layers.dtype
    torch.testing.assert_close(after.float().norm(dim=-1), layers.float().norm(dim=-1), rtol=2e-3, atol=2e-3)
    cosine = torch.nn.functional.cosine_similarity(after[present].float(), layers[present].float(), dim=-1)
    assert abs(cosine.mean()) < 0.3
    assert changed.has_text is present


def test_absent_features_are_zero_and_marked_so() -> None:
    catalog = toy_catalog(n_items=N_ITEMS, n_users=N_USERS)
    changed = changed_catalog("image=absent", catalog)
    assert changed.image_feat is not None
    assert changed.has_image is not None
    assert not changed.image_feat.any()
    assert not changed.has_image.any()
    assert changed.text_feat is catalog.text_feat


# -- times ------------------------------------------------------------------------------------------------


def test_equal_intervals_are_the_median_and_the_newest_time_stays(view: TargetView) -> None:
    changed = changed_view("time=equal", view)
    median = int(np.median(np.concatenate([np.diff(times) for times in histories(view, view.times)])))
    for before, after in zip(histories(view, view.times), histories(view, changed.times), strict=True):
        assert after == [before[-1] - median * k for k in reversed(range(len(before)))]
    assert changed.items is view.items


def test_shuffled_times_have_the_same_intervals_and_ends(view: TargetView) -> None:
    changed = changed_view("time=shuffled:1", view)
    moved = 0
    for before, after in zip(histories(view, view.times), histories(view, changed.times), strict=True):
        assert (before[0], before[-1]) == (after[0], after[-1])
        assert sorted(np.diff(before)) == sorted(np.diff(after))
        moved += before != after
    assert moved > N_USERS / 2
    assert changed.items is view.items


def test_times_are_a_year_later(view: TargetView) -> None:
    assert (changed_view("time=year", view).times - view.times == 365 * 24 * 60 * 60).all()


def test_times_of_another_user_are_its_newest_ones(view: TargetView) -> None:
    own = histories(view, view.times)
    others = histories(view, changed_view("time=other-user:1", view).times)
    longest = max(map(len, own))
    for k, times in enumerate(others):
        owners = [j for j, theirs in enumerate(own) if theirs[-len(times) :] == times]
        if len(times) < longest:
            assert owners
            assert k not in owners
        else:
            assert times[-1] != own[k][-1]
            assert times == sorted(times)


# -- items ------------------------------------------------------------------------------------------------


def test_shuffled_items_keep_the_newest(view: TargetView) -> None:
    changed = changed_view("order=shuffled:1", view)
    moved = 0
    for before, after in zip(histories(view, view.items), histories(view, changed.items), strict=True):
        assert before[-1] == after[-1]
        assert sorted(before) == sorted(after)
        moved += before != after
    assert moved > N_USERS / 3
    assert changed.times is view.times


def test_reversed_items(view: TargetView) -> None:
    changed = changed_view("order=reversed", view)
    for before, after in zip(histories(view, view.items), histories(view, changed.items), strict=True):
        assert after == before[::-1]
    assert changed.times is view.times


def test_what_a_model_cuts_off_does_not_come_back_by_a_change_of_order(view: TargetView) -> None:
    model = Written(torch.zeros(N_USERS, N_ITEMS), max_len=3, needs=Needs(layout="padded"))
    rank_under(knockout("order=reversed"), model, view, "test")
    for batch in model.seen:
        for row, user in enumerate(batch.user.tolist()):
            read = batch.item_seq[row][batch.mask[row]].tolist()
            k = view.user.tolist().index(user)
            assert read == histories(view, view.items)[k][-3:][::-1]


def reads_time() -> list[str]:
    return [name for name, entry in registry.entries().items() if "time" in entry.recipe.inputs]


@pytest.mark.parametrize("name", reads_time())
def test_every_model_of_times_can_be_ranked_under_every_change_of_them(name: str, view: TargetView) -> None:
    model = toy_model(name, toy_catalog(n_items=N_ITEMS, n_users=N_USERS))
    for intervention in parse_knockouts(["time", "order", "history"]):
        ranking = rank_under(intervention, model, view, "test")
        assert len(ranking.user) == N_USERS


# -- names ------------------------------------------------------------------------------------------------


def test_a_kind_means_all_of_it_and_nothing_is_ranked_twice() -> None:
    names = [intervention.name for intervention in parse_knockouts(list(KNOCKOUTS))]
    assert len(names) == len(set(names)) == 4 + 4 + 4 + 2 + 4  # the newest event alone is order and history
    assert names == [knockout(name).name for name in names]
    chosen = parse_knockouts(["order=last", "history=1", "text=shuffled:7"])
    assert [intervention.name for intervention in chosen] == ["history=1", "text=shuffled:7"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("txt", "did you mean 'text'"),
        ("text=shufled", "did you mean 'shuffled'"),
        ("text=constant:3", "text=constant has no seed"),
        ("time=shuffled:x", "time=shuffled needs a whole number as its seed"),
        ("history=x", "write for example history=5"),
        ("history=0", "the newest 1 or more events"),
        ("order=", "unknown knock-out of order"),
    ],
)
def test_wrong_names_are_one_line(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        parse_knockouts([name])
    assert "\n" not in str(error.value)


def test_one_history_has_no_other_user(view: TargetView) -> None:
    first: Any = replace(
        view, items=view.items[: view.offsets[1]], times=view.times[: view.offsets[1]],
        offsets=view.offsets[:2], user=view.user[:1], target=view.target[:1], train_len=view.train_len[:1],
    )  # fmt: skip
    with pytest.raises(UsageError, match="needs at least two histories"):
        changed_view("time=other-user", first)
