"""What the tests of models share: the toy data set of `mmbench.contract.toy`, and what a test asks of a model on it.

toy_model    a registered model by name, built as the engine builds it (recipe + variant + given settings)
with_targets a batch for a ranking, with targets
stack_groups, take_group        weights of separate modules and of one with a group axis
gradients, overfit   one step's loss and gradients; training until a condition holds
sines, set_weights   parameters that are sines of their place; values put into parameters
in_float64           models built inside have constants in float64
loss_by_hand         a loss from the scores of all items, as its formula is printed
random_fives         histories that can only be memorised
ranks_last_items_first, learns_by_heart   whether a model knows their last items, and can be taught them
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmbench.contract.toy import (
    DAY,
    MAX_LEN,
    N_CATEGORIES,
    N_ITEMS,
    N_STATES,
    N_USERS,
    START,
    catalog_of,
    history_batch,
    toy_batcher,
    toy_catalog,
    toy_view,
    training_batch,
    view_of,
    with_drawn,
)
from mmbench.data.batch import Batch, TrainBatch
from mmbench.models.base import Catalog, Recommender
from mmbench.models.registry import find

__all__ = [
    "DAY", "MAX_LEN", "N_CATEGORIES", "N_ITEMS", "N_STATES", "N_USERS", "START", "catalog_of", "gradients",
    "history_batch", "in_float64", "learns_by_heart", "loss_by_hand", "overfit", "random_fives",
    "ranks_last_items_first", "set_weights", "sines", "stack_groups", "take_group", "toy_batcher", "toy_catalog",
    "toy_model", "toy_view", "training_batch", "view_of", "with_drawn", "with_targets",
]  # fmt: skip


def toy_model(name: str, catalog: Catalog, *, seed: int = 0, **settings: Any) -> Recommender[Any]:
    """`name` may have a variant; settings of training (lr, samples, ...) in the recipe are left out."""
    entry = find(name)
    config = entry.config("toy", **settings)
    torch.manual_seed(seed)
    return entry.load()(config, catalog)


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
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
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
    last = torch.tensor([history[-1] for history in histories])
    with torch.no_grad():
        scores = model.score(history_batch(model, [history[:-1] for history in histories]))
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
            parameter.copy_(torch.stack([weight[name] for weight in weights]).view_as(parameter))


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
