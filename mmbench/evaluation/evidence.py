"""What a ranking leaves behind: counts under every mask rule, the lists of best items, and what made them.

A mask rule says which items a user may still be recommended. The target always is a candidate.

    none   all items
    train  all but the user's training items
    input  all but the items of the history that the model read

A ranking is stored as `<run>/rankings/<file>.npz`, sealed (mmbench.sealed). Its name is "valid" or "test", with the
condition under which the model was ranked after a `~`: "test~text=constant".
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmbench import sealed
from mmbench.choices import RULES, MaskRule
from mmbench.errors import DamagedError, OtherVersionError, UsageError

FORMAT = 1
LIST_RULES: tuple[MaskRule, ...] = ("none", "input")


class ListsError(UsageError):
    """Lists that are missing or too short: ranking again makes longer lists."""


@dataclass(frozen=True)
class Ranks:
    """Target ranks under a mask rule: `greater[k]` candidates beat the target of `user[k]`, `equal[k]` tie with it.

    The 1-based rank is uniform over greater+1 .. greater+equal+1 (see mmbench.evaluation.metrics). All int64 [n];
    ValueError when they are not equally long.

    limit  the largest cutoff for which the counts are exact, where lists end before the last candidate; None = any
    """

    user: np.ndarray
    greater: np.ndarray
    equal: np.ndarray
    n_candidates: int
    limit: int | None = None

    def __post_init__(self) -> None:
        shapes = {name: list(getattr(self, name).shape) for name in ("user", "greater", "equal")}
        if any(shape != [len(self.user)] for shape in shapes.values()):
            text = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(f"a value per user is needed, but the shapes are {text}")

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class TopLists:
    """The K best candidates of each user, best first, ties by smaller id.

    items   int32 [n, K]; 0 where a user has fewer candidates
    scores  float16 [n, K]; to look at, too coarse to rank by
    """

    items: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True, kw_only=True)
class MadeBy:
    """What made a ranking."""

    run: str = ""  # data set, model, configuration and seed, as the run's folder names them
    data: str = ""  # hash of the prepared data
    weights: str = ""  # hash of the model's tensors
    code: str = ""  # hash of mmbench's source
    torch: str = ""
    device: str = ""
    threads: int = 0


UNKNOWN = MadeBy()


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """A named ranking of a split: a target for each of n users among `n_items` items.

    user, target  int64 [n]; targets are 0 where they were left out of what is passed on
    counts        by mask rule: (greater, equal), int64 [n] each; another program may state a single rule
    lists         by mask rule, "none" and "input"; empty when none were made
    limits        by mask rule: the largest cutoff for which the counts are exact; without an entry, any
    spread        mean over users of the scores' standard deviation over items; None when it was not computed
    """

    name: str
    user: np.ndarray
    target: np.ndarray
    counts: Mapping[MaskRule, tuple[np.ndarray, np.ndarray]]
    n_items: int
    lists: Mapping[MaskRule, TopLists] = field(default_factory=dict)
    limits: Mapping[MaskRule, int] = field(default_factory=dict)
    spread: float | None = None
    made_by: MadeBy = UNKNOWN

    @property
    def split(self) -> str:
        return self.name.partition("~")[0]

    @property
    def condition(self) -> str:
        """Return the intervention under which the model was ranked; "" for the model as it was trained."""
        return self.name.partition("~")[2]

    @property
    def list_length(self) -> int:
        return next((lists.items.shape[1] for lists in self.lists.values()), 0)

    @property
    def has_targets(self) -> bool:
        return bool(self.target.any())

    def ranks(self, rule: MaskRule) -> Ranks:
        """Return the ranks under a mask rule; UsageError for a rule that is not stored."""
        if rule not in self.counts:
            rules = " and ".join(self.counts)
            raise UsageError(
                f"{self.made_by.run or self.name} has ranks under mask rule {rules} only, not under {rule}"
            )
        greater, equal = self.counts[rule]
        return Ranks(self.user, greater, equal, self.n_items, self.limits.get(rule))

    def top(self, rule: MaskRule, k: int) -> np.ndarray:
        """Return the first `k` items of each user's list, int32 [n, k].

        Raises UsageError where no lists are made, ListsError where longer lists can be made.
        """
        if self.split != "test":
            raise UsageError(f"lists are stored for the test targets only, not for {self.split}")
        if rule not in LIST_RULES:
            raise UsageError(f"lists are stored under {' and '.join(LIST_RULES)}, not under mask rule {rule}")
        length = min(k, self.n_items)
        if self.list_length < length:
            stored = f"the stored lists have {self.list_length} items, not {k}"
            raise ListsError(stored if self.lists else "no lists are stored")
        return self.lists[rule].items[:, :length]

    def n_different(self, other: "Ranking") -> int | None:
        """Return how many users' counts differ under some mask rule; None when the targets are not the same."""
        same = np.array_equal(self.user, other.user) and np.array_equal(self.target, other.target)
        if not same or self.n_items != other.n_items:
            return None
        if self.counts.keys() != other.counts.keys():
            return None
        parts = [np.stack(counts) != np.stack(other.counts[rule]) for rule, counts in self.counts.items()]
        return int(np.concatenate(parts).any(0).sum())


