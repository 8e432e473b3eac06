"""Computes the gradients of a step several times with two threads; prints which models have equal gradients.

Sizes are large enough for torch to share an operation between threads, which it does from 32,768 elements on: 600
targets of 64 numbers. A model and its step are made once; each repetition begins with the same draws.
"""

import sys
import warnings

import torch
from torch import Tensor

from benchmarks.gpu_parts import Bench
from mmbench.models import registry

N_USERS, N_ITEMS, WIDTH, N_TARGETS, REPEATS = 200, 600, 64, 600, 4
# Where the layers see whole rows of 50 places, or the batch counts rows: so few already make 600 places.
FEWER = {
    "bert4rec": 64, "dif-sr": 100, "fearec": 64, "mlp4rec": 24, "mmmlp": 24, "mmsr": 100, "s3rec": 32,
    "sasrec-ensemble": 64, "ticoserec": 64, "tmmsrec": 24, "trimlp": 64, "trimlp-ensemble": 64,
}  # fmt: skip


def gradients(bench: Bench) -> dict[str, Tensor]:
    """Return the gradient of each parameter for the first step; weights stay as they are."""
    torch.manual_seed(7)
    bench.trainer.learner.gradients(bench.batch)
    parameters = bench.trainer.model.named_parameters()
    return {name: p.grad for name, p in parameters if p.grad is not None}


def differs(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() != second.keys() or any(not torch.equal(g, second[key]) for key, g in first.items())


def repeats_differ(name: str) -> bool:
    size = FEWER.get(name.partition(":")[0], N_TARGETS)
    bench = Bench(name, (N_USERS, N_ITEMS, None), "cpu", WIDTH, batch_size=size)
    first = gradients(bench)
    assert first
    return any(differs(first, gradients(bench)) for _ in range(REPEATS - 1))


def main() -> None:
    warnings.simplefilter("ignore")
    assert torch.get_num_threads() == 2
    for name in sys.argv[1:] or registry.all_names(variants=False):
        if registry.find(name).load().trainable:
            print(name, "differs" if repeats_differ(name) else "equal", flush=True)


if __name__ == "__main__":
    main()
