"""The Python interface: what the commands call, for scripts and notebooks.

    runs = mmbench.run(["hm4sr", "sasrec"], datasets=["demo"], seeds=3)
    mmbench.report(runs)

Arguments are called as the options of the command line, and errors (mmbench.errors) are its single lines; nothing
ends the process. Nothing is printed unless `progress=True` asks for plain lines on stderr.

running.py    data sets prepared, runs computed
searching.py  settings searched
results.py    stored runs, tables, lists
asking.py     what a number rests on
sharing.py    bundles, verification, lists of other programs, the leaderboard
"""

from mmbench.api.asking import check, fuse, knockout, power, why
from mmbench.api.results import load, recommend, report
from mmbench.api.running import plan_cells as plan_cells
from mmbench.api.running import prepare, run
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