# -- files ------------------------------------------------------------------------------------------------


def file_name(name: str) -> str:
    """Return the file of a ranking: "test~text=constant" -> "test~text-constant.npz"."""
    return re.sub(r"[^A-Za-z0-9._+~-]", "-", name) + ".npz"


def write_ranking(folder: Path, ranking: Ranking) -> None:
    """Store a ranking in a folder of rankings, atomically."""
    arrays: dict[str, np.ndarray] = {"user": ranking.user, "target": ranking.target}
    for rule, counts in ranking.counts.items():
        arrays[f"greater_{rule}"], arrays[f"equal_{rule}"] = counts
    arrays = {name: values.astype(np.int32) for name, values in arrays.items()}
    for rule, lists in ranking.lists.items():
        arrays |= {f"items_{rule}": lists.items, f"scores_{rule}": lists.scores}
    facts = {
        "format": FORMAT, "name": ranking.name, "n_items": ranking.n_items, "spread": ranking.spread,
        "made_by": asdict(ranking.made_by),
    }  # fmt: skip
    if ranking.limits or len(ranking.counts) < len(RULES):
        facts |= {"rules": list(ranking.counts), "limits": dict(ranking.limits)}
    # Lists hardly shrink: on Amazon Beauty compression saves a third of 6 MB and takes as long as the ranking.
    sealed.write_arrays(folder / file_name(ranking.name), arrays, facts, is_compressed=False)


def read_ranking(folder: Path, name: str, *, advice: str) -> Ranking:
    """Read a stored ranking; FileNotFoundError when there is none, DamagedError when it is not what was written.

    advice  ends the message about a damaged file: what to do
    """
    path = folder / file_name(name)
    arrays, facts = sealed.read_arrays(path, advice=advice)
    if facts.get("format") != FORMAT:
        raise OtherVersionError(f"{path} was written by another version of mmbench; {advice}")
    if facts["name"] != name:
        raise DamagedError(f"{path} is damaged (it holds the ranking {facts['name']}); {advice}")
    try:
        return _ranking(arrays, facts)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise sealed.damaged(path, error, advice) from error


def _ranking(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Ranking:
    """Return a ranking from what a file holds; KeyError, TypeError or ValueError where it does not fit."""
    ranking = Ranking(
        name=facts["name"], n_items=facts["n_items"], spread=facts["spread"], made_by=MadeBy(**facts["made_by"]),
        user=arrays["user"].astype(np.int64), target=arrays["target"].astype(np.int64),
        counts={
            rule: (arrays[f"greater_{rule}"].astype(np.int64), arrays[f"equal_{rule}"].astype(np.int64))
            for rule in facts.get("rules", RULES)
        },
        limits=facts.get("limits", {}),
        lists={
            rule: TopLists(arrays[f"items_{rule}"], arrays[f"scores_{rule}"])
            for rule in LIST_RULES if f"items_{rule}" in arrays
        },
    )  # fmt: skip
    _check(ranking)
    return ranking


def _check(ranking: Ranking) -> None:
    """Raise ValueError for what no ranking can be."""
    n, n_items = len(ranking.user), ranking.n_items
    if not _is_ascending(ranking.user) and len(np.unique(ranking.user)) < n:
        raise ValueError("a user appears twice")
    least = 0 if not (ranking.has_targets or ranking.lists) else 1
    if ranking.target.shape != (n,) or not _within(ranking.target, least, n_items):
        raise ValueError(f"a target is not an item of 1..{n_items}")
    if not ranking.counts:
        raise ValueError("there are no counts")
    if not all(rule in ranking.counts and type(k) is int and k >= 1 for rule, k in ranking.limits.items()):
        raise ValueError("a limit is not a cutoff of stored counts")
    for rule in ranking.counts:
        ranks = ranking.ranks(rule)
        if not (_within(ranks.greater, 0, n_items - 1) and _within(ranks.equal, 0, n_items - 1)):
            raise ValueError(f"a count under {rule} is outside 0..{n_items - 1}")
        if len(ranks) and (ranks.greater + ranks.equal).max() >= n_items:
            raise ValueError(f"a rank under {rule} is outside 1..{n_items}")
    for lists in ranking.lists.values():
        if lists.items.shape != (n, ranking.list_length) or lists.scores.shape != lists.items.shape:
            raise ValueError("lists do not have a row per user")
        if not _within(lists.items, 0, n_items):
            raise ValueError(f"a list holds no item of 1..{n_items}")


def _is_ascending(values: np.ndarray) -> bool:
    return bool((values[1:] > values[:-1]).all())


def _within(values: np.ndarray, least: int, largest: int) -> bool:
    return values.size == 0 or bool(values.min() >= least and values.max() <= largest)
