"""Ranks by counting, against sorting and against scorers whose ranks are known."""

import numpy as np
import pytest
import torch

from mmbench.choices import RULES, MaskRule
from mmbench.data.batch import Batch
from mmbench.data.split import make_split
from mmbench.data.store import Prepared
from mmbench.data.views import TargetView, target_view
from mmbench.errors import RunError
from mmbench.evaluation import ranking
from mmbench.evaluation.metrics import mean_value, parse_metric
from mmbench.evaluation.ranking import rank, rank_fully
from mmbench.models.base import Recommender
from mmbench.models.needs import Needs, SlotAfter
from mmbench.runtime import prepare_process
from tests.evaluation.tables import N, U, random_table
from tests.scorers import NoConfig, Written, WrittenAsProduct, empty_catalog, random_view


def sorted_places(row: np.ndarray, target: int) -> tuple[int, int]:
    """(greater, equal) of a target by sorting the row: its first and last possible place."""
    order = sorted(range(len(row)), key=lambda item: -row[item])
    places = [place for place, item in enumerate(order) if row[item] == row[target - 1]]
    return min(places), len(places) - 1


@pytest.mark.parametrize("kind", [Written, WrittenAsProduct])
@pytest.mark.parametrize("levels", [None, 2, 5])
def test_counts_agree_with_sorting(kind: type[Written], levels: int | None) -> None:
    view, table = random_view(n_users=U, n_items=N), random_table(levels=levels)
    actual = rank(kind(table), view)
    for k in range(U):
        expected = sorted_places(table[view.user[k]].numpy(), int(view.target[k]))
        assert (actual.greater[k], actual.equal[k]) == expected
    assert (actual.user == view.user).all()
    assert actual.n_candidates == N


def test_expected_metrics_are_means_over_random_tie_breaks() -> None:
    view, table = random_view(n_users=U, n_items=N), random_table(levels=4)
    actual, rng = rank(Written(table), view), np.random.default_rng(0)
    rounds, sums = 3000, {"HR@5": 0.0, "NDCG@10": 0.0, "MRR": 0.0}
    for _ in range(rounds):
        noise = rng.random((U, N))
        place = np.empty(U, dtype=np.int64)
        for k in range(U):
            user, target = view.user[k], view.target[k] - 1
            row = table[user].numpy()
            tied_above = (row == row[target]) & (noise[user] > noise[user, target])
            place[k] = 1 + (row > row[target]).sum() + tied_above.sum()
        sums["HR@5"] += (place <= 5).mean()
        sums["NDCG@10"] += np.where(place <= 10, 1 / np.log2(place + 1), 0).mean()
        sums["MRR"] += (1 / place).mean()
    for name, total in sums.items():
        assert mean_value(actual, name) == pytest.approx(total / rounds, abs=0.003)


def test_oracle_has_rank_one_for_everybody() -> None:
    view = random_view(n_users=U, n_items=N)
    table = random_table()
    table[torch.from_numpy(view.user), torch.from_numpy(view.target - 1)] = 100.0
    actual = rank(Written(table), view)
    assert (actual.greater == 0).all()
    assert (actual.equal == 0).all()
    for name in ("HR@1", "NDCG@10", "MRR"):
        assert mean_value(actual, name) == 1.0


@pytest.mark.parametrize("k", [1, 7, N])
def test_constant_scorer_gets_k_of_n(k: int) -> None:
    actual = rank(Written(torch.zeros(U, N)), random_view(n_users=U, n_items=N))
    assert (actual.equal == N - 1).all()
    assert mean_value(actual, f"HR@{k}") == pytest.approx(k / N, abs=1e-12)


