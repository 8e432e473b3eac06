"""An environment that no caller changes: without what would alter colours, widths, languages, clocks, proxies, caches.

What a variable does to mmbench is tested where a test sets it.
"""

from collections.abc import MutableMapping

# Variables, and beginnings of variables, that programs under test read.
DROPPED = {
    "NO_COLOR", "FORCE_COLOR", "PY_COLORS", "CLICOLOR", "CLICOLOR_FORCE", "COLORTERM", "COLUMNS", "LINES",
    "TERMINAL_WIDTH", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "GITHUB_ACTIONS", "TERM_PROGRAM", "WT_SESSION",
    "LANGUAGE", "SOURCE_DATE_EPOCH", "NETRC", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "FTP_PROXY", "MPLBACKEND", "MPLCONFIGDIR", "MATPLOTLIBRC",
    "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONWARNINGS", "PYTHONOPTIMIZE", "PYTHONDEVMODE", "PYTHONSAFEPATH",
    "PYTHONUNBUFFERED", "PYTHONINSPECT", "PYTHONSTARTUP", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "XDG_CACHE_HOME",
    "CODECARBON_LOG_LEVEL", "COMP_WORDS", "COMP_CWORD",
}  # fmt: skip
DROPPED_FAMILIES = (
    "MMBENCH_", "GIT_", "LC_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "MLFLOW_", "WANDB_", "CODECARBON_", "SLURM_",
    "SUBMITIT_", "DASK_", "RAY_", "RICH_", "TYPER_", "JUPYTER_", "IPYTHON",
)  # fmt: skip
# What a person asks the tests for.
KEPT = {
    "MMBENCH_REAL_DATA", "MMBENCH_WHEEL", "MMBENCH_RECBOLE", "MMBENCH_RECTOOLS", "MMBENCH_REPLAY",
}  # fmt: skip
# Commands that tests start have one thread, too: two add in another order, and have other last digits.
FIXED = {"OMP_NUM_THREADS": "1", "LANG": "C.UTF-8", "TZ": "UTC", "TERM": "xterm"}


def is_dropped(variable: str) -> bool:
    """Whether a variable, in small letters or large, changes what a test sees."""
    name = variable.upper()
    return name not in KEPT and (name in DROPPED or name.startswith(DROPPED_FAMILIES))


def neutralise(environment: MutableMapping[str, str]) -> dict[str, str]:
    """Drop variables of an environment, and return those to set."""
    for variable in [*environment]:
        if is_dropped(variable):
            del environment[variable]
    return FIXED
