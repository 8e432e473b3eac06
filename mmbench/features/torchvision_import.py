"""Make `import torchvision` (and with it `transformers`) work where its compiled operators cannot load.

A torchvision built for CUDA cannot load its operators beside a CPU build of torch; its import then fails on
`torchvision::nms`, and `transformers` cannot import its vision models either. mmbench uses only transforms and model
definitions, which need none of these operators, so declaring their signatures is enough. If even that does
not help, torchvision is hidden, so that `transformers` does without it.
"""

import importlib
import sys
from functools import cache
from typing import Any, Literal

State = Literal["missing", "complete", "declared", "broken"]

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept: list[Any] = []  # torch withdraws a library's declarations when the library is collected


def prepare_torchvision() -> State:
    """Make `import torchvision` work; call this before `transformers` or torchvision is imported.

    Returns "missing", "complete" (its operators load), "declared" (only their signatures exist) or "broken" (it cannot
    be imported and is hidden from now on, as if it were not installed).
    """
    return _prepare()[0]


def torchvision_fault() -> str:
    """Return in a line why its import failed; "" if it did not."""
    return _prepare()[1]


@cache
def _prepare() -> tuple[State, str]:
    first = _try_import()
    if first is None:
        return "complete", ""
    if isinstance(first, ModuleNotFoundError) and first.name == "torchvision":
        return "missing", ""
    if "torchvision::" in str(first):
        _declare()
        if _try_import() is None:
            return "declared", _line(first)
    # None in the table of modules: importing it, and searching for it, now find nothing.
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    return "broken", _line(first)


def _try_import() -> Exception | None:
    """Import torchvision; return what went wrong, leaving nothing of a failed attempt behind."""
    try:
        importlib.import_module("torchvision")
    # A library that does not fit the others raises anything: RuntimeError, OSError, AttributeError, ...
    except Exception as error:
        for name in [module for module in sys.modules if module.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        return error
    return None


def _declare() -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        # An operator may exist while others are missing; torch refuses to declare it twice.
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            library.define(schema)
    _kept.append(library)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
