"""Trackers by name: those of mmbench, those of installed packages, and classes that a user names."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mmbench import plugins
from mmbench.errors import FAILURES, UsageError, suggest
from mmbench.explain import first_line
from mmbench.tracking.base import Tracker
from mmbench.visible import one_line

TRACKERS = {
    "tensorboard": "mmbench.tracking.to_tensorboard:TensorBoardTracker",
    "wandb": "mmbench.tracking.to_wandb:WandbTracker",
    "mlflow": "mmbench.tracking.to_mlflow:MlflowTracker",
}
METHODS = ("begin", "epoch", "end")


def check_trackers(names: Sequence[str]) -> None:
    """Raise UsageError for a tracker that does not exist, cannot be imported, or whose package is not installed."""
    for name in names:
        if name in TRACKERS and not is_installed(name):
            raise UsageError(
                f"--track {name} needs the package {name!r}; install it: pip install 'mmbench[{name}]'"
            )
        maker_of(name)


def is_installed(package: str) -> bool:
    """Return whether a package is installed; a folder of its name, such as wandb/ with runs in it, is not a package."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def maker_of(name: str) -> Callable[[], Tracker]:
    """Return what makes a tracker of a name; UsageError in one line for whatever is wrong with it."""
    offered = plugins.merge("trackers", "tracker", _tracker_of, dict.fromkeys(TRACKERS, "mmbench"))
    offered.check(name)
    if name in TRACKERS:
        maker = _import(name, TRACKERS[name])
    elif name in offered.members:
        maker = offered.members[name].load()
    elif ":" in name:
        maker = _import(name, name)
    else:
        known = [*TRACKERS, *offered.members]
        raise UsageError(
            f"--track: {suggest(name, known, what='tracker')}; or name a class, module:Class{offered.hint()}"
        )
    missing = [method for method in METHODS if not callable(getattr(maker, method, None))]
    if isinstance(maker, type) and missing:
        raise UsageError(f"--track {name}: it has no {missing[0]}(); see mmbench.tracking")
    if not callable(maker):
        raise UsageError(f"--track {name}: it is {type(maker).__name__}, not a class; see mmbench.tracking")
    made: Callable[[], Tracker] = maker
    return made


def _tracker_of(plugin: plugins.Plugin) -> dict[str, plugins.Plugin]:
    plugin.place()
    return {plugin.name: plugin}


def _import(name: str, target: str) -> Any:
    """Return an attribute of a module, which may lie in the current folder; UsageError in one line."""
    module, _, attribute = target.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    try:
        value = importlib.import_module(module)
    except FAILURES as error:
        reason = one_line(f"{type(error).__name__}: {first_line(error)}")
        raise UsageError(f"--track {name}: {module} cannot be imported: {reason}") from error
    if not hasattr(value, attribute):
        raise UsageError(f"--track {name}: {module} has no {attribute}; write module:Class")
    return getattr(value, attribute)
