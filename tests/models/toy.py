"""A data set small enough to reason about, and the short ways from it to a model and its batches.

toy_view     20 users, 30 items; 1 to 14 events each (so some exceed max_len 8), repeated items, tied times
toy_catalog  the same as a model gets it: text [31, 12], image [31, 8], some items without, 5 categories and
             4 brands; of each modality 13 states of 12 dims, float16, as from networks of 12 layers
toy_model    a registered model by name, built as the engine builds it (recipe + variant + given settings)
training_batch, history_batch, with_targets   what the engine would feed that model; the second with targets
stack_groups, take_group        weights of separate modules and of one with a group axis
gradients, overfit   one step's loss and gradients; training until a condition holds
sines, set_weights   parameters that are sines of their place; values put into parameters
in_float64           models built inside have constants in float64
loss_by_hand         a loss from the scores of all items, as its formula is printed
random_fives         histories that can only be learned by heart
ranks_last_items_first, learns_by_heart   whether a model knows their last items, and can be taught them
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmbench.data.batch import Batch, TrainBatch
from mmbench.data.batcher import Batcher
from mmbench.data.samples import Rows, last_rows, plan_rows
from mmbench.data.views import TrainView
from mmbench.models.base import Catalog, Recommender
from mmbench.models.needs import Prefixes, StepDrawer
from mmbench.models.registry import find

N_ITEMS, N_USERS, MAX_LEN, N_CATEGORIES, N_STATES = 30, 20, 8, 5, 13
START = 1_400_000_000  # unix seconds: float32 could not tell neighbours apart
DAY = 86_400


def view_of(histories: Sequence[Sequence[int]], times: Sequence[Sequence[int]] | None = None) -> TrainView:
    """Training events from lists of item ids, one list a user; without times: one event a day."""
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
    """Random histories; every item occurs when there is room, about one event in six shares its time."""
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
    """values float32 [N+1, dim] and present bool [N+1]; padding and missing items have zero rows."""
    values = torch.randn(n_items + 1, dim, generator=generator)
    present = torch.ones(n_items + 1, dtype=torch.bool)
    present[[0, *(one for one in missing if one <= n_items)]] = False
    return values * present[:, None], present


def catalog_of(
    view: TrainView, *, n_items: int, max_len: int = MAX_LEN, features: bool = True, seed: int = 0
) -> Catalog:
    """The catalogue of these events, with random features and categories unless `features` is False."""
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
    # Item i is in category i mod 5, every third item also in the next one, item 4 in none.
    owned = [[] if i in (0, 4) else sorted({i % 5, (i + (i % 3 == 0)) % 5}) for i in range(n_items + 1)]
    counts = torch.tensor([len(one) for one in owned])
    states = {
        modality: torch.randn(n_items + 1, N_STATES, 12, generator=generator) * present[:, None, None]
        for modality, present in (("text", has_text), ("image", has_image))
    }
    return Catalog(
        **events,
        layer_feat={modality: values.half() for modality, values in states.items()},
        text_feat=text, has_text=has_text, image_feat=image, has_image=has_image,
        category_ids=torch.tensor([c for one in owned for c in one], dtype=torch.int64),
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
    """The catalogue of `toy_view` of the same sizes and seed."""
    view = toy_view(n_items=n_items, n_users=n_users, seed=seed)
    return catalog_of(view, n_items=n_items, max_len=max_len, features=features, seed=seed)


def toy_model(name: str, catalog: Catalog, *, seed: int = 0, **settings: Any) -> Recommender[Any]:
    """`name` may have a variant; settings of training (lr, samples, ...) in the recipe are left out."""
    entry = find(name)
    config = entry.config("toy", **settings)
    torch.manual_seed(seed)
    return entry.load()(config, catalog)


def toy_batcher(model: Recommender[Any], view: TrainView) -> Batcher:
    return Batcher(view.items, view.times, layout=model.needs.layout, max_len=model.max_len)


def training_batch(
    model: Recommender[Any],
    view: TrainView,
    *,
    samples: str | None = None,
    rows: Rows | None = None,
    seed: int = 0,
) -> TrainBatch:
    """All rows of an epoch (or the given ones) as one step, with negatives where the model wants them."""
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
    """An evaluation batch of these histories; `users` defaults to 0, 1, 2, ..."""
    view = view_of(histories, times)
    user = np.asarray(range(len(histories)) if users is None else users, dtype=np.int64)
    after = model.needs.slots_after
    rows = last_rows(view.offsets, user, model.max_len - after)
    return toy_batcher(model, view).evaluation(rows, slots_after=after)


def with_targets(batch: Batch, targets: Sequence[int]) -> TrainBatch:
    """Return the batch with a target for each of its slots."""
    return TrainBatch.of({**batch.tensors(), "target": torch.tensor(targets)})


def gradients(model: Recommender[Any], batch: TrainBatch) -> tuple[float, dict[str, Tensor]]:
    """The summed loss of a step and the gradient of every parameter that has one."""
    model.zero_grad()
    loss = sum(model.loss(batch).values())
    assert isinstance(loss, Tensor)
    loss.backward()
    return loss.item(), {
        name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None
    }


def loss_by_hand(kind: str, scores: Tensor, batch: TrainBatch) -> Tensor:
    """`kind` ("ce", "bce" or "bpr") of scores [T, N], column i - 1 = item i, for the batch's targets, negatives."""
    own = scores.gather(1, batch.target[:, None] - 1)  # [T, 1]
    if kind == "ce":
        return (scores.exp().sum(1).log() - own[:, 0]).mean()
    other = scores.gather(1, batch.negatives - 1)  # [T, K]
    if kind == "bpr":
        return -(own - other).sigmoid().log().mean()
    return -(own[:, 0].sigmoid().log() + (1 - other.sigmoid()).log().sum(1)).mean()


