"""The experiments that ship with mmbench: every printed number has a place, every setting and name exists.

Run: python -m pytest tests/reproduce/test_papers.py
"""

from pathlib import Path

import pytest

from mmbench.data.catalog import read_catalog
from mmbench.errors import UsageError
from mmbench.models import registry
from mmbench.paths import PACKAGE, datasets_file
from mmbench.reproduce.plan import is_live, row_overrides
from mmbench.reproduce.spec import Scores, Statistics, experiments, find_experiment, read_paper, read_printed
from mmbench.runs.overrides import Overrides
from mmbench.runs.plan import make_configs
from mmbench.settings.config import Layer, Origin, TrainConfig, defaults_of, resolve
from tests.reproduce.conftest import PAPER, write_paper

PAPERS = PACKAGE / "papers"
ASKED = [
    *(f"hm4sr/{name}" for name in ("table1", "table2", "fig3", "fig4", "fig5", "fig6", "fig7", "fig8")),
    *(f"tmmsrec/table{number}" for number in (2, 3, 4, 5, 6)),
    *(f"tmmsrec/fig{number}" for number in (2, 4, 5, 6, 7)),
]  # fmt: skip
SCORES = [name for name in ASKED if isinstance(find_experiment(name).content, Scores)]


def content_of(name: str) -> Scores:
    content = find_experiment(name).content
    assert isinstance(content, Scores)
    return content


def test_all_experiments_are_there() -> None:
    assert [name for name in experiments() if name.split("/")[0] in ("hm4sr", "tmmsrec")] == ASKED


def test_no_printed_number_is_lost() -> None:
    printed = read_printed(PAPERS / "printed.csv")
    assert sum(len(table) for table in printed.values()) == 392
    assert sum(1 for _ in (PAPERS / "printed.csv").open()) == 393, "two lines name the same cell"
    for (paper, table), numbers in printed.items():
        experiment = find_experiment(f"{paper}/{table}")
        content = content_of(experiment.name)
        places = {
            (d, row.method, m) for d in content.datasets for row in content.rows for m in content.metrics
        }
        assert set(numbers) == places
        assert experiment.printed == numbers


def test_printed_numbers_agree_with_the_recipes() -> None:
    """Two copies of the same facts: what a recipe reports and what the table prints."""
    compared = 0
    for name, entry in registry.entries().items():
        for dataset, scores in entry.recipe.reported.items():
            table = "hm4sr/table1" if "NDCG@5" in scores else "tmmsrec/table3"
            for metric, value in scores.items():
                assert find_experiment(table).printed[dataset, name, metric] == value
                compared += 1
    assert compared > 30


@pytest.mark.parametrize("name", SCORES)
def test_settings_of_registered_rows_exist_and_are_valid(name: str) -> None:
    content = content_of(name)
    for row in content.all_rows:
        if not is_live(row.model):
            continue
        entry = registry.find(row.model)
        known = entry.known_settings()
        assert set(row.settings) | set(row.fixed) <= set(known), row.label
        layers = [
            Layer(Origin.default, defaults_of(TrainConfig)),
            *entry.layers(content.datasets[0]),
            *row_overrides(row, content, Overrides()).layers(row.model, known),
        ]
        make_configs(entry, resolve(layers, known=known, where=row.label))


@pytest.mark.parametrize("name", SCORES)
def test_compared_rows_and_printed_tables_exist(name: str) -> None:
    experiment, content = find_experiment(name), content_of(name)
    if content.printed_from:
        assert experiment.printed
        shown = {row.method for row in content.all_rows} & {method for _, method, _ in experiment.printed}
        assert shown, "no row has a printed value in the table that is named"
    if content.shared:
        assert content.shared.source
    if content.compare:
        assert is_live(content.compare)


def test_own_sweeps_are_the_recipes_search_grids() -> None:
    for name in ("hm4sr/fig4", "hm4sr/fig8", "tmmsrec/fig7"):
        content = content_of(name)
        grid = registry.find(content.sweep_model).recipe.search
        for sweep in content.sweeps:
            assert tuple(sweep.values) == grid[sweep.setting].points


def test_statistics_agree_with_the_catalogue() -> None:
    catalog = read_catalog(datasets_file())
    for name in ("hm4sr/table2", "tmmsrec/table2"):
        content = find_experiment(name).content
        assert isinstance(content, Statistics)
        for dataset in content.datasets:
            printed = catalog[dataset].printed
            assert printed is not None
            for count in ("users", "items", "interactions"):
                assert content.printed[dataset][count] == getattr(printed, count)
            assert set(content.printed[dataset]) == {statistic.name for statistic in content.statistics}


def test_printed_improvements_of_hm4sr_follow_from_its_columns() -> None:
    """So no percentage stands under a wrong column (TMMSRec's table 4 is known not to follow)."""
    for name in ("hm4sr/table1", "tmmsrec/table5"):
        experiment, content = find_experiment(name), content_of(name)
        assert content.improved is not None
        texts = iter(content.improved.printed)
        for dataset in content.datasets:
            for metric in content.metrics:
                own = experiment.printed[dataset, content.compare, metric]
                best = max(
                    experiment.printed[dataset, row.method, metric]
                    for row in content.rows
                    if row.method != content.compare
                )
                assert float(next(texts).strip("+%")) == pytest.approx(100 * (own / best - 1), abs=0.1)


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'hm4sr/table1'"):
        find_experiment("hm4sr/tabel1")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('compare = "sasrec"', 'compare = "sasrex"', "is not a model of the rows"),
        ('"+3.00%", ', "", "3 printed values for the columns"),
        ('notes = ["made up"]', 'note = "made up"', "unknown key 'note'; did you mean 'notes'?"),
        ('metrics = ["HR@10", "NDCG@10"]', 'metrics = ["GDCN@10", "HR@5"]', "metrics: .*NDCG"),
        (
            'datasets = ["toy", "amazon-home"]',
            'datasets = ["toy", "else"]',
            r"\['else'\] have no printed name",
        ),
        ('label = "Chance"', 'label = "Popular"', "two rows have the same label"),
        ('sweep_model = "sasrec"', "", "either rows, or sweeps"),
    ],
)
def test_faults_of_a_file_are_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in PAPER
    file = write_paper(tmp_path) / "tiny.toml"
    file.write_text(PAPER.replace(old, new, 1))
    with pytest.raises(UsageError, match=said) as caught:
        read_paper(file)
    assert "\n" not in str(caught.value)
