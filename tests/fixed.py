"""Numbers that depend on a text and a shape only, in place of torch's random ones.

They come from integer arithmetic (splitmix64 of a counter that starts where the CRC of the text says), so they are
the same on every processor, with any number of threads and with every version of torch.

uniform, signed    numbers in [0, 1) and in [-1, 1)
draws_replaced     replaces torch's random draws by such numbers
fill               gives all parameters of a model such values
"""

import math
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

STEP, FACTOR_1, FACTOR_2 = (
    np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def words(text: str, n: int) -> np.ndarray:
    """Return n numbers of 64 bits, uint64 [n]."""
    start = np.uint64(zlib.crc32(text.encode()) << 32)
    x = (np.arange(1, n + 1, dtype=np.uint64) + start) * STEP
    x = (x ^ (x >> np.uint64(30))) * FACTOR_1
    x = (x ^ (x >> np.uint64(27))) * FACTOR_2
    return x ^ (x >> np.uint64(31))


def uniform(text: str, shape: Sequence[int]) -> Tensor:
    """Return float64 numbers in [0, 1), multiples of 2^-53."""
    numbers = (words(text, math.prod(shape)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return torch.from_numpy(numbers).view(*shape)


def signed(text: str, shape: Sequence[int]) -> Tensor:
    """Return float64 numbers in [-1, 1)."""
    return 2 * uniform(text, shape) - 1


class _Draws:
    """Take the place of torch's functions that draw; the numbers of a draw follow from kind, shape and order."""

    def __init__(self) -> None:
        self.count: Counter[tuple[str, tuple[int, ...]]] = Counter()

    def _text(self, kind: str, shape: Sequence[int]) -> str:
        self.count[kind, tuple(shape)] += 1
        return f"{kind} {tuple(shape)} {self.count[kind, tuple(shape)]}"

    def uniform(self, kind: str, shape: Sequence[int]) -> Tensor:
        return uniform(self._text(kind, shape), shape)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Return sums of three uniform numbers, scaled to mean 0 and deviation 1; they lie in [-3, 3)."""
        return 2 * self.uniform("normal", (3, *shape)).sum(0) - 3

    # Functions of torch.

    def rand(self, *size: Any, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
        return self.uniform("rand", _sizes(size)).to(dtype or torch.get_default_dtype())

    def randn(self, *size: Any, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
        return self.normal(_sizes(size)).to(dtype or torch.get_default_dtype())

    def randint(self, low: int, high: int, size: Sequence[int], **_: Any) -> Tensor:
        """Return int64 numbers in low..high - 1; also where the range has nearly 64 bits."""
        numbers = words(self._text("randint", size), math.prod(size)) % np.uint64(high - low)
        moved = numbers + np.uint64(low % 2**64)
        return torch.from_numpy(moved.view(np.int64)).view(*size)

    def randint_like(self, like: Tensor, low: int, high: int, **_: Any) -> Tensor:
        return self.randint(low, high, like.shape).to(like.dtype)

    def randperm(self, n: int, **_: Any) -> Tensor:
        return self.uniform("randperm", (n,)).argsort()

    def multinomial(self, weights: Tensor, n: int, replacement: bool = False, **_: Any) -> Tensor:
        """Return n indices, each where a uniform number falls in the cumulated weights."""
        assert replacement
        total = weights.double().cumsum(0)
        drawn = torch.searchsorted(total, self.uniform("multinomial", (n,)) * total[-1], right=True)
        return drawn.clamp(max=len(weights) - 1)

    # Methods of torch.Tensor and functions of torch.nn.init, which write into their first argument.

    def normal_(self, tensor: Tensor, mean: float = 0.0, std: float = 1.0, **_: Any) -> Tensor:
        return tensor.copy_(mean + std * self.normal(tensor.shape))

    def uniform_(self, tensor: Tensor, low: float = 0.0, high: float = 1.0, **_: Any) -> Tensor:
        return tensor.copy_(low + (high - low) * self.uniform("uniform", tensor.shape))

    def random_(self, tensor: Tensor, low: int, high: int | None = None, **_: Any) -> Tensor:
        return tensor.copy_(self.randint(low, 2**63 - 1 if high is None else high, tensor.shape))

    @torch.no_grad()
    def trunc_normal_(
        self, tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, **_: Any
    ) -> Tensor:
        return tensor.copy_((mean + std * self.normal(tensor.shape)).clamp(a, b))


def _sizes(size: Sequence[Any]) -> tuple[int, ...]:
    """Return the shape from the arguments of `torch.rand(2, 3)` or `torch.rand((2, 3))`."""
    return tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else tuple(size)


@contextmanager
def draws_replaced() -> Iterator[None]:
    """Replace torch's draws by fixed numbers; raise AssertionError if another function reached its generator."""
    draws = _Draws()
    replaced: dict[Any, list[str]] = {
        torch: ["rand", "randn", "randint", "randint_like", "randperm", "multinomial"],
        nn.init: ["trunc_normal_"],
    }
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        state = torch.manual_seed(0).get_state()
        for owner, names in replaced.items():
            for name in names:
                stack.enter_context(mock.patch.object(owner, name, getattr(draws, name)))
        for name in ("normal_", "uniform_", "random_"):
            stack.enter_context(mock.patch.object(torch.Tensor, name, _as_method(getattr(draws, name))))
        yield
        if not torch.equal(state, torch.get_rng_state()):
            raise AssertionError("a function drew from torch's generator; replace it in tests/fixed.py too")


def _as_method(function: Any) -> Any:
    def method(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with torch.no_grad():
            function(tensor, *args, **_named(kwargs))
        return tensor

    return method


def _named(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Rename the keywords of torch's methods to those of `_Draws`."""
    return {{"from": "low", "to": "high"}.get(key, key): value for key, value in kwargs.items()}


@torch.no_grad()
def fill(model: nn.Module) -> None:
    """Give every parameter values of its name and shape; a padding row that starts as zero stays zero."""
    padding = {
        f"{name}.weight": module.padding_idx
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None
    }
    for name, parameter in model.named_parameters():
        values, row = weights(name, parameter.shape), padding.get(name)
        if row is not None and not parameter[row].any():
            values[row] = 0.0
        parameter.copy_(values)


def weights(name: str, shape: Sequence[int]) -> Tensor:
    """Return values that keep a model in a sane range: scales near 1, small biases, maps that keep lengths."""
    values = signed(name, shape)
    if name.endswith("ring_log"):  # LRURec's log of nu, theta, gamma: |lambda| in .82 .. .98
        middle, half = torch.tensor([[-2.8, 1.1], [0.2, 1.2], [-1.2, 0.4]], dtype=torch.float64).unbind(1)
        return middle[:, None] + half[:, None] * values
    if len(shape) == 1:
        is_scale = "norm" in name and name.endswith("weight")
        return 0.2 * values + (1.0 if is_scale else 0.0)
    return values * (3 / shape[-1]) ** 0.5
