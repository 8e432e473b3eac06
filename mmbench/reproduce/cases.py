"""A case study: a user's history beside the lists of two stored runs. A rule chooses the user, not the eye."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmbench.data.loaded import load_data
from mmbench.errors import RunError
from mmbench.evaluation.evidence import Ranking
from mmbench.evaluation.metrics import parse_metric
from mmbench.look.pictures import thumbnails
from mmbench.look.plots import Plot
from mmbench.look.style import SOFT, VERMILION, new_figure, set_title
from mmbench.reporting.recommended import Item, Recommended, recommended
from mmbench.reproduce.plan import Plan
from mmbench.runs.store import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmbench.data.store import Prepared

N_SHOWN = 5  # newest events of the history
LETTERS, LINES, PIXELS = 22, 3, 160
RULE = (
    "the user with the longest history, then the smallest number, among those whose next item the paper's model lists "
    "and the other model does not"
)


@dataclass(frozen=True)
class Case:
    """The chosen user and how usual its case is.

    user    internal number
    counts  users whose next item is listed by both models, by the paper's alone, by the other alone, by neither
    """

    user: int
    counts: tuple[int, int, int, int]


@dataclass(frozen=True)
class CaseStudy:
    """A case with the lists of both models, the paper's first."""

    case: Case
    k: int
    shown: tuple[Recommended, Recommended]
    labels: tuple[str, str]

    def sentences(self) -> list[str]:
        """Say who was chosen, and how often each model lists what is taken next."""
        both, first, second, neither = self.case.counts
        return [
            f"user {self.shown[0].user}: {RULE}.",
            f"What users take next is among the first {self.k} of both for {both:,} users, of {self.labels[0]} alone "
            f"for {first:,}, of {self.labels[1]} alone for {second:,}, of neither for {neither:,}: a chosen user says "
            "nothing about the others.",
        ]

    def rows(self) -> list[list[str]]:
        """Return rank, history (newest first) and both lists, as texts; what is taken next is marked."""
        history = [
            f"{event.time.date().isoformat()}  {event.item.title}" for event in self.shown[0].history[::-1]
        ]
        lists = [
            [("* " if entry.is_target else "") + entry.item.title for entry in recommended.entries]
            for recommended in self.shown
        ]
        columns = [history[: self.k], *lists]
        return [
            [str(number + 1), *(column[number] if number < len(column) else "" for column in columns)]
            for number in range(self.k)
        ]


def choose_case(first: Ranking, second: Ranking, lengths: Mapping[int, int], k: int) -> Case:
    """Return the case of RULE from two models' rankings under the same mask rule; RunError where no user is such.

    lengths  of each user's history
    """
    hits = []
    for ranking in (first, second):
        order = np.argsort(ranking.user, kind="stable")
        listed = (ranking.top("none", k) == ranking.target[:, None]).any(1)
        hits.append(listed[order])
    users = np.sort(first.user)
    only = users[hits[0] & ~hits[1]]
    counts = [int(((hits[0] == a) & (hits[1] == b)).sum()) for a, b in _CASES]
    if not len(only):
        raise RunError(f"no user's next item is among the first {k} of the paper's model alone")
    best = max(only.tolist(), key=lambda user: (lengths[user], -user))
    return Case(best, (counts[0], counts[1], counts[2], counts[3]))


_CASES = ((True, True), (True, False), (False, True), (False, False))


def case_study(plan: Plan, records: Mapping[Path, RunRecord], data_dir: Path) -> CaseStudy:
    """Return the case study of the first finished seed that both rows have; RunError where there is none."""
    k = parse_metric(plan.content.metrics[0]).k or N_SHOWN
    rows = sorted(plan.rows, key=lambda row: row.row.model != plan.content.compare)
    by_row = [
        {
            cell.seed: records[cell.path]
            for cells in row.cells.values()
            for cell in cells
            if cell.path in records
        }
        for row in rows
    ]
    finished = [{seed: run for seed, run in runs.items() if run.status == "finished"} for runs in by_row]
    seeds = sorted(set(finished[0]) & set(finished[1]))
    if not seeds:
        raise RunError(f"{plan.experiment.name} needs a finished run of both rows with the same seed")
    first, second = finished[0][seeds[0]], finished[1][seeds[0]]
    view = load_data(_prepared(plan).path, first.data_hash).targets("test")
    lengths = dict(zip(view.user.tolist(), np.diff(view.offsets).tolist(), strict=True))
    case = choose_case(first.ranking("test"), second.ranking("test"), lengths, k)
    user = _prepared(plan).user_ids[case.user]
    shown = [recommended(run, user, k=k, data_dir=data_dir, rule="none") for run in (first, second)]
    return CaseStudy(case, k, (shown[0], shown[1]), (rows[0].row.label, rows[1].row.label))


def _prepared(plan: Plan) -> "Prepared":
    prepared = next((target.prepared for target in plan.targets if target.prepared is not None), None)
    assert prepared is not None
    return prepared


def plot(study: CaseStudy, plan: Plan) -> Plot:
    """Return the figure: the newest events of the history, and both lists, with pictures where there are some."""
    name = plan.experiment.file_name
    caption = " ".join(
        [f"{plan.content.source}: {plan.content.title}.", *study.sentences(), "Framed: taken next."]
    )
    return Plot(name, caption, lambda: draw(study, plan))


def draw(study: CaseStudy, plan: Plan) -> "Figure":
    """Draw three rows of items."""
    events = study.shown[0].history[-N_SHOWN:]
    rows: list[tuple[str, list[tuple[Item, str, bool]]]] = [
        ("history", [(event.item, event.time.date().isoformat(), False) for event in events])
    ]
    for label, lists in zip(study.labels, study.shown, strict=True):
        rows.append((label, [(entry.item, f"{entry.rank}.", entry.is_target) for entry in lists.entries]))
    items = {item.number for _, cells in rows for item, _, _ in cells}
    pictures = thumbnails(_prepared(plan), items, size=PIXELS)
    across = max(len(cells) for _, cells in rows)
    figure = new_figure(0.5 + 1.7 * len(rows))
    set_title(figure, f"{plan.experiment.name}: user {study.shown[0].user}")
    for line, (label, cells) in enumerate(rows):
        for column, (item, note, is_target) in enumerate(cells):
            axes = figure.add_subplot(len(rows), across, line * across + column + 1)
            axes.set_title(f"{label}\n{note}" if column == 0 else f"\n{note}", fontsize=8, loc="left")
            _draw_item(axes, item, pictures.get(item.number, "no picture"), is_target)
    return figure


def _draw_item(axes: "Axes", item: Item, picture: object, is_target: bool) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    if isinstance(picture, str):
        axes.text(
            0.5,
            0.5,
            picture,
            ha="center",
            va="center",
            fontsize=6,
            color=SOFT,
            wrap=True,
            transform=axes.transAxes,
        )
    else:
        axes.imshow(picture)  # type: ignore[arg-type]
    for spine in axes.spines.values():
        spine.set_visible(is_target)
        spine.set_color(VERMILION)
        spine.set_linewidth(2)
    lines = textwrap.wrap(item.title, LETTERS, max_lines=LINES, placeholder="…")
    axes.set_xlabel("\n".join(lines), fontsize=6)
