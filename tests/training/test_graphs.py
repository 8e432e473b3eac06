"""Steps that are replayed as CUDA graphs can be: nothing in them waits for a number or copies from the host.

The steps run on torch's "meta" device, which computes shapes only: what a capture on a GPU refuses is seen here too.
"""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmbench.data.batch import TrainBatch
from mmbench.models.base import Recommender
from mmbench.settings.config import TrainConfig
from mmbench.training.graphs import why_no_graphs
from mmbench.training.learner import Learner
from tests.models.test_contract import TRAINED, make
from tests.models.toy import toy_catalog, toy_view, training_batch

META = "meta"
COPIES = (
    "_to_copy",
    "copy_",
    "index_put",
    "masked_scatter",
    "lift_fresh",
)  # of a tensor of the host: refused
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "masked_scatter_backward", "unique", "equal")


_made: dict[Any, Any] = {}


def _described(value: Any) -> Any:
    """Return what decides the layout of a result: a tensor's own and its device; else the value."""
    if isinstance(value, Tensor):
        return "tensor", tuple(value.shape), value.stride(), value.dtype, value.device.type
    if isinstance(value, list | tuple):
        return type(value), tuple(map(_described, value))
    return type(value), value


def _called(func: Any, args: Any, kwargs: Any) -> Any:
    """Return func(*args, **kwargs); where it makes new tensors on "meta", their layouts are computed once.

    Most of such a call is Python that torch runs for its shapes, and models repeat the calls of other models.
    """
    arguments, returns = func._schema.arguments, func._schema.returns
    if any(x.alias_info for x in (*arguments, *returns)):
        return func(*args, **kwargs)
    key = (func, _described(args), _described(tuple(kwargs.items())))
    if key not in _made:
        done = func(*args, **kwargs)
        tensors = done if isinstance(done, tuple) else (done,)
        if all(isinstance(x, Tensor) and x.device.type == META for x in tensors):
            _made[key] = done
        return done
    done = _made[key]
    return tuple(map(_like, done)) if isinstance(done, tuple) else _like(done)


def _like(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=META)


class Refused(TorchDispatchMode):
    """Collects what a capture would refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def tensor(self, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        """torch.tensor, whose copy from the host is not dispatched."""
        self.found += ["tensor() copies from the host"] if str(device) == META else []
        return torch.as_tensor(*args, device=device, **kwargs)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        indices = tree_leaves(args[1:]) if name.startswith("index") else []
        if name.startswith(WAITS) or any(isinstance(x, Tensor) and x.dtype == torch.bool for x in indices):
            self.found.append(f"{name} waits for a number")
        done = _called(func, args, kwargs or {})
        devices = {x.device.type for x in tree_leaves((args, kwargs, done)) if isinstance(x, Tensor)}
        if name.startswith(COPIES) and devices == {"cpu", META}:
            self.found.append(f"{name} copies from the host")
        return done


def refused(model: Recommender[Any], batch: TrainBatch) -> list[str]:
    """What a capture of the model's gradients would refuse."""
    there = TrainBatch.of({name: x.to(META) for name, x in batch.tensors().items()})
    learner = Learner(model.to(META), TrainConfig(), "cpu")
    no_autocast = patch.object(torch, "autocast", lambda *_, **__: nullcontext())  # torch has none for "meta"
    with Refused() as mode, patch.object(torch, "tensor", mode.tensor), no_autocast:
        try:
            learner.gradients(there)
        except (RuntimeError, NotImplementedError):  # a number that "meta" does not have
            if not mode.found:
                raise
    return mode.found


@pytest.mark.parametrize("name", TRAINED)
def test_what_is_captured_can_be(name: str) -> None:
    model = make(name)
    if why_no_graphs(model, TrainConfig(), "cuda"):
        pytest.skip("is trained kernel by kernel")
    if name.startswith("mgat"):
        pytest.skip("its sparse products have no shapes-only form")
    batch = training_batch(model, toy_view())
    model.start_epoch(1)
    model.train()
    assert refused(model, batch) == []


class Toy(Recommender[None]):
    """A loss that does one thing which a capture refuses."""

    def __init__(self, kind: str) -> None:
        super().__init__(None, toy_catalog())
        self.kind, self.weight, self.host = kind, nn.Parameter(torch.ones(3)), torch.ones(3)

    def loss(self, batch: TrainBatch) -> dict[str, Tensor]:
        value, mask = self.weight, self.weight > 0
        made = {
            "number": lambda: value * float(value.detach().sum()),
            "copy": lambda: value * self.host.to(value.device),
            "constant": lambda: value * torch.tensor([1.0, 2.0, 3.0], device=value.device),
            "mask": lambda: value[mask],
            "assignment": lambda: (0 * value).index_put_((mask,), self.host[0]),
            "scatter": lambda: (0 * value).masked_scatter(mask, value),
            "choice": lambda: value if mask.all() else 2 * value,
            "nothing": lambda: torch.where(mask, value, 0.0).masked_fill(mask, -1) + torch.zeros_like(value),
        }
        return {"loss": made[self.kind]().sum()}


@pytest.mark.parametrize(
    "kind", ["number", "copy", "constant", "mask", "assignment", "scatter", "choice", "nothing"]
)
def test_what_is_looked_for(kind: str) -> None:
    batch = training_batch(make("sasrec"), toy_view())
    assert bool(refused(Toy(kind), batch)) == (kind != "nothing")


def test_why_steps_are_not_replayed() -> None:
    model, config = make("sasrec"), TrainConfig()
    assert why_no_graphs(model, config, "cuda:0") == ""
    assert why_no_graphs(model, config, "cpu") == "graphs are for GPUs"
    assert why_no_graphs(model, replace(config, compile=True), "cuda") == "a compiled loss is not captured"
    assert why_no_graphs(model, replace(config, optimizer="sgd"), "cuda") == "sgd reads its rate on the host"
    assert "depend on the data" in why_no_graphs(make("gru4rec"), config, "cuda")
