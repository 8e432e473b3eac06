"""The benchmarks run, on very small data and without timing anything."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.extras import measure as measure_packages
from benchmarks.extras import requirements
from benchmarks.generated import ITEMS, LEAST, USERS, histories
from benchmarks.gpu import HEADER, SHAPES, Gauge, Row
from benchmarks.multimodal import Cost, measure, report
from benchmarks.prepare import generate_table
from benchmarks.turns import PAGE, Timed, filled, write_section
from mmbench.data.adding import add
from mmbench.data.prepare import prepare
from mmbench.data.store import Prepared
from tests.forkserver import server
from tests.installed import write_package
from tests.prepared import ROOT, environment


def run(script: str, folder: Path, *arguments: str) -> dict:
    """Run a benchmark with --tiny in a forked process; return what it wrote as JSON."""
    file, env = folder / "numbers.json", environment()
    code, out, err = server(env, ROOT).run(
        ["--tiny", "--json", str(file), *arguments],
        module=f"benchmarks.{script}",
        env=env,
        cwd=ROOT,
        timeout=600,
    )
    assert code == 0, err
    assert "| --- |" in out
    return json.loads(file.read_text(encoding="utf-8"))


def test_peers_run_without_a_peer(tmp_path: Path) -> None:
    numbers = run("peers", tmp_path, "--models", "bert4rec")
    ours = numbers["results"]["bert4rec"]["mmbench"]
    assert ours["facts"]["users"] == 150
    assert ours["facts"]["items"] == 80
    assert all(part > 0 for name in ("epoch", "predictions", "ranking") for part in ours[name])


def test_the_board_is_measured(tmp_path: Path) -> None:
    numbers = run("board", tmp_path)
    assert numbers["bare_mb"] < numbers["bundle_mb"]
    assert numbers["board_kb"] > 0


@pytest.mark.parametrize("arguments", [("--models", "hm4sr"), ("--large",)])
def test_scaling_runs(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    results = run("scaling", tmp_path, *arguments)["results"]
    columns = list(results.values()) if "--large" in arguments else [results["hm4sr"]["users x16, items x1"]]
    assert len(columns) == (3 if "--large" in arguments else 1)
    for column in columns:
        assert column["memory"] > 2**20
        names = ("step", "epoch", "ranking", "plan", "batch")
        assert all(value > 0 for name in names for value in column[name])


def test_gpu_runs_on_a_cpu(tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    found = run(
        "gpu", tmp_path, "--device", "cpu", "--data", "games", "--models", "sasrec", "hm4sr", "--seeds", "1", "2",
        "--vary", "matmul", "float32", "tf32", "--epochs", "2", "--out", str(table),
    )  # fmt: skip
    rows = found["results"]
    assert [(row["model"], row["seeds"], row["settings"]["matmul"]) for row in rows] == [
        *itertools.product(("sasrec", "hm4sr"), (1, 2), ("float32", "tf32"))
    ]
    assert all(not row["reason"] and len(row["epoch"]) == 2 for row in rows)
    assert all(row["kernels"] > 100 and row["memory"] > 2**20 and row["ranking"] > 0 for row in rows)
    steps = {(row["model"], row["seeds"]): row["steps"] for row in rows}
    assert all(0 < steps[model, 2] == steps[model, 1] for model in ("sasrec", "hm4sr"))  # a stack
    assert sum(
        line.startswith("| games-small |") for line in table.read_text(encoding="utf-8").splitlines()
    ) == len(rows)


def test_costs_of_models_with_side_information_stand_beside_sasrecs(toy: Prepared) -> None:
    costs = {
        (cost.model, cost.stage): cost for cost in measure(["sasrec", "sasrec-ensemble", "iisan"], toy, 1)
    }
    assert list(costs) == [("sasrec", "train"), ("sasrec-ensemble", "train"), ("iisan", "")]
    assert "run: mmbench extract toy" in costs["iisan", ""].reason
    for cost in costs.values():
        assert bool(cost.reason) == (cost.n_steps == 0)
        assert cost.epoch >= cost.n_steps * cost.step


def test_a_model_that_takes_over_twenty_times_sasrecs_epoch_is_marked() -> None:
    costs = [Cost("sasrec", "train", 10, 0.1, 1.0), Cost("a", "pretrain", 10, 9.0, 90.0, is_last=False)]
    costs += [Cost("a", "finetune", 10, 2.1, 21.0), Cost("b", "train", 10, 2.0, 20.0)]
    ratios = [line.split("|")[6].strip() for line in report(costs).splitlines()[2:]]
    assert ratios == ["1.00", "90.0", "**21.0**", "20.0"]


def test_gpu_tells_why_there_are_no_numbers(tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    arguments = ("--device", "cpu", "--data", "beauty", "--models", "sasrec", "--out", str(table))
    (row,) = run("gpu", tmp_path, *arguments, "--vary", "lr", "1e30")["results"]
    assert row["reason"].startswith("failed: ")
    assert row["reason"] in table.read_text(encoding="utf-8")


def test_a_row_of_the_gpu_table_compares_one_seed_with_the_official_log() -> None:
    row = Row(
        data="games",
        model="hm4sr",
        seeds=2,
        settings={},
        epoch=(2.9, 3.0, 9.0),
        steps=300,
        kernels=1000.0,
        busy=0.004,
    )
    cells = dict(zip(HEADER, row.cells(), strict=True))
    assert cells["s per epoch and seed"] == "1.50"
    assert cells["official log"] == "40.0 to 45.3 x"
    assert cells["busy"] == "40%"


def test_a_gauge_profiles_the_steps_between_two_calls_of_the_last_epoch() -> None:
    gauge = Gauge("cpu", last=2)
    for epoch in (1, 2):
        for step in (2, 4, 6):
            gauge.step(epoch, step, 6, {})
            torch.ones(3).add(1).mul(2)
    assert gauge.n_steps == 6
    assert gauge.kernels == 3 / 2  # ones, add and mul, once in two steps
    short = Gauge("cpu", last=1)
    short.step(1, 5, 5, {})  # one call only
    assert short.profiler is None
    assert short.kernels == 0


def test_generated_histories_add_up_to_the_wanted_interactions() -> None:
    for users, items, events in SHAPES.values():
        made = histories(users, items, n_events=events)
        lengths = np.diff(made.offsets)
        assert (made.n_users, made.n_items, len(made.items)) == (users, items, events)
        assert lengths.min() == LEAST
        assert np.bincount(made.items, minlength=items + 1)[1:].min() >= 5


def test_generated_histories_have_the_shape_of_beauty() -> None:
    made = histories()
    lengths = np.diff(made.offsets)
    assert (made.n_users, made.n_items) == (USERS, ITEMS)
    assert abs(len(made.items) / 198_502 - 1) < 0.02
    assert abs(np.maximum(lengths - 3 - 50, 0).sum() / 3_382 - 1) < 0.1  # windows of long histories
    assert np.bincount(made.items, minlength=ITEMS + 1)[1:].min() >= 5
    assert (np.diff(made.times)[np.diff(np.repeat(np.arange(USERS), lengths)) == 0] >= 0).all()


def test_a_section_of_the_page_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    write_section("one", "first", page)
    write_section("two", "second", page)
    write_section("one", "third", page)
    text = page.read_text(encoding="utf-8")
    assert "first" not in text
    assert text.index("third") < text.index("second")


def test_every_section_of_the_page_is_replaced_by_its_writer_and_no_other_line_moves(tmp_path: Path) -> None:
    published, page = PAGE.read_text(encoding="utf-8").splitlines(), tmp_path / "page.md"
    keys = [line[5 : -len(": begin -->")] for line in published if line.endswith(": begin -->")]
    assert keys
    for key in keys:
        begin, end = (published.index(f"<!-- {key}: {edge} -->") for edge in ("begin", "end"))
        page.write_text("\n".join(published) + "\n")
        write_section(key, "## New\n\ntext", page)
        assert page.read_text(encoding="utf-8").splitlines() == [
            *published[: begin + 1], "## New", "", "text", *published[end:]
        ]  # fmt: skip


@pytest.mark.parametrize("end", ["text <!-- one: end -->", "text <!-- one:\nend -->", ""])
def test_a_section_without_an_end_of_its_own_is_refused_and_the_page_stays(tmp_path: Path, end: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(old := f"# Page\n\n<!-- one: begin -->\n{end}\n\nwhat follows\n")
    with pytest.raises(SystemExit, match="must stand on a line of their own"):
        write_section("one", "new", page)
    assert page.read_text(encoding="utf-8") == old


def test_the_median_is_shown_with_the_spread() -> None:
    assert str(Timed((3.0, 1.0, 200.0)).scaled(2)) == "6.00 (2.00–400)"


def test_paragraphs_of_a_section_are_filled_and_tables_and_headings_stay() -> None:
    table = "| a | b |\n| --- | --- |\n| " + "c " * 80 + "| d |"
    lines = filled(f"## A title\n\nshort\nlines {'of words ' * 20}\n\n{table}\n")
    assert lines[:2] == ["## A title", ""]
    assert "\n".join(lines).endswith(f"\n\n{table}")
    prose = lines[2 : lines.index("| a | b |") - 1]
    assert all(len(line) <= 100 for line in prose)
    assert " ".join(prose).split() == ["short", "lines", *["of", "words"] * 20]


def test_a_table_of_a_users_own_is_added_and_prepared(tmp_path: Path) -> None:
    generate_table(tmp_path / "own", (1_500, 100, 40))
    add(tmp_path / "own" / "own.toml", tmp_path / "data")
    prepared = prepare("own-table", tmp_path / "data").prepared
    rows = [
        line.split(",")[:2]
        for line in (tmp_path / "own" / "events.csv").read_text(encoding="utf-8").splitlines()[1:]
    ]
    assert len(rows) == 1_500
    before = 0
    while before != len(rows):  # until every user and item that is left has five events
        before = len(rows)
        counts = Counter(name for row in rows for name in row)
        rows = [row for row in rows if min(counts[name] for name in row) >= 5]
    assert len(prepared.items) == len(rows)
    assert (prepared.n_users, prepared.n_items) == tuple(len({row[side] for row in rows}) for side in (0, 1))


def test_an_extra_names_what_it_and_its_parts_need() -> None:
    project = {
        "name": "shop", "dependencies": ["numpy>=1"],
        "optional-dependencies": {"a": ["x>=1", "y"], "b": ["y", "z"], "all": ["shop[a, b]", "w"]},
    }  # fmt: skip
    assert requirements(project) == ["numpy>=1"]
    assert requirements(project, "all") == ["x>=1", "y", "z", "w"]


def test_packages_are_weighed_without_those_of_every_environment(tmp_path: Path) -> None:
    write_package(tmp_path, "small", points="", files={"small.py": "a" * 100})
    write_package(tmp_path, "large", points="", files={"large/__init__.py": "b" * 7000})
    write_package(tmp_path, "pip", points="", files={"pip/__init__.py": "c" * 50_000})
    for info in tmp_path.glob("*.dist-info"):
        name = info.name.partition("-")[0]
        files = [
            path for path in tmp_path.rglob("*") if path.is_file() and name in str(path.relative_to(tmp_path))
        ]
        lines = "".join(f"{path.relative_to(tmp_path)},,\n" for path in files)
        (info / "RECORD").write_text(lines)
    size = measure_packages(tmp_path)
    assert sorted(size.packages) == ["large", "small"]
    assert 7000 <= size.packages["large"] < 7500
    assert 7100 <= size.n_bytes < 9000
