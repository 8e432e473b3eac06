"""Every registered model and variant computes its golden numbers (tests/golden.py says which, and why).

Run: pytest tests/models/test_golden.py -k hm4sr
"""

import pytest

from mmbench.models import registry
from tests import golden

GOLDEN = golden.read()
ADVICE = """
If the change is intended, write the numbers anew and name the change in CHANGELOG.md:
    python -m tests.golden --write {name}"""


@pytest.mark.parametrize("name", registry.all_names())
def test_no_golden_number_moves(name: str) -> None:
    moved = golden.differences(name, golden.measure(name), GOLDEN.get(name, {}))
    assert not moved, "\n".join(
        [f"{name}: numbers that differ from {golden.FILE.name}", *moved, ADVICE.format(name=name)]
    )


def test_golden_numbers_are_of_registered_models() -> None:
    gone = sorted(GOLDEN.keys() - set(registry.all_names()))
    assert not gone, f"{gone} are not registered; run python -m tests.golden --write"
