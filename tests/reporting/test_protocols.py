"""Which runs share a table: what the refusal says, and the options that it names.

Run: python -m pytest tests/reporting/test_protocols.py
"""

from pathlib import Path
from typing import Any

import pytest

from mmbench.errors import ProtocolMismatchError, UsageError
from mmbench.reporting.protocols import check_protocols, keep_data, keep_settings
from mmbench.runs.store import RunRecord
from tests.reporting.conftest import fake_run


def run(root: Path, **fields: Any) -> RunRecord:
    """A run in a folder of its own, so that the same model may stand on both sides."""
    return fake_run(root / str(len(list(root.glob("*")))), **fields)


def refusal(records: list[RunRecord]) -> str:
    with pytest.raises(ProtocolMismatchError) as caught:
        check_protocols("toys", records)
    return str(caught.value)


def test_the_same_models_on_both_sides_are_told_apart_by_a_setting(results: Path) -> None:
    masks = ("none", "train", "input")
    records = [
        run(results, model=m, protocol={"mask_seen": mask}) for mask in masks for m in ("sasrec", "pop")
    ]
    said = refusal(records)
    assert "mask_seen is none against train against input; first: " in said
    assert said.endswith(
        "(3 protocols in all); choose a side: mmbench report --set mask_seen=none or --set mask_seen=train or "
        "--set mask_seen=input"
    )
    for mask in masks:
        kept = keep_settings(records, {"mask_seen": [mask]})
        check_protocols("toys", kept)
        assert [row.protocol["mask_seen"] for row in kept] == [mask] * 2


def test_data_prepared_anew_are_told_apart_by_their_hash(results: Path) -> None:
    old = run(results, protocol={"data": "a1" * 32, "min_user": 5}, data_hash="a1" * 32)
    new = run(results, protocol={"data": "b2" * 32, "min_user": 10}, data_hash="b2" * 32)
    said = refusal([old, new])
    assert "data_hash is a1a1a1a1a1a1... against b2b2b2b2b2b2...; min_user is 5 against 10; first" in said
    assert said.endswith("; choose a side: mmbench report --current-data")
    assert keep_data([old, new], {"toys": "b2" * 32}) == [new]
    assert keep_data([old, new], {"other": "b2" * 32}) == []


def test_every_option_that_is_needed_is_named_and_no_other(results: Path) -> None:
    hashes = ("a1" * 32, "b2" * 32)
    records = [
        run(results, data_hash=data, protocol={"mask_seen": mask, "candidates": f"of {mask}"})
        for data in hashes
        for mask in ("none", "train")
    ]
    said = refusal(records)
    assert said.endswith(
        "mmbench report --current-data and --set 'candidates=of none' or --set 'candidates=of train'"
    )
    listed = [run(results, protocol={"require": required}) for required in ([], ["text"])]
    assert refusal(listed).endswith("; remove the folders of a side")


def test_values_are_compared_as_they_are_meant(results: Path) -> None:
    settings = {"lr": 0.001, "n_layers": 1, "use_time": True, "samples": "prefix", "sizes": [1, 2]}
    record = run(results, settings=settings)
    for key, text in (
        ("lr", "1e-3"), ("n_layers", "1.0"), ("use_time", "true"), ("samples", "prefix"), ("sizes", "[1, 2]"),
        ("min_user", "5"),
    ):  # fmt: skip
        assert keep_settings([record], {key: [text]}) == [record]
    for key, text in (("use_time", "1"), ("n_layers", "true")):
        with pytest.raises(UsageError, match=f"--set {key}={text}: no run has this value; stored: (true|1)"):
            keep_settings([record], {key: [text]})


def test_values_of_a_key_are_alternatives_and_keys_are_not(results: Path) -> None:
    records = [
        run(results, settings={"dropout": d, "n_layers": n}) for d, n in ((0.1, 1), (0.2, 1), (0.3, 2))
    ]
    pop = run(results, model="pop")  # has neither
    assert keep_settings([*records, pop], {"dropout": ["0.1", "0.2"]}) == records[:2]
    assert keep_settings([*records, pop], {}) == [*records, pop]
    with pytest.raises(UsageError, match=r"no run has all of --set dropout=0.1 --set n_layers=2; leave some"):
        keep_settings(records, {"dropout": ["0.1"], "n_layers": ["2"]})
    with pytest.raises(UsageError, match=r"--set dropuot: unknown setting .*; did you mean 'dropout'\?"):
        keep_settings(records, {"dropuot": ["0.1"]})
