"""mmbench: a benchmarking toolkit for multi-modal sequential recommendation.

    import mmbench
    runs = mmbench.run(["hm4sr", "sasrec"], datasets=["demo"], seeds=3)
    mmbench.report(runs)

Names are imported when they are asked for: `import mmbench` loads neither torch nor pandas.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mmbench.api import load, prepare, report, run

    __all__ = ["__version__", "load", "prepare", "report", "run"]
else:
    from importlib import import_module

    from mmbench.lazy import attach

    _get, __dir__, _exported = attach(
        __name__, dict.fromkeys(("load", "prepare", "report", "run"), "mmbench.api")
    )
    __all__ = ["__version__", *_exported]
    # Packages with names for a user's own files: `mmbench.models.Recommender` needs no import of its own.
    _PACKAGES = ("data", "errors", "models", "nn")
    _MOVED = {
        "again": "runs.rerank",
        "cell": "runs.plan",
        "checkpoint": "training.checkpoint",
        "config": "settings.config",
        "evaluate": "evaluation.ranking",
        "experiment": "runs.execute",
        "memory": "training.out_of_memory",
        "metrics": "evaluation.metrics",
        "optim": "training.optim",
        "parallel": "runs.workers",
        "progress": "training.progress",
        "recipe": "settings.recipe",
        "registry": "models.registry",
        "results": "runs.store",
        "stack": "training.stack",
        "stats": "evaluation.significance",
        "train": "training.trainer",
    }

    def __getattr__(name):
        if name in _MOVED:
            raise ImportError(f"mmbench.{name} is mmbench.{_MOVED[name]} now; import that")
        return import_module(f"{__name__}.{name}") if name in _PACKAGES else _get(name)
