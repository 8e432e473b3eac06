"""The Python interface: what the commands call, for scripts and notebooks.

    runs = mmbench.run(["hm4sr", "sasrec"], datasets=["demo"], seeds=3)
    mmbench.report(runs)

Arguments are named after the options of the commands (datasets: --dataset, settings: --set). Errors are exceptions of
mmbench.errors with the line that the command prints; nothing ends the process.
Nothing is printed unless `progress=True` asks for plain lines on stderr.

preparing.py  data sets prepared
running.py    runs computed
searching.py  settings searched
results.py    stored runs, tables, lists
asking.py     knockout, power, why, check, fuse: what a number rests on
sharing.py    bundles, verification, lists of other programs, the leaderboard

A name is imported when it is asked for, so that `report` need not import torch, which is slower than most tables.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmbench.api.asking import check, fuse, knockout, power, why
    from mmbench.api.preparing import prepare
    from mmbench.api.results import load, recommend, report
    from mmbench.api.running import run
    from mmbench.api.searching import studies, tune
    from mmbench.api.sharing import bundle, leaderboard, score, verify

    __all__ = [
        "bundle",
        "check",
        "fuse",
        "knockout",
        "leaderboard",
        "load",
        "power",
        "prepare",
        "recommend",
        "report",
        "run",
        "score",
        "studies",
        "tune",
        "verify",
        "why",
    ]
else:
    from mmbench.lazy import attach

    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "mmbench.api.asking": ("check", "fuse", "knockout", "power", "why"),
            "mmbench.api.preparing": ("prepare",),
            "mmbench.api.results": ("load", "recommend", "report"),
            "mmbench.api.running": ("run",),
            "mmbench.api.searching": ("studies", "tune"),
            "mmbench.api.sharing": ("bundle", "leaderboard", "score", "verify"),
        },
    )
