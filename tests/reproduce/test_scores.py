"""Measured beside printed: numbers by hand, layout, formats; nothing is trained."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmbench.data.store import open_prepared
from mmbench.evaluation.evidence import Ranks
from mmbench.evaluation.significance import paired_t, t_interval
from mmbench.reporting.table import Cell
from mmbench.reproduce.figures import PLOT_WIDTH, dots, draw, panels, recipe_points, reference, terminal_plot
from mmbench.reproduce.formats import to_text
from mmbench.reproduce.plan import Plan, choose_targets, make_plan
from mmbench.reproduce.scores import HALF_DIGIT, Reproduced, reproduced
from mmbench.reproduce.spec import find_experiment
from mmbench.runs.overrides import Overrides
from mmbench.runs.store import RunRecord, read_record, write_record
from mmbench.settings.config import Origin
from tests.reporting.conftest import store_ranks

HITS = {"sasrec": (40, 44, 45), "random": (20, 23, 20), "pop": (10,)}


@pytest.fixture
def plan(data_dir: Path, papers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setenv("MMBENCH_PAPERS", str(papers))
    return planned("tiny/table1", data_dir, tmp_path)


def planned(name: str, data_dir: Path, results: Path, seeds: tuple[int, ...] = (1, 2, 3)) -> Plan:
    result = find_experiment(name)
    return make_plan(
        result,
        results_dir=results,
        targets=choose_targets(result, [], data_dir),
        seeds=seeds,
        overrides=Overrides(),
    )


def fill(plan: Plan, data_dir: Path) -> dict[Path, RunRecord]:
    """A record for every cell: the first `HITS` users have rank 1, all others the last."""
    toy = open_prepared("toy", data_dir)
    records = {}
    for cell in plan.cells:
        width = cell.settings["hidden_dim"].value if cell.model == "sasrec" else 64
        hits = HITS[cell.model][cell.seed - 1] + (width if width != 64 else 0)
        greater = np.where(np.arange(toy.n_users) < hits, 0, toy.n_items - 1)
        ranks = Ranks(np.arange(toy.n_users), greater, np.zeros_like(greater), toy.n_items)
        record = RunRecord(
            path=cell.path, dataset="toy", model=cell.model, display=cell.model, config_id=cell.config_id,
            seed=cell.seed, status="finished", deterministic=cell.model == "pop", synthetic=True,
            protocol=cell.protocol, n_items=toy.n_items,
        )  # fmt: skip
        store_ranks(record, test=ranks)
        write_record(record)
        records[cell.path] = read_record(cell.path)
    return records


@pytest.fixture
def result(plan: Plan, data_dir: Path) -> Reproduced:
    return reproduced(plan, fill(plan, data_dir))


def row(result: Reproduced, label: str) -> int:
    return next(at for at, actual in enumerate(result.table.rows) if actual.name == label)


def test_rows_and_columns_are_the_paper_s(result: Reproduced) -> None:
    labels = [actual.name for actual in result.table.rows]
    assert labels == ["Popular", "Future", "Chance", "SASRec-X", "SASRec (Ours)"]
    assert [(c.dataset, str(c.metric)) for c in result.table.columns] == [
        ("toy", "HR@10"), ("toy", "NDCG@10"), ("amazon-home", "HR@10"), ("amazon-home", "NDCG@10"),
    ]  # fmt: skip
    assert result.heads[0] == "Toy (toy) (synthetic)"
    assert result.heads[2] == "Home (amazon-home), not prepared"


def test_difference_and_interval_by_hand(result: Reproduced) -> None:
    values = np.array(HITS["random"]) / 120
    beside = result.beside[row(result, "Chance")][0]
    assert beside.printed == 0.1667
    assert beside.difference == pytest.approx(values.mean() - 0.1667)
    assert beside.interval == pytest.approx(t_interval(values))
    assert beside.inside is True
    ours = result.beside[row(result, "SASRec (Ours)")][1]
    low, high = t_interval(np.array(HITS["sasrec"]) / 120) or (0, 0)
    assert high < 1
    assert ours.inside is (low - HALF_DIGIT <= 0.1 <= high + HALF_DIGIT) is False


def test_one_run_has_no_interval(result: Reproduced) -> None:
    beside = result.beside[row(result, "Popular")][0]
    assert (beside.interval, beside.inside) == (None, None)
    assert beside.difference == pytest.approx(10 / 120 - 0.5)


def test_rounding_of_the_printed_number_counts_as_inside(plan: Plan, data_dir: Path) -> None:
    """All runs equal: the interval is a point; the number it rounds to is inside, its neighbour is not."""
    records = fill(plan, data_dir)
    key = ("toy", "random", "HR@10")
    for cell in plan.cells:
        if cell.model == "random":
            ranks = records[cell.path].ranks("test")
            ranks = Ranks(ranks.user, np.where(ranks.user < 20, 0, 59), ranks.equal, ranks.n_candidates)
            store_ranks(records[cell.path], test=ranks)
    for printed, inside in ((0.1667, True), (0.1666, False)):
        experiment = replace(plan.experiment, printed={key: printed})
        actual = reproduced(replace(plan, experiment=experiment), records)
        assert actual.beside[row(actual, "Chance")][0].inside is inside


def test_rows_not_yet_and_data_not_prepared_are_shown(result: Reproduced) -> None:
    future = row(result, "Future")
    assert all(cell.mean is None for cell in result.table.rows[future].cells)
    assert result.beside[future][0].printed == 0.0325
    assert result.beside[future][3].printed == 0.0456
    assert result.plan.not_yet == ["Future", "SASRec-X"]
    assert result.plan.not_prepared == ["amazon-home"]
    said = dict(result.table.caption)
    assert "Future, SASRec-X" in said["Not yet"]
    assert "mmbench prepare amazon-home" in said["Missing"]


def test_a_row_becomes_live_when_its_model_is_registered(
    data_dir: Path, papers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.models.test_registry import OWN, RECIPE, write_own

    recipe = RECIPE.replace('"my-line"', '"no-such-model"')
    folder = write_own(tmp_path / "models", code=OWN, recipe=recipe, stem="no_such_model")
    monkeypatch.setenv("MMBENCH_PAPERS", str(papers))
    monkeypatch.setenv("MMBENCH_MODELS", str(folder))
    actual = planned("tiny/table1", data_dir, tmp_path)
    assert actual.not_yet == ["SASRec-X"]
    assert [cell.model for cell in actual.cells if cell.seed == 1] == [
        "pop",
        "no-such-model",
        "random",
        "sasrec",
    ]


def test_improved_and_p_are_of_the_own_row_against_the_best_other(result: Reproduced) -> None:
    content = json.loads(to_text(result, "json"))
    against = [line for line in content["comparisons"] if line["strongest"]]
    assert [line["against"] for line in against] == ["Chance", "Chance"]
    ours, best = np.array(HITS["sasrec"]) / 120, np.array(HITS["random"]) / 120
    assert against[0]["improved_percent"] == pytest.approx(100 * (ours.mean() / best.mean() - 1))
    assert against[0]["outcome"]["p"] == pytest.approx(paired_t(ours, best).p)  # type: ignore[union-attr]
    assert against[0]["p_adjusted"] is None


def test_layout_of_the_terminal_table(result: Reproduced) -> None:
    lines = to_text(result, "terminal").splitlines()
    assert lines[0] == "tiny/table1: All methods"
    body = lines[lines.index(next(line for line in lines if line.startswith("Method"))) + 2 :]
    body = body[: next(at for at, line in enumerate(body) if line.startswith("━"))]
    shown = [" ".join(line.split()) for line in body if not line.startswith("─")]
    assert shown == [
        "Popular 1 .0833 .0833 – –",
        "printed .5000 -.4167 n/a",
        "Future not yet – – – –",
        "printed .0325 .0456",
        "Chance 3 .1750 ± .0144² .1750 ± .0144² – –",
        "printed .1667 +.0083 in",
        "SASRec-X not yet – – – –",
        "SASRec (Ours) 3 .3583 ± .0220*¹ .3583 ± .0220*¹ – –",
        "printed .1000 +.2583 out",
        "Against Chance Chance – –",
        "Improved +104.76 % +104.76 % – –",
        "printed +1.00% +2.00% +3.00% +4.00%",
        "Paired t-test .0048 .0048 – –",
        "printed < 0.01 < 0.02 < 0.03 < 0.04",
    ]


def test_markdown_and_csv_have_every_cell(result: Reproduced) -> None:
    table = [line for line in to_text(result, "markdown").splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert "| *printed*" in table[3]
    lines = list(csv.DictReader(io.StringIO(to_text(result, "csv"))))
    assert len(lines) == 5 * 4
    assert {line["status"] for line in lines} == {"measured", "not yet", "not prepared"}
    chance = next(line for line in lines if line["method"] == "Chance")
    assert float(chance["mean"]) == pytest.approx(21 / 120)
    assert (chance["printed"], chance["inside"], chance["n"]) == ("0.1667", "1", "3")
    assert float(chance["low"]) < 0.1667 < float(chance["high"])


def test_a_restricted_table_keeps_each_printed_text_in_its_column(result: Reproduced) -> None:
    texts = result.plan.content.improved
    assert texts is not None
    assert result.under_columns(texts.printed) == list(texts.printed)
    only = Reproduced(result.plan, result.table, result.beside)
    object.__setattr__(
        only, "table", only.table.__class__(**{**vars(only.table), "columns": result.table.columns[2:]})
    )
    assert only.under_columns(texts.printed) == ["+3.00%", "+4.00%"]


@pytest.fixture
def swept(plan: Plan, data_dir: Path, tmp_path: Path) -> Reproduced:
    actual = planned("tiny/fig1", data_dir, tmp_path)
    return reproduced(actual, fill(actual, data_dir))


def test_a_sweep_has_a_row_per_point_and_one_reference(swept: Reproduced) -> None:
    assert [actual.name for actual in swept.table.rows] == ["d = 4", "d = 8", "p = 0.0", "p = 0.3"]
    assert [label for label, _ in panels(swept)] == ["d", "p"]
    assert reference(swept, 0) == 0.1
    assert all(cell.printed is None for line in swept.beside for cell in line)
    assert swept.table.rows[1].cells[0].mean == pytest.approx((43 + 8) / 120)
    assert not swept.table.comparisons
    assert {cell.config_id for cell in swept.plan.cells if cell.settings["hidden_dim"].value == 4} != set()
    plot = [line for line in terminal_plot(swept) if "●" in line and "mean" not in line]
    assert len(plot) == 4
    assert all("│" in line for line in plot)


def test_the_recipes_own_value_is_ringed_in_every_panel(
    swept: Reproduced, data_dir: Path, tmp_path: Path
) -> None:
    """HM4SR's figure 4 varies one setting at a time, so that all its panels share one configuration."""
    experiment = find_experiment("hm4sr/fig4")
    plan = make_plan(
        experiment, results_dir=tmp_path, targets=choose_targets(experiment, ["toy"], data_dir), seeds=(1,),
        overrides=Overrides(),
    )  # fmt: skip
    figure = Reproduced(plan, swept.table, swept.beside)
    shared = set()
    for _, rows in panels(figure):
        (point,) = recipe_points(figure, rows, "toy")
        shared.add(plan.rows[rows[point]].cells["toy"][0].config_id)
    assert len(shared) == 1
    assert recipe_points(swept, panels(swept)[0][1], "toy") == [], (
        "the recipe's width is not among those swept"
    )


