"""Checks of what a model computes before anything is trained: scores, padding, causality, times, the state.

A check takes a Subject and raises BrokenError with what is wrong; what it returns is a remark.
"""

import builtins
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmbench.contract.subject import Subject, seed_cpu
from mmbench.contract.toy import DAY, START, history_batch, training_batch
from mmbench.data.batch import TrainBatch
from mmbench.data.samples import plan_rows
from mmbench.data.views import TrainView
from mmbench.models import registry
from mmbench.models.base import Catalog, Recommender, Stage
from mmbench.models.needs import Negatives


class BrokenError(Exception):
    """A check that a model does not pass; the text says what was seen."""


def expect(holds: bool, text: str) -> None:
    """Raise BrokenError with the text unless it holds."""
    if not holds:
        raise BrokenError(text)


def gap(first: Tensor, second: Tensor) -> str:
    """Return the largest difference of two tensors, for a message."""
    return f"{(first.detach().double() - second.detach().double()).abs().max().item():.3g}"


def _near(first: Tensor, second: Tensor, *, relative: float, absolute: float) -> bool:
    return first.shape == second.shape and torch.allclose(
        first, second, rtol=relative, atol=absolute, equal_nan=True
    )


# -- construction -----------------------------------------------------------------------------------------


def recipe(subject: Subject) -> None:
    """Expect that the recipe's keys and values are settings of the model."""
    registry.check_recipe(subject.entry)


def files(subject: Subject) -> None:
    """Expect that the constructor and a score open no file."""
    subject.scores(subject.make())  # parts that are imported late are loaded now
    with _no_files():
        subject.scores(subject.make())


@contextmanager
def _no_files() -> Iterator[None]:
    def refuse(file: object, *args: object, **kwargs: object) -> None:
        raise BrokenError(f"it opens {file}")

    before: tuple[Any, Any] = builtins.open, io.open
    builtins.open = io.open = refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        builtins.open, io.open = before


# -- scores -----------------------------------------------------------------------------------------------


def scores(subject: Subject) -> None:
    """Expect a finite score for each history and item, the same when they are computed twice."""
    model = subject.make()
    first, shape = subject.scores(model), (len(subject.histories), subject.catalog.n_items)
    expect(tuple(first.shape) == shape, f"score() has the shape {list(first.shape)} instead of {list(shape)}")
    bad = ~torch.isfinite(first)
    expect(not bad.any(), f"{int(bad.sum())} of {bad.numel()} scores are not finite")
    second = subject.scores(model)
    expect(
        torch.equal(first, second),
        f"the same batch scored twice differs by {gap(first, second)} in eval mode",
    )


def product(subject: Subject) -> None:
    """Expect that the score is the product of queries and an item table that no batch changes."""
    model = subject.make().eval()
    with torch.no_grad():
        before = model.item_table()
        shape = (subject.catalog.n_items, before.shape[-1])
        expect(
            tuple(before.shape) == shape,
            f"item_table() has the shape {list(before.shape)}, not {list(shape)}",
        )
        batch = history_batch(model, subject.histories, times=subject.times)
        query = model.query(batch)
        slots = (len(subject.histories), shape[1])
        expect(tuple(query.shape) == slots, f"query() has the shape {list(query.shape)}, not {list(slots)}")
        made, whole = query @ before.T, model.score(batch)
    expect(
        _near(made, whole, relative=1e-5, absolute=1e-6),
        f"the score is not query x the item table as it was before the batch; they differ by {gap(made, whole)}",
    )


def rows(subject: Subject) -> None:
    """Expect that neither padding nor the other histories of a batch change a score."""
    model = subject.make().double()
    together = subject.scores(model)
    for k, (history, times) in enumerate(zip(subject.histories, subject.times, strict=True)):
        with torch.no_grad():
            alone = model.score(history_batch(model, [history], times=[times], users=[k]))
        expect(
            _near(alone[0], together[k], relative=1e-9, absolute=1e-9),
            f"a history of {len(history)} has other scores in a batch than alone, by {gap(alone[0], together[k])}",
        )


