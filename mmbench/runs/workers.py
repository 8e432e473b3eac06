"""Cells side by side: processes of this machine and Ray by joblib, a Dask cluster, jobs of Slurm by submitit.

A cell is shipped as settings and paths; its result comes back through the results folder, which every worker
must see. A worker that dies takes its cell with it; the cell is tried again once, from its last epoch, and then
stored as failed, while the others continue. A mark in the cell's folder says that it was begun and not given back.
"""

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from mmbench.errors import RunError, UsageError, suggest
from mmbench.locks import take
from mmbench.runs.plan import Cell
from mmbench.runs.slurm import JobDiedError, Jobs
from mmbench.runs.store import RunRecord

Kind = Literal["local", "dask", "ray", "slurm"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LOCK = "cell.lock"  # in a cell's folder; held while the cell is computed
BEGUN = (
    "begun"  # lies in a cell's folder while a worker has it, with a byte for each that did not give it back
)
MAX_TRIES = 2
ANSWER_S = 10  # how long a Dask scheduler has to answer
POLL_S = 0.3  # how often a Ray run looks which cells have ended
Group = tuple[Cell, ...]  # cells that a worker computes together: seeds in a stack, or a single cell
Work = Callable[[Group], list[tuple[Cell, RunRecord]]]
Pool = Callable[[Sequence[Group], int], Iterator[tuple[Cell, RunRecord]]]


@dataclass(frozen=True)
class Backend:
    """Where cells are computed.

    address   of a Dask or Ray cluster; None starts one on this machine
    settings  of the jobs of a Slurm cluster (mmbench.runs.slurm)
    """

    kind: Kind = "local"
    address: str | None = None
    jobs: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.jobs, int) or self.jobs < 1:
            raise UsageError(f"--jobs {self.jobs}: must be a whole number from 1")
        if self.settings and self.kind != "slurm":
            raise UsageError("--slurm sets jobs of a Slurm cluster; add --backend slurm")
        if self.address is not None and self.kind in ("local", "slurm"):
            raise UsageError("--address names a cluster; say which kind with --backend dask or --backend ray")


def find_backend(
    name: str, address: str | None, jobs: int, settings: Mapping[str, Any] | None = None
) -> Backend:
    """Return the backend of a name; UsageError for an unknown name, with the nearest."""
    kind = next((known for known in KINDS if known == name), None)
    if kind is None:
        raise UsageError(suggest(str(name), KINDS, what="backend"))
    return Backend(kind, address, jobs, settings or {})


def side_by_side(
    groups: Sequence[Group], work: Work, backend: Backend, *, ended: Callable[[Cell], RunRecord | None]
) -> Iterator[RunRecord]:
    """Compute `groups` of cells with `work` in other processes; records come as the groups end.

    `ended` returns the stored record of a cell, None without one. Raises RunError when the workers cannot start, or
    die before they take a cell.
    """
    left = {cell.path: cell for group in groups for cell in group}
    for cell in left.values():
        forget_mark(cell)
    with _opened(backend, work, ended) as pool:
        while left:
            begun = [cell for cell in left.values() if (cell.path / BEGUN).exists()]
            rest = [tuple(cell for cell in group if cell.path in left) for group in groups]
            # Begun cells come singly, so that the cell that kills its worker takes no other cell with it again.
            now, jobs = ([(begun[0],)], 1) if begun else (list(filter(None, rest)), backend.jobs)
            try:
                for cell, record in pool(now, jobs):
                    if not (cell.path / "run.json").is_file():
                        raise nothing_came(cell, backend.kind)
                    del left[cell.path]
                    yield record
            except Exception as error:
                if not _worker_died(error):
                    raise
                if not any((cell.path / BEGUN).exists() for cell in left.values()):
                    raise RunError(
                        f"the {backend.kind} workers died before they took a cell: {error}"
                    ) from error


def together(work: Callable[[], None], backend: Backend, n: int) -> bool:
    """Do the same work in n processes at once, at most `backend.jobs`; return whether no process died of it.

    Raises what the work raises, and RunError when the workers cannot start.
    """
    with _opened(backend, partial(_do, work), lambda cell: None) as pool:
        try:
            for _ in pool([()] * n, n):
                pass
        except Exception as error:
            if not _worker_died(error):
                raise
            return False
    return True


