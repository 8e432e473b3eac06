"""Sums over edges against dense matrices: values, gradients, several models at once, graphs without edges."""

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from mmbench.nn.graph import Graph, both_ways, distinct_pairs

N_SOURCES, N_TARGETS, WIDTH = 5, 4, 3
# Two edges between the same nodes, a target without edges (2), a source without (3), in no order.
SOURCE = torch.tensor([4, 0, 2, 0, 1, 0, 4])
TARGET = torch.tensor([3, 1, 0, 1, 3, 0, 0])


def graph() -> Graph:
    return Graph(SOURCE, TARGET, n_sources=N_SOURCES, n_targets=N_TARGETS)


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def dense(weight: Tensor, edges: Graph) -> Tensor:
    """Return the weights as a matrix [n, m], edge after edge."""
    matrix = weight.new_zeros(edges.n_targets, edges.n_sources)
    for number, (source, target) in enumerate(zip(edges.source.tolist(), edges.target.tolist(), strict=True)):
        edge = torch.zeros_like(matrix)
        edge[target, source] = 1.0
        matrix = matrix + weight[number] * edge
    return matrix


def test_edges_are_those_given() -> None:
    edges = graph()
    assert edges.target.tolist() == sorted(TARGET.tolist())
    given = list(zip(SOURCE.tolist(), TARGET.tolist(), strict=True))
    assert list(zip(edges.source.tolist(), edges.target.tolist(), strict=True)) == [
        given[k] for k in edges.order
    ]
    assert edges.degree.tolist() == [3, 2, 0, 2]
    back = list(zip(edges.source[edges.edge].tolist(), edges.back_target.tolist(), strict=True))
    assert back == sorted(given)


def test_mix_is_a_matrix_product_with_its_gradients() -> None:
    edges = graph()
    weight, x = draw(7).requires_grad_(), draw(N_SOURCES, WIDTH, seed=1).requires_grad_()
    expected = dense(weight, edges) @ x
    torch.testing.assert_close(edges.mix(weight, x), expected)
    assert torch.autograd.gradcheck(edges.mix, (weight, x))
    outer = draw(N_TARGETS, WIDTH, seed=2)
    by_hand = torch.autograd.grad((expected * outer).sum(), (weight, x))
    actual = torch.autograd.grad((edges.mix(weight, x) * outer).sum(), (weight, x))
    for a, b in zip(actual, by_hand, strict=True):
        torch.testing.assert_close(a, b)


def test_products_are_dot_products_of_the_ends_with_their_gradients() -> None:
    edges = graph()
    a, b = draw(N_TARGETS, WIDTH).requires_grad_(), draw(N_SOURCES, WIDTH, seed=1).requires_grad_()
    ends = zip(edges.source.tolist(), edges.target.tolist(), strict=True)
    expected = torch.stack([a[target] @ b[source] for source, target in ends])
    torch.testing.assert_close(edges.products(a, b), expected)
    assert torch.autograd.gradcheck(edges.products, (a, b))


def test_softmax_mix_against_a_loop() -> None:
    edges = graph()
    logits, x = (
        (200 * draw(7)).requires_grad_(),
        draw(N_SOURCES, WIDTH, seed=1).requires_grad_(),
    )  # exp() overflows

    def by_loop(logits: Tensor, x: Tensor) -> Tensor:
        rows = []
        for target in range(N_TARGETS):
            own = edges.target == target
            weight = logits[own].softmax(0)
            rows.append((weight[:, None] * x[edges.source[own]]).sum(0))
        return torch.stack(rows)

    torch.testing.assert_close(edges.softmax_mix(logits, x), by_loop(logits, x))
    assert torch.isfinite(edges.softmax_mix(logits, x)).all()
    assert not edges.softmax_mix(logits, x)[2].any()
    mild = draw(7).requires_grad_()
    assert torch.autograd.gradcheck(edges.softmax_mix, (mild, x))
    outer = draw(N_TARGETS, WIDTH, seed=2)
    actual = torch.autograd.grad((edges.softmax_mix(mild, x) * outer).sum(), (mild, x))
    expected = torch.autograd.grad((by_loop(mild, x) * outer).sum(), (mild, x))
    for value, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(value, other)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("shared", [True, False])
