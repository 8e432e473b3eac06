"""What `mmbench doctor` looks at: is this machine fit for mmbench, and what is missing for which command?

finding.py  one line of the report
machine.py  Python, libraries, torch and its devices, torchvision, optional encoders, caches, network settings
folders.py  data and results: permission, space, what is prepared, what was left unfinished

Every look is on its own: whatever is broken on a machine becomes a line, and the others are still made.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from mmbench.doctor import folders, machine
from mmbench.doctor.finding import Finding

__all__ = ["Finding", "examine", "usable"]


def examine(data_dir: Path, results_dir: Path, *, online: bool = False) -> list[Finding]:
    """All findings, in the order of the report. `online` also asks the hub, which may take some seconds."""
    looks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("mmbench", machine.program),
        ("libraries", machine.libraries),
        ("torch", machine.torch_build),
        ("torchvision", machine.torchvision),
        ("encoders", machine.encoders),
        ("hub", lambda: machine.hub(online=online)),
        ("network", machine.network),
        ("catalogue", lambda: folders.catalogue(data_dir)),
        ("data", lambda: folders.place("data", data_dir, "--data-dir")),
        ("results", lambda: folders.place("results", results_dir, "--results-dir")),
        ("prepared", lambda: folders.prepared(data_dir)),
        ("raw files", lambda: folders.raw(data_dir)),
        ("runs", lambda: folders.runs(results_dir)),
        ("leftovers", lambda: folders.leftovers(data_dir, results_dir)),
    ]
    return [finding for topic, look in looks for finding in _guarded(topic, look)]


def usable(findings: Iterable[Finding]) -> bool:
    return all(one.level != "problem" for one in findings)


def _guarded(topic: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """A look that fails is a finding: the report is wanted most where things are broken."""
    try:
        return list(look())
    except Exception as error:
        text = f"could not be looked at: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return [Finding("note", topic, text, "please report this line as a bug of mmbench doctor")]
