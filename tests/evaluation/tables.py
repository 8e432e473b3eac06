"""Random scores for the tests of rankings."""

import numpy as np
import torch

U, N = 50, 30


def random_table(*, levels: int | None = None, seed: int = 1) -> torch.Tensor:
    """Scores of U users for N items; few `levels` make many ties."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(U, N)) if levels is None else rng.integers(0, levels, (U, N))
    return torch.tensor(values, dtype=torch.float32)
