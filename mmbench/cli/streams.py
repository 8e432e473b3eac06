"""Standard output and error that never stop a command: full, closed, or of an encoding that lacks a letter.

What was computed must not be lost because its last line cannot be printed, so further output goes nowhere, and the
command says at its end what happened.
"""

import errno
import io
import os
import sys
from typing import Any, TextIO


class Outlet(io.RawIOBase):
    """Writes to another stream until that fails, and drops the rest. `fault` is what failed, None if nothing did."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream  # kept, because a stream that nobody holds closes its target
        # Unbuffered: what cannot be written must not be tried again.
        binary = getattr(stream, "buffer", None)
        self.target: Any = getattr(binary, "raw", binary)
        self.fault: OSError | None = None

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return bool(self.target.isatty())

    def fileno(self) -> int:
        return int(self.target.fileno())

    def write(self, content: Any) -> int:
        size = len(content)
        if self.fault is None:
            try:
                return int(self.target.write(content) or 0)
            except OSError as error:
                self.fault = error
        return size

    @property
    def reason(self) -> str:
        """Return in a line why the output is not whole; "" when it is, or when its reader left (`| head`)."""
        if self.fault is None or self.fault.errno == errno.EPIPE:
            return ""
        return f"cannot write to the standard output: {self.fault.strerror}; what was computed is stored"


def guard_streams() -> Outlet:
    """Let stdout and stderr outlive every fault and replace letters that they lack; return the outlet of stdout."""
    _occupy_descriptors()
    sys.stderr, _ = _guarded(sys.stderr)
    sys.stdout, outlet = _guarded(sys.stdout)
    return outlet


def _occupy_descriptors() -> None:
    """Open nowhere for streams that are closed, or the next file that is opened would receive what is printed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(
                os.open(os.devnull, os.O_RDWR), True
            )  # takes the lowest free number, which is `descriptor`


def _guarded(stream: TextIO | None) -> tuple[TextIO, Outlet]:
    if stream is None:  # closed before the interpreter started
        stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    stream.flush()
    outlet = Outlet(stream)
    if outlet.target is None:  # text in memory, which takes everything
        return stream, outlet
    text = io.TextIOWrapper(
        io.BufferedWriter(outlet), encoding=stream.encoding, errors="replace",
        line_buffering=bool(getattr(stream, "line_buffering", True)),
    )  # fmt: skip
    return text, outlet
