"""Tests see the same environment, whatever that of their caller is.

Run: NO_COLOR=1 FORCE_COLOR=1 COLUMNS=40 TZ=Asia/Tokyo python -m pytest tests/test_neutral.py
"""

import os
import time

import pytest

from tests.neutral import FIXED, is_dropped, neutralise
from tests.prepared import cli, environment

CALLERS = {
    "NO_COLOR": "1", "FORCE_COLOR": "1", "PY_COLORS": "1", "GITHUB_ACTIONS": "true", "COLUMNS": "30",
    "TERMINAL_WIDTH": "30", "TERM": "dumb", "LANG": "de_DE.ISO-8859-1", "LC_ALL": "C", "TZ": "Asia/Tokyo",
    "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONOPTIMIZE": "2", "MMBENCH_DATA": "/nowhere",
    "MMBENCH_MODELS": "/nowhere", "http_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9",
    "SOURCE_DATE_EPOCH": "0", "GIT_DIR": "/nowhere", "HF_HOME": "/nowhere", "OMP_NUM_THREADS": "3",
}  # fmt: skip
NOT_OURS = {
    "PATH": "/bin",
    "HOME": "/home/me",
    "CI": "true",
    "MMBENCH_REAL_DATA": "/data",
    "TMPDIR": "/tmp/a b",
}


def test_what_a_caller_has_set_is_dropped_and_the_rest_stays() -> None:
    variables = {**CALLERS, **NOT_OURS}
    variables.update(neutralise(variables))
    assert variables == {**NOT_OURS, **FIXED}


def test_this_process_has_nothing_of_its_caller() -> None:
    assert [variable for variable in os.environ if is_dropped(variable)] == []
    assert {name: os.environ[name] for name in FIXED} == FIXED
    assert time.localtime(0).tm_hour == 0


@pytest.mark.parametrize("variable", ["MMBENCH_RESULTS", "GIT_DIR", "NO_PROXY"])
def test_commands_that_tests_start_have_nothing_of_it_either(variable: str) -> None:
    assert variable not in environment()
    assert environment()["LANG"] == FIXED["LANG"]


def test_a_command_prints_plain_text() -> None:
    told = cli("models")
    assert told.returncode == 0
    assert "\x1b[" not in told.stdout + told.stderr