def random_fives() -> list[list[int]]:
    """64 histories of five items out of 64."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(1, 65, (5,), generator=generator).tolist() for _ in range(64)]


def ranks_last_items_first(model: Recommender[Any], histories: Sequence[Sequence[int]]) -> bool:
    """Whether no other item has a higher score after a history's events but the last than that last one."""
    last = torch.tensor([one[-1] for one in histories])
    with torch.no_grad():
        scores = model.score(history_batch(model, [one[:-1] for one in histories]))
    return torch.equal(scores.argmax(1) + 1, last)


def learns_by_heart(
    model: Recommender[Any], histories: Sequence[Sequence[int]], *, lr: float, n_steps: int
) -> bool:
    """Whether its cross entropy teaches a model all last items in so many steps of all histories."""
    batch = training_batch(model, view_of(histories))

    def done() -> bool:
        return ranks_last_items_first(model, histories)

    overfit(model, lambda: model.loss(batch)["ce"], done, lr=lr, n_steps=n_steps)
    return done()


def overfit(
    model: Recommender[Any], step: Callable[[], Tensor], done: Callable[[], bool], *, lr: float, n_steps: int
) -> None:
    """Adam until `done`, looked at every 20 steps."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for number in range(1, n_steps + 1):
        optimizer.zero_grad()
        step().backward()
        optimizer.step()
        if number % 20 == 0 and done():
            return


def stack_groups(grouped: nn.Module, members: Sequence[nn.Module]) -> None:
    """Give group g of `grouped` the weights of members[g], modules of the same names without groups."""
    weights = [dict(member.named_parameters()) for member in members]
    with torch.no_grad():
        for name, parameter in grouped.named_parameters():
            parameter.copy_(torch.stack([one[name] for one in weights]).view_as(parameter))


def take_group(member: nn.Module, grouped: nn.Module, g: int) -> None:
    """Give `member` the weights of group g of `grouped`."""
    weights = dict(grouped.named_parameters())
    with torch.no_grad():
        for name, parameter in member.named_parameters():
            parameter.copy_(weights[name].view(-1, *parameter.shape)[g])


def sines(start: float, *shape: int, scale: float, rows: float = 1.0, columns: float = 2.0) -> Tensor:
    """Return scale * sin(start + rows * i + columns * j), float64 [i, j] (or [i]), counted from 0."""
    grid = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij")
    steps = zip((rows, columns), grid, strict=False)
    return scale * (start + torch.stack([step * number for step, number in steps]).sum(0)).sin()


def set_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Write values into parameters, named in full; the others stay."""
    with torch.no_grad():
        for name, value in weights.items():
            model.get_parameter(name).copy_(value)


@contextmanager
def in_float64() -> Iterator[None]:
    """Build models inside whose constants, too, have all digits."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# -- what a model says -------------------------------------------------------------------------------------------


def all_scores(model: Recommender[Any], n_users: int) -> Tensor:
    """Return the scores of users 0 .. n_users - 1 by a model that reads the user only, [n_users, N]."""
    with torch.no_grad():
        return model.eval().score(history_batch(model, [[1]] * n_users))


def last_state(model: Recommender[Any], history: list[int]) -> Tensor:
    """Return the state that follows a history, [D]."""
    with torch.no_grad():
        return model.query(history_batch(model, [history]))[0]


def n_parameters(module: nn.Module) -> int:
    """Return how many numbers the parameters of a module hold."""
    return sum(parameter.numel() for parameter in module.parameters())


def close(actual: Tensor, *expected: float) -> None:
    """Check the numbers of a tensor against printed ones with ten digits."""
    values = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.detach().flatten(), values, rtol=0, atol=6e-11)
