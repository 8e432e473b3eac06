"""The pictures of README.md: the live view of a training, and a table; as SVG, by rich's own export.

    python benchmarks/pictures.py --data-dir data --results-dir results

The table is made of stored runs of the demo (mmbench run sasrec gru4rec --seeds 2), the live view of a short training
that leaves nothing behind.
"""

import argparse
import io
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from rich.console import RenderableType

from mmbench import api
from mmbench.atomic import write_text
from mmbench.cli.live import RunView
from mmbench.console import SafeConsole
from mmbench.features.pipeline import PrepareWatcher
from mmbench.reporting import render
from mmbench.reporting.layout import Layout
from mmbench.runs.watchers import Watchers

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
WIDTH = 88
SHOWN_EPOCH = 4  # the live view is taken in the middle of this epoch


class TakenError(BaseException):
    """Ends the training as Ctrl-C does; an Exception would be stored as a failed run."""


class Snapshot(RunView):
    """A live view that keeps what it shows in the middle of an epoch."""

    def __init__(self) -> None:
        super().__init__(SafeConsole(file=io.StringIO()))
        self.picture: RenderableType = ""

    def refresh(self) -> None:
        if self.current is not None:
            epoch, step, n_steps = self.current.position
            if epoch == SHOWN_EPOCH and step == max(1, n_steps // 2):
                self.picture = self.current.render()
                raise TakenError


def recorder() -> SafeConsole:
    return SafeConsole(
        record=True, file=io.StringIO(), width=WIDTH, force_terminal=True, color_system="truecolor"
    )


def write(console: SafeConsole, name: str, title: str) -> None:
    """Write what a console recorded, without the addresses of fonts: a picture loads nothing."""
    text = console.export_svg(title=title, unique_id=name)
    write_text(FOLDER / f"{name}.svg", re.sub(r"@font-face \{.*?\}\n", "", text, flags=re.S))


def live_view(data_dir: Path) -> None:
    view = Snapshot()
    watchers = Watchers(print, print, PrepareWatcher(print), view)
    with tempfile.TemporaryDirectory() as results, suppress(TakenError):
        api.run(
            ["sasrec", "gru4rec"],
            datasets="demo",
            seeds=2,
            data_dir=data_dir,
            results_dir=results,
            progress=watchers,
        )
    console = recorder()
    console.print(view.picture)
    write(console, "live", "mmbench run sasrec gru4rec --seeds 2")


def table(results_dir: Path) -> None:
    metrics = ["NDCG@10", "MRR@10", "HR@10"]
    report = api.report(api.load(datasets="demo", results_dir=results_dir), metrics=metrics)
    console = recorder()
    render(report.table, "terminal", console, Layout())
    write(console, "table", "mmbench report --metric NDCG@10,MRR@10,HR@10")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--results-dir", type=Path, default=Path("results"))
    options = parser.parse_args()
    table(options.results_dir)
    live_view(options.data_dir)


if __name__ == "__main__":
    main()
