"""Checks of what training does to a model: loss, gradients, what is learned, what is stored, what is resumed."""

import time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmbench.contract.checks import expect, gap
from mmbench.contract.subject import Subject, by_heart, seed_cpu
from mmbench.contract.toy import DAY, START, history_batch, training_batch
from mmbench.data.views import TrainView
from mmbench.models.base import Recommender, Stage
from mmbench.models.needs import Negatives, WholeRows
from mmbench.settings.config import TrainConfig
from mmbench.training import checkpoint
from mmbench.training.files import RESUME
from mmbench.training.trainer import Trainer, train_epoch

N_HISTORIES, MOST_STEPS = 32, 800
LEAST_SHARE = 0.25  # chance gives 1 / 160
STEPS_BETWEEN = 20  # between two looks at what is learned


def loss(subject: Subject) -> None:
    """Expect named finite scalars that repeat with torch's seed."""
    model = subject.make()
    batch = training_batch(model, subject.view)
    terms = []
    for _ in range(2):
        seed_cpu(7)
        terms.append(model.loss(batch))
    expect(bool(terms[0]), "loss() returns no term")
    for name, value in terms[0].items():
        expect(value.dim() == 0, f"loss term {name} has the shape {list(value.shape)}; it must be a scalar")
        expect(bool(torch.isfinite(value)), f"loss term {name} is not finite")
        other = terms[1][name]
        expect(
            torch.equal(value, other), f"loss term {name} differs by {gap(value, other)} with the same seed"
        )


def masking_stages(model: Recommender[Any]) -> list[Stage | None]:
    """Return the stages of a model that masks its samples by itself in any; else [None], the model as it is."""
    masks = any(stage.samples == "sequence-prefix" for stage in model.stages)
    return list(model.stages) if masks else [None]


def gradients(subject: Subject) -> None:
    """Expect that a gradient reaches each parameter within three steps of a stage.

    A mixing weight that starts at 0 passes a gradient on only after it moved.
    """
    model = subject.make()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    reached: set[str] = set()
    seed_cpu(0)
    for stage, step in product(masking_stages(model), range(3)):
        if stage is not None and step == 0:
            model.start_stage(stage.name)
        optimizer.zero_grad(set_to_none=True)
        samples = None if stage is None else stage.samples
        _total(model.loss(training_batch(model, subject.view, samples=samples, seed=step))).backward()
        named = model.named_parameters()
        reached |= {name for name, p in named if p.grad is not None and p.grad.abs().max() > 0}
        optimizer.step()
    missed = [name for name, _ in model.named_parameters() if name not in reached]
    expect(not missed, f"no gradient reaches {', '.join(missed[:4])}{' and others' * (len(missed) > 4)}")


def _total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def _take_steps(
    model: Recommender[Any],
    view: TrainView,
    n_steps: int,
    *,
    optimizer: torch.optim.Optimizer,
    first: int = 0,
) -> None:
    model.train()
    for step in range(first, first + n_steps):
        optimizer.zero_grad(set_to_none=True)
        _total(model.loss(training_batch(model, view, seed=step))).backward()
        optimizer.step()
        with torch.no_grad():
            model.constrain(dict(model.named_parameters()))


def state(subject: Subject) -> None:
    """Expect that a model that loads the stored state of a trained model scores as that model does.

    The released HM4SR keeps experts in a plain list: a reloaded model scores differently.
    """
    first, second = subject.make(seed=1), subject.make(seed=2)
    if first.trainable:
        first.start_stage(first.stages[-1].name)
        first.start_epoch(1)
        wanted = [p for p in first.parameters() if p.requires_grad]
        _take_steps(first, subject.view, 2, optimizer=torch.optim.Adam(wanted, lr=0.01))
        first.load_state_dict(first.state_dict())  # as a training ends: by loading its best weights
    expected = subject.scores(first)
    second.load_state_dict(first.state_dict(), strict=True)
    after = subject.scores(second)
    expect(torch.equal(after, expected), f"a reloaded model has other scores, by {gap(after, expected)}")


@dataclass(frozen=True)
class Learned:
    """What a model has memorised: its share of the last items, after so many steps, its first and last loss."""

    share: float
    n_steps: int
    first_loss: float
    last_loss: float


