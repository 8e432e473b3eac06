"""Stars claim something, so they are withheld unless everything speaks for it: planted hits per seed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from mmbench.choices import Correction, TestName
from mmbench.evaluation.metrics import Metric
from mmbench.reporting.rounding import summary
from tests.reporting.conftest import all_records, fake_run, headline, make_table, ranks_with_hits, row_of

HR10 = Metric("HR", 10)
OURS = np.array([50, 52, 51, 53])


def write(results: Path, hits: dict[str, Sequence[int]]) -> None:
    for model, of_seeds in hits.items():
        for seed, n in enumerate(of_seeds, start=1):
            fake_run(results, model, seed=seed, ranks=ranks_with_hits(int(n)))


def stars(results: Path, test: TestName = "t", correction: Correction = "holm") -> list[str]:
    table = make_table(all_records(results), metrics=[HR10], test=test, correction=correction)
    return [row.label for row in table.rows if row.cells[0].star]


def test_the_corrected_p_decides(results: Path) -> None:
    near, far = OURS - [2, 3, 1, 4], OURS - [3, 10, 2, 9]
    write(results, {"hm4sr": OURS, "sasrec": near, "gru4rec": far})
    p, q = (scipy.stats.ttest_rel(OURS, theirs).pvalue for theirs in (near, far))
    assert 0.025 < p < 0.05 < q, "significant alone, and not with Holm over two tests"
    assert stars(results, correction="none") == ["HM4SR"]
    assert stars(results, correction="holm") == []


def test_only_the_strongest_other_row_counts(results: Path) -> None:
    write(results, {"hm4sr": OURS, "sasrec": OURS - [1, -2, 3, 0], "gru4rec": OURS - [20, 21, 19, 20]})
    assert scipy.stats.ttest_rel(OURS, OURS - [20, 21, 19, 20]).pvalue < 1e-4
    for correction in ("none", "holm", "bh"):
        assert stars(results, correction=correction) == []


def test_a_clear_winner_has_its_star_under_every_correction(results: Path) -> None:
    write(results, {"hm4sr": OURS, "sasrec": OURS - [8, 9, 7, 8], "gru4rec": OURS - [20, 21, 19, 20]})
    for correction in ("none", "holm", "bh"):
        assert stars(results, correction=correction) == ["HM4SR"]


def test_a_row_whose_mean_is_lower_has_none_although_its_pairs_are_better(results: Path) -> None:
    """Runs without a partner of equal seed count in the means only."""
    write(results, {"hm4sr": [*OURS, 3, 4], "sasrec": OURS - [8, 9, 7, 8]})
    table = make_table(all_records(results), metrics=[HR10], compare="hm4sr")
    comparison = headline(table)
    assert comparison.outcome.direction == "better"
    assert (comparison.adjusted or 1) < 0.05
    assert comparison.difference < 0
    assert not any(row.cells[0].star for row in table.rows)
    assert [line.texts[0].split()[-1] for line in summary(table) if line.label == "p (t)"] == ["better"]


@pytest.mark.parametrize(("rare", "expected"), [(+30, []), (-3, ["SASRec"])])
def test_a_rank_test_that_points_away_from_the_mean_gives_none(
    rare: int, expected: list[str], results: Path
) -> None:
    """18 of 20 seeds are a little worse and 2 much better: the mean is higher, and Wilcoxon finds "lower"."""
    differences = np.array([-1] * 18 + [rare] * 2)
    write(results, {"hm4sr": 40 + differences, "sasrec": np.full(20, 40)})
    assert scipy.stats.wilcoxon(differences).pvalue < 0.05
    table = make_table(all_records(results), metrics=[HR10], test="wilcoxon", correction="none")
    assert (headline(table).p or 1) < 0.05
    assert row_of(table, "SASRec").cells[0].star is bool(expected)
    assert stars(results, "wilcoxon", "none") == expected
