"""A planted answer: what follows a history is the kind of its last item, which only one modality tells.

A history is a greeting and an item of one of four kinds; the next item is its kind's answer. Half of the items of each
kind are never shown in training, so that ids cannot tell their kind.
"""

from dataclasses import replace
from typing import Any

import torch

from mmbench.models.base import Recommender
from tests.models.toy import catalog_of, history_batch, overfit, toy_model, training_batch, view_of

KINDS, GREETING, N_ITEMS = 4, 1, 85
ANSWERS = [2 + kind for kind in range(KINDS)]
MEMBERS = torch.arange(6, 86).view(KINDS, 20)


def histories(members: torch.Tensor) -> list[list[int]]:
    return [[GREETING, int(item), ANSWERS[kind]] for kind in range(KINDS) for item in members[kind]]


SHOWN, HIDDEN = histories(MEMBERS[:, :10]), histories(MEMBERS[:, 10:])


def share_right(model: Recommender[Any], items: list[list[int]]) -> float:
    """Return the share of histories whose last item has the highest score after those before it."""
    model.eval()
    with torch.no_grad():
        best = model.score(history_batch(model, [history[:-1] for history in items])).argmax(1) + 1
    model.train()
    return (best == torch.tensor([history[-1] for history in items])).double().mean().item()


def teach(name: str, told_by: str, *, n_steps: int = 120, **settings: Any) -> tuple[float, float]:
    """Return the shares that a model answers right of the shown and of the hidden histories.

    told_by  the modality that tells the kind, "text" or "image"; the other one is noise
    """
    generator = torch.Generator().manual_seed(0)
    features = {key: torch.randn(N_ITEMS + 1, 12, generator=generator) for key in ("text", "image")}
    features[told_by][6:, :KINDS] = 0
    for kind in range(KINDS):
        features[told_by][MEMBERS[kind], kind] = 3.0
    for feat in features.values():
        feat[0] = 0
    known = catalog_of(view_of(SHOWN), n_items=N_ITEMS, features=False)
    catalog = replace(known, text_feat=features["text"], image_feat=features["image"])
    model = toy_model(name, catalog, **settings)
    batch = training_batch(model, view_of(SHOWN))
    torch.manual_seed(0)
    model.start_epoch(1)
    overfit(
        model,
        lambda: torch.stack(list(model.loss(batch).values())).sum(),
        lambda: False,
        lr=0.01,
        n_steps=n_steps,
    )
    return share_right(model, SHOWN), share_right(model, HIDDEN)