def test_several_models_at_once(shared: bool) -> None:
    """With one weighted graph for all of them, and with weights of their own."""
    edges = graph()
    x, a = draw(3, N_SOURCES, WIDTH).requires_grad_(), draw(3, N_TARGETS, WIDTH, seed=1).requires_grad_()
    weight = (draw(7, seed=2) if shared else draw(3, 7, seed=2)).requires_grad_()

    def value(x: Tensor, a: Tensor, weight: Tensor) -> Tensor:
        logits = edges.products(a, x)
        return (edges.mix(weight, x).sin() + edges.softmax_mix(logits, x)).square().sum()

    together = vmap(value, in_dims=(0, 0, None if shared else 0))(x, a, weight)
    alone = torch.stack([value(x[k], a[k], weight if shared else weight[k]) for k in range(3)])
    torch.testing.assert_close(together, alone)
    grads = torch.autograd.grad(together.sum(), (x, a, weight))
    for actual, expected in zip(grads, torch.autograd.grad(alone.sum(), (x, a, weight)), strict=True):
        torch.testing.assert_close(actual, expected)


def test_graphs_of_their_own_in_a_stack() -> None:
    first = graph()
    other = Graph(SOURCE.flip(0), (TARGET + 1) % N_TARGETS, n_sources=N_SOURCES, n_targets=N_TARGETS)
    x, weight, holder = draw(2, N_SOURCES, WIDTH), draw(2, 7, seed=1), graph()
    stacked = {name: torch.stack([buffer, other.get_buffer(name)]) for name, buffer in first.named_buffers()}

    def value(buffers: dict[str, Tensor], weight: Tensor, x: Tensor) -> Tensor:
        for name, buffer in buffers.items():
            setattr(holder, name, buffer)
        return holder.mix(weight, x)

    together = vmap(value)(stacked, weight, x)
    for k, edges in enumerate((first, other)):
        torch.testing.assert_close(together[k], dense(weight[k], edges) @ x[k])


def test_other_edges_in_the_same_memory() -> None:
    edges = graph()
    where = [buffer.data_ptr() for buffer in edges.buffers()]
    edges.replace(SOURCE.flip(0), (TARGET + 1) % N_TARGETS)
    fresh = Graph(SOURCE.flip(0), (TARGET + 1) % N_TARGETS, n_sources=N_SOURCES, n_targets=N_TARGETS)
    for (name, buffer), place in zip(edges.named_buffers(), where, strict=True):
        assert torch.equal(buffer, fresh.get_buffer(name)), name
        assert buffer.data_ptr() == place
    assert not edges.state_dict()


def test_a_graph_without_edges() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    edges = Graph(none, none, n_sources=2, n_targets=3)
    x, empty = draw(2, WIDTH).requires_grad_(), draw(0).requires_grad_()
    mixed = edges.mix(empty, x)
    assert mixed.shape == (3, WIDTH)
    assert not mixed.any()
    (mixed.sum() + edges.softmax_mix(empty, x).sum()).backward()
    assert not x.grad.any()
    assert edges.products(draw(3, WIDTH), draw(2, WIDTH)).shape == (0,)


def test_half_precision_is_computed_in_float32() -> None:
    edges = graph()
    x, weight = draw(N_SOURCES, WIDTH).bfloat16(), draw(7, seed=1).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, products = edges.mix(weight, x), edges.products(draw(N_TARGETS, WIDTH).bfloat16(), x)
    assert mixed.dtype == products.dtype == torch.float32
    torch.testing.assert_close(mixed, dense(weight.float(), edges) @ x.float())


def test_user_item_pairs() -> None:
    user, item = torch.tensor([1, 0, 1, 1]), torch.tensor([2, 0, 0, 2])
    user, item = distinct_pairs(user, item, 3)
    assert (user.tolist(), item.tolist()) == ([0, 1, 1], [0, 0, 2])
    source, target = both_ways(user, item, n_users=2)
    edges = set(zip(source.tolist(), target.tolist(), strict=True))
    assert edges == {(2, 0), (2, 1), (4, 1), (0, 2), (1, 2), (1, 4)}
