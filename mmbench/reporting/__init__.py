"""Results as tables: `build_table` makes a table from run records, `render` prints it.

Names are imported on demand, so that a command that only lists formats stays fast.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmbench.reporting.build import build_table
    from mmbench.reporting.formats import render, to_text
    from mmbench.reporting.request import DEFAULT_METRICS, TableRequest
    from mmbench.reporting.table import Table

__all__ = ["DEFAULT_METRICS", "Table", "TableRequest", "build_table", "render", "to_text"]
_HOME = {"DEFAULT_METRICS": "request", "TableRequest": "request", "build_table": "build", "Table": "table"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'formats')}"), name)
