"""`mmbench` where no file takes more bytes than the first argument says, as on a disk that is nearly full."""

import contextlib
import io
import resource
import sys

from mmbench.cli import main as mmbench


def main() -> None:
    """Run the command of the other arguments; its errors are written when the limit is lifted, as into a terminal."""
    errors = io.StringIO()
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
    try:
        with contextlib.redirect_stderr(errors):
            mmbench()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        sys.stderr.write(errors.getvalue())
