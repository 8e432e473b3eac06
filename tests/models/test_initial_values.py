"""How parameters start: the distribution of each, by its deviation and its largest value.

Row 0 of a table of items is padding: it starts at 0, or at random where the released code leaves it so.
"""

from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import pytest
from torch import Tensor, nn

from mmbench.models.base import Recommender
from tests.models.toy import catalog_of, toy_catalog, toy_model, view_of

Check = Callable[[Tensor], None]


def normal(std: float) -> Check:
    """Return the check of a normal distribution with mean 0."""

    def check(values: Tensor) -> None:
        assert values.std().item() == pytest.approx(std, rel=5 * (2 * values.numel()) ** -0.5)
        assert values.abs().max() > 2.05 * std, "a uniform or a cut distribution ends before"

    return check


def cut_normal(std: float) -> Check:
    """Return the check of a normal distribution of which only draws within two deviations are kept."""

    def check(values: Tensor) -> None:
        assert values.std().item() == pytest.approx(0.8796 * std, rel=5 * (2 * values.numel()) ** -0.5)
        assert values.abs().max() <= 2 * std

    return check


def uniform(bound: float) -> Check:
    """Return the check of a uniform distribution from -bound to bound."""

    def check(values: Tensor) -> None:
        largest = values.abs().max().item()
        assert bound * (1 - 10 / values.numel()) < largest <= bound * (1 + 1e-6)
        assert values.std().item() == pytest.approx(bound / 3**0.5, rel=5 * (2 * values.numel()) ** -0.5)

    return check


def constant(value: float) -> Check:
    def check(values: Tensor) -> None:
        assert (values == value).all()

    return check


def even(values: Tensor) -> None:
    """Check entries that a softmax turns into equal weights."""
    assert (values == values[0]).all()


def xavier_normal(matrix: Tensor) -> None:
    normal((2 / sum(matrix.shape)) ** 0.5)(matrix)


def xavier_uniform(matrix: Tensor) -> None:
    uniform((6 / sum(matrix.shape)) ** 0.5)(matrix)


def each_gate(matrix: Tensor) -> None:
    """Check the three matrices of a GRU's weight one by one."""
    for gate in matrix.chunk(3):
        xavier_uniform(gate)


NORMS, BIASES = {"*norm*.weight": constant(1.0)}, {"*bias*": constant(0.0)}
SMALL_NORMAL = {**NORMS, **BIASES, "*": normal(0.02)}
XAVIER_UNIFORM = {**NORMS, **BIASES, "*": xavier_uniform}
# Settings of each model, and patterns of its parameters' names, of which the first that fits decides.
STARTS: dict[str, tuple[dict[str, Any], dict[str, Check]]] = {
    "sasrec": ({}, SMALL_NORMAL),
    "sasrec:official": ({}, XAVIER_UNIFORM),
    "bert4rec": ({}, {**NORMS, **BIASES, "*": cut_normal(0.02)}),
    "gru4rec": (
        {"emb_dim": 48, "hidden_dim": 64, "n_layers": 2},
        {
            "item_emb.weight": xavier_normal,
            "gru.0.*": xavier_uniform,
            "gru.1.*": uniform(1 / 8),
            "out.*": uniform(1 / 8),
        },
    ),
    "gru4rec:official": (
        {"emb_dim": 48, "hidden_dim": 48, "n_layers": 2},
        {**BIASES, "item_emb.weight": xavier_uniform, "gru.*": each_gate},
    ),
    "tisasrec": ({}, SMALL_NORMAL),
    "tisasrec:official": ({}, XAVIER_UNIFORM),
    "tisasrec:paper": ({}, XAVIER_UNIFORM),
    "fearec": ({}, SMALL_NORMAL),
    "ticoserec": ({}, SMALL_NORMAL),
    "gsasrec": ({"hidden_dim": 64}, SMALL_NORMAL),
    "late-fusion": ({}, SMALL_NORMAL),
    "sasrec-ensemble": ({"hidden_dim": 64}, {**NORMS, **BIASES, "*": xavier_normal}),
    "trimlp": (
        {"hidden_dim": 64},
        {"item_emb.weight": normal(1.0), "out.*": uniform(1 / 8), "mixer.*": even},
    ),
    "bpr-mf": ({}, {**BIASES, "*": normal(0.01)}),
}
RANDOM_PADDING = ("fearec", "ticoserec")


def padding_of(model: Recommender[Any]) -> list[Tensor]:
    """Return row 0 of each table of items."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return [table.weight[0] for table in tables if table.padding_idx == 0]


@pytest.mark.parametrize("name", STARTS)
def test_every_parameter_starts_as_specified(name: str) -> None:
    settings, checks = STARTS[name]
    view = view_of([[item, item % 400 + 1] for item in range(1, 401)])
    model = toy_model(name, catalog_of(view, n_items=400, max_len=20), **settings)
    for path, parameter in model.named_parameters():
        check = next(check for pattern, check in checks.items() if fnmatch(path, pattern))
        try:
            check(parameter.detach())
        except AssertionError as fault:
            raise AssertionError(f"{name}: {path}") from fault
    padding = padding_of(model)
    assert padding
    assert all(row.any().item() == (name in RANDOM_PADDING) for row in padding)


def test_maps_of_caser() -> None:
    """The toolbox draws both by Xavier's rule; the authors leave theirs as torch starts it."""
    toolbox = toy_model("caser", toy_catalog())
    for linear in (toolbox.fc, toolbox.out):
        xavier_normal(linear.weight.detach())
        assert not linear.bias.any()
    official = toy_model("caser:official", toy_catalog()).fc
    for values in (official.weight, official.bias):
        uniform(official.in_features**-0.5)(values.detach())


def test_tables_of_bpr_mf_by_xaviers_rule() -> None:
    model = toy_model("bpr-mf", toy_catalog(n_items=400, n_users=200), init="xavier")
    has_events = model.user_emb.weight.any(1)
    xavier_normal(model.item_emb.weight.detach())
    normal((2 / sum(model.user_emb.weight.shape)) ** 0.5)(model.user_emb.weight.detach()[has_events])
