"""Metrics of users' lists and weights of targets: worked examples, closed forms, oracles of loops.

Run: python -m pytest tests/evaluation/test_list_metrics.py
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from scipy.sparse import csr_array

from mmbench.choices import RULES
from mmbench.contract.toy import view_of
from mmbench.data.views import TargetView
from mmbench.errors import DataError, UsageError
from mmbench.evaluation.data_facts import DataFacts, Vectors
from mmbench.evaluation.evidence import Ranking, TopLists
from mmbench.evaluation.metrics import NAMES, Metric, parse_metric
from mmbench.evaluation.target_weights import border_of, effective_size

EXAMPLE_LISTS, EXAMPLE_TARGETS = [[1, 2, 3], [1, 4, 2], [5, 1, 6]], [2, 2, 6]


def facts_of(
    histories: Sequence[Sequence[int]],
    n_items: int,
    *,
    targets: Sequence[int] | None = None,
    vectors: Vectors | None = None,
) -> DataFacts:
    """Training histories that are the inputs of as many targets."""
    train = view_of([list(history) for history in histories])
    n = len(histories)
    view = TargetView(
        items=train.items, times=train.times, offsets=train.offsets, user=np.arange(n),
        target=np.array(targets if targets is not None else [1] * n), train_len=np.diff(train.offsets),
    )  # fmt: skip

    def of_kind(kind: str) -> Vectors:
        assert kind in ("text", "image", "category")
        if vectors is None:
            raise UsageError(f"no {kind}")
        return vectors

    return DataFacts(train=train, view=view, n_items=n_items, vectors=of_kind)


def ranking_of(
    lists: Sequence[Sequence[int]],
    targets: Sequence[int],
    n_items: int,
    *,
    greater: Sequence[int] | None = None,
) -> Ranking:
    items = np.array(lists, dtype=np.int32)
    counts = (
        np.array(greater if greater is not None else [0] * len(items)),
        np.zeros(len(items), dtype=np.int64),
    )
    return Ranking(
        name="test", user=np.arange(len(items)), target=np.array(targets), n_items=n_items,
        counts=dict.fromkeys(RULES, counts), lists={"none": TopLists(items, items.astype(np.float16))},
    )  # fmt: skip


def per_user(name: str, ranking: Ranking, facts: DataFacts) -> list[float]:
    return parse_metric(name).per_user(ranking, "none", facts=facts).tolist()


def test_the_worked_example_of_eight_items() -> None:
    """Users of the items 9 6 4 2 1 1 0 0 of 10, lists (1 2 3), (1 4 2), (5 1 6), targets 2 2 6."""
    users = [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4], [1, 2, 3], [1, 2, 3], [1, 2], [1], [1], [1], [1], [2]]
    facts = facts_of(users, 8)
    assert (facts.users.tolist(), facts.n_users) == ([0, 9, 6, 4, 2, 1, 1, 0, 0], 10)
    ranking = ranking_of(EXAMPLE_LISTS, EXAMPLE_TARGETS, 8)
    assert np.mean(per_user("Novelty@3", ranking, facts)) == pytest.approx(1.1974753091, abs=1e-10)
    assert per_user("Serendipity@3", ranking, facts) == pytest.approx([0, 0, 0.0833333333], abs=1e-10)
    assert per_user("Popularity@3", ranking, facts) == pytest.approx([19 / 3, 17 / 3, 11 / 3])
    assert per_user("Popularity-share@3", ranking, facts) == pytest.approx([19 / 69, 17 / 69, 11 / 69])
    assert per_user("Tail@3", ranking, facts) == pytest.approx(
        [0, 1 / 3, 2 / 3]
    )  # head mid mid tail tail tail


def test_a_user_who_had_an_item_twice_is_one_user_and_two_events() -> None:
    facts = facts_of([[1, 1, 2], [1]], 3)
    assert (facts.events.tolist(), facts.users.tolist(), facts.n_users) == ([0, 3, 1, 0], [0, 2, 1, 0], 2)


def test_serendipity_is_that_of_recommending_the_unpopular_and_hitting() -> None:
    """4 users, 4 items that 4 3 2 0 of them had: (popularity rank - place) / N for a hit, else 0."""
    facts = facts_of([[1, 2, 3], [1, 2, 3], [1, 2], [1]], 4)
    lists = [[3, 1], [1, 2], [4, 3], [2, 3]]
    ranking = ranking_of(lists, [3, 1, 4, 3], 4)
    assert per_user("Serendipity@1", ranking, facts) == [2 / 4, 0, 1, 0]
    # places of the second are 3/4; item 3 is the third of popularity, so 2/4 are expected
    assert per_user("Serendipity@2", ranking, facts) == [2 / 8, 0, 1 / 2, 1 / 8]


def test_ordinal_serendipity_ranks_equal_counts_by_id() -> None:
    facts = facts_of([[1, 2, 3]], 4)
    ranking = ranking_of([[3]], [3], 4)
    assert per_user("Serendipity@1", ranking, facts) == [0], (
        "all three are first where equal counts share a rank"
    )
    assert per_user("Serendipity-ordinal@1", ranking, facts) == [2 / 4]


def test_lists_of_the_most_popular_items_surprise_nobody() -> None:
    facts = facts_of([[1, 2, 3, 4], [1, 2, 3], [1, 2], [1]], 5)
    ranking = ranking_of([[1, 2, 3, 4]] * 4, [1, 2, 3, 4], 5)
    for k in (1, 2, 4):
        assert per_user(f"Serendipity-ordinal@{k}", ranking, facts) == [0, 0, 0, 0]


@pytest.mark.parametrize("is_sparse", [False, True])
def test_diversity_is_the_mean_over_pairs(is_sparse: bool) -> None:
    """Against a loop over pairs; items without a vector are left out, users with fewer than two of others too."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(13, 5)) * (rng.random((13, 1)) > 0.4)
    lists = np.array([rng.permutation(13)[:6] for _ in range(40)])  # 0 is no item
    facts = facts_of([[1]] * 40, 12, vectors=csr_array(vectors) if is_sparse else vectors)

    def by_pairs(items: np.ndarray) -> float:
        of_items = [vectors[item] for item in items if item and vectors[item].any()]
        pairs = [1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in combinations(of_items, 2)]
        return float(np.mean(pairs)) if pairs else np.nan

    expected = [by_pairs(items) for items in lists]
    ranking = ranking_of(lists.tolist(), [1] * 40, 12)
    np.testing.assert_allclose(per_user("ILD-text@6", ranking, facts), expected, atol=1e-12)
    short = ranking_of(lists[:, :2].tolist(), [1] * 40, 12)
    values = per_user("ILD-text@2", short, facts)
    assert 0 < np.isnan(values).sum() < 40
    assert parse_metric("ILD-text@2").value(short, "none", facts=facts) == pytest.approx(np.nanmean(values))


