"""A small shop in which some customers follow a style, which only pictures show, others a brand, which only texts name.

Some items are never bought in training, so that ids say nothing of them: whoever ranks those of a customer's taste
first has read the features.

planted_shop    5 items of each of 4 styles x 4 brands, 2 of them never bought; 96 customers
finds_taste     how well a model tells the never bought items of each customer's style, or brand, from the others
trained         a model by name, after so many steps of Adam on the shop's events
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmbench.data.views import TrainView
from mmbench.models.base import Catalog, Recommender
from tests.models.toy import catalog_of, history_batch, toy_model, training_batch, view_of

N_TASTES, IN_CELL, BOUGHT, N_USERS, WIDTH = 4, 5, 3, 96, 12


@dataclass(frozen=True)
class Shop:
    view: TrainView
    catalog: Catalog
    tastes: dict[str, np.ndarray]  # "style", "brand": int64 [N], of item 1, 2, ..
    is_new: np.ndarray  # bool [N], never bought
    follows: list[tuple[str, int]]  # what each customer follows, and which one


def planted_shop(*, only: str = "", noise: float = 0.3, shuffled: bool = False, seed: int = 0) -> Shop:
    """Return the shop.

    only      "style" or "brand": what all customers follow; else one half each
    noise     of the features around the centre of their taste
    shuffled  the features of each item are another one's
    """
    rng = np.random.default_rng(seed)
    style, brand, copy = (grid.ravel() for grid in np.indices((N_TASTES, N_TASTES, IN_CELL)))
    is_new, tastes = copy >= BOUGHT, {"style": style, "brand": brand}
    kinds = [only or ("style", "brand")[user % 2] for user in range(N_USERS)]
    follows = [(kind, int(rng.integers(N_TASTES))) for kind in kinds]
    histories = [
        (rng.permutation(np.flatnonzero((tastes[kind] == taste) & ~is_new))[:8] + 1).tolist()
        for kind, taste in follows
    ]
    view = view_of(histories)
    bare = catalog_of(view, n_items=len(style), features=False)
    order = rng.permutation(len(style)) if shuffled else np.arange(len(style))
    feats = {
        name: _features(tastes[kind][order], noise, rng)
        for name, kind in (("image", "style"), ("text", "brand"))
    }
    present = torch.arange(len(style) + 1) > 0
    catalog = replace(
        bare, image_feat=feats["image"], text_feat=feats["text"], has_image=present, has_text=present
    )
    return Shop(view, catalog, tastes, is_new, follows)


def _features(taste: np.ndarray, noise: float, rng: np.random.Generator) -> Tensor:
    """Return a centre for each taste with noise around it, float32 [N + 1, WIDTH]; row 0 is zero."""
    centres = rng.normal(size=(N_TASTES, WIDTH))
    values = centres[taste] + noise * rng.normal(size=(len(taste), WIDTH))
    return torch.from_numpy(np.vstack([np.zeros((1, WIDTH)), values])).float()


def finds_taste(model: Recommender[Any], shop: Shop, kind: str) -> float:
    """Return the share of pairs of never bought items, one of the customer's taste and one not, in the right order.

    0.5 is chance. Only customers who follow a style (or a brand, as `kind` says) are asked.
    """
    users = [user for user, (followed, _) in enumerate(shop.follows) if followed == kind]
    model.eval()
    with torch.no_grad():
        scores = model.score(history_batch(model, [[1]] * len(users), users=users)).numpy()
    shares = []
    for row, user in zip(scores, users, strict=True):
        liked = shop.tastes[kind] == shop.follows[user][1]
        above = row[liked & shop.is_new][:, None] - row[~liked & shop.is_new]
        shares.append(((above > 0) + 0.5 * (above == 0)).mean())
    return float(np.mean(shares))


def trained(
    name: str, shop: Shop, *, n_steps: int = 60, lr: float = 0.03, seed: int = 0, **settings: Any
) -> Recommender[Any]:
    """Return the model after so many steps of Adam, each on all events with fresh negatives."""
    model = toy_model(name, shop.catalog, seed=seed, **settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(n_steps):
        model.train()
        model.start_epoch(step + 1)
        optimizer.zero_grad()
        torch.stack(list(model.loss(training_batch(model, shop.view, seed=step)).values())).sum().backward()
        optimizer.step()
        with torch.no_grad():
            model.constrain(dict(model.named_parameters()))
    return model
