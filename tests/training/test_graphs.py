"""Which steps can be replayed as CUDA graphs. Whether the replays are right only a GPU shows (tests/test_gpu.py)."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmbench.settings.config import TrainConfig
from mmbench.training.graphs import why_no_graphs
from tests.models.test_contract import TRAINED, make
from tests.models.toy import toy_view, training_batch

# What makes the host wait for the device, or gives tensors whose shape depends on values.
WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "unique_dim",
    "_unique2",
    "unique_consecutive",
    "masked_select",
    "lift_fresh",
}
GPU_CONFIG = TrainConfig()


class Operations(TorchDispatchMode):
    """Counts operations that a graph cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in WAITING:
            self.refused[name] += 1
        if name.startswith(("index", "_index_put")) and isinstance(args[1], list | tuple):
            if any(index is not None and index.dtype == torch.bool for index in args[1]):
                self.refused[f"{name} by a mask"] += 1
            if "put" in name and args[2].dim() == 0:  # a number of the host is copied
                self.refused[f"{name} of a number"] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_that_is_replayed_asks_nothing_of_the_host(name: str) -> None:
    model = make(name)
    batch = training_batch(model, toy_view())
    model.start_epoch(99)
    with Operations() as operations:
        torch.stack(list(model.loss(batch).values())).sum().backward()
    if not why_no_graphs(model, GPU_CONFIG, "cuda"):
        assert not operations.refused


def test_why_steps_are_not_replayed() -> None:
    model = make("sasrec")
    assert why_no_graphs(model, GPU_CONFIG, "cuda:0") == ""
    assert why_no_graphs(model, GPU_CONFIG, "cpu") == "graphs are for GPUs"
    assert (
        why_no_graphs(model, replace(GPU_CONFIG, compile=True), "cuda") == "a compiled loss is not captured"
    )
    assert (
        why_no_graphs(model, replace(GPU_CONFIG, optimizer="sgd"), "cuda") == "sgd reads its rate on the host"
    )
    assert "depend on the data" in why_no_graphs(make("gru4rec"), GPU_CONFIG, "cuda")
