"""`import torchvision` (and with it `transformers`) where its compiled operators cannot load.

A torchvision built for CUDA cannot load its operators beside a CPU build of torch; its import then fails on
`torchvision::nms`, and `transformers` cannot import its vision models either. mmbench uses transforms and model
definitions only, which need none of those operators, so declaring their signatures is enough. Where even that does
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
_kept: list[Any] = []  # a torch library takes its declarations back when it is collected


def prepare_torchvision() -> State:
    """Make `import torchvision` work; call it before `transformers` or torchvision is imported.

    -> "missing", "complete" (its operators are there), "declared" (only their signatures are) or "broken" (it cannot
    be imported: hidden from now on, importing it says that there is no such module).
    """
    return _prepare()[0]


def torchvision_fault() -> str:
    """Why its own import failed, one line; "" when it did not."""
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
    # None in the table of modules: every import of it, and the search for it, now find nothing.
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    return "broken", _line(first)


def _try_import() -> Exception | None:
    """Import torchvision -> what went wrong; nothing of a failed try stays behind."""
    try:
        importlib.import_module("torchvision")
    # A library that does not fit the others fails with anything: RuntimeError, OSError, AttributeError, ...
    except Exception as error:
        for name in [one for one in sys.modules if one.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        return error
    return None


def _declare() -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        # It is there when only others are missing; declaring it twice is an error of torch.
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            library.define(schema)
    _kept.append(library)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
