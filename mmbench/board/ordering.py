"""Boards: rows of a data set under a protocol, in order, in groups that no test separates."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmbench.board.entries import MAIN, METRICS, Entry
from mmbench.choices import MaskRule
from mmbench.evaluation.bradley_terry import ratings, wins_of
from mmbench.evaluation.power import ALPHA, smallest_effect
from mmbench.evaluation.significance import Verdict, one_sample_t, paired_t, welch_t
from mmbench.reporting.places import is_same
from mmbench.runs.store import slug

MAIN_INDEX = METRICS.index(MAIN)  # it comes first


@dataclass(frozen=True)
class Place:
    """The place of an entry under a mask rule.

    rank   1 + the number of rows in better groups; 0 for a row that is not ranked (leaky, or no value)
    group  the letter of the group; no test separates its rows from the best of them
    moved  places that the row would gain (+) or lose (-) under the other rule
    """

    entry: Entry
    rank: int
    group: str
    moved: int = 0


@dataclass(frozen=True)
class Board:
    """All entries of a data set under a protocol."""

    dataset: str
    fingerprint: str
    entries: tuple[Entry, ...]

    @property
    def page(self) -> str:
        return f"board-{slug(self.dataset)}-{self.fingerprint[:8]}.html"

    @property
    def rules(self) -> tuple[MaskRule, MaskRule]:
        return self.entries[0].rules

    @property
    def alpha(self) -> float:
        """Return the level of a test: every row against a single other."""
        return ALPHA / max(1, len(self.entries) - 1)

    @cached_property
    def places(self) -> dict[MaskRule, list[Place]]:
        """Return the rows under both mask rules, best first."""
        orders = {rule: _ordered(self.entries, rule) for rule in self.rules}
        return {rule: self._placed(rule, orders) for rule in self.rules}

    def _placed(self, rule: MaskRule, orders: dict[MaskRule, list[Entry]]) -> list[Place]:
        other = next(each for each in self.rules if each != rule)
        index = {id(entry): k for k, entry in enumerate(orders[other]) if _has(entry, other)}
        places, head, rank, letter = list[Place](), None, 0, -1
        for k, entry in enumerate(orders[rule]):
            if entry.record.leaky or not _has(entry, rule):
                places.append(Place(entry, 0, ""))
                continue
            if head is None or is_separated(head, entry, rule, self.alpha):
                head, rank, letter = entry, k + 1, letter + 1
            moved = k - index[id(entry)] if id(entry) in index and not entry.record.leaky else 0
            places.append(Place(entry, rank, _letter(letter), moved))
        return places

    @cached_property
    def resolution(self) -> float | None:
        """Return the smallest difference of MAIN that a test over this board's users finds with power .8.

        The deviation of the differences between users is the median over all rows against the best; None where
        fewer than two rows have values per user.
        """
        rule = self.rules[0]
        ranked = [place.entry for place in self.places[rule] if place.rank and rule in place.entry.per_user]
        deviations = [
            float(np.std(ranked[0].per_user[rule] - entry.per_user[rule], ddof=1, dtype=np.float64))
            for entry in ranked[1:]
        ]
        effect = smallest_effect(ranked[0].n_users, alpha=self.alpha) if deviations else None
        return None if effect is None else effect * float(np.median(deviations))


def boards_of(entries: Sequence[Entry]) -> list[Board]:
    """Return the boards by data set; entries that rank other users than the first of their board have their own."""
    grouped: dict[tuple[str, str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        grouped[entry.record.dataset, entry.record.fingerprint, entry.users].append(entry)
    return [
        Board(dataset, fingerprint, tuple(members))
        for (dataset, fingerprint, _), members in sorted(grouped.items(), key=lambda item: item[0])
    ]


def _has(entry: Entry, rule: MaskRule) -> bool:
    return not np.isnan(entry.mean(MAIN_INDEX, rule))


def _ordered(entries: Sequence[Entry], rule: MaskRule) -> list[Entry]:
    """Return entries best first; those that are not ranked last."""

    def order(entry: Entry) -> tuple[bool, bool, float, str]:
        mean = entry.mean(MAIN_INDEX, rule)
        return entry.record.leaky, np.isnan(mean), 0.0 if np.isnan(mean) else -mean, entry.key

    return sorted(entries, key=order)


def is_separated(first: Entry, second: Entry, rule: MaskRule, alpha: float) -> bool:
    """Return whether a test over users and, where both have several seeds, a test over seeds separate two entries."""
    if is_same(first.mean(MAIN_INDEX, rule), second.mean(MAIN_INDEX, rule)):
        return False
    if rule in first.per_user and rule in second.per_user:
        users = paired_t(*(entry.per_user[rule].astype(np.float64) for entry in (first, second)))
        if not (isinstance(users, Verdict) and users.p < alpha):
            return False
    return _seeds_agree(first, second, rule, alpha)


def _seeds_agree(first: Entry, second: Entry, rule: MaskRule, alpha: float) -> bool:
    """Return whether no test over seeds speaks against a difference; a single seed says nothing."""
    x, y = (entry.values[rule][:, MAIN_INDEX] for entry in (first, second))
    fixed = first.record.deterministic, second.record.deterministic
    if all(fixed) or (not fixed[0] and len(x) < 2) or (not fixed[1] and len(y) < 2):
        return True
    if fixed[0]:
        outcome = one_sample_t(y, float(x[0]))
    elif fixed[1]:
        outcome = one_sample_t(x, float(y[0]))
    else:
        outcome = welch_t(x, y)
    return outcome.p < alpha if isinstance(outcome, Verdict) else outcome.words == "no spread"


def _letter(number: int) -> str:
    """Return a, b, ..., z, aa, ab, ..."""
    text = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(ord("a") + rest) + text
    return text


# -- across data sets -------------------------------------------------------------------------------------

DRAWS = 2000
ELO_DRAWS = 500  # each is a search for a maximum


@dataclass(frozen=True)
class Overall:
    """A model across boards, each number with a 95 % bootstrap interval over boards.

    rank    mean rank
    wins    share of the other models that it is better than
    elo     rating by who is better where, 1000 on average (mmbench.evaluation.bradley_terry)
    behind  mean of 1 - value / best value of the board
    """

    name: str
    model: str
    n_boards: int
    rank: float
    rank_interval: tuple[float, float]
    wins: float
    wins_interval: tuple[float, float]
    elo: float
    elo_interval: tuple[float, float]
    behind: float
    behind_interval: tuple[float, float]


def overall(boards: Sequence[Board]) -> list[Overall]:
    """Return the models that stand on every board, best mean rank first; none for fewer than two boards.

    The best row of a model counts. Its rank is among these models; a win is a higher mean, a tie half a win.
    """
    best = [_best_rows(board) for board in boards]
    common = sorted(set.intersection(*map(set, best))) if len(boards) > 1 else []
    if len(common) < 2:
        return []
    means = np.array([[rows[model][1] for model in common] for rows in best])  # [B, M]
    above = (means[:, None, :] > means[:, :, None]).sum(2)
    equal = (means[:, None, :] == means[:, :, None]).sum(2) - 1
    ranks = 1 + above + equal / 2
    wins = (len(common) - ranks) / (len(common) - 1)
    drawn = np.random.default_rng(0).integers(len(boards), size=(DRAWS, len(boards)))
    games = wins_of(means)
    elo, elos = ratings(games.sum(0)), ratings(games[drawn[:ELO_DRAWS]].sum(1))
    behind = 1 - means / np.maximum(means.max(1, keepdims=True), 1e-12)
    rows = [
        Overall(
            name=best[0][model][0].name, model=model, n_boards=len(boards),
            rank=float(ranks[:, m].mean()), rank_interval=_interval(ranks[drawn, m].mean(1)),
            wins=float(wins[:, m].mean()), wins_interval=_interval(wins[drawn, m].mean(1)),
            elo=float(elo[m]), elo_interval=_interval(elos[:, m]),
            behind=float(behind[:, m].mean()), behind_interval=_interval(behind[drawn, m].mean(1)),
        )
        for m, model in enumerate(common)
    ]  # fmt: skip
    return sorted(rows, key=lambda row: (row.rank, row.model))


def _best_rows(board: Board) -> dict[str, tuple[Entry, float]]:
    rows: dict[str, tuple[Entry, float]] = {}
    for place in board.places[board.rules[0]]:
        if place.rank:
            mean = place.entry.mean(MAIN_INDEX, board.rules[0])
            rows.setdefault(place.entry.record.model, (place.entry, mean))
    return rows


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
