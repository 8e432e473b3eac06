"""What a bundle says of itself, and which files it may hold.

manifest.json                     sealed: what was run, and size and sha256 of every other file
libraries.txt                     the versions of mmbench's dependencies, where they are known to be the run's
seed_<n>/run.json                 the record of a run
seed_<n>/rankings/<name>.npz      its counts, with lists and targets unless they were left out
seed_<n>/best.safetensors         its weights, with --weights
tuning/<study>/study.json, trials.jsonl   the searches over its settings
model/<name>.py, .toml            the model's code, if it is not a model of mmbench
"""

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from mmbench import strict
from mmbench.data.manifest import Sha256
from mmbench.runs.store import RECORD

FORMAT = 1
MANIFEST, LIBRARIES = "manifest.json", "libraries.txt"
TUNING, MODEL = "tuning", "model"
SUFFIX = ".mmb.zip"

MIB = 2**20
# What a member may be called, and the most bytes that it may have.
MEMBERS: tuple[tuple[re.Pattern[str], int], ...] = tuple(
    (re.compile(pattern), limit)
    for pattern, limit in (
        (r"manifest\.json", 4 * MIB),
        (r"libraries\.txt", MIB),
        (r"seed_-?[0-9]{1,10}/run\.json", 8 * MIB),
        (r"seed_-?[0-9]{1,10}/rankings/(valid|test)\.npz", 1024 * MIB),
        (r"seed_-?[0-9]{1,10}/best\.safetensors", 3 * 1024 * MIB),
        (r"tuning/[0-9a-f]{10}/(study\.json|trials\.jsonl)", 8 * MIB),
        (r"model/[a-z0-9_]{1,80}\.(py|toml)", MIB),
    )
)

_DATASET = r"^[a-z0-9][a-z0-9_-]{0,79}(@[a-z0-9:-]{1,40}){0,2}$"
_MODEL = r"^[a-z0-9][a-z0-9-]{0,79}(:[A-Za-z0-9+.=_-]{1,80})?$"


@dataclass(frozen=True)
class FileFacts(strict.Strict):
    """Size in bytes and sha256 of a file."""

    size: Annotated[int, Field(ge=0)]
    sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class Manifest(strict.Strict):
    """The content of manifest.json.

    metrics  by metric: the value of each seed on the test targets, under the rule of the selection, unrounded
    failed   seeds that did not finish, with the reason: a bundle hides none
    """

    dataset: Annotated[str, Field(pattern=_DATASET)]
    model: Annotated[str, Field(pattern=_MODEL)]
    display: Annotated[str, Field(max_length=120)]
    config_id: Annotated[str, Field(pattern=r"^[0-9a-f]{10}$")]
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    seeds: Annotated[tuple[int, ...], Field(min_length=1, max_length=1000)]
    failed: dict[str, str]
    metrics: dict[str, tuple[float, ...]]
    has_lists: bool
    has_weights: bool
    mmbench: Annotated[str, Field(max_length=40)]
    files: dict[str, FileFacts]


def limit_of(name: str) -> int | None:
    """Return the most bytes that a member may have; None for a name that no bundle holds."""
    return next((limit for pattern, limit in MEMBERS if pattern.fullmatch(name)), None)


def folder_of_seed(seed: int) -> str:
    return f"seed_{seed}"


def record_name(seed: int) -> str:
    return f"{folder_of_seed(seed)}/{RECORD}"