def seeds(subject: Subject) -> None:
    """Expect that a seed gives the same model twice, and other seeds others unless the model is deterministic."""
    first, again, other = (subject.scores(subject.make(seed=seed)) for seed in (1, 1, 2))
    expect(torch.equal(first, again), f"two models of the same seed differ by {gap(first, again)}")
    same = torch.equal(first, other)
    if subject.deterministic:
        expect(same, f"deterministic = True, but other seeds change scores by {gap(first, other)}")
    elif subject.trainable:
        expect(not same, "two seeds give the same scores, and deterministic = False")


# -- nothing later ----------------------------------------------------------------------------------------


def one_user(history: Sequence[int]) -> TrainView:
    """Return the training events of a single user."""
    times = START + DAY * np.arange(len(history), dtype=np.int64) ** 2
    return TrainView(items=np.array(history), times=times, offsets=np.array([0, len(history)]))


def causal(subject: Subject) -> None:
    """Expect that a later item changes no earlier state, as `Needs(causal=True)` says."""
    model = subject.make().double().eval()
    states = []
    for fourth in (4, 9):
        batch = training_batch(model, one_user([1, 2, 3, fourth, 5, 6]), samples="all")
        with torch.no_grad():
            states.append(model.query(batch) if model.is_dot_product else model.score(batch))
    before, after = states
    expect(
        _near(before[:3], after[:3], relative=1e-12, absolute=1e-12),
        f"a change of the fourth item changes the states before it by {gap(before[:3], after[:3])}",
    )
    expect(
        not torch.allclose(before[3:], after[3:]),
        "a change of the fourth item changes no state from there on",
    )


def is_causal(subject: Subject) -> bool:
    """Return whether a model declares that later events change no earlier state, and reads histories at all."""
    return subject.needs.causal and subject.needs.samples != ("pairs",)


def target(subject: Subject) -> None:
    """Expect that the scores of a training batch do not read its targets or what is drawn for them."""
    model = subject.make().double().eval()
    batch = training_batch(model, subject.view, samples=_scored_samples(model))
    others = batch.target % model.n_items + 1
    drawn = {
        name: values % model.n_items + 1 for name, values in batch.drawn.items() if name == Negatives.name
    }
    other = TrainBatch.of({**batch.tensors(), "target": others}).with_drawn(**drawn)
    with torch.no_grad():
        first, second = model.score(batch), model.score(other)
    expect(torch.equal(first, second), f"other targets change the scores before them by {gap(first, second)}")


def _scored_samples(model: Recommender[Any]) -> str:
    """Return a kind of samples whose batches have targets."""
    return next((kind for kind in model.needs.samples if not kind.startswith("sequence")), "prefix")


def prefixes(subject: Subject) -> None:
    """Expect the same loss and gradients from a pass over each history as from each of its beginnings alone."""
    model = subject.make(dropout=False).double()
    values: dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
    for kind in ("all", "prefix"):
        model.zero_grad()
        batch = training_batch(model, subject.view, rows=plan_rows(subject.view.offsets, kind, model.max_len))
        terms = model.loss(batch)
        torch.stack(list(terms.values())).sum().backward()
        named = model.named_parameters()
        values[kind] = terms, {name: p.grad.clone() for name, p in named if p.grad is not None}
    for term, value in values["all"][0].items():
        other = values["prefix"][0][term]
        expect(
            _near(value, other, relative=1e-10, absolute=1e-12),
            f"loss term {term} differs by {gap(value, other)} between samples = all and prefix",
        )
    for name, gradient in values["all"][1].items():
        other = values["prefix"][1][name]
        expect(
            _near(gradient, other, relative=1e-7, absolute=1e-9),
            f"the gradient of {name} differs by {gap(gradient, other)} between samples = all and prefix",
        )


def draws(subject: Subject) -> bool:
    """Return whether the loss rests on random draws even with dropout off (negatives, masks)."""
    model = subject.make(dropout=False)
    if model.needs.has(Negatives):
        return True
    batch = training_batch(model, subject.view)
    sums = []
    for seed in (1, 2):
        seed_cpu(seed)
        sums.append(torch.stack(list(model.loss(batch).values())).sum())
    return not torch.equal(*sums)


# -- inputs -----------------------------------------------------------------------------------------------


