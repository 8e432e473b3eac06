"""Protocols by name, tie rules, and the names of prepared data sets.

A prepared data set is called `NAME[@PROTOCOL][@TIES]`; a part that is the data set's default is left out:
`amazon-beauty`, `amazon-beauty@clean`, `amazon-beauty@random:1`, `amazon-beauty@clean@reverse`.
"""

import re
from dataclasses import dataclass
from typing import Any

from mmbench.errors import UsageError, suggest

_CLEAN: dict[str, Any] = {
    "duplicates": "drop",  # of equal (user, item, time) the first in the file stays
    "min_user": 5,  # fewest events of a user
    "min_item": 5,  # fewest events (or users, see item_counts) of an item
    "item_counts": "events",  # what min_item counts: "events" or distinct "users"
    "iterate": True,  # repeat both filters until nothing changes
    "require": [],  # items without these ("text", "image") go before the filters
    "split": "leave-one-out",
    "valid_share": 0.0,
    "test_share": 0.0,
    "max_len": 50,
    "mask_seen": "none",
    "selection_metric": "NDCG@20",
    "patience": 10,
}

PROTOCOLS: dict[str, dict[str, Any]] = {
    "hm4sr": _CLEAN,
    "tmmsrec": {
        **_CLEAN,
        "duplicates": "keep",
        "min_item": 0,
        "iterate": False,
        "require": ["text", "image"],
        "selection_metric": "NDCG@10",
        "patience": 20,
    },
    "clean": _CLEAN,
    "clean-time": {**_CLEAN, "split": "time", "valid_share": 0.1, "test_share": 0.1},
}
SUMMARIES = {
    "hm4sr": "HM4SR (Amazon 2014): duplicates dropped, 5-core until stable, leave one out",
    "tmmsrec": "TMMSRec (Amazon 2018): duplicates kept, items lacking text or image dropped, users with >= 5 events",
    "clean": "the default for new data: as hm4sr, or the data set's own filters",
    "clean-time": "as clean, split at two global points in time: no training event is later than a target",
}
OWN_FILTERS = ("clean", "clean-time")  # protocols that a data set may adapt; a paper's protocol is what it is

_RANDOM = re.compile(r"random:(0|[1-9][0-9]{0,18})")


def is_ties(text: str) -> bool:
    return text in ("file", "reverse") or _RANDOM.fullmatch(text) is not None


def check_ties(text: str) -> str:
    """`file`, `reverse` or `random:<seed>`; anything else is a UsageError."""
    if is_ties(text):
        return text
    if text.startswith("random"):
        raise UsageError(f"tie rule {text!r} needs a seed that is a whole number >= 0, for instance random:1")
    raise UsageError(suggest(text, ["file", "reverse", "random:1"], what="tie rule"))


def check_protocol(name: str) -> str:
    if name not in PROTOCOLS:
        raise UsageError(suggest(name, PROTOCOLS, what="protocol"))
    return name


def random_seed(ties: str) -> int | None:
    """The seed of `random:<seed>`, None for the other tie rules."""
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
            raise UsageError(f"{text!r} is no data set name; write NAME[@PROTOCOL][@TIES]")
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
        """With `--protocol` and `--ties`; a contradiction with the name is a UsageError."""
        for option, named, given in (("--protocol", self.protocol, protocol), ("--ties", self.ties, ties)):
            if named is not None and given is not None and named != given:
                raise UsageError(f"{self.dataset}@{named} contradicts {option} {given}; give one of them")
        return PreparedName(
            self.dataset,
            self.protocol if protocol is None else check_protocol(protocol),
            self.ties if ties is None else check_ties(ties),
        )

    def text(self, *, default_protocol: str, default_ties: str) -> str:
        """The canonical name: parts that equal the data set's defaults are left out."""
        protocol = f"@{self.protocol}" if self.protocol not in (None, default_protocol) else ""
        ties = f"@{self.ties}" if self.ties not in (None, default_ties) else ""
        return f"{self.dataset}{protocol}{ties}"


def build_protocol(name: str, *, ties: str, filters: dict[str, Any] | None = None) -> dict[str, Any]:
    """The protocol dict of a manifest. `filters` are the data set's own; only OWN_FILTERS protocols take them."""
    own = filters or {} if name in OWN_FILTERS else {}
    base = PROTOCOLS[check_protocol(name)]
    return {
        "name": name,
        **base,
        **own,
        "require": list(own.get("require", base["require"])),
        "ties": check_ties(ties),
    }