def test_random_scorer_meets_its_expectation() -> None:
    n_users = 4000
    view = random_view(n_users=n_users, n_items=N)
    table = torch.rand(n_users, N, generator=torch.Generator().manual_seed(3))
    actual = rank(Written(table), view)
    for name in ("HR@10", "NDCG@10", "MRR"):
        metric = parse_metric(name)
        error = metric.random_std(N) / n_users**0.5
        assert abs(mean_value(actual, name) - metric.random_mean(N)) < 3 * error


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", ["target", "other"])
def test_a_score_that_is_not_finite_names_its_user(value: float, at: str) -> None:
    view, table = random_view(n_users=U, n_items=N), random_table()
    k = 17
    user, target = int(view.user[k]), int(view.target[k])
    item = target if at == "target" else target % N + 1
    table[user, item - 1] = value
    if at == "other" and value == float("-inf"):
        actual = rank(Written(table), view)  # out of the race, which is not an error
        assert actual.greater[k] == (table[user] > table[user, target - 1]).sum()
        return
    with pytest.raises(RunError, match=rf"user number {user} "):
        rank(Written(table), view)


def test_rows_without_any_candidate_are_refused() -> None:
    with pytest.raises(RunError, match="finite"):
        rank(Written(torch.full((U, N), float("-inf"))), random_view(n_users=U, n_items=N))


def test_a_target_whose_rivals_are_all_minus_infinity_is_first() -> None:
    view = random_view(n_users=U, n_items=N)
    table = torch.full((U, N), float("-inf"))
    table[torch.from_numpy(view.user), torch.from_numpy(view.target - 1)] = -5.0
    actual = rank(Written(table), view)
    assert (actual.greater == 0).all()
    assert (actual.equal == 0).all()


@pytest.mark.parametrize("rule", ["none", "train", "input"])
@pytest.mark.parametrize("levels", [None, 3])
def test_masking_removes_what_the_rule_says_and_never_the_target(rule: MaskRule, levels: int | None) -> None:
    view, table = random_view(n_users=U, n_items=N, longest=25), random_table(levels=levels)
    actual = rank(Written(table, max_len=4), view, mask_seen=rule, chunk=7)
    in_own_history = 0
    for k in range(U):
        history = view.items[view.offsets[k] : view.offsets[k + 1]]
        gone = {"none": [], "train": history[: view.train_len[k]], "input": history}[rule]
        in_own_history += int(view.target[k]) in {int(item) for item in gone}
        kept = [i for i in range(1, N + 1) if i not in gone or i == view.target[k]]
        row = table[view.user[k]].numpy()[np.array(kept) - 1]
        own = kept.index(int(view.target[k])) + 1
        assert (actual.greater[k], actual.equal[k]) == sorted_places(row, own)
    assert rule == "none" or in_own_history > 5, "the exemption of targets was not put to the test"


def test_everything_seen_leaves_the_target_alone() -> None:
    history = np.arange(1, N + 1)
    view = TargetView(
        items=history, times=history, offsets=np.array([0, N]), user=np.array([0]), target=np.array([3]),
        train_len=np.array([N]),
    )  # fmt: skip
    for rule in ("train", "input"):
        actual = rank(Written(random_table()), view, mask_seen=rule)
        assert (actual.greater[0], actual.equal[0]) == (0, 0)


@pytest.mark.parametrize("levels", [None, 3])
def test_one_pass_gives_the_counts_of_every_rule(levels: int | None) -> None:
    view, table = random_view(n_users=U, n_items=N, longest=25), random_table(levels=levels)
    actual = rank_fully(Written(table), view, name="test", chunk=7)
    assert (actual.name, actual.n_items, actual.lists, actual.spread) == ("test", N, {}, None)
    assert (actual.user == view.user).all()
    assert (actual.target == view.target).all()
    differ = 0
    for rule in RULES:
        alone = rank(Written(table), view, mask_seen=rule)
        assert (actual.ranks(rule).greater == alone.greater).all()
        assert (actual.ranks(rule).equal == alone.equal).all()
        differ += int((alone.greater != actual.ranks("none").greater).sum())
    assert differ > U


def test_the_spread_is_the_mean_over_users_of_the_deviation_over_items() -> None:
    table = random_table()
    actual = rank_fully(
        Written(table), random_view(n_users=U, n_items=N), name="test", with_spread=True, chunk=7
    )
    assert actual.spread == pytest.approx(table.double().numpy().std(1, ddof=1).mean(), rel=1e-12)