def numbers_of(subject: Subject) -> list[float]:
    """Return the loss terms of a batch late in each stage, and all scores after the histories of a few users."""
    model = subject.make(seed=5)
    terms: list[float] = []
    if model.trainable:
        for stage in model.stages:
            if stage.data == "target":
                terms += _terms_of(model, stage, subject.view)
        model.load_state_dict(model.state_dict())  # as a training ends: by loading its best weights
    view, few = subject.view, range(5)
    spans = [slice(int(view.offsets[k]), int(view.offsets[k + 1])) for k in few]
    histories, times = ([values[span].tolist() for span in spans] for values in (view.items, view.times))
    model.eval()
    with torch.no_grad():
        return terms + model.score(history_batch(model, histories, times=times)).flatten().tolist()


def _usual_numbers(subject: Subject) -> list[float]:
    """Return `numbers_of` the subject as it is, computed once for all checks that change something."""
    if "numbers" not in subject.known:
        subject.known["numbers"] = numbers_of(subject)
    return list(subject.known["numbers"])


def _terms_of(model: Recommender[Any], stage: Stage, view: TrainView) -> list[float]:
    """Return the loss terms of a batch of all rows late in the stage."""
    model.start_stage(stage.name)
    model.start_epoch(1000)
    batch = training_batch(model, view, samples=stage.samples)
    seed_cpu(0)
    return [term.item() for term in model.loss(batch).values()]


def times_are_read(subject: Subject) -> None:
    """Expect that times move a number exactly if the recipe's inputs and `reads` say that they are read."""
    is_read = declares(subject, "time")
    before = _usual_numbers(subject)
    age = subject.view.times - START
    moved = numbers_of(_at(subject, START + age * age // DAY)) != before  # other proportions of all gaps
    if is_read:  # a model that cuts long gaps, or counts a window of days, may not notice longer gaps
        moved = moved or numbers_of(_at(subject, START + age // 20_000)) != before
    expect(moved or not is_read, "the recipe's inputs name time, but no number changes with other times")
    expect(is_read or not moved, "other times change its numbers, but the recipe's inputs do not name time")


def declares(subject: Subject, what: str) -> bool:
    """Return whether a model says that it reads "text", "image" or "time" with these settings."""
    entry = subject.entry
    return what in entry.recipe.inputs and entry.load().reads(subject.config(), what)


def _at(subject: Subject, times: np.ndarray) -> Subject:
    """Return the subject with other times of its training events."""
    catalog = replace(subject.catalog, train_times=torch.from_numpy(times))
    return replace(subject, view=replace(subject.view, times=times), catalog=catalog)


def features_are_read(subject: Subject) -> None:
    """Expect that the features of a modality move a number exactly if they are declared as read."""
    before = _usual_numbers(subject)
    for modality in ("text", "image"):
        is_read = declares(subject, modality)
        moved = numbers_of(replace(subject, catalog=_other_features(subject.catalog, modality))) != before
        expect(
            moved or not is_read,
            f"the recipe's inputs name {modality}, but no number changes with other features",
        )
        expect(
            is_read or not moved,
            f"other {modality} features change its numbers, but the recipe's inputs, or reads(), leave {modality} out",
        )


def _other_features(catalog: Catalog, modality: str) -> Catalog:
    """Return the catalogue with random features; rows of zeros stay zero."""
    generator = torch.Generator().manual_seed(1)
    changed: dict[str, Any] = {}
    table = getattr(catalog, f"{modality}_feat")
    if table is not None:
        noise = torch.randn(table.shape, generator=generator)
        changed[f"{modality}_feat"] = noise * table.ne(0).any(-1, keepdim=True)
    layers = dict(catalog.layer_feat)
    if modality in layers:
        states = layers[modality]
        noise = torch.randn(states.shape, generator=generator).to(states.dtype)
        layers[modality] = noise * states.ne(0).any(-1, keepdim=True)
        changed["layer_feat"] = layers
    return replace(catalog, **changed)


def shift(subject: Subject) -> None:
    """Expect that moving all times by the same amount changes no score, as `time_shift = True` says."""
    before = subject.scores(subject.make())
    after = subject.moved(400 * DAY + 12_345)
    other = after.scores(after.make())
    expect(
        torch.equal(before, other),
        f"time_shift = True, but later times change scores by {gap(before, other)}",
    )
