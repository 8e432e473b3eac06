"""Work as jobs of a Slurm cluster, through submitit: each piece is a job, and results come as the jobs end.

Settings of the jobs are those of submitit, without their prefix ("partition", "timeout_min", "gpus_per_node"), and
"cluster": "slurm" by default; "local" runs the jobs as processes of this machine.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mmbench.errors import RunError, UsageError, suggest
from mmbench.explain import first_line
from mmbench.visible import one_line

FOLDER = Path("slurm")  # in the current folder: what the jobs print
POLL_S = {"slurm": 5.0}  # how often jobs are asked whether they ended; elsewhere POLL_HERE_S
POLL_HERE_S = 0.1
TIMEOUT_MIN = 24 * 60  # of a job, unless the settings say otherwise
# Settings that all clusters have; the others are Slurm's own.
SHARED = (
    "name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node",
    "stderr_to_stdout",
)  # fmt: skip
W = TypeVar("W")
R = TypeVar("R")


class JobDiedError(Exception):
    """A job ended without a result: it was killed, ran out of memory or of time."""


class Jobs:
    """Submits work as jobs and waits for them."""

    def __init__(self, settings: Mapping[str, Any], folder: Path = FOLDER) -> None:
        """Open the cluster; UsageError without submitit or for a setting that it refuses, RunError without a Slurm."""
        submitit = _import()
        chosen = {"timeout_min": TIMEOUT_MIN, **settings}
        self.cluster = str(chosen.pop("cluster", "slurm"))
        self.failed = submitit.core.utils.FailedJobError
        self.died = submitit.core.utils.UncompletedJobError
        try:
            self.executor = submitit.AutoExecutor(folder=folder / "%j", cluster=self.cluster)
        except (ValueError, AssertionError) as error:
            raise UsageError(f"--slurm cluster={self.cluster}: {_line(error)}") from error
        except RuntimeError as error:
            raise RunError(f"no Slurm answers here: {_line(error)}; start this where srun is") from error
        prefixed = {key if key in SHARED else f"slurm_{key}": value for key, value in chosen.items()}
        try:
            self.executor.update_parameters(**prefixed)
        except NameError as error:  # submitit's, for a setting that it does not know
            raise UsageError(f"--slurm: {_unknown_setting(str(error))}") from error
        except (TypeError, ValueError, AssertionError) as error:
            raise UsageError(f"--slurm: {_line(error)}") from error

    def compute(self, pieces: Sequence[W], n_jobs: int, *, work: Callable[[W], list[R]]) -> Iterator[R]:
        """Yield what `work` returns for each piece, at most `n_jobs` jobs at a time.

        Raises JobDiedError when a job died, after the others ended, because they go on by themselves; and what the
        work itself raised. Jobs are cancelled when the caller stops.
        """
        waiting = list(reversed(pieces))
        running: list[Any] = []
        dead = ""
        try:
            while waiting or running:
                while waiting and len(running) < n_jobs:
                    running.append(self._submit(work, waiting.pop()))
                ended = [job for job in running if job.done()]
                running = [job for job in running if job not in ended]
                for job in ended:
                    try:
                        yield from job.result()
                    except self.failed as error:
                        raise RunError(f"job {job.job_id} failed: {_last_line(error)}") from error
                    except self.died as error:
                        dead = f"job {job.job_id}: {_line(error)}"
                if not ended:
                    time.sleep(POLL_S.get(self.cluster, POLL_HERE_S))
        finally:
            for job in running:
                job.cancel()
        if dead:
            raise JobDiedError(dead)

    def _submit(self, work: Callable[[W], list[R]], piece: W) -> Any:
        try:
            return self.executor.submit(work, piece)
        except Exception as error:
            raise RunError(f"Slurm refuses the job: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return one_line(first_line(error))


def _unknown_setting(message: str) -> str:
    """Return which setting is unknown and what is near; submitit prefixes names, and lists all that it has."""
    unknown = re.search(r"'(?:slurm_)?(\w+)'", message)
    known = re.search(r"Valid arguments: ([\w, ]+)", message)
    if unknown is None or known is None:
        return one_line(message.splitlines()[0])
    return suggest(unknown[1], [*SHARED, *known[1].split(", ")], what="setting")


def _last_line(error: BaseException) -> str:
    """Return the last line of the traceback that submitit puts between rules of hyphens."""
    parts = re.split(r"^-{5,}$", str(error), flags=re.MULTILINE)
    lines = [line for line in parts[-2 if len(parts) > 1 else -1].splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else type(error).__name__


def _import() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UsageError(
            "--backend slurm needs the package 'submitit'; install it: pip install 'mmbench[slurm]'"
        ) from error
    return submitit