def _do(work: Callable[[], None], group: Group) -> list[tuple[Cell, RunRecord]]:
    work()
    return []


def nothing_came(cell: Cell, kind: Kind) -> RunError:
    return RunError(
        f"the {kind} workers computed {cell.title}, but no result is in {cell.path}; "
        "all workers must see --results-dir and --data-dir"
    )


def _worker_died(error: BaseException) -> bool:
    """Return whether a worker died; errors of Dask and Ray are known by name, since neither need be installed."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, BrokenExecutor | JobDiedError) or bool(
        names & {"KilledWorker", "RayActorError", "WorkerCrashedError"}
    )


@contextmanager
def marked(cell: Cell) -> Iterator[bool]:
    """Mark the cell as begun (in the worker) until it is given back; yield False when two workers died of it."""
    mark = cell.path / BEGUN
    with mark.open("a+") as file:
        file.write("x")
        n_begun = file.tell()
    try:
        yield n_begun <= MAX_TRIES
    finally:  # not reached when the process dies
        mark.unlink(missing_ok=True)


def claim(path: Path, *, wait: bool) -> AbstractContextManager[Any] | None:
    """Take the lock of a cell's folder; return None when another process holds it and we do not wait.

    Leave it with `with`. RunError when the folder cannot be written.
    """
    return take(path / LOCK, wait=wait, error=RunError, option="--results-dir")


def cannot_write(path: Path, error: OSError) -> RunError:
    return RunError(f"cannot write {path}: {error.strerror or error}; choose another --results-dir")


def forget_mark(cell: Cell) -> None:
    """Remove the mark of a worker that was stopped with its run, unless another run computes the cell."""
    mark = cell.path / BEGUN
    try:
        lock = claim(cell.path, wait=False) if mark.exists() else None
        if lock is not None:
            with lock:
                mark.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(cell.path, error) from error


# -- pools ------------------------------------------------------------------------------------------------


def _opened(
    backend: Backend, work: Work, ended: Callable[[Cell], RunRecord | None]
) -> AbstractContextManager[Pool]:
    if backend.kind == "local":
        return _local(work)
    if backend.kind == "slurm":
        return nullcontext(partial(Jobs(backend.settings).compute, work=work))
    return _dask(backend, work) if backend.kind == "dask" else _ray(backend, work, ended)


@contextmanager
def _local(work: Work) -> Iterator[Pool]:
    from joblib import Parallel, delayed

    # joblib's tracker of semaphores is a separate process, which warns of what it tidies up when a run is stopped.
    filters = os.environ.get("PYTHONWARNINGS", "")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [filters, "ignore:resource_tracker"]))

    def pool(groups: Sequence[Group], jobs: int) -> Iterator[tuple[Cell, RunRecord]]:
        # At least two: joblib computes a single job in this very process, which a dying cell would take along.
        parallel = Parallel(
            n_jobs=max(jobs, 2), backend="loky", return_as="generator_unordered", batch_size=1,
            pre_dispatch=jobs,
        )  # fmt: skip
        for results in parallel(delayed(work)(group) for group in groups):
            yield from results

    yield pool


@contextmanager
def _dask(backend: Backend, work: Work) -> Iterator[Pool]:
    distributed = _import("distributed", backend)
    try:
        if backend.address is None:
            cluster = distributed.LocalCluster(
                n_workers=backend.jobs, threads_per_worker=1, dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )  # fmt: skip
            client = distributed.Client(cluster)
        else:
            cluster, client = None, distributed.Client(backend.address, timeout=ANSWER_S)
    except (OSError, TimeoutError) as error:
        raise RunError(f"no Dask scheduler answers at {backend.address}: {error}") from error
    try:
        threads = {worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()}
        if threads - {1}:
            raise RunError(
                f"the Dask workers at {backend.address} run {max(threads)} tasks in a process, which would share "
                "torch's random generator; start them with: dask worker ADDRESS --nthreads 1"
            )

        def pool(groups: Sequence[Group], jobs: int) -> Iterator[tuple[Cell, RunRecord]]:
            # Not through joblib, which computes in this very process where the cluster has a single worker.
            tasks = (client.submit(work, group, pure=False) for group in groups)
            running = distributed.as_completed(islice(tasks, jobs))
            for task in running:
                yield from task.result()
                for following in islice(tasks, 1):
                    running.add(following)

        yield pool
    finally:
        with suppress(Exception):  # a cluster that is gone cannot be closed
            client.close()
            if cluster is not None:
                cluster.close()


@contextmanager
def _ray(backend: Backend, work: Work, ended: Callable[[Cell], RunRecord | None]) -> Iterator[Pool]:
    ray = _import("ray", backend)
    from joblib import Parallel, delayed, parallel_config
    from ray.util.joblib import register_ray

    options: dict[str, Any] = (
        {"address": backend.address} if backend.address else {"num_cpus": max(backend.jobs, 2)}
    )
    try:
        ray.init(**options, include_dashboard=False if not backend.address else None,
                 log_to_driver=False, logging_level="error", ignore_reinit_error=True)  # fmt: skip
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise RunError(f"no Ray cluster answers at {backend.address}: {error}") from error
    register_ray()

    def compute(groups: Sequence[Group], jobs: int) -> None:
        with parallel_config(backend="ray"):
            # At least two, as in `_local`; a task is a single group, so that no group waits behind another.
            Parallel(n_jobs=max(jobs, 2), batch_size=1, pre_dispatch=jobs)(
                delayed(work)(group) for group in groups
            )

    try:
        yield lambda groups, jobs: _watched(
            lambda: compute(groups, jobs), [cell for group in groups for cell in group], ended
        )
    finally:
        ray.shutdown()


def _watched(
    compute: Callable[[], None], cells: Sequence[Cell], ended: Callable[[Cell], RunRecord | None]
) -> Iterator[tuple[Cell, RunRecord]]:
    """Yield each cell when its record is stored; joblib's Ray back end itself returns everything at the end."""
    raised: list[BaseException] = []

    def target() -> None:
        try:
            compute()
        except BaseException as error:
            raised.append(error)

    before = {cell.path: _stamp(cell) for cell in cells}  # of records that an earlier run left
    left = list(cells)
    runner = threading.Thread(target=target, daemon=True)
    runner.start()
    running = True
    while running:
        runner.join(POLL_S)
        running = runner.is_alive()
        for cell in list(left):
            fresh = _stamp(cell) != before[cell.path] and not (cell.path / BEGUN).exists()
            record = ended(cell) if fresh or not (running or raised) else None
            if record is not None:
                left.remove(cell)
                yield cell, record
    if raised:
        raise raised[0]
    if left:
        raise nothing_came(left[0], "ray")


def _stamp(cell: Cell) -> int | None:
    try:
        return (cell.path / "run.json").stat().st_mtime_ns
    except OSError:
        return None


def _import(name: str, backend: Backend) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--backend {backend.kind} needs the package {name!r}; install it: pip install 'mmbench[{backend.kind}]'"
        ) from error


# -- devices ----------------------------------------------------------------------------------------------


@contextmanager
def dealt_device(wanted: str) -> Iterator[str]:
    """Choose a GPU of this machine in a worker, a free one if there is any; other devices stay as they are.

    Locks in the system's temporary folder, which end with their process, mark the GPUs that are taken.
    """
    import torch

    n_gpus = torch.cuda.device_count() if wanted in ("auto", "cuda") and torch.cuda.is_available() else 0
    if n_gpus < 2:
        yield wanted
        return
    for number in range(n_gpus):
        try:
            with FileLock(Path(tempfile.gettempdir()) / f"mmbench-gpu-{_user()}-{number}.lock").acquire(
                timeout=0
            ):
                yield f"cuda:{number}"
                return
        except Timeout:
            continue
    yield f"cuda:{os.getpid() % n_gpus}"  # more jobs than GPUs: they share


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "all"
