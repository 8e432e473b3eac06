"""A study as text, as a frame and as a page: made-up trials, so that every number is known."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mmbench.reporting.studies import Study, is_within_noise
from mmbench.reporting.study_page import best_so_far, html
from mmbench.settings.recipe import Searched
from mmbench.tuning.records import Plan, Status, Trial, space_content
from mmbench.tuning.space import Dimension

SPACE = {
    "loss": Dimension("loss", "ce", Searched(values=("ce", "</style><b>"), source="ours")),
    "lr": Dimension("lr", 0.01, Searched(low=1e-4, high=1e-1, log=True, source="paper & page")),
    "n_layers": Dimension("n_layers", 2, Searched(values=(1, 2, 4), source="ours")),
}
VALUES = (0.10, 0.30, None, 0.25, 0.50, 0.20, 0.31, 0.29, 0.28, 0.27, 0.26, 0.24)
STATUSES: dict[int, Status] = {2: "failed", 4: "pruned", 5: "cut"}


def trial(number: int, value: float | None, **changes: Any) -> Trial:
    values = {
        "loss": "ce" if number % 2 == 0 else "</style><b>",
        "lr": 0.01 if number == 0 else 10 ** -(1 + number / 4),
        "n_layers": (2, 1, 4)[number % 3],
    }
    return Trial(
        number=number, status=STATUSES.get(number, "finished"), values=values, value=value, seconds=60.0,
        reason="no <memory>" if value is None else "", **changes,
    )  # fmt: skip


@pytest.fixture
def study() -> Study:
    plan = Plan(
        dataset="toy", model="sasrec", metric="NDCG@10", sampler="random", unit="trials", n_seeds=1, prunes=True,
        space=space_content(SPACE), fixed={"max_epochs": 3}, protocol={}, features={},
    )  # fmt: skip
    return Study(Path("study"), plan, tuple(trial(number, value) for number, value in enumerate(VALUES)))


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_best_is_the_best_finished_trial_with_its_gain(study: Study) -> None:
    assert study.best is not None
    assert study.best.number == 6
    assert study.settings == {"max_epochs": 3, **study.trials[6].values}
    assert "trial 6 is 0.2100 (210.0%) above" in study.verdict()
    assert [row[0] for row in study.rows(3)] == ["4", "6", "1", "0"]
    assert study.rows(3)[-1][-1] == "(recipe)"
    assert study.rows(3)[1][-1] == f"lr={10**-2.5}"  # n_layers and loss are the recipe's
    assert "1 trial failed; trial 2: no <memory>" in str(study)
    frame = study.to_frame()
    assert frame["value"].isna().tolist() == [value is None for value in VALUES]
    assert frame["n_layers"].tolist()[:3] == [2, 1, 4]


def test_the_best_so_far_rises_over_trials_that_may_be_chosen(study: Study) -> None:
    numbers, values = best_so_far(study.trials)
    assert numbers == [0, 1, 3, 5, 6, 7, 8, 9, 10, 11]
    assert values == [0.10, 0.30, 0.30, 0.30, 0.31, 0.31, 0.31, 0.31, 0.31, 0.31]


def test_a_gain_within_the_spread_of_the_seeds_is_named() -> None:
    own = trial(0, 0.2, curves=(((1, 0.1), (2, 0.25)), ((1, 0.15),)))
    assert is_within_noise(trial(1, 0.25, curves=(((1, 0.20),), ((1, 0.30),))), own)
    assert not is_within_noise(trial(1, 0.9, curves=(((1, 0.89),), ((1, 0.91),))), own)
    assert not is_within_noise(trial(1, 0.25, curves=(((1, 0.25),),)), own)  # one seed says nothing


def test_the_page_loads_nothing_and_escapes_what_it_shows(study: Study) -> None:
    text = html([study, Study(study.path, study.plan, ())])
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "img", "iframe", "b")]
    names = ("src", "href", "xlink:href")
    links = [attributes[name] for _, attributes in page.tags for name in names if name in attributes]
    assert all(str(link).startswith("#") for link in links)
    assert not re.search(r"url\((?!#)", text)
    assert "prefers-color-scheme: dark" in text
    assert "paper &amp; page" in text
    assert "no trial has finished yet" in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 2 + bool(study.importance)
    for key in SPACE:
        assert f">{key}</text>" in text or f"{key}</text>" in text
