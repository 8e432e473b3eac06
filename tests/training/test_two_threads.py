"""A step has one result, also with two threads: no gradient is added up in whatever order threads come.

The first tests look at the operations of a step, the last one trains in a process with two threads.
"""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmbench.models import registry
from mmbench.nn.layers import take_rows
from mmbench.nn.losses import item_scores
from tests.models.test_contract import BASES, TRAINED, make
from tests.models.toy import toy_view, training_batch

# Variants whose gradients were once added up in any order; the first two showed it in nearly every run.
ONCE_DIFFERENT = [
    "hm4sr:-text",
    "gru4rec:official-bpr-max",
    "hm4sr:-image",
    "hm4sr:as-released",
    "gru4rec:official",
]


class Sums(TorchDispatchMode):
    """Collects operations that add to the same place from several threads."""

    def __init__(self) -> None:
        super().__init__()
        self.unordered: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        accumulate = args[3] if len(args) > 3 else kwargs.get("accumulate", False)
        if "index_put" in func._schema.name and accumulate is True:
            self.unordered.append(f"{func._schema.name} into {list(args[0].shape)}")
        return func(*args, **kwargs)


def unordered_sums(loss: Any) -> list[str]:
    """What `Sums` finds in the forward and backward pass of a scalar that is computed by `loss()`."""
    with Sums() as sums:
        loss().backward()
    return sums.unordered


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_adds_gradients_in_a_fixed_order(name: str) -> None:
    model = make(name)
    batch = training_batch(model, toy_view())
    model.start_epoch(99)
    assert unordered_sums(lambda: torch.stack(list(model.loss(batch).values())).sum()) == []


def test_plain_indexing_is_what_is_looked_for() -> None:
    table, index = nn.Parameter(torch.ones(4, 3)), torch.tensor([1, 1, 2])
    assert unordered_sums(lambda: table[index].sum()) == ["aten::index_put into [4, 3]"]
    assert unordered_sums(lambda: take_rows(table, index).sum()) == []


def test_scores_with_a_bias_add_gradients_in_a_fixed_order() -> None:
    table, bias = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(4))
    items = torch.tensor([[1, 2], [2, 2]])

    def loss() -> Tensor:
        return item_scores(torch.ones(2, 3), table, items, bias).sum()

    assert unordered_sums(loss) == []
    assert bias.grad is not None
    assert bias.grad.tolist() == [1.0, 3.0, 0.0, 0.0]


def test_steps_with_two_threads_have_one_result() -> None:
    # The data of this test have no features per layer.
    names = [name for name in (*BASES, *ONCE_DIFFERENT) if not registry.find(name).load().reads_layers]
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.two_threads", *names],
        # Threads that wait by spinning take the cores from other tests.
        env={**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"},
        capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [word for name in names for word in (name, "equal")]
