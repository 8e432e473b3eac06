"""The watchers that the command line gives to mmbench.api."""

from mmbench.cli.live import RunView
from mmbench.cli.preparation import PreparationView
from mmbench.cli.state import State
from mmbench.runs.watchers import Watchers


def watchers(state: State, run: RunView | None = None) -> Watchers:
    """Return the watchers of a command; remarks go to stderr, results to stdout."""
    return Watchers(
        say=lambda text: state.err.print(text, markup=False),
        warn=state.warn,
        preparation=PreparationView(state, brief=run is not None),
        run=run or run_view(state),
    )


def run_view(state: State) -> RunView:
    """Return the live view of a run."""
    return RunView(state.err, out=lambda text: state.out.print(text, markup=False))
