"""What the audit finds in the papers that ship with mmbench, and how it is printed.

Run: python -m pytest tests/audit/test_papers.py
"""

import csv
import io
import json
from collections import Counter
from pathlib import Path

import pytest

from mmbench.audit import audit, library
from mmbench.audit.formats import listing, to_text
from mmbench.audit.sources import FIELDS, SCORES, read_claims, read_scores
from mmbench.data.catalog import read_catalog
from mmbench.errors import DataError, UsageError
from mmbench.paths import datasets_file
from tests.prepared import cli


def checks(name: str) -> Counter[tuple[str, str]]:
    return Counter((finding.check, finding.weight) for finding in audit(name).findings)


def test_rows_of_hm4sr_that_no_users_can_give() -> None:
    impossible = {
        (finding.method, finding.dataset): finding for finding in audit("hm4sr/table1").of("impossible")
    }
    assert set(impossible) == {
        ("sasrec", "amazon-toys"), ("unisrec", "amazon-beauty"), ("gru4rec", "amazon-beauty"),
    }  # fmt: skip
    assert "NDCG@10 .0411" in impossible["sasrec", "amazon-toys"].numbers
    assert "MRR@10 .0288" in impossible["unisrec", "amazon-beauty"].numbers
    for finding in impossible.values():
        assert finding.rule.startswith("(NDCG@10 - NDCG@5) >= 2.1372 x (MRR@10 - MRR@5)")
    assert ".0411 - .0348 = .0063" in impossible["sasrec", "amazon-toys"].arithmetic


def test_eleven_of_twelve_hit_rates_are_whole_users_of_273() -> None:
    actual = audit("tmmsrec/table3")
    column = next(column for column in actual.columns if column.dataset == "amazon-all-beauty")
    hits = {count.method: count.hits for count in column.counts}
    assert hits == {
        "sasrec": 97, "bert4rec": 92, "trimlp": None, "vbpr": 72, "vbpr-itv": 50, "s3rec": 49, "s3rec-itv": 36,
        "mgat": 68, "maml": 93, "freedom": 53, "mmmlp": 101, "tmmsrec": 113,
    }  # fmt: skip
    assert [count.method for count in column.counts if count.reading == "cut"] == ["vbpr-itv"]
    assert column.single
    assert (column.wide.fitting, column.wide.total) == (11, 12)
    runs = next(finding for finding in actual.findings if finding.check == "runs")
    assert "10 runs" in runs.rule
    assert "k/2,730" in runs.arithmetic
    assert not any(other.single for other in actual.columns if other is not column)


def test_the_improved_row_of_table_4_is_no_row_of_table_4() -> None:
    wrong = [finding for finding in audit("tmmsrec/table4").findings if finding.check == "improved"]
    assert len(wrong) == 6
    assert "(.0694 - .0699) / .0699 = -.72 %" in wrong[4].arithmetic
    assert "11.86 % is also printed in table3 under amazon-all-beauty HR@10" in wrong[1].hints


@pytest.mark.parametrize("name", ["hm4sr/table1", "tmmsrec/table3", "tmmsrec/table5", "tmmsrec/table6"])
def test_other_improvements_follow(name: str) -> None:
    assert not [finding for finding in audit(name).findings if finding.check in ("improved", "range")]


def test_statistics_of_toys() -> None:
    actual = audit("hm4sr/table2")
    assert [finding.arithmetic for finding in actual.of("contradiction")] == [
        "167,597 / 19,412 = 8.634, printed 14.58",
        "167,597 / 11,924 = 14.055, printed 17.03",
    ]
    assert [finding.arithmetic for finding in actual.of("remark")] == [
        "231,780 / 24,303 = 9.537, printed 9.53"
    ]
    assert audit("tmmsrec/table2").findings == ()


def test_marks_and_repeats() -> None:
    assert checks("hm4sr/table1") == {("band", "impossible"): 3, ("mark", "contradiction"): 2}
    assert checks("tmmsrec/table3")["mark", "contradiction"] == 1
    assert checks("tmmsrec/table5") == {
        ("repeat", "contradiction"): 2, ("twins", "remark"): 1, ("runs", "remark"): 1,
    }  # fmt: skip