def test_a_sweep_is_stronger_than_set_and_a_row_s_setting_is_weaker(
    plan: Plan, data_dir: Path, tmp_path: Path
) -> None:
    result = find_experiment("tiny/fig1")
    actual = make_plan(
        result, results_dir=tmp_path, targets=choose_targets(result, [], data_dir), seeds=(1,),
        overrides=Overrides(everywhere={"hidden_dim": 12}),
    )  # fmt: skip
    widths = [cells["toy"][0].settings["hidden_dim"].value for cells in (line.cells for line in actual.rows)]
    assert widths == [4, 8, 12, 12]
    origins = [
        cells["toy"][0].settings["hidden_dim"].origin for cells in (line.cells for line in actual.rows)
    ]
    assert origins == [Origin.experiment, Origin.experiment, Origin.user, Origin.user]
    assert all(cell.settings["max_len"].value == 9 for cell in plan.cells if cell.model != "sasrec")
    assert all(cell.settings["max_len"].value == 10 for cell in plan.cells if cell.model == "sasrec")


def test_figures_are_drawn_with_the_measured_numbers(
    swept: Reproduced, plan: Plan, data_dir: Path, tmp_path: Path
) -> None:
    lines = draw(swept)
    drawn = lines.axes[0].lines[0].get_ydata()
    assert list(drawn) == pytest.approx([(43 + 4) / 120, (43 + 8) / 120])
    assert list(lines.axes[0].lines[1].get_ydata()) == [0.1, 0.1]
    actual = planned("tiny/fig2", data_dir, tmp_path)
    bars = draw(reproduced(actual, fill(actual, data_dir)))
    assert [patch.get_width() for patch in bars.axes[0].patches] == pytest.approx([10 / 120, 21 / 120])


def test_dots_lie_where_the_numbers_are() -> None:
    line = dots(Cell(values=(0.5,), mean=0.5, std=0.25), 1.0, 0.0, 1.0, "o-|")
    assert len(line) == PLOT_WIDTH
    assert line.index("o") == round(0.5 * (PLOT_WIDTH - 1))
    assert line.rindex("|") == PLOT_WIDTH - 1
    assert line.index("-") == round(0.25 * (PLOT_WIDTH - 1))
    assert set(dots(Cell(), None, 0.0, 1.0, "o-|")) == {" "}
