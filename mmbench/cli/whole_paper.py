"""`mmbench reproduce PAPER --all --dry-run`: a whole paper before it is run."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from mmbench.cli.state import State
from mmbench.cli.tables import print_table

if TYPE_CHECKING:
    from mmbench.reproduce.plan import Plan
    from mmbench.reproduce.spec import Experiment
    from mmbench.reproduce.whole import Outlook

HOUR = 3600
HEADER = ["experiment", "runs", "finished", "time left", "not here"]


def print_paper(
    state: State, paper: str, make_plan: "Callable[[Experiment], Plan]", *, data_sets: list[str], jobs: int
) -> None:
    """Print a line for each experiment, then what the whole paper needs.

    make_plan  plans an experiment with the command's options
    data_sets  names of the data sets that are prepared
    """
    from mmbench.reproduce.spec import Scores
    from mmbench.reproduce.whole import cells_once, experiments_of, outlook

    plans, rows = [], []
    for experiment in experiments_of(paper):
        if isinstance(experiment.content, Scores):
            plan = make_plan(experiment)
            plans.append(plan)
            seen = outlook(plan.cells)
            rows.append(
                [
                    experiment.name,
                    str(seen.n_cells),
                    str(seen.n_finished),
                    left_text(seen, jobs),
                    _absent(plan),
                ]
            )
        else:
            absent = [name for name in experiment.content.datasets if name not in data_sets]
            rows.append([experiment.name, "", "", "", ", ".join(absent)])
    print_table(state, HEADER, rows)
    whole = outlook(cells_once(plans))
    shared = sum(len(plan.cells) for plan in plans) - whole.n_cells
    state.out.print(
        f"{whole.n_cells} different runs ({shared} are shared), {whole.n_finished} finished, {whole.n_missing} missing"
    )
    state.out.print(f"time left, {jobs} at a time: {left_text(whole, jobs) or 'none'}")
    if whole.rough or whole.unknown:
        state.out.print(
            "~: median of other models' runs on the same data set; ?: runs that nothing is known about"
        )


def left_text(outlook: "Outlook", jobs: int) -> str:
    """Return the time that is left: "1.2 h + ~24 min + 3 ?", "" where nothing is missing."""
    parts = [time_text(outlook.seconds / jobs)] * bool(outlook.seconds)
    parts += [f"~{time_text(outlook.rough / jobs)}"] * bool(outlook.rough)
    parts += [f"{outlook.unknown} ?"] * bool(outlook.unknown)
    return " + ".join(parts)


def time_text(seconds: float) -> str:
    return f"{seconds / HOUR:.1f} h" if seconds >= HOUR else f"{max(1, round(seconds / 60))} min"


def _absent(plan: "Plan") -> str:
    """Return the data sets that are not prepared, rows without a model, and rows that cannot run."""
    refused = [label for labels in plan.refused.values() for label in labels]
    return ", ".join(dict.fromkeys([*plan.not_prepared, *plan.not_yet, *refused]))