def test_every_claim_names_a_printed_number() -> None:
    known = library()
    scores = {(row.paper, row.table, row.dataset, row.method): row.scores for row in known.rows}
    for paper, claims in known.claims.items():
        for table, facts in claims.tables.items():
            for method, dataset, metric in facts.underlined:
                assert metric in scores[paper, table, dataset, method]
            for claim in facts.ranges:
                for method in (claim.ours, *claim.against):
                    assert any(key[1] == table and key[3] == method for key in scores), method
            for dataset, percent in (facts.improved.percent if facts.improved else {}).items():
                assert set(percent) == set(scores[paper, table, dataset, facts.improved.ours])
        for same in claims.same:
            assert all(any(key[3] == method for key in scores) for method in same.methods)


def test_users_are_those_of_the_catalogue() -> None:
    catalog = read_catalog(datasets_file())
    for paper in library().claims:
        for dataset, users in library().users(paper).items():
            assert catalog[dataset].printed.users == users


def test_faults_of_the_files_are_named(tmp_path: Path) -> None:
    head = ",".join(FIELDS)
    for text, said in (
        ("a,b\n", "the columns must be"),
        (f"{head}\np,t,d,m,HR@10,0.1\np,t,d,m,HR@10,0.2\n", "line 3: HR@10 of p t d m appears twice"),
        (f"{head}\np,t,d,m,HR@10,x\n", "line 2: 'x' is not a printed number"),
        (f"{head}\np,t,d,m,HP@10,0.1\n", "line 2: unknown metric"),
    ):
        (tmp_path / "s.csv").write_text(text)
        with pytest.raises(DataError, match=said):
            read_scores(tmp_path / "s.csv")
    (tmp_path / "c.toml").write_text('[p]\ntitle = "t"\none_target = "y"\nstatistics = "s"\ntabels = {}\n')
    with pytest.raises(DataError, match="tabels"):
        read_claims(tmp_path / "c.toml")


def test_an_unknown_table_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'hm4sr/table1'"):
        audit("hm4sr/tabel1")


def test_the_command_lists_tables_and_prints_one() -> None:
    listed = cli("audit")
    assert listed.returncode == 0, listed.stderr
    lines = [line.split() for line in listed.stdout.splitlines()]
    assert lines[0][:5] == ["table", "numbers", "impossible", "contradictions", "remarks"]
    assert ["hm4sr/table1", "240", "3", "2"] in [line[:4] for line in lines]
    shown = cli("audit", "tmmsrec/table3")
    assert "11 of 12 different values are k/273" in shown.stdout
    assert next(line for line in shown.stdout.splitlines() if line.startswith("vbpr-itv")).split()[1:3] == [
        "50",
        "(cut)",
    ]
    wrong = cli("audit", "hm4sr/table9")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert len(wrong.stderr.strip().splitlines()) == 1


def test_three_other_formats() -> None:
    content = json.loads(cli("audit", "tmmsrec/table3", "--format", "json").stdout)[0]
    assert content["name"] == "tmmsrec/table3"
    assert content["columns"][0]["counts"][0] == {
        "method": "sasrec", "printed": "0.3553", "hits": 97, "reading": "rounded",
    }  # fmt: skip
    table1 = [audit("hm4sr/table1")]
    lines = list(csv.DictReader(io.StringIO(to_text(table1, "csv"))))
    assert [line["weight"] for line in lines] == ["impossible"] * 3 + ["contradiction"] * 2
    text = to_text(table1, "markdown")
    assert text.startswith("## hm4sr/table1\n")
    assert "- **sasrec on amazon-toys: NDCG@5 .0348, NDCG@10 .0411" in text