def test_diversity_of_equal_vectors_is_zero_and_of_orthogonal_ones_one() -> None:
    equal, orthogonal = np.ones((6, 3)), np.eye(6)
    ranking = ranking_of([[1, 2, 3], [5, 4, 1]], [1, 1], 5)
    for vectors, expected in ((equal, 0), (orthogonal, 1)):
        facts = facts_of([[1], [2]], 5, vectors=vectors)
        assert per_user("ILD-category@3", ranking, facts) == pytest.approx([expected] * 2, abs=1e-12)
    nothing = facts_of([[1], [2]], 5, vectors=np.zeros((6, 3)))
    with pytest.raises(UsageError, match=r"ILD-image@3: no user's list has two items with such features"):
        parse_metric("ILD-image@3").value(ranking, "none", facts=nothing)


def test_random_lists_have_the_mean_popularity_and_novelty_of_all_items() -> None:
    rng = np.random.default_rng(1)
    lists = [(rng.permutation(40)[:5] + 1).tolist() for _ in range(4000)]
    facts = facts_of([rng.integers(1, 31, 9).tolist() for _ in range(50)], 40)
    ranking = ranking_of(lists, [1] * 4000, 40)
    novelty = -np.log2((facts.users[1:] + 1) / (facts.n_users + 2))
    for name, of_items in (("Popularity@5", facts.events[1:]), ("Novelty@5", novelty)):
        values = per_user(name, ranking, facts)
        assert np.mean(values) == pytest.approx(of_items.mean(), abs=4 * np.std(values) / 4000**0.5)


def test_repeats_are_items_of_the_own_history_only() -> None:
    facts = facts_of([[1, 2, 2], [3], [4, 5]], 6)
    ranking = ranking_of([[1, 2, 3], [1, 2, 3], [6, 1, 2]], [6, 6, 6], 6)
    assert per_user("Repeats@3", ranking, facts) == pytest.approx([2 / 3, 1 / 3, 0])
    assert per_user("Repeats@1", ranking, facts) == [1, 0, 0]
    turned = Ranking(**{**vars(ranking), "user": np.array([2, 0, 1])})
    assert per_user("Repeats@3", turned, facts) == pytest.approx([0, 2 / 3, 0])
    with pytest.raises(DataError, match="users without a target"):
        per_user("Repeats@3", Ranking(**{**vars(ranking), "user": np.array([0, 1, 9])}), facts)


TARGETS = [1] * 7 + [2] * 2 + [3, 4, 5]
HITS = [1, 1, 1, 1, 0, 1, 1, 0, 1, 0, 0, 1]


