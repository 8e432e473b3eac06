"""Each check finds the fault that is planted for it, and says so in a line.

Run: python -m pytest tests/contract/test_checks.py
"""

from pathlib import Path

import pytest

from mmbench.contract.report import CHECKS, Finding, check_model
from mmbench.contract.subject import of_data_set, of_toy
from mmbench.data.store import Prepared
from tests.contract.planted import FAULTS
from tests.prepared import cli

QUICK = tuple(check.name for check in CHECKS if check.name not in ("memorise", "speed"))


def faults_of(name: str, names: tuple[str, ...] = ()) -> list[Finding]:
    return [finding for finding in check_model(of_toy(f"planted-{name}"), names=names) if finding.is_fault]


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_by_its_check(name: str, models_dir: Path) -> None:
    """Only that check is asked: each text is that of a check, whichever fault it finds."""
    check = name.partition("-")[0]
    (finding,) = faults_of(name, (check,))
    assert finding.check == check
    assert finding.text
    assert finding.advice
    assert "\n" not in finding.text


def test_every_check_has_a_planted_fault(models_dir: Path) -> None:
    planted = {name.partition("-")[0] for name in FAULTS} | {"recipe"}
    assert planted == {check.name for check in CHECKS} - {"speed"}


def test_a_good_model_has_no_finding_and_every_check_but_one_is_asked(models_dir: Path) -> None:
    findings = list(check_model(of_toy("planted-good")))
    assert [finding.check for finding in findings if finding.status != "holds"] == ["shift"]


def test_a_wrong_recipe_is_found(models_dir: Path) -> None:
    (finding,) = faults_of("recipe", ("recipe",))
    assert "hiden_dim" in finding.text


def test_a_model_that_raises_gets_a_line_and_the_other_checks_go_on(models_dir: Path) -> None:
    findings = list(check_model(of_toy("planted-raises"), names=QUICK))
    raised = {finding.check for finding in findings if finding.status == "raises"}
    assert {"loss", "gradients", "state"} <= raised
    assert {finding.check for finding in findings if finding.status == "holds"} >= {
        "scores",
        "rows",
        "causal",
    }
    assert all("ZeroDivisionError: division by zero" in f.text for f in findings if f.check in raised)


def test_a_model_that_cannot_be_built_has_one_finding(models_dir: Path) -> None:
    (finding,) = faults_of("build")
    assert (finding.check, finding.text) == ("build", "KeyError: 'no such thing'")


@pytest.mark.parametrize("name", ["hm4sr", "planted-good", "bpr-mf", "ease"])
def test_a_data_set_gives_catalogue_features_and_histories(
    toy: Prepared, models_dir: Path, name: str
) -> None:
    subject = of_data_set(name, toy)
    assert subject.catalog.n_items == toy.n_items
    if name == "hm4sr":
        assert subject.catalog.text_feat.shape == (toy.n_items + 1, 12)
    names = ("scores", "rows", "seeds", "state", "target", "loss", "gradients")
    assert not [finding for finding in check_model(subject, names=names) if finding.is_fault]


def test_the_command_has_a_line_per_check_and_ends_with_1_on_a_finding(
    models_dir: Path, tmp_path: Path
) -> None:
    shown = cli("--models-dir", models_dir, "check", "planted-gradients", cwd=tmp_path)
    (line,) = [line for line in shown.stdout.splitlines() if "FAULT" in line]
    assert shown.returncode == 1
    assert "forgotten" in line
    assert "remove it" in line
    assert len(shown.stdout.splitlines()) == len(CHECKS) + 2
    assert not shown.stderr
    unknown = cli("--models-dir", models_dir, "check", "planted-goood", cwd=tmp_path)
    assert unknown.returncode == 2
    assert len(unknown.error_lines) == 1
