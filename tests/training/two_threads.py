"""Trains models twice with two threads and prints the names of those whose weights differ (test_two_threads.py).

Sizes are large enough for torch to share an operation between threads, which it does from 32,768 elements on.
"""

import sys
import warnings
from typing import Any

import torch

from benchmarks.gpu_parts import Bench
from mmbench.models import registry
from mmbench.training.batches import batches_of_epoch

N_USERS, N_ITEMS, WIDTH, N_STEPS = 300, 2_000, 64, 2
FEWER_TARGETS = {"mlp4rec": 64, "mmmlp": 64}  # of a step: each is a row of 50 places, so this is large enough


def weights_after_some_steps(name: str) -> dict[str, torch.Tensor]:
    fewer = {"batch_size": FEWER_TARGETS[name]} if name in FEWER_TARGETS else {}
    bench = Bench(name, (N_USERS, N_ITEMS, None), "cpu", WIDTH, **fewer)
    torch.manual_seed(7)
    batches = batches_of_epoch([bench.trainer], [bench.plan])
    for _, batch in zip(range(N_STEPS), batches, strict=False):
        bench.trainer.step(batch)
    return bench.trainer.model.state_dict()


def differs(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return any(not torch.equal(value, second[key]) for key, value in first.items())


def main() -> None:
    warnings.simplefilter("ignore")
    assert torch.get_num_threads() == 2
    for name in sys.argv[1:] or registry.all_names(variants=False):
        if registry.find(name).load().trainable:
            is_different = differs(weights_after_some_steps(name), weights_after_some_steps(name))
            print(name, "differs" if is_different else "equal", flush=True)


if __name__ == "__main__":
    main()
