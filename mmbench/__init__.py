"""mmbench: a benchmarking toolkit for multi-modal sequential recommendation.

    import mmbench
    runs = mmbench.run(["hm4sr", "sasrec"], datasets=["demo"], seeds=3)
    mmbench.report(runs)

Names are imported when they are asked for: `import mmbench` loads neither torch nor pandas.
"""

from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from mmbench.api import *  # noqa: F403
    from mmbench.api import __all__ as __all__
else:
    from mmbench.lazy import attach

    _API = (
        "bundle", "check", "fuse", "knockout", "leaderboard", "load", "power", "prepare", "recommend", "report", "run",
        "score", "studies", "tune", "verify", "why",
    )  # fmt: skip
    _MOVED = {
        "again": "mmbench.runs.rerank",
        "cell": "mmbench.runs.plan",
        "checkpoint": "mmbench.training.checkpoint",
        "config": "mmbench.settings.config",
        "evaluate": "mmbench.evaluation.ranking",
        "experiment": "mmbench.runs.execute",
        "memory": "mmbench.training.out_of_memory",
        "metrics": "mmbench.evaluation.metrics",
        "optim": "mmbench.training.optim",
        "parallel": "mmbench.runs.workers",
        "progress": "mmbench.training.progress",
        "recipe": "mmbench.settings.recipe",
        "registry": "mmbench.models.registry",
        "results": "mmbench.runs.store",
        "stack": "mmbench.training.stack",
        "stats": "mmbench.evaluation.significance",
        "train": "mmbench.training.trainer",
    }
    __getattr__, __dir__, _exported = attach(
        __name__, {"mmbench.api": _API}, packages=("data", "errors", "models", "nn"), moved=_MOVED
    )
    __all__ = ["__version__", *_exported]
