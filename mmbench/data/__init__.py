"""Raw data in, prepared data out: catalogue, parsers, filters, splits and batches.

What looks at prepared data, or defines a data set, is here by name; `mmbench.prepare` makes the data.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmbench.data.batch import Batch, TrainBatch
    from mmbench.data.catalog import add_datasets, load_catalog
    from mmbench.data.protocol import Protocol
    from mmbench.data.spec import DatasetSpec
    from mmbench.data.store import Prepared, list_prepared, open_prepared

    __all__ = [
        "Batch",
        "DatasetSpec",
        "Prepared",
        "Protocol",
        "TrainBatch",
        "add_datasets",
        "list_prepared",
        "load_catalog",
        "open_prepared",
    ]
else:
    from mmbench.lazy import attach

    _HOMES = {
        "mmbench.data.batch": ("Batch", "TrainBatch"),
        "mmbench.data.catalog": ("add_datasets", "load_catalog"),
        "mmbench.data.protocol": ("Protocol",),
        "mmbench.data.spec": ("DatasetSpec",),
        "mmbench.data.store": ("Prepared", "list_prepared", "open_prepared"),
    }
    __getattr__, __dir__, __all__ = attach(__name__, _HOMES)