class PaddedTable(WrittenAsProduct):
    """Gives out the row of padding too."""

    def item_table(self) -> torch.Tensor:
        return torch.cat([torch.zeros(1, self.n_items), super().item_table()])


class Misshapen(Written):
    def score(self, batch: Batch) -> torch.Tensor:
        return torch.zeros(len(batch.user), self.n_items + 1)


class Transposed(WrittenAsProduct):
    def query(self, batch: Batch) -> torch.Tensor:
        return self.table[batch.user][:, :-1]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            PaddedTable,
            r"PaddedTable.item_table\(\) has the shape \[31, 30\], but there are 30 items; .*: \[1:\]$",
        ),
        (Misshapen, r"Misshapen.score\(\) has the shape \[50, 31\], but \[50, 30\] is needed"),
        (Transposed, r"Transposed.query\(\) has the shape \[50, 29\], but \[50, 30\] is needed"),
    ],
)
def test_scores_that_are_not_one_per_item_are_refused(kind: type[Written], said: str) -> None:
    """A forgotten [1:] would give every item the score of another."""
    with pytest.raises(RunError, match=said):
        rank(kind(random_table()), random_view(n_users=U, n_items=N))


@pytest.mark.parametrize("kind", [Written, WrittenAsProduct])
@pytest.mark.parametrize("rule", ["none", "input"])
def test_the_chunk_size_changes_no_rank(kind: type[Written], rule: MaskRule) -> None:
    view, table = random_view(n_users=U, n_items=N), random_table(levels=9)
    whole = rank(kind(table), view, mask_seen=rule, chunk=10_000)
    for chunk in (1, 3, U - 1, U):
        actual = rank(kind(table), view, mask_seen=rule, chunk=chunk)
        assert (actual.greater == whole.greater).all()
        assert (actual.equal == whole.equal).all()


def test_the_order_of_users_changes_no_rank() -> None:
    view, table = random_view(n_users=U, n_items=N), random_table(levels=9)
    order = np.random.default_rng(5).permutation(U)
    histories = [view.items[view.offsets[k] : view.offsets[k + 1]] for k in order]
    lengths = [len(history) for history in histories]
    shuffled = TargetView(
        items=np.concatenate(histories), times=np.zeros(sum(lengths), np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]), user=view.user[order], target=view.target[order],
        train_len=view.train_len[order],
    )  # fmt: skip
    first = rank(Written(table), view, mask_seen="train", chunk=8)
    second = rank(Written(table), shuffled, mask_seen="train", chunk=8)
    assert (second.user == first.user[order]).all()
    assert (second.greater == first.greater[order]).all()
    assert (second.equal == first.equal[order]).all()


@pytest.mark.parametrize("layout", ["packed", "padded", "fixed"])
def test_models_see_the_newest_events_and_no_target(layout: str) -> None:
    view, extra, max_len = random_view(n_users=U, n_items=N), 2, 6
    model = Written(random_table(), max_len=max_len, needs=Needs(layout=layout, extras=(SlotAfter(extra),)))
    rank(model, view, chunk=9)
    index = {int(user): k for k, user in enumerate(view.user)}
    seen = 0
    for batch in model.seen:
        assert type(batch) is Batch
        items, segments = batch.item_seq.flatten(), batch.segment.flatten()
        for user, slot in zip(batch.user.tolist(), batch.slot.tolist(), strict=True):
            k = index[user]
            expected = view.items[view.offsets[k] : view.offsets[k + 1]][-(max_len - extra) :]
            place = slot - extra - len(expected) + 1
            assert items[place : slot - extra + 1].tolist() == expected.tolist()
            assert items[slot - extra + 1 : slot + 1].tolist() == [0] * extra
            assert len(set(segments[place : slot + 1].tolist())) == 1
            seen += 1
    assert seen == U


