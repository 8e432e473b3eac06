"""mmbench.models.needs: extras are composed, and a new kind of extra needs no change of the engine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from mmbench.data.views import TrainView
from mmbench.models.needs import Drawer, Extra, Needs, Negatives, Prefixes, SlotAfter, WholeRows, nothing
from mmbench.settings.config import TrainConfig
from mmbench.training.batches import batches_of_epoch
from mmbench.training.trainer import Trainer
from tests.scorers import Bilinear
from tests.toy_training import CONFIG, N_ITEMS, N_USERS, VIEW, by_weights


def test_extras_are_found_by_their_kind() -> None:
    needs = Needs(extras=(Negatives(k=3), SlotAfter(2), Prefixes()))
    negatives = needs.get(Negatives)
    assert negatives is not None
    assert negatives.k == 3
    assert needs.get(WholeRows) is None
    assert (needs.has(Prefixes), needs.has(WholeRows)) == (True, False)
    assert (needs.slots_after, Needs().slots_after) == (2, 0)


def test_an_extra_occurs_once() -> None:
    class OtherNegatives(Negatives):
        """Draws under the same name."""

    with pytest.raises(ValueError, match="negatives occurs twice"):
        Needs(extras=(Negatives(), OtherNegatives()))
    with pytest.raises(ValueError, match="SlotAfter occurs twice"):
        Needs(extras=(SlotAfter(1), SlotAfter(2)))


def test_negatives_exclude_the_target_or_what_a_user_has() -> None:
    assert Negatives(excludes_target=True, exclude=nothing).excludes_target
    with pytest.raises(ValueError, match="set exclude = nothing"):
        Negatives(excludes_target=True)


@pytest.mark.parametrize(("unit", "fits"), [("rows", True), ("targets", False)])
def test_whole_rows_ask_for_steps_of_histories(unit: Any, fits: bool) -> None:
    assert (WholeRows().misfit(TrainConfig(batch_unit=unit)) == "") == fits


@dataclass(frozen=True)
class Popular(Extra):
    """What a paper might add: for each target one user at random who has an event, and the target itself again."""

    name: ClassVar[str] = "partner"

    def drawer(self, view: TrainView, n_items: int, device: torch.device | str) -> Drawer:
        users = torch.from_numpy(np.flatnonzero(np.diff(view.offsets)))

        class Partners:
            def draw(self, user: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
                drawn = users[torch.randint(0, len(users), (len(user),), generator=generator)]
                return torch.stack([drawn, user, target], 1)

        return Partners()


def trainer_of(folder: Path, seed: int) -> Trainer:
    folder.mkdir()
    torch.manual_seed(seed)
    needs = Needs(samples=("all",), extras=(Popular(), Negatives(k=2)))
    model = Bilinear(n_items=N_ITEMS, n_users=N_USERS, needs=needs)
    return Trainer(model, VIEW, by_weights, CONFIG, seed=seed, folder=folder)


def test_a_new_kind_of_extra_reaches_the_loss(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path / "run", seed=1)
    trainer.fit()
    model = trainer.model
    assert isinstance(model, Bilinear)
    partners = []
    for batch in model.batches:
        partner, user, target = batch.drawn["partner"].unbind(1)
        assert torch.equal(user, batch.user)
        assert torch.equal(target, batch.target)
        assert batch.negatives.shape == (len(batch.target), 2)
        partners += partner.tolist()
    assert set(partners) == set(range(N_USERS))


def test_each_run_of_a_stack_draws_what_it_draws_alone(tmp_path: Path) -> None:
    trainers = [trainer_of(tmp_path / str(seed), seed) for seed in (1, 2)]
    for trainer in trainers:
        trainer.begin()
    together = list(batches_of_epoch(trainers, [trainer.plan_epoch() for trainer in trainers]))
    for k, trainer in enumerate(trainers):
        alone = list(batches_of_epoch([trainer], [trainer.plan_epoch()]))
        for batch, own in zip(together, alone, strict=True):
            assert batch.drawn.keys() == own.drawn.keys() == {"partner", "negatives"}
            assert all(torch.equal(batch.drawn[name][k], drawn) for name, drawn in own.drawn.items())