@pytest.mark.parametrize(
    ("name", "expected"), [("HR@1", 2 / 3), ("HR-debiased@1", 0.5714285714), ("HR-macro@1", 0.4714285714)]
)
def test_weighted_hits_of_the_worked_example(name: str, expected: float) -> None:
    """Targets 1x7, 2x2, 3, 4, 5; quartiles 1 and 2, border 3."""
    ranking = ranking_of([[1]] * 12, TARGETS, 9, greater=[1 - hit for hit in HITS])
    facts = facts_of([[1]] * 12, 9)
    assert border_of(np.array(TARGETS)) == 3
    assert parse_metric(name).value(ranking, "none", facts=facts) == pytest.approx(expected, abs=1e-10)


def test_debiased_hits_are_the_mean_of_random_draws() -> None:
    """RecTools keeps `border` random targets of each item above it; the weights are the expectation of that."""
    rng = np.random.default_rng(3)
    targets = np.where(rng.random(300) < 0.4, 1, rng.integers(2, 70, 300))
    hits = rng.random(300) < np.where(targets == 1, 0.8, 0.3)
    border, means = border_of(targets), []
    for _ in range(400):
        kept = np.concatenate([
            rng.permutation(np.flatnonzero(targets == item))[:border] for item in np.unique(targets)
        ])  # fmt: skip
        means.append(hits[kept].mean())
    ranking = ranking_of([[1]] * 300, targets.tolist(), 70, greater=(~hits).astype(int).tolist())
    value = parse_metric("HR-debiased@1").value(ranking, "none", facts=facts_of([[1]] * 300, 70))
    assert border < max(np.bincount(targets))
    assert value == pytest.approx(np.mean(means), abs=4 * np.std(means) / 20)
    assert abs(value - hits.mean()) > 0.01


def test_weights_of_equally_frequent_targets_change_nothing() -> None:
    targets, greater = [1, 2, 3, 4] * 3, [0, 1, 5, 2, 0, 0, 3, 8, 1, 0, 0, 7]
    ranking, facts = ranking_of([[1]] * 12, targets, 9, greater=greater), facts_of([[1, 2, 3, 4]] * 12, 9)
    for base in ("HR", "NDCG", "MRR"):
        plain = Metric(base, 5).value(ranking, "none")
        for weight in ("debiased", "macro", "ips"):
            weighted = parse_metric(f"{base}-{weight}@5").value(ranking, "none", facts=facts)
            assert weighted == pytest.approx(plain, abs=1e-12)
        perfect = ranking_of([[1]] * 12, TARGETS, 9)
        assert parse_metric(f"{base}-ips@5").value(perfect, "none", facts=facts) == pytest.approx(1)


def test_inverse_popularity_weighs_by_the_root_and_not_above_ten() -> None:
    """Counts 999 and 0 of 1001 + 2 in all: q = 1000/1002 and 1/1002 (2 items, 1000 events)."""
    facts = facts_of([[1] * 500, [1] * 500], 2)
    targets = [1] * 9 + [2]
    ranking = ranking_of([[1]] * 10, targets, 2, greater=[1] * 9 + [0])
    mean_q = (9 * 1001 + 1) / 10
    weights = np.array([np.sqrt(mean_q / 1001)] * 9 + [10.0])
    value = parse_metric("HR-ips@1").value(ranking, "none", facts=facts)
    assert value == pytest.approx(10 / weights.sum(), abs=1e-12)
    assert effective_size(weights) == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert effective_size(np.full(7, 3.0)) == pytest.approx(7)


def test_what_a_metric_reads_and_what_it_says_without() -> None:
    of_lists = [
        name for name in NAMES if parse_metric(f"{name}@3" if name != "AUC" else name).needs == "lists"
    ]
    assert {"Novelty", "ILD-image", "Coverage", "Repeats"} <= set(of_lists)
    ranking = ranking_of(EXAMPLE_LISTS, EXAMPLE_TARGETS, 8)
    for name in ("Novelty@3", "HR-macro@3", "ild-TEXT@3"):
        metric = parse_metric(name)
        assert (metric.reads_data, metric.per) == (True, "user")
        with pytest.raises(UsageError, match=r"reads the data set too; mmbench report --metric"):
            metric.value(ranking, "none")
        with pytest.raises(UsageError, match=r"not from ranks alone"):
            metric.values(ranking.ranks("none"))
    with pytest.raises(UsageError, match="did you mean 'Novelty'"):
        parse_metric("noveltly@10")
    hidden = Ranking(**{**vars(ranking), "target": np.zeros(3, dtype=np.int64)})
    for name in ("Serendipity@3", "NDCG-ips@3"):
        with pytest.raises(UsageError, match="targets were left out"):
            parse_metric(name).value(hidden, "none", facts=facts_of([[1]] * 3, 8))
