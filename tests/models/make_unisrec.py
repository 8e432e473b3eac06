"""Models of the tests of UniSRec."""

import math
from typing import Any

import torch
from torch import Tensor


def cosine_wave(*shape: Any, **_: Any) -> Tensor:
    """Take the place of torch.randn: cos of the flat index."""
    sizes = shape[0] if isinstance(shape[0], tuple) else shape
    return torch.arange(math.prod(sizes), dtype=torch.float64).cos().view(*sizes)