def learn_by_heart(subject: Subject) -> Learned:
    """Train on 32 users until their last items are known: each has items of its own, so the next is determined."""
    generator = np.random.default_rng(0)
    histories = generator.permutation(N_HISTORIES * 5).reshape(N_HISTORIES, 5) + 1
    times = np.tile(START + 10 * DAY * np.arange(5), (N_HISTORIES, 1)) + np.arange(N_HISTORIES)[:, None] * DAY
    view, catalog = by_heart(subject, histories, times)
    sizes = subject.small().keys() & {"hidden_dim", "emb_dim"} if subject.is_small else set()
    model = subject.make(catalog=catalog, dropout=False, **dict.fromkeys(sizes, 24))
    draws_negatives = model.needs.has(Negatives)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005 if draws_negatives else 0.02)
    n_steps, share, first_loss = 0, 0.0, _loss_of(model, view)
    # Sampled negatives leave some of the 32 behind, depending on the draw.
    while n_steps < MOST_STEPS and share < (0.9 if draws_negatives else 0.95):
        _take_steps(model, view, STEPS_BETWEEN, optimizer=optimizer, first=n_steps)
        n_steps += STEPS_BETWEEN
        share = _known(model, histories, times)
    return Learned(share, n_steps, first_loss, _loss_of(model, view))


def _loss_of(model: Recommender[Any], view: TrainView) -> float:
    seed_cpu(0)
    return _total(model.loss(training_batch(model, view))).item()


def memorise(subject: Subject) -> str:
    """Expect that the loss falls on data that can be memorised, and that much of them is known then.

    Some losses teach the rest slowly (gBCE stays at popularity for long), so the check asks for a quarter.
    """
    learned = learn_by_heart(subject)
    expect(
        learned.last_loss < learned.first_loss,
        f"in {learned.n_steps} steps the loss does not fall: {learned.first_loss:.4g} -> {learned.last_loss:.4g}",
    )
    expect(
        learned.share >= LEAST_SHARE,
        f"after {learned.n_steps} steps it has memorised {learned.share:.0%} of {N_HISTORIES} last items",
    )
    return f"{learned.share:.0%} of the last items after {learned.n_steps} steps"


def _known(model: Recommender[Any], histories: np.ndarray, times: np.ndarray) -> float:
    """Return the share of users whose last item, or of whom all items where order is not read, rank first."""
    model.eval()
    with torch.no_grad():
        ranked = model.score(history_batch(model, histories[:, :4].tolist(), times=times[:, :4].tolist()))
    if model.needs.samples == ("pairs",):  # knows the user, not the order: its five items before all others
        best = ranked.topk(5).indices.sort(1).values.numpy()
        return float((best == np.sort(histories, 1) - 1).all(1).mean())
    last = ranked.gather(1, torch.from_numpy(histories[:, 4:] - 1))
    return float(((ranked > last).sum(1) == 0).double().mean())


def resume(subject: Subject) -> None:
    """Expect the same weights from a training that is interrupted after every epoch as without interruption."""
    with TemporaryDirectory() as folder:
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        states = [_trained(subject, whole, at_once=100), _trained(subject, broken, at_once=1)]
    first, second = states
    differ = [name for name in first if name not in second or not torch.equal(first[name], second[name])]
    expect(not differ, f"resumed after each epoch, it ends with other values of {', '.join(differ[:4])}")


def _trained(subject: Subject, folder: Path, *, at_once: int) -> dict[str, Tensor]:
    """Return weights and the optimiser's state at the end; each `at_once` epochs have a new model and trainer."""
    folder.mkdir()
    for interruption in range(100):
        model = subject.make(seed=1)
        unit = "rows" if model.needs.has(WholeRows) else "targets"
        config = TrainConfig(max_len=model.max_len, batch_unit=unit, batch_size=32, max_epochs=2, lr=0.01)  # type: ignore[arg-type]
        torch.manual_seed(interruption)  # nothing may depend on the generator's state
        trainer = Trainer(model, subject.view, lambda _: 0.0, config, seed=3, folder=folder)
        trainer.stages = [
            replace(stage, epochs=None if stage.epochs is None else min(stage.epochs, 2))
            for stage in trainer.stages
        ]
        trainer.begin()
        for _ in range(at_once):
            if not trainer.is_running:
                return checkpoint.load_tensors(folder / RESUME)[0]
            (outcome,) = train_epoch([trainer], trainer)
            if isinstance(outcome, Exception):
                raise outcome
            trainer.finish_epoch(outcome, 0.0)
            trainer.settle()
    raise RuntimeError("the training does not end")


def speed(subject: Subject) -> str:
    """Return how long a step takes with the settings of the recipe; nothing is expected."""
    model = replace(subject, is_small=False).make()
    optimizer, batch = torch.optim.Adam(model.parameters()), training_batch(model, subject.view)
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        _total(model.loss(batch)).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    number = sum(parameter.numel() for parameter in model.parameters())
    return f"{1000 * min(seconds[1:]):.0f} ms for {len(batch.slot)} targets, {number:,} parameters"
