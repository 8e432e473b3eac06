"""mmbench: a benchmarking toolkit for multi-modal sequential recommendation.

    import mmbench
    runs = mmbench.run(["hm4sr", "sasrec"], datasets=["demo"], seeds=3)
    mmbench.report(runs)

Names are imported when they are asked for: `import mmbench` loads neither torch nor pandas.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mmbench.api import *  # noqa: F403
    from mmbench.api import __all__ as __all__
else:
    from mmbench.lazy import attach

    _API = (
        "check", "fuse", "knockout", "load", "power", "prepare", "recommend", "report", "run", "studies", "tune",
        "why",
    )  # fmt: skip
    __getattr__, __dir__, _exported = attach(
        __name__, {"mmbench.api": _API}, packages=("data", "errors", "models", "nn")
    )
    __all__ = ["__version__", *_exported]
