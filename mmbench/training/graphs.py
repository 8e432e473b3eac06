"""Training steps as CUDA graphs: the hundreds of small kernels of a step start with a single launch.

A graph serves a single shape of batch and reads its tensors where they lay when it was captured, so a batch is copied
there before each replay. The first batch of a shape is trained as it is, which readies whatever torch sets up
lazily; the second is captured. Random numbers come from torch's generator at each replay: a replayed step draws
what the step by itself would have drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmbench.data.batch import TrainBatch
from mmbench.models.base import Recommender
from mmbench.settings.config import TrainConfig
from mmbench.training.learner import Terms

MOST_GRAPHS = 64  # limits the graphs of a training; further shapes are trained step by step
Step = Callable[[TrainBatch], Terms]
Key = tuple[tuple[int, ...], ...]


def why_no_graphs(model: Recommender[Any], config: TrainConfig, device: str) -> str:
    """Return why the steps of a model cannot be replayed; empty when they can."""
    if not device.startswith("cuda"):
        return "graphs are for GPUs"
    if not model.needs.stackable:
        return "the shapes inside its loss depend on the data"
    if config.compile:
        return "a compiled loss is not captured"
    if config.optimizer == "sgd":
        return "sgd reads its rate on the host"
    return ""


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    terms: Terms


def restore_generator(state: Tensor) -> None:
    """Give the current GPU's default generator this state again after a capture that failed.

    After such a capture the generator still counts as being captured, so that it refuses every draw and its state. It
    can take over the whole state of another generator.
    """
    fresh = torch.Generator(device="cuda")
    fresh.set_state(state)
    torch.cuda.default_generators[torch.cuda.current_device()].graphsafe_set_state(fresh)


class StepGraphs:
    """Replays a step where its shape was met before.

    step  the whole of an optimiser step; called once for each shape to be captured
    """

    def __init__(self, step: Step, tell: Callable[[str], None]) -> None:
        self.step, self.tell = step, tell
        self.pool = torch.cuda.graph_pool_handle()  # of the memory that all graphs share
        self.met: set[Key] = set()
        self.captured: dict[Key, _Captured] = {}
        self.is_off = False

    def replay(self, batch: TrainBatch) -> Terms | None:
        """Take the step as a graph and return its loss terms; None = nothing was done, because there is none."""
        if self.is_off:
            return None
        tensors = batch.tensors()
        key = tuple(tuple(x.shape) for x in tensors.values())
        if key not in self.captured:
            if key not in self.met or len(self.captured) >= MOST_GRAPHS:
                self.met.add(key)
                return None
            if not self._capture(key, tensors):
                return None
        captured = self.captured[key]
        torch._foreach_copy_(list(captured.inputs.values()), list(tensors.values()))
        captured.graph.replay()
        return Terms(captured.terms.names, captured.terms.values.clone())

    def forget(self) -> None:
        """Drop all graphs: the step is no longer what was captured."""
        self.captured = {}
        # Tensors of the old pool may live on, as gradients do; a pool without graphs takes no further graphs.
        self.pool = torch.cuda.graph_pool_handle()

    def _capture(self, key: Key, tensors: dict[str, Tensor]) -> bool:
        """Record the step of a shape; where that fails, note it once and train step by step from then on."""
        inputs = {name: x.clone() for name, x in tensors.items()}
        graph, noise = torch.cuda.CUDAGraph(), torch.cuda.get_rng_state()
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=torch.cuda.current_stream()):
                terms = self.step(TrainBatch.of(inputs))
        except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
            first = " ".join(str(error).split())[:160]
            self.is_off, self.captured = True, {}
            restore_generator(noise)
            self.tell(f"trained without CUDA graphs: {first}")
            return False
        self.captured[key] = _Captured(graph, inputs, terms)
        return True
