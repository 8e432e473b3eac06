"""mmbench.nn.losses and the dropout of mmbench.nn.layers against closed forms and torch's own."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmbench.nn import losses
from mmbench.nn.layers import Dropout, dropout, dropout_of_rows
from mmbench.nn.losses import (
    ROWS_OF_LOGITS,
    bce,
    bpr,
    cross_entropy,
    info_nce,
    item_scores,
    nce,
    rows_at_once,
)


def problem(n: int, *, n_items: int = 11, dim: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """query [n, D], table [N, D], bias [N] (float64, with gradients) and targets 1..N."""
    generator = torch.Generator().manual_seed(n)
    shapes = ((n, dim), (n_items, dim), (n_items,))
    query, table, bias = (
        torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes
    )
    return query, table, bias, torch.randint(1, n_items + 1, (n,), generator=generator)


@pytest.fixture(params=["as on a CPU", "as on a GPU"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of the cross entropy, on a CPU; see tests/test_gpu.py for a GPU."""
    is_gpu = request.param == "as on a GPU"
    monkeypatch.setattr(losses, "on_gpu", lambda _: is_gpu)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("n", [1, 5, 6, 7, 18])
@pytest.mark.parametrize("with_bias", [False, True])
def test_cross_entropy_is_torchs(n: int, with_bias: bool) -> None:
    query, table, bias, target = problem(n)
    inputs = [query, table, *([bias] if with_bias else [])]
    with rows_at_once(6):  # n below, at, above and at three times so many
        ours = cross_entropy(query, table, target, bias if with_bias else None)
    plain = F.cross_entropy(query @ table.T + (bias if with_bias else 0), target - 1)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    for own, other in zip(
        torch.autograd.grad(3 * ours, inputs), torch.autograd.grad(3 * plain, inputs), strict=True
    ):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("with_bias", [False, True])
