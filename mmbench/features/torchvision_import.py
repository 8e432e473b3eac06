"""`import torchvision` (and with it `transformers`) where its compiled operators cannot load.

A torchvision built for CUDA cannot load its operators beside a CPU build of torch; its import then fails on
`torchvision::nms`, and `transformers` cannot import its vision models either. mmbench uses transforms and model
definitions only, which need none of those operators, so declaring their signatures is enough.
"""

import importlib
import sys
from functools import cache
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []  # a torch library takes its declarations back when it is collected


@cache
def prepare_torchvision() -> str:
    """Make `import torchvision` work; call it before `transformers` or torchvision is imported.

    -> "missing", "complete" (its operators are there) or "declared" (only their signatures are).
    """
    try:
        importlib.import_module("torchvision")
        return "complete"
    except ModuleNotFoundError:
        return "missing"
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    import torch

    for name in [one for one in sys.modules if one.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)
    importlib.import_module("torchvision")
    return "declared"
