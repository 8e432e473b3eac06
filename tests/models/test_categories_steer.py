"""A planted answer for models whose attention reads categories: NOVA and DIF-SR, with SASRec as the control."""

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.toy import history_batch, overfit, toy_model
from tests.models.waves import catalog_with, with_targets

ANSWERS, KEYS = range(1, 5), range(5, 9)
KNOWN, UNKNOWN = range(9, 39), range(39, 69)  # two halves of the distractors
# Answers have the first category, keys the second, distractors the third.
CATEGORIES = [[], *[[0]] * 4, *[[1]] * 4, *[[2]] * 60]
NO_DROPOUT = {"dropout": 0.0, "attn_dropout": 0.0}


def histories(n: int, distractors: range, seed: int) -> tuple[list[list[int]], Tensor]:
    """Return n histories of three distractors and a key at any place, and the answers that go with the keys."""
    rng, rows, targets = random.Random(seed), [], []
    for _ in range(n):
        k, items = rng.randrange(4), rng.choices(distractors, k=4)
        items[rng.randrange(4)] = KEYS[k]
        rows.append(items)
        targets.append(ANSWERS[k])
    return rows, torch.tensor(targets)


@pytest.mark.parametrize(
    ("name", "settings", "reads_categories"),
    [
        ("nova:sides-only", {}, True),
        ("dif-sr:sum", {}, True),
        ("nova:sides-only", {"sides": ["position"]}, False),
        ("sasrec", {}, False),
    ],
    ids=["nova", "dif-sr", "nova-without-categories", "sasrec"],
)
def test_categories_tell_which_unknown_items_to_look_past(
    name: str, settings: dict[str, Any], reads_categories: bool
) -> None:
    """Training shows one half of the distractors. Only its category says that one of the others is none of the keys."""
    known = catalog_with(CATEGORIES, max_len=8)
    model = toy_model(name, known, hidden_dim=32, inner_dim=32, **NO_DROPOUT, **settings)
    shown, targets = histories(160, KNOWN, seed=0)
    batch = with_targets(history_batch(model, shown), targets)

    def step() -> Tensor:
        return torch.stack(list(model.loss(batch).values())).sum()

    def right(rows: list[list[int]], answers: Tensor) -> float:
        with torch.no_grad():
            best = model.score(history_batch(model, rows)).argmax(1) + 1
        return (best == answers).double().mean().item()

    torch.manual_seed(0)
    overfit(model.train(), step, lambda: False, lr=0.01, n_steps=80)
    model.eval()
    assert right(shown, targets) > 0.95
    share = right(*histories(100, UNKNOWN, seed=1))
    assert share > 0.95 if reads_categories else share < 0.9