def test_the_list_has_the_same_formats() -> None:
    audits = [audit("hm4sr/table2")]
    assert json.loads(listing(audits, "json")) == [
        {"table": "hm4sr/table2", "numbers": 24, "impossible": 0, "contradictions": 2, "remarks": 1}
    ]
    assert listing(audits, "csv").splitlines()[1].startswith("hm4sr/table2,24,,2,1,")
    assert listing(audits, "markdown").splitlines()[2].startswith("| hm4sr/table2 | 24 |")


def test_scores_are_read_as_printed() -> None:
    rows = read_scores(SCORES)
    assert sum(len(row.scores) for row in rows) == 392
    assert {score.digits for row in rows for score in row.scores.values()} == {4}


# -- papers of a user -------------------------------------------------------------------------------------

PAGE = """paper,table,dataset,method,metric,value
mine,table1,beauty,theirs,NDCG@10,.6111
mine,table1,beauty,theirs,HR@10,.3232
mine,table1,beauty,other,NDCG@10,.0415
mine,table1,beauty,other,HR@10,.0811
mine,table2,beauty,fresh,HR@10,.0815
"""
CLAIMS_OF_MINE = """[mine]
title = "Mine (2026)"
statistics = "table0"
[mine.tables.table0]
[mine.tables.table0.statistics.beauty]
users = "1000"
items = "50"
interactions = "9000"
"""


def test_a_user_s_numbers_are_examined(tmp_path: Path) -> None:
    """A published page has this row: no NDCG is above its HR."""
    (tmp_path / "page.csv").write_text(PAGE)
    shown = cli("audit", tmp_path / "page.csv", "--format", "json")
    tables = {content["name"]: content["findings"] for content in json.loads(shown.stdout)}
    assert set(tables) == {"mine/table1", "mine/table2"}
    (finding,) = [each for each in tables["mine/table1"] if each["weight"] == "impossible"]
    assert finding["method"] == "theirs"
    assert tables["mine/table2"] == []


def test_a_user_s_folder_of_papers_is_known(tmp_path: Path) -> None:
    (tmp_path / "printed.csv").write_text(PAGE)
    env = {"MMBENCH_PAPERS": str(tmp_path)}
    listed = cli("audit", env=env).stdout
    assert "mine/table1" in listed
    assert "hm4sr/table1" in listed
    assert "HR@10 >= NDCG@10" in cli("audit", "mine/table1", env=env).stdout
    assert cli("audit", "mine/table1").returncode == 2

    (tmp_path / "claims.toml").write_text(
        CLAIMS_OF_MINE
    )  # with users, hits are counted: .0811 of 1,000 are none
    assert cli("reproduce", env=env).returncode == 0, "claims are no experiment"
    shown = cli("audit", "mine/table1", env=env).stdout
    assert "Mine (2026)" in shown
    assert "users" in shown


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (PAGE.replace(".6111", "high"), "line 2"),
        (PAGE.replace("NDCG@10", "Gini@10"), "line 2"),
        ("a,b\n", "columns must be"),
        (PAGE.replace("mine", "hm4sr"), "has the paper hm4sr, too"),
    ],
)
def test_a_user_s_wrong_files_are_one_line(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "printed.csv").write_text(content)
    wrong = cli("audit", "mine/table1", env={"MMBENCH_PAPERS": str(tmp_path)})
    assert wrong.returncode in (1, 2)
    assert len(wrong.error_lines) == 1
    assert reason in wrong.error_lines[0]
    missing = cli("audit", tmp_path / "nowhere.csv")
    assert (missing.returncode, len(missing.error_lines)) == (2, 1)


def test_claims_that_name_a_table_they_lack_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "printed.csv").write_text(PAGE)
    (tmp_path / "claims.toml").write_text(
        CLAIMS_OF_MINE.replace('statistics = "table0"', 'statistics = "tabel0"')
    )
    wrong = cli("audit", "mine/table1", env={"MMBENCH_PAPERS": str(tmp_path)})
    assert (wrong.returncode, len(wrong.error_lines)) == (1, 1)
    assert "claims.toml" in wrong.error_lines[0]
    assert "'tabel0' is none of its tables: table0" in wrong.error_lines[0]