def test_ranking_is_exact_in_float32_and_float64_and_refuses_less() -> None:
    """1 and 1 + 2^-20 are two scores in float32 but one in half precision."""
    table = torch.zeros(U, N)
    table[:, 0], table[:, 1] = 1.0, 1.0 + 2.0**-20
    view = random_view(n_users=U, n_items=N)
    view.target[:] = 1
    for dtype in (torch.float32, torch.float64):
        actual = rank(WrittenAsProduct(table.to(dtype)), view)
        assert (actual.greater == 1).all()
        assert (actual.equal == 0).all()
    for dtype in (torch.float16, torch.bfloat16):
        with pytest.raises(RunError, match="too coarse"):
            rank(WrittenAsProduct(table.to(dtype)), view)


def test_tf32_is_off() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True
    prepare_process()
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_the_training_mode_comes_back_and_no_gradient_is_kept() -> None:
    model = Written(random_table().requires_grad_())
    view = random_view(n_users=U, n_items=N)
    for mode in (True, False):
        model.train(mode)
        rank(model, view)
        assert model.training is mode


def test_scores_are_not_changed_by_ranking() -> None:
    """Nor may a model's own tensor be written to: this one gives out what it keeps, and one row for all users."""
    table = random_table()
    table[1:] = table[0]
    before = table.clone()

    class Shared(Written):
        def score(self, batch: Batch) -> torch.Tensor:
            return self.table[:1].expand(len(batch.user), -1)

    view = random_view(n_users=U, n_items=N)
    rank_fully(Shared(table), view, name="test", lists=5)
    assert torch.equal(table, before)


def test_views_of_prepared_data_hold_what_they_say(toy: Prepared) -> None:
    split = make_split(toy.protocol, toy.times, toy.offsets)
    for part, held_out in (("valid", 2), ("test", 1)):
        view = target_view(toy, split, part)  # type: ignore[arg-type]
        for k, user in enumerate(view.user):
            whole = toy.items[toy.offsets[user] : toy.offsets[user + 1]]
            assert view.items[view.offsets[k] : view.offsets[k + 1]].tolist() == whole[:-held_out].tolist()
            assert view.target[k] == whole[-held_out]
            assert view.train_len[k] == len(whole) - 2


class Distances(Recommender[NoConfig]):
    """A metric model: minus the squared distance of a user and an item, formed as [T, N, D]."""

    trainable = False
    n_dims = 16

    def __init__(self, *, knows_its_cost: bool) -> None:
        super().__init__(NoConfig(), empty_catalog(n_items=N, n_users=U))
        generator = torch.Generator().manual_seed(0)
        self.users, self.items = (torch.randn(n, self.n_dims, generator=generator) for n in (U, N))
        self.knows_its_cost, self.most_held = knows_its_cost, 0

    def score(self, batch: Batch) -> torch.Tensor:
        differences = self.users[batch.user][:, None] - self.items  # [T, N, D]
        self.most_held = max(self.most_held, differences.numel())
        return -differences.square().sum(-1)

    def score_cost(self, n_items: int) -> int:
        return n_items * self.n_dims if self.knows_its_cost else super().score_cost(n_items)


def test_chunks_fit_what_a_score_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ranking.SCORES_AT_ONCE, "cpu", 4 * N * Distances.n_dims)
    model, careless = Distances(knows_its_cost=True), Distances(knows_its_cost=False)
    view = random_view(n_users=U, n_items=N)
    ranks = rank(model, view)
    assert model.most_held == 4 * N * Distances.n_dims
    assert rank(careless, view).greater.tolist() == ranks.greater.tolist()
    assert careless.most_held == U * N * Distances.n_dims  # what the cost is there to prevent
    for k in range(U):
        distance = ((model.users[view.user[k]] - model.items) ** 2).sum(1)
        assert ranks.greater[k] == (distance < distance[view.target[k] - 1]).sum()


@pytest.mark.parametrize(
    ("n_items", "dims", "users"), [(60_000, 1, 69), (60_000, 64, 1), (10**6, 1, 64), (100, 1, 256)]
)
def test_the_size_of_a_chunk(n_items: int, dims: int, users: int) -> None:
    """4,194,304 floats at once, but 64 to 256 users where a score is a number for each item."""
    model = Written(torch.zeros(1, 1))
    model.n_items, model.score_cost = n_items, lambda n: n * dims  # type: ignore[method-assign]
    assert ranking.chunk_size(model, "cpu") == users
