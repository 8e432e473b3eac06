"""Runs side by side, asked of a thread in a process whose main module has no file, as a notebook's has none."""

import json
import sys
import threading
from types import ModuleType

import mmbench


def main() -> None:
    """Compute what the first argument asks, as JSON; print model, seed and status of each run."""
    sys.modules["__main__"] = ModuleType("__main__")
    options, runs = json.loads(sys.argv[1]), []
    thread = threading.Thread(target=lambda: runs.extend(mmbench.run(**options)))
    thread.start()
    thread.join()
    for run in runs:
        print(run.model, run.seed, run.status)
