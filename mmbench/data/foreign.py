"""Raw files that the reader of an installed package reads; what it returns is checked before anything is made of it."""

from pathlib import Path
from typing import Any

import numpy as np

from mmbench.data.raw import RawData, RawEvents, RawItem, parse_id
from mmbench.data.spec import DatasetSpec, Reader
from mmbench.errors import FAILURES, DataError, MmbenchError
from mmbench.explain import explain
from mmbench.plugins import Plugin


def read(spec: DatasetSpec, reader: Reader, raw_dir: Path) -> RawData:
    """Call `reader(spec, raw_dir)` and return its RawData; DataError in one line for whatever goes wrong."""
    plugin = Plugin("mmbench.datasets", spec.name, reader.target, reader.package, reader.version)
    function = plugin.load()
    try:
        data = function(spec, raw_dir)
        _check(data, has_times=spec.has_times)
    except MmbenchError:
        raise
    except FAILURES as error:
        reason = explain(error, folders=[plugin.code_folder()])
        raise DataError(f"{spec.name}: {plugin.title}: {reader.target} failed: {reason}") from error
    return data


def _check(data: Any, *, has_times: bool) -> None:
    """Raise ValueError unless a reader's result can be prepared."""
    if not (isinstance(data, RawData) and isinstance(data.events, RawEvents)):
        raise ValueError(f"it returned {type(data).__name__}, not mmbench.data.raw.RawData")
    events = data.events
    if events.has_times != has_times:
        raise ValueError(f"has_times is {events.has_times}, but the table's unit says {has_times}")
    for name, codes, names in (
        ("user", events.user, events.user_names), ("item", events.item, events.item_names),
    ):  # fmt: skip
        if len(codes) != len(events.ticks):
            raise ValueError(f"{len(codes):,} codes of {name}s for {len(events.ticks):,} times")
        if len(codes) and not (np.min(codes) >= 0 and np.max(codes) < len(names)):
            raise ValueError(f"a code of a {name} is outside of its {len(names):,} names")
        if len(set(names)) < len(names):
            raise ValueError(f"a name of a {name} appears twice in {name}_names")
        for text in names:
            parse_id(text, f"{name} id")
    if not len(events):
        raise ValueError("it returned no interaction")
    wrong = next((key for key, item in data.items.items() if not isinstance(item, RawItem)), None)
    if wrong is not None:
        raise ValueError(f"items[{wrong!r}] is {type(data.items[wrong]).__name__}, not RawItem")
