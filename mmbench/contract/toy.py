"""A data set small enough to reason about, and the short ways from it to the batches that an engine would feed.

toy_view     20 users, 30 items; 1 to 14 events each (so some exceed max_len 8), repeated items, tied times
toy_catalog  the same as a model gets it: text [31, 12], image [31, 8], some items without, 5 categories and
             4 brands; of each modality 13 states of 12 dims, float16, as from networks of 12 layers
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmbench.data.batch import Batch, TrainBatch
from mmbench.data.batcher import Batcher
from mmbench.data.samples import Rows, last_rows, plan_rows
from mmbench.data.views import TrainView
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Prefixes, StepDrawer

N_ITEMS, N_USERS, MAX_LEN, N_CATEGORIES, N_STATES = 30, 20, 8, 5, 13
START = 1_400_000_000  # unix seconds: float32 could not tell neighbours apart
DAY = 86_400


def view_of(histories: Sequence[Sequence[int]], times: Sequence[Sequence[int]] | None = None) -> TrainView:
    """Return training events from lists of item ids, a list per user; without times: an event per day."""
    lengths = [len(history) for history in histories]
    if times is None:
        times = [[START + DAY * k for k in range(length)] for length in lengths]
    flat = [np.concatenate([np.zeros(0, np.int64), *map(np.asarray, part)]) for part in (histories, times)]
    return TrainView(
        items=flat[0].astype(np.int64),
        times=flat[1].astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def toy_view(
    *, n_items: int = N_ITEMS, n_users: int = N_USERS, seed: int = 0, longest: int = 14
) -> TrainView:
    """Return random histories; every item occurs when there is room, about a sixth of the events share their time."""
    rng = np.random.default_rng(seed)
    lengths = 1 + np.arange(n_users) * (longest - 1) // max(n_users - 1, 1)
    pool = np.concatenate([rng.permutation(n_items) + 1, rng.integers(1, n_items + 1, int(lengths.sum()))])
    histories = np.split(pool[: lengths.sum()], np.cumsum(lengths)[:-1])
    times = []
    for length in lengths:
        gaps = rng.integers(1, 60 * DAY, length) * (rng.random(length) > 1 / 6)
        times.append(START + int(rng.integers(0, 300)) * DAY + np.cumsum(gaps))
    return view_of([h.tolist() for h in histories], [t.tolist() for t in times])


def _features(
    n_items: int, dim: int, missing: Sequence[int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return values float32 [N+1, dim] and present bool [N+1]; padding and missing items have zero rows."""
    values = torch.randn(n_items + 1, dim, generator=generator)
    present = torch.ones(n_items + 1, dtype=torch.bool)
    present[[0, *(item for item in missing if item <= n_items)]] = False
    return values * present[:, None], present


def catalog_of(
    view: TrainView, *, n_items: int, max_len: int = MAX_LEN, features: bool = True, seed: int = 0
) -> Catalog:
    """Return the catalogue of these events, with random features and categories unless `features` is False."""
    events: dict[str, Any] = {
        "n_items": n_items,
        "n_users": len(view.offsets) - 1,
        "max_len": max_len,
        "train_items": torch.from_numpy(view.items),
        "train_times": torch.from_numpy(view.times),
        "train_offsets": torch.from_numpy(view.offsets),
    }
    if not features:
        return Catalog(**events)
    generator = torch.Generator().manual_seed(seed)
    text, has_text = _features(n_items, 12, [3, 7], generator)
    image, has_image = _features(n_items, 8, [3, 11, 12], generator)
    # Item i is in category i mod 5, every third item also in the next, item 4 in none.
    owned = [[] if i in (0, 4) else sorted({i % 5, (i + (i % 3 == 0)) % 5}) for i in range(n_items + 1)]
    counts = torch.tensor([len(categories) for categories in owned])
    states = {
        modality: torch.randn(n_items + 1, N_STATES, 12, generator=generator) * present[:, None, None]
        for modality, present in (("text", has_text), ("image", has_image))
    }
    return Catalog(
        **events,
        layer_feat={modality: values.half() for modality, values in states.items()},
        text_feat=text, has_text=has_text, image_feat=image, has_image=has_image,
        category_ids=torch.tensor([c for categories in owned for c in categories], dtype=torch.int64),
        category_offsets=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
        n_categories=N_CATEGORIES,
        brand_ids=torch.tensor([0, 0, *(1 + i * i % 4 for i in range(2, n_items + 1))][: n_items + 1]),
    )  # fmt: skip


def toy_catalog(
    *,
    n_items: int = N_ITEMS,
    n_users: int = N_USERS,
    max_len: int = MAX_LEN,
    features: bool = True,
    seed: int = 0,
) -> Catalog:
    """Return the catalogue of `toy_view` of the same sizes and seed."""
    view = toy_view(n_items=n_items, n_users=n_users, seed=seed)
    return catalog_of(view, n_items=n_items, max_len=max_len, features=features, seed=seed)


def toy_batcher(model: Recommender[Any], view: TrainView) -> Batcher:
    """Return what lays histories out as the model asks."""
    return Batcher(view.items, view.times, layout=model.needs.layout, max_len=model.max_len)


def training_batch(
    model: Recommender[Any],
    view: TrainView,
    *,
    samples: str | None = None,
    rows: Rows | None = None,
    seed: int = 0,
) -> TrainBatch:
    """Return all rows of an epoch (or `rows`) as a single step, with negatives where the model wants them."""
    kind = samples or model.needs.samples[0]
    chosen = plan_rows(view.offsets, kind, model.max_len) if rows is None else rows
    batch = toy_batcher(model, view).training(chosen, prefixes=model.needs.has(Prefixes))
    return with_drawn(model, view, batch, seed=seed)


def with_drawn(model: Recommender[Any], view: TrainView, batch: TrainBatch, *, seed: int = 0) -> TrainBatch:
    """Return the batch with what the extras of the model's needs draw for its targets."""
    for extra in model.needs.extras:
        drawer = extra.drawer(view, model.n_items, "cpu")
        generator = torch.Generator().manual_seed(seed)
        if isinstance(drawer, StepDrawer):
            batch = batch.with_drawn(**{extra.name: drawer.draw_steps(1, generator)[0]})
        elif drawer is not None:
            batch = batch.with_drawn(**{extra.name: drawer.draw(batch.user, batch.target, generator)})
    return batch


def history_batch(
    model: Recommender[Any],
    histories: Sequence[Sequence[int]],
    *,
    times: Sequence[Sequence[int]] | None = None,
    users: Sequence[int] | None = None,
) -> Batch:
    """Return a ranking's batch of these histories; `users` defaults to 0, 1, 2, ..."""
    view = view_of(histories, times)
    user = np.asarray(range(len(histories)) if users is None else users, dtype=np.int64)
    after = model.needs.slots_after
    rows = last_rows(view.offsets, user, model.max_len - after)
    return toy_batcher(model, view).evaluation(rows, slots_after=after)
