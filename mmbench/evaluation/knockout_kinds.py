"""Knock-outs: interventions that take a part of its inputs from a trained model, to see whether it uses that part.

    text, image  constant          every item has the mean vector of the items that have the modality
                 shuffled:SEED     the items that have the modality swap their vectors; none keeps its own
                 random:SEED       each vector becomes a random vector of the same norm (layer by layer)
                                   (both as the settings `text_features`, `image_features` change them)
                 absent            no item has the modality: zero vectors, marked as missing
    time         equal             every interval of every history is the view's median interval; the newest time stays
                 shuffled:SEED     the intervals of a history are shuffled; its oldest and newest time stay (shuffled
                                   times would have negative intervals, which no model is made for)
                 year              every time is 365 days later
                 other-user:SEED   a history has the times of another, at least as long if such a history exists
    order        shuffled:SEED     the items before the newest are shuffled, times keep their order
                 reversed          the items are reversed, times keep their order
                 last              the newest event alone; the same as history=1, and named so
    history      N                 the newest N events alone

What a model took from the training events (a longest interval, a user's unit of time) stays.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from mmbench.choices import whole_number
from mmbench.data.views import TargetView
from mmbench.errors import UsageError, suggest
from mmbench.evaluation.interventions import Intervention, newest_events
from mmbench.models.base import Catalog
from mmbench.models.feature_change import change_features
from mmbench.settings import feature_change as settings

Modality = Literal["text", "image"]
# features [N + 1, ...] and presence [N + 1] -> both, changed
FeatureChange = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

YEAR = 365 * 86_400
SEED = 1  # where a name has none
_FEATURES = ("constant", "shuffled", "random", "absent")
KNOCKOUTS: dict[str, tuple[str, ...]] = {
    "text": _FEATURES,
    "image": _FEATURES,
    "time": ("equal", "shuffled", "year", "other-user"),
    "order": ("shuffled", "reversed", "last"),
    "history": ("1", "2", "5", "10"),
}
SEEDED = ("shuffled", "random", "other-user")


def parse_knockouts(texts: list[str]) -> list[Intervention]:
    """Return the knock-outs of names such as "text" (all of that kind), "image=constant", "time=shuffled:3".

    Each is returned once. Raises UsageError for an unknown name, with the nearest.
    """
    names: list[str] = []
    for text in texts:
        kind, equals, how = text.strip().partition("=")
        if kind not in KNOCKOUTS:
            raise UsageError(f"--what {text!r}: {suggest(kind, KNOCKOUTS, what='knock-out')}")
        names += [f"{kind}={how}"] if equals else [f"{kind}={each}" for each in KNOCKOUTS[kind]]
    interventions = {intervention.name: intervention for intervention in map(knockout, names)}
    return list(interventions.values())


def knockout(name: str) -> Intervention:
    """Return the knock-out called "text=constant", "time=shuffled:3" or "history=5"; UsageError for another name."""
    kind, _, how = name.partition("=")
    if kind == "history":
        if (number := whole_number(how)) is None:
            raise UsageError(f"{name}: a history has a number of events; write for example history=5")
        return history(number)
    word, colon, text = how.partition(":")
    seed = whole_number(text) if colon else SEED
    if word not in KNOCKOUTS.get(kind, ()):
        raise UsageError(f"{name}: {suggest(word, KNOCKOUTS.get(kind, ()), what=f'knock-out of {kind}')}")
    if colon and (word not in SEEDED or seed is None):
        wanted = "has no seed" if word not in SEEDED else "needs a whole number as its seed"
        raise UsageError(f"{name}: {kind}={word} {wanted}")
    return _build(kind, word, SEED if seed is None else seed)


def _build(kind: str, word: str, seed: int) -> Intervention:
    if kind in get_args(Modality):
        return _of_features(kind, word, seed)
    if (kind, word) == ("order", "last"):
        return history(1)
    plain: dict[tuple[str, str], Callable[[TargetView], TargetView]] = {
        ("time", "equal"): _with_equal_intervals,
        ("time", "year"): lambda view: replace(view, times=view.times + YEAR),
        ("order", "reversed"): _reversed,
    }
    seeded: dict[tuple[str, str], Callable[[TargetView, int], TargetView]] = {
        ("time", "shuffled"): _with_shuffled_times,
        ("time", "other-user"): _with_times_of_others,
        ("order", "shuffled"): _with_shuffled_items,
    }
    if (kind, word) in plain:
        return Intervention(f"{kind}={word}", histories=plain[kind, word])
    change = seeded[kind, word]
    return Intervention(f"{kind}={word}:{seed}", histories=lambda view: change(view, seed))


# -- features ---------------------------------------------------------------------------------------------


def constant(modality: Modality) -> Intervention:
    """Give every item the mean vector of the items that have the modality."""
    return knockout(f"{modality}=constant")


def _of_features(modality: str, word: str, seed: int) -> Intervention:
    fixed: dict[str, FeatureChange] = {"constant": _constant, "absent": _absent}
    if word in fixed:
        return Intervention(
            f"{modality}={word}", catalog=lambda catalog: _with_features(catalog, modality, fixed[word])
        )
    return Intervention(
        f"{modality}={word}:{seed}",
        catalog=lambda catalog: _with_drawn_features(catalog, modality, word, seed),
    )


def _with_drawn_features(catalog: Catalog, modality: str, word: str, seed: int) -> Catalog:
    """Return the catalogue as the setting `text_features` or `image_features` of this name would make it."""
    try:
        return change_features(catalog, modality, settings.FeatureChange.parse(f"{word}:{seed}"))
    except ValueError as error:
        raise UsageError(f"{modality}={word}: {error}") from None


def _with_features(catalog: Catalog, modality: str, change: FeatureChange) -> Catalog:
    """Return the catalogue with changed features; as it is where no item has the modality."""
    present: Tensor | None = getattr(catalog, f"has_{modality}")
    if present is None or not present.any():
        return catalog
    changed: dict[str, Any] = {}
    features: Tensor | None = getattr(catalog, f"{modality}_feat")
    if features is not None:
        changed[f"{modality}_feat"], changed[f"has_{modality}"] = change(features, present)
    if modality in catalog.layer_feat:
        layers, changed[f"has_{modality}"] = change(catalog.layer_feat[modality], present)
        changed["layer_feat"] = {**catalog.layer_feat, modality: layers}
    return replace(catalog, **changed)


def _constant(features: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    mean = features[present].mean(0, dtype=torch.float64).to(features.dtype)
    changed = mean.expand_as(features).clone()
    changed[0] = 0
    everywhere = torch.ones_like(present)
    everywhere[0] = False
    return changed, everywhere


def _absent(features: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(features), torch.zeros_like(present)


# -- times ------------------------------------------------------------------------------------------------


def _with_equal_intervals(view: TargetView) -> TargetView:
    lengths = np.diff(view.offsets)
    after = np.diff(view.times)[_history_of(view)[1:] == _history_of(view)[:-1]]
    interval = int(np.median(after[after > 0])) if (after > 0).any() else 0
    newest = np.repeat(view.times[view.offsets[1:] - 1], lengths)
    n_later = np.repeat(view.offsets[1:] - 1, lengths) - np.arange(len(view.times))
    return replace(view, times=newest - interval * n_later)


def _with_shuffled_times(view: TargetView, seed: int) -> TargetView:
    interval = np.diff(view.times, prepend=view.times[:1])
    key = np.random.default_rng(seed).random(len(interval))
    oldest = view.offsets[:-1]
    interval[oldest], key[oldest] = 0, -1  # below all others: what precedes the oldest event stays there
    since_first = np.cumsum(interval[_sorted_inside(view, key)])
    lengths = np.diff(view.offsets)
    return replace(view, times=since_first + np.repeat(view.times[oldest] - since_first[oldest], lengths))


def _with_times_of_others(view: TargetView, seed: int) -> TargetView:
    """Give each history the newest times of the next longer; the longest has those of the next shorter.

    Histories of equal length are in random order. Where the other history is shorter, its oldest time fills up.
    """
    lengths = np.diff(view.offsets)
    if len(lengths) < 2:
        raise UsageError("time=other-user needs at least two histories; leave it out")
    order = np.lexsort((np.random.default_rng(seed).random(len(lengths)), lengths))
    other = np.empty_like(order)
    other[order[:-1]], other[order[-1]] = order[1:], order[-2]
    first = np.repeat(view.offsets[:-1][other], lengths)
    n_later = np.repeat(view.offsets[1:] - 1, lengths) - np.arange(len(view.times))
    event = np.repeat(view.offsets[1:][other] - 1, lengths) - n_later
    return replace(view, times=view.times[np.maximum(event, first)])


# -- items ------------------------------------------------------------------------------------------------


def history(newest: int) -> Intervention:
    """Let the model read the newest events of each history only; UsageError for none."""
    if newest < 1:
        raise UsageError(f"history={newest}: the newest 1 or more events are read")
    return Intervention(f"history={newest}", histories=lambda view: newest_events(view, newest))


def _with_shuffled_items(view: TargetView, seed: int) -> TargetView:
    key = np.random.default_rng(seed).random(len(view.items))
    key[view.offsets[1:] - 1] = 1  # above all others, so that the newest stays
    return replace(view, items=view.items[_sorted_inside(view, key)])


def _reversed(view: TargetView) -> TargetView:
    return replace(view, items=view.items[_sorted_inside(view, -np.arange(len(view.items)))])


def _sorted_inside(view: TargetView, key: np.ndarray) -> np.ndarray:
    """Return the order of events [E] that sorts each history by a key [E]; histories stay where they are."""
    return np.lexsort((key, _history_of(view)))


def _history_of(view: TargetView) -> np.ndarray:
    """Return the number of each event's history, int64 [E]."""
    return np.repeat(np.arange(len(view)), np.diff(view.offsets))
