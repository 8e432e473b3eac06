"""Protocols by name, tie rules, and the names of prepared data sets.

A prepared data set is called `NAME[@PROTOCOL][@TIES]`. A part that equals the data set's default is left out:
`amazon-beauty`, `amazon-beauty@clean`, `amazon-beauty@random:1`, `amazon-beauty@clean@reverse`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from mmbench import strict
from mmbench.errors import UsageError, suggest

MaskRule = Literal["none", "train", "input"]
_RANDOM = re.compile(r"random:(0|[1-9][0-9]{0,18})")


def is_ties(text: str) -> bool:
    """Return whether `text` is a tie rule: `file`, `reverse` or `random:<seed>`."""
    return text in ("file", "reverse") or _RANDOM.fullmatch(text) is not None


def _checked_ties(text: str) -> str:
    if not is_ties(text):
        raise ValueError("must be file, reverse or random:<seed>")
    return text


_Count = Annotated[int, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class Protocol(strict.Strict):
    """How raw events become prepared data, and how models are selected and ranked on them."""

    name: str
    duplicates: Literal["drop", "keep"]  # "drop" keeps the first of equal (user, item, time) in the file
    min_user: _Count  # the fewest events of a user
    min_item: _Count  # the fewest events (or users, see item_counts) of an item
    item_counts: Literal["events", "users"]  # says what min_item counts
    iterate: bool  # repeats both filters until nothing changes
    require: tuple[Literal["text", "image"], ...]  # items that lack any of these are dropped first
    ties: Annotated[str, AfterValidator(_checked_ties)]  # orders events with equal times
    split: Literal[
        "leave-one-out", "time", "time-last", "time-random"
    ]  # mmbench.data.split says what they are
    valid_share: _Share  # the share of all events, for the time split
    test_share: _Share
    max_len: Annotated[int, Field(ge=1)]
    mask_seen: MaskRule
    selection_metric: Annotated[str, Field(min_length=1)]
    patience: Annotated[int, Field(ge=1)]

    def __post_init__(self) -> None:
        if self.valid_share + self.test_share >= 1:
            raise ValueError(
                f"valid_share {self.valid_share} and test_share {self.test_share} must be below 1 together"
            )

    @property
    def needs_times(self) -> bool:
        """Return whether the split is one of times, for which an order of events is not enough."""
        return self.split != "leave-one-out"


_CLEAN = Protocol(
    name="clean", duplicates="drop", min_user=5, min_item=5, item_counts="events", iterate=True, require=(),
    ties="file", split="leave-one-out", valid_share=0.0, test_share=0.0, max_len=50, mask_seen="none",
    selection_metric="NDCG@20", patience=10,
)  # fmt: skip
_CLEAN_TIME = replace(_CLEAN, name="clean-time", split="time", valid_share=0.1, test_share=0.1)
PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        replace(_CLEAN, name="hm4sr"),
        replace(
            _CLEAN, name="tmmsrec", duplicates="keep", min_item=0, iterate=False, require=("text", "image"),
            selection_metric="NDCG@10", patience=20,
        ),
        _CLEAN,
        _CLEAN_TIME,
        replace(_CLEAN_TIME, name="clean-time-last", split="time-last"),
        replace(_CLEAN_TIME, name="clean-time-random", split="time-random"),
    )
}  # fmt: skip
SUMMARIES = {
    "hm4sr": "HM4SR (Amazon 2014): duplicates dropped, 5-core until stable, leave-one-out",
    "tmmsrec": "TMMSRec (Amazon 2018): duplicates kept, items lacking text or image dropped, users with >= 5 events",
    "clean": "the default for new data: as hm4sr, or the data set's own filters",
    "clean-time": "as clean, split at two global points in time: no training event is later than a target",
    "clean-time-last": "as clean-time, with a user's last event after a point as target instead of the first",
    "clean-time-random": "as clean-time, with any of a user's events after a point as target",
}
OWN_FILTERS = (
    "clean",
    "clean-time",
    "clean-time-last",
    "clean-time-random",
)  # protocols that a data set may adapt; a paper's protocol is fixed


def check_ties(text: str) -> str:
    """Return the tie rule; UsageError for anything but `file`, `reverse` or `random:<seed>`."""
    if is_ties(text):
        return text
    if text.startswith("random"):
        raise UsageError(f"tie rule {text!r} needs a seed that is a whole number >= 0, for instance random:1")
    raise UsageError(suggest(text, ["file", "reverse", "random:1"], what="tie rule"))


def check_protocol(name: str) -> str:
    """Return the name of the protocol; UsageError suggests the nearest for an unknown name."""
    if name not in PROTOCOLS:
        raise UsageError(suggest(name, PROTOCOLS, what="protocol"))
    return name


def random_seed(ties: str) -> int | None:
    """Return the seed of `random:<seed>`, None for other tie rules."""
    match = _RANDOM.fullmatch(ties)
    return int(match[1]) if match else None


@dataclass(frozen=True)
class PreparedName:
    """A data set under a protocol and a tie rule; None = the data set's default."""

    dataset: str
    protocol: str | None = None
    ties: str | None = None

    @classmethod
    def parse(cls, text: str) -> "PreparedName":
        """Read `NAME[@PROTOCOL][@TIES]`; UsageError names the part that is neither."""
        dataset, *parts = text.split("@")
        if not dataset:
            raise UsageError(f"{text!r} is not the name of a data set; write NAME[@PROTOCOL][@TIES]")
        protocol: str | None = None
        ties: str | None = None
        for part in parts:
            if part in PROTOCOLS and protocol is None and ties is None:
                protocol = part
            elif is_ties(part) and ties is None:
                ties = part
            elif part in PROTOCOLS or is_ties(part):
                raise UsageError(f"{text!r}: write NAME[@PROTOCOL][@TIES], each part once and in this order")
            elif part.startswith("random"):
                check_ties(part)
            else:
                known = [*PROTOCOLS, "file", "reverse", "random:1"]
                raise UsageError(f"{text!r}: {suggest(part, known, what='protocol or tie rule')}")
        return cls(dataset, protocol, ties)

    def override(self, *, protocol: str | None, ties: str | None) -> "PreparedName":
        """Return the name with `--protocol` and `--ties` applied; UsageError when they contradict it."""
        for option, named, value in (("--protocol", self.protocol, protocol), ("--ties", self.ties, ties)):
            if named is not None and value is not None and named != value:
                raise UsageError(
                    f"{self.dataset}@{named} contradicts {option} {value}; give only the former or the latter"
                )
        return PreparedName(
            self.dataset,
            self.protocol if protocol is None else check_protocol(protocol),
            self.ties if ties is None else check_ties(ties),
        )

    def text(self, *, default_protocol: str, default_ties: str) -> str:
        """Return the canonical name, without the parts that equal the data set's defaults."""
        protocol = f"@{self.protocol}" if self.protocol not in (None, default_protocol) else ""
        ties = f"@{self.ties}" if self.ties not in (None, default_ties) else ""
        return f"{self.dataset}{protocol}{ties}"


def build_protocol(name: str, *, ties: str, filters: Mapping[str, Any] | None = None) -> Protocol:
    """Return a protocol with a tie rule and a data set's filters, which only OWN_FILTERS protocols take.

    filters  fields of a protocol that mmbench.data.spec.Filters lets a data set choose
    """
    chosen = dict(filters or {}) if name in OWN_FILTERS else {}
    if "require" in chosen:
        chosen["require"] = tuple(chosen["require"])
    return replace(PROTOCOLS[check_protocol(name)], ties=check_ties(ties), **chosen)


def differing_fields(first: Protocol, second: Protocol) -> list[str]:
    """Return the names of the fields in which two protocols differ."""
    return [
        field.name for field in fields(Protocol) if getattr(first, field.name) != getattr(second, field.name)
    ]