def test_cross_entropy_of_a_stack_is_each_model_s(with_bias: bool) -> None:
    """Three models with their own tables and targets, two of which occur twice in a model; several chunks."""
    problems = [problem(n, n_items=5) for n in (7, 8, 9)]
    query, table, bias, target = (
        torch.stack([value[:7] if part in (0, 3) else value for value in column])
        for part, column in enumerate(zip(*problems, strict=True))
    )
    stacked = [value.detach().requires_grad_() for value in (query, table, bias)[: 2 + with_bias]]
    by_bias = (0,) if with_bias else ()
    with rows_at_once(3):
        ours = torch.vmap(cross_entropy, in_dims=(0, 0, 0, *by_bias))(*stacked[:2], target, *stacked[2:])
        weight = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)  # so that models cannot be mixed up
        gradients = torch.autograd.grad(ours @ weight, stacked)
    for model in range(3):
        inputs = [value[model].detach().requires_grad_() for value in stacked]
        logits = inputs[0] @ inputs[1].T + (inputs[2] if with_bias else 0)
        plain = F.cross_entropy(logits, target[model] - 1)
        torch.testing.assert_close(ours[model], plain, rtol=1e-12, atol=1e-12)
        expected = torch.autograd.grad(weight[model] * plain, inputs)
        for own, other in zip(gradients, expected, strict=True):
            torch.testing.assert_close(own[model], other, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("device")
def test_cross_entropy_gradcheck() -> None:
    query, table, bias, target = problem(5)
    with rows_at_once(3):
        assert torch.autograd.gradcheck(lambda q, t, b: cross_entropy(q, t, target, b), (query, table, bias))
        assert torch.autograd.gradcheck(lambda q, t: cross_entropy(q, t, target), (query, table))


@pytest.mark.usefixtures("device")
def test_cross_entropy_survives_large_logits_and_an_empty_step() -> None:
    query = torch.tensor([[1000.0, 0.0]], requires_grad=True)
    table = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    loss = cross_entropy(query, table, torch.tensor([2]))
    assert loss.item() == 2000.0
    assert torch.isfinite(torch.autograd.grad(loss, query)[0]).all()
    empty = torch.zeros(0, 2, requires_grad=True)
    assert cross_entropy(empty, table, torch.zeros(0, dtype=torch.int64)).item() == 0.0


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("is_stacked", [False, True])
def test_cross_entropy_of_targets_without_probability(is_stacked: bool, with_bias: bool) -> None:
    """Probabilities of e^-90 and less, some of which single precision cannot hold, beside usual ones."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 12, 3, generator=generator) * torch.tensor([0.3, 40.0, 90.0]).repeat(4)[:, None]
    table, bias = (torch.randn(2, 9, *s, generator=generator) for s in ((3,), ()))
    target = torch.randint(1, 10, (2, 12), generator=generator)
    inputs = [query, table, *([bias] if with_bias else [])]
    wide = [value.double().requires_grad_() for value in inputs]
    logits = wide[0] @ wide[1].mT + (wide[2][:, None] if with_bias else 0)
    each = F.cross_entropy(logits.mT, target - 1, reduction="none")
    assert 60 < each.median() < each.max() / 2
    assert each.min() < 5
    expected = torch.autograd.grad(each.mean(1).sum(), wide)

    def loss(q: Tensor, t: Tensor, y: Tensor, *b: Tensor) -> Tensor:
        return cross_entropy(q, t, y, *b)

    inputs = [value.requires_grad_() for value in inputs]
    with rows_at_once(5):
        if is_stacked:
            actual = torch.vmap(loss)(*inputs[:2], target, *inputs[2:])
        else:
            parts = zip(*inputs[:2], target, *inputs[2:], strict=True)
            actual = torch.stack([loss(*part) for part in parts])
    torch.testing.assert_close(actual, each.mean(1).float(), rtol=1e-5, atol=0)
    for ours, theirs in zip(torch.autograd.grad(actual.sum(), inputs), expected, strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("device")
def test_cross_entropy_of_equal_scores_is_log_n() -> None:
    _, table, _, target = problem(4)
    assert cross_entropy(torch.zeros(4, 4).double(), table, target).item() == pytest.approx(math.log(11))


@pytest.mark.parametrize(("n_items", "n_rows"), [(12_101, 5_545), (121_010, 554), (200_000, ROWS_OF_LOGITS)])
def test_a_gpu_holds_more_rows_of_a_small_catalogue_until_its_memory_runs_out(
    n_items: int, n_rows: int
) -> None:
    assert losses.rows_on_gpu(n_items) == n_rows
    with rows_at_once(ROWS_OF_LOGITS // 2):
        assert losses.rows_on_gpu(n_items) == ROWS_OF_LOGITS // 2


def test_bce_and_bpr_closed_forms() -> None:
    positive, negative = torch.tensor([1.0, -2.0]).double(), torch.tensor([[0.5, 3.0], [0.0, -1.0]]).double()
    sigma = torch.sigmoid
    expected = -(sigma(positive).log() + (1 - sigma(negative)).log().sum(1)).mean()
    torch.testing.assert_close(bce(positive, negative), expected)
    expected = -sigma(positive[:, None] - negative).log().mean()
    torch.testing.assert_close(bpr(positive, negative), expected)
    assert bce(torch.zeros(3), torch.zeros(3, 2)).item() == pytest.approx(3 * math.log(2))
    assert bpr(torch.zeros(3), torch.zeros(3, 2)).item() == pytest.approx(math.log(2))


def test_pairwise_losses_do_not_saturate() -> None:
    score = torch.tensor([-60.0], requires_grad=True)
    loss = bpr(score, torch.tensor([[60.0]]))
    assert loss.item() == pytest.approx(120.0)
    assert torch.autograd.grad(loss, score)[0].item() == pytest.approx(-1.0)
    assert bce(torch.tensor([20.0]), torch.tensor([[20.0]])).item() == pytest.approx(20.0, rel=1e-6)


def test_scores_of_a_few_items_are_those_of_the_whole_matrix() -> None:
    query, table, bias, _ = problem(6)
    items = torch.tensor([[3, 11, 1], [2, 2, 5], [1, 4, 7], [9, 9, 9], [11, 10, 1], [6, 8, 2]])
    for own_bias in (None, bias):
        scores = query @ table.T + (0 if own_bias is None else own_bias)
        torch.testing.assert_close(item_scores(query, table, items, own_bias), scores.gather(1, items - 1))


def reference_info_nce(
    anchor: Tensor, positive: Tensor, temperature: float, drop: set[tuple[int, int]]
) -> float:
    """The formula with loops; pairs (i, j) in `drop` are left out of row i's denominator."""
    total = 0.0
    for i in range(len(anchor)):
        logits = [
            float(F.cosine_similarity(anchor[i], positive[j], dim=0)) / temperature
            for j in range(len(anchor))
        ]
        kept = [math.exp(v) for j, v in enumerate(logits) if (i, j) not in drop]
        total -= logits[i] - math.log(sum(kept))
    return total / len(anchor)


def test_info_nce_same_target_rules() -> None:
    generator = torch.Generator().manual_seed(0)
    anchor, positive = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    target = torch.tensor([5, 7, 5, 9])
    same = target[:, None] == target
    plain = info_nce(anchor, positive, temperature=0.5)
    assert plain.item() == pytest.approx(reference_info_nce(anchor, positive, 0.5, set()))
    removed = info_nce(anchor, positive, temperature=0.5, same=same)
    assert removed.item() == pytest.approx(reference_info_nce(anchor, positive, 0.5, {(0, 2), (2, 0)}))
    # A logit of 0 stays in the sum as exp(0) = 1, as the released codes have it.
    logits = F.normalize(anchor, dim=1) @ F.normalize(positive, dim=1).T / 0.5
    logits[0, 2] = logits[2, 0] = 0.0
    zeroed = info_nce(anchor, positive, temperature=0.5, same=same, same_logit=0.0)
    torch.testing.assert_close(zeroed, F.cross_entropy(logits, torch.arange(4)))
    assert len({round(float(loss), 9) for loss in (plain, removed, zeroed)}) == 3


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_rate_and_scale(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(400_003)  # not a multiple of eight
    y = dropout(x, p, training=True)
    rate = round(p * 256) / 256
    error = 4 * math.sqrt(rate * (1 - rate) / len(x))
    assert (y == 0).double().mean().item() == pytest.approx(rate, abs=error)
    assert y.unique().tolist() == [0.0, pytest.approx(1 / (1 - rate))]
    assert y.double().mean().item() == pytest.approx(1.0, abs=error / (1 - rate))  # unbiased
    neighbours = (y[:-1] == 0) & (y[1:] == 0)
    assert neighbours.double().mean().item() == pytest.approx(rate**2, abs=2 * error)


def test_dropout_gradient_is_its_own_mask() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 7, requires_grad=True)
    y = dropout(x, 0.5, training=True)
    (grad,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(grad, (y / x).detach())
    assert set(grad.unique().tolist()) == {0.0, 2.0}


def test_dropout_of_rows_is_dropout_of_their_table() -> None:
    table, row = torch.randn(9, 5, requires_grad=True), torch.tensor([7, 0, 3, 3])
    weight, results = torch.randn(4, 5), []
    for is_table in (True, False):
        torch.manual_seed(1)
        if is_table:
            dropped = dropout(table, 0.4, training=True)[row]
        else:
            dropped = dropout_of_rows(table[row], row, len(table), 0.4, training=True)
        results.append((dropped, torch.autograd.grad((weight * dropped).sum(), table)[0]))
    for expected, actual in zip(*results, strict=True):
        assert torch.equal(actual, expected)
    assert (results[0][0] == 0).any()
    rows = table[row]
    assert dropout_of_rows(rows, row, len(table), 0.4, training=False) is rows


def test_dropout_is_off_in_evaluation_and_at_rate_zero() -> None:
    x = torch.randn(5, 5)
    layer = Dropout(0.5).eval()
    assert layer(x) is x
    assert dropout(x, 0.0, training=True) is x
    torch.manual_seed(3)
    first = dropout(x, 0.5, training=True)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(x, 0.5, training=True))


@pytest.mark.parametrize("similarity", ["dot", "cos"])
def test_nce_by_hand(similarity: str) -> None:
    a, b = torch.randn(2, 3, 4, dtype=torch.float64)
    z = [*a, *b]
    total = 0.0
    for i in range(6):
        like = [
            float(z[i] @ z[j]) / (float(z[i].norm() * z[j].norm()) if similarity == "cos" else 1.0)
            for j in range(6)
        ]
        below = sum(math.exp(like[j] / 0.5) for j in range(6) if j != i)
        total -= math.log(math.exp(like[(i + 3) % 6] / 0.5) / below) / 6
    assert nce(a, b, temperature=0.5, similarity=similarity).item() == pytest.approx(total)
    assert nce(b, a, temperature=0.5, similarity=similarity).item() == pytest.approx(total)


@pytest.mark.parametrize("similarity", ["dot", "cos"])
def test_nce_gradient_alone_and_stacked(similarity: str) -> None:
    def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return nce(a, b, temperature=0.5, similarity=similarity)

    a, b = torch.randn(2, 3, 4, 2, dtype=torch.float64, requires_grad=True)  # three models
    assert torch.autograd.gradcheck(loss, (a[0], b[0]))
    stacked = torch.vmap(torch.func.grad(loss))(a, b)
    for i in range(3):
        (alone,) = torch.autograd.grad(loss(a[i], b[i]), a)
        torch.testing.assert_close(stacked[i], alone[i])


class Products(TorchDispatchMode):
    """Keeps what matrices are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.operands: list[Tensor] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation is torch.ops.aten.mm.default:
            self.operands += args
        return operation(*args, **(kwargs or {}))


def test_nce_multiplies_no_subnormal_numbers() -> None:
    """They take two hundred times as long; whole histories have dot products of hundreds."""
    z = (10 * torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0))).requires_grad_()
    like = (z.flatten(0, 1) @ z.flatten(0, 1).T).softmax(1)
    assert ((like > 0) & (like < 1e-38)).sum() > 10  # there are some to meet
    with Products() as products:
        nce(*z, temperature=1.0).backward()  # type: ignore[no-untyped-call]
    assert len(products.operands) == 4
    for operand in products.operands:
        assert not ((operand != 0) & (operand.abs() < 1e-38)).any()
    exact = z.detach().double().requires_grad_()
    nce(*exact, temperature=1.0).backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(z.grad, exact.grad.float())


def test_nce_of_zeros_and_of_one_pair() -> None:
    zeros = torch.zeros(7, 5)
    assert nce(zeros, zeros, temperature=1.0).item() == pytest.approx(math.log(13))
    assert nce(torch.ones(1, 5), torch.ones(1, 5), temperature=1.0).item() == 0.0
