"""A configuration says that it reads times exactly if other times move its numbers; such a model wants data with times.

Run: pytest tests/models/test_reads_time.py -k pop
"""

from pathlib import Path

import pytest

from mmbench.errors import UsageError
from mmbench.runs.plan import make_cell
from tests.prepared import random_histories, write_data_set


@pytest.mark.parametrize("name", ["hm4sr", "tmmsrec", "tisasrec", "ticoserec", "recent-pop"])
def test_models_that_read_times_want_them(tmp_path: Path, name: str) -> None:
    records = [{"id": f"i{k:02}", "text": "x", "title": "x"} for k in range(60)]
    data = write_data_set(tmp_path, "toy", random_histories(), records, has_times=False)
    with pytest.raises(UsageError, match=f"{name} reads times, but .* only have an order"):
        make_cell(results_dir=tmp_path, prepared=data, model=name, seed=1, overrides=[])
    for model in ("sasrec", "pop", "tmmsrec:id"):
        assert (
            make_cell(results_dir=tmp_path, prepared=data, model=model, seed=1, overrides=[]).features == {}
        )
