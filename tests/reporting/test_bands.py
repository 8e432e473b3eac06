"""Bands over orders of equal times: means and ranges by hand, who is compared with whom, runs under several orders.

Run: python -m pytest tests/reporting/test_bands.py
"""

from pathlib import Path

import pytest

import mmbench
from mmbench.errors import UsageError
from mmbench.evaluation.metrics import parse_metric
from mmbench.reporting.bands import tie_bands
from tests.prepared import cli, random_histories, write_toy
from tests.reporting.conftest import fake_run, ranks_with_hits

HR = parse_metric("HR@10")


def run(root: Path, model: str, order: str, hits: int, *, seed: int = 1, **protocol: object) -> None:
    name = "toys" if order == "file" else f"toys@{order}"
    fake_run(
        root, model, dataset=name, seed=seed, ranks=ranks_with_hits(hits), data_hash=order * 8,
        protocol={"ties": order, **protocol},
    )  # fmt: skip


def test_mean_and_range_are_those_of_the_orders_and_the_best_row_may_change(results: Path) -> None:
    for order, ours, theirs in (("file", 50, 40), ("random:1", 30, 38), ("random:2", 34, 36)):
        run(results, "hm4sr", order, ours - 2, seed=1)
        run(results, "hm4sr", order, ours + 2, seed=2)  # mean over seeds: ours
        run(results, "sasrec", order, theirs)
    run(results, "pop", "file", 3)
    (table,) = tie_bands(mmbench.load(results_dir=results), metric=HR)
    bands = {band.row: band for band in table.bands}
    assert table.dataset == "toys"
    assert table.orders == ("file", "random:1", "random:2")
    assert (bands["HM4SR"].mean, bands["HM4SR"].low, bands["HM4SR"].high) == pytest.approx((0.38, 0.30, 0.50))
    assert (bands["SASRec"].mean, bands["SASRec"].low, bands["SASRec"].high) == pytest.approx(
        (0.38, 0.36, 0.40)
    )
    assert list(bands["Pop"].values) == ["file"]
    assert [table.best(order) for order in table.orders] == ["HM4SR", "SASRec", "SASRec"]
    shown = cli("report", "--band", "ties", "--metric", "HR@10", results=results)
    assert ".3000 to .5000" in shown.stdout
    assert "file: HM4SR; random:1: SASRec; random:2: SASRec." in shown.stdout


def test_runs_that_differ_in_more_than_the_order_are_tables_of_their_own(results: Path) -> None:
    for order in ("file", "random:1"):
        run(results, "sasrec", order, 30)
    run(results, "hm4sr", "random:2", 90, min_user=10)
    (table,) = tie_bands(mmbench.load(results_dir=results), metric=HR)
    assert [band.row for band in table.bands] == ["SASRec"]


def test_bands_are_written_as_csv_and_in_no_other_format(results: Path, tmp_path: Path) -> None:
    """A file that is asked for is written, or its format refused; before, neither happened."""
    for order, hits in (("file", 50), ("random:1", 30)):
        run(results, "sasrec", order, hits)
    file = tmp_path / "bands.csv"
    asked = ("report", "--band", "ties", "--metric", "HR@10")
    assert cli(*asked, "--output", str(file), results=results).stdout == ""
    assert file.read_text(encoding="utf-8").splitlines() == [
        "dataset,metric,row,order,value", "toys,HR@10,SASRec,file,0.5", "toys,HR@10,SASRec,random:1,0.3",
    ]  # fmt: skip
    refused = cli(*asked, "--format", "latex", results=results)
    assert refused.returncode == 2
    assert "--band: the table is printed, or written with --format csv; leave --format out" in refused.stderr


def test_views_of_a_table_are_asked_for_one_at_a_time(results: Path) -> None:
    run(results, "sasrec", "file", 50)
    refused = cli("report", "--band", "ties", "--overlap", "10", results=results)
    assert refused.returncode == 2
    assert "--band and --overlap: ask for one of them at a time" in refused.stderr


def test_one_order_is_no_band(results: Path) -> None:
    run(results, "sasrec", "file", 30)
    with pytest.raises(UsageError, match="--tie-orders"):
        tie_bands(mmbench.load(results_dir=results), metric=HR)


def test_a_run_takes_each_order_and_refuses_unknown_orders(tmp_path: Path) -> None:
    write_toy(tmp_path / "data", histories=random_histories(n_users=40))
    write_toy(tmp_path / "data", "toy@random:1", histories=random_histories(n_users=40), ties="random:1")
    folders = {"data_dir": tmp_path / "data", "results_dir": tmp_path / "results"}
    runs = mmbench.run("pop", datasets="toy", floors=False, tie_orders=["file", "random:1"], **folders)
    assert [record.protocol["ties"] for record in runs] == ["file", "random:1"]
    (table,) = tie_bands(runs, metric=HR)
    assert [len(band.values) for band in table.bands] == [2]
    with pytest.raises(UsageError, match="randm"):
        mmbench.run("pop", datasets="toy", tie_orders=["randm:1"], **folders)
