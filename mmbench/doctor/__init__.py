"""What `mmbench doctor` examines: is this machine fit for mmbench, and what is missing for which command?

finding.py  a line of the report
machine.py  Python, libraries, torch and its devices, torchvision, optional encoders, caches, network settings
folders.py  data and results: permissions, space, what is prepared, what is unfinished

The checks are independent: whatever is broken on a machine becomes a line, and the other checks still run.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from mmbench.doctor import folders, machine
from mmbench.doctor.finding import Finding

__all__ = ["Finding", "examine", "usable"]


def examine(data_dir: Path, results_dir: Path, *, online: bool = False) -> list[Finding]:
    """Return all findings in the order of the report. `online` also contacts the hub, which may take some seconds."""
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("mmbench", machine.program),
        ("libraries", machine.libraries),
        ("torch", machine.torch_build),
        ("torchvision", machine.torchvision),
        ("encoders", machine.encoders),
        ("hub", lambda: machine.hub(online=online)),
        ("network", machine.network),
        ("catalogue", lambda: folders.catalogue(data_dir)),
        ("data", lambda: folders.disk("data", data_dir, "--data-dir")),
        ("results", lambda: folders.disk("results", results_dir, "--results-dir")),
        ("prepared", lambda: folders.prepared(data_dir)),
        ("raw files", lambda: folders.raw(data_dir)),
        ("runs", lambda: folders.runs(results_dir)),
        ("leftovers", lambda: folders.leftovers(data_dir, results_dir)),
    ]
    return [finding for topic, check in checks for finding in _guarded(topic, check)]


def usable(findings: Iterable[Finding]) -> bool:
    """Return whether mmbench can be used, that is, whether no finding is a problem."""
    return all(finding.level != "problem" for finding in findings)


def _guarded(topic: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Run a check; if it fails, that is a finding, because the report matters most where things are broken."""
    try:
        return list(check())
    except Exception as error:
        text = f"could not be checked: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return [Finding("note", topic, text, "please report this line as a bug of mmbench doctor")]
